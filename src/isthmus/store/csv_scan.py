"""CSV files read by DuckDB, row by row faults included.

Two passes: the first counts the rows and finds those that break the file's grammar, the second streams the others in
order. Memory is bounded in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from isthmus import duck
from isthmus.model.errors import InvalidInput
from isthmus.model.intake import MAX_EVENT_BYTES, Reason


class CsvScan:
    """A CSV file with a header, all cells as text under the names c0, c1, …; an empty cell is NULL."""

    def __init__(
        self, path: Path, names: Sequence[str], *, delimiter: str, temp_dir: Path, memory_mb: int = 256
    ) -> None:
        self._con = duck.connect(memory_mb=memory_mb, temp_dir=temp_dir)
        # Row numbers come from the order of the file. A broken row is as long as the longest we read.
        self._con.execute("SET preserve_insertion_order=true")
        self._names = names
        width = len(names)
        cells = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(width))
        limit = 2 * MAX_EVENT_BYTES
        self._from = (
            f"read_csv({duck.literal(str(path))}, auto_detect=false, header=true, delim={duck.literal(delimiter)}, "
            f"quote='\"', escape='\"', columns={{{cells}}}, strict_mode=true, null_padding=false, "
            f"max_line_size={limit}, buffer_size={4 * limit}, compression='auto', "
        )
        self._path = path

    def survey(self) -> tuple[int, pa.Table]:
        """How many good rows there are, and the broken ones in order, with the columns of `rejections.keep`.

        A row's number counts the file's records, the header being 1. Raises InvalidInput if the file cannot be read.
        """
        counts = ", ".join(f"count(c{i})" for i in range(len(self._names)))
        names = "[" + ", ".join(duck.literal(name) for name in self._names) + "]"
        try:
            # All of the result is taken: what was broken is known only when the query has come to its end.
            (row,) = self._con.execute(f"SELECT count(*), {counts} FROM {self._from} store_rejects=true)").fetchall()
            broken = self._con.execute(
                "SELECT line::BIGINT AS row_number, "
                f"coalesce(any_value({names}[column_idx::BIGINT]), '') AS \"column\", min({_REASON}) AS reason, "
                f"min({_message(len(self._names))}) AS message, coalesce(any_value(csv_line), '') AS payload "
                "FROM reject_errors GROUP BY line ORDER BY line"
            ).to_arrow_table()
        except duckdb.Error as e:
            raise InvalidInput(f"{self._path} cannot be read as CSV", vendor=str(e), hint=_HINT) from e
        return int(row[0]), broken

    def rows(self, batch_rows: int = 131_072) -> Iterator[pa.RecordBatch]:
        """The good rows in the order of the file."""
        try:
            # Not ignore_errors: with it alone, DuckDB 1.5.5 ends without a word at the first misplaced quote.
            again = "store_rejects=true, rejects_table='again', rejects_scan='scan_again', rejects_limit=1"
            yield from self._con.execute(f"SELECT * FROM {self._from} {again})").to_arrow_reader(batch_rows)
        except duckdb.Error as e:
            raise InvalidInput(f"{self._path} cannot be read as CSV", vendor=str(e), hint=_HINT) from e

    def close(self) -> None:
        self._con.close()


_HINT = "it must be comma-separated UTF-8 with a header and double quotes around cells that hold commas or line breaks"


_REASON = (
    f"CASE error_type::VARCHAR WHEN 'INVALID ENCODING' THEN '{Reason.BAD_ENCODING}' "
    f"WHEN 'LINE SIZE OVER MAXIMUM' THEN '{Reason.TOO_LARGE}' ELSE '{Reason.BROKEN_ROW}' END"
)


def _message(width: int) -> str:
    return (
        f"CASE error_type::VARCHAR WHEN 'MISSING COLUMNS' THEN 'too few cells: the header has {width}' "
        f"WHEN 'TOO MANY COLUMNS' THEN 'too many cells: the header has {width}; is a comma missing its quotes?' "
        "WHEN 'UNQUOTED VALUE' THEN 'a quote is opened and not closed, or stands inside a cell without being doubled' "
        "WHEN 'LINE SIZE OVER MAXIMUM' THEN 'the row is larger than 10 MB' "
        "WHEN 'INVALID ENCODING' THEN 'the row is not valid UTF-8' ELSE split_part(error_message, chr(10), 1) END"
    )

"""CSV files read by DuckDB, row by row faults included.

Two passes: the first counts the rows and finds those that break the file's grammar, the second streams the others in
order. Memory is bounded in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from isthmus import duck
from isthmus.model.errors import InvalidInput
from isthmus.model.intake import MAX_EVENT_BYTES, Reason

_REASONS = {"INVALID ENCODING": Reason.BAD_ENCODING, "LINE SIZE OVER MAXIMUM": Reason.TOO_LARGE}


@dataclass(frozen=True)
class BrokenRow:
    """A row that is not one: `row_number` counts the file's records, the header being 1."""

    row_number: int
    column: str
    reason: Reason
    message: str
    text: str


class CsvScan:
    """A CSV file with a header, all cells as text under the names c0, c1, …; an empty cell is NULL."""

    def __init__(self, path: Path, width: int, *, delimiter: str, temp_dir: Path, memory_mb: int = 256) -> None:
        self._con = duck.connect(memory_mb=memory_mb, temp_dir=temp_dir)
        # Row numbers come from the order of the file. A broken row is as long as the longest we read.
        self._con.execute("SET preserve_insertion_order=true")
        self._width = width
        cells = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(width))
        limit = 2 * MAX_EVENT_BYTES
        self._from = (
            f"read_csv({duck.literal(str(path))}, auto_detect=false, header=true, delim={duck.literal(delimiter)}, "
            f"quote='\"', escape='\"', columns={{{cells}}}, strict_mode=true, null_padding=false, "
            f"max_line_size={limit}, buffer_size={4 * limit}, compression='auto', "
        )
        self._path = path

    def survey(self) -> tuple[int, list[BrokenRow]]:
        """How many good rows there are, and the broken ones. Raises InvalidInput if the file cannot be read."""
        counts = ", ".join(f"count(c{i})" for i in range(self._width))
        try:
            # All of the result is taken: the tables of what was broken are there only when the query has come to its end.
            (row,) = self._con.execute(f"SELECT count(*), {counts} FROM {self._from} store_rejects=true)").fetchall()
            broken = self._con.execute(
                "SELECT line, min_by(column_name, coalesce(column_idx, 0)), min(error_type::VARCHAR), "
                "min(error_message), "
                "any_value(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
            ).fetchall()
        except duckdb.Error as e:
            raise InvalidInput(f"{self._path} cannot be read as CSV", vendor=str(e), hint=_HINT) from e
        return int(row[0]), [
            BrokenRow(
                int(line),
                str(column or ""),
                _REASONS.get(str(kind), Reason.BROKEN_ROW),
                _plain(str(kind), str(message), self._width),
                str(text or ""),
            )
            for line, column, kind, message, text in broken
        ]

    def rows(self, batch_rows: int = 131_072) -> Iterator[pa.RecordBatch]:
        """The good rows in the order of the file."""
        try:
            yield from self._con.execute(f"SELECT * FROM {self._from} ignore_errors=true)").to_arrow_reader(batch_rows)
        except duckdb.Error as e:
            raise InvalidInput(f"{self._path} cannot be read as CSV", vendor=str(e), hint=_HINT) from e

    def close(self) -> None:
        self._con.close()


_HINT = "it must be comma-separated UTF-8 with a header and double quotes around cells that hold commas or line breaks"


def _plain(kind: str, message: str, width: int) -> str:
    match kind:
        case "MISSING COLUMNS":
            return f"too few cells: the header has {width}"
        case "TOO MANY COLUMNS":
            return f"too many cells: the header has {width}; is a comma missing its quotes?"
        case "UNQUOTED VALUE":
            return "a quote is opened and not closed, or stands inside a cell without being doubled"
        case "LINE SIZE OVER MAXIMUM":
            return "the row is larger than 10 MB"
        case "INVALID ENCODING":
            return "the row is not valid UTF-8"
    return message.splitlines()[0]

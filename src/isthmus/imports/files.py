"""Local files as sources: CSV, JSON lines and Parquet, compressed or not, read in bounded batches with row numbers."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.imports.shapes import readable, shape, unreadable
from isthmus.model.errors import InvalidInput
from isthmus.model.intake import IncomingColumn, Shape
from isthmus.store.csv_scan import CsvScan

BATCH_ROWS = 500_000
BATCH_BYTES = 32 * 1024 * 1024
_BLOCK = 1024 * 1024
_LONGEST_LINE = 64 * 1024 * 1024


class IncomingFile(Protocol):
    """A file opened for landing. `rows` is how many good rows it has, None when only reading tells."""

    columns: list[IncomingColumn]
    lines: bool
    rows: int | None

    def refused(self) -> pa.Table | None:
        """Rows that are broken already as the file's grammar goes, with the columns of `rejections.keep`."""
        ...

    def batches(self) -> Iterator[pa.Table]:
        """Tables of up to BATCH_ROWS rows with the column `n`, the row's number in the file, first."""
        ...

    def nothing(self) -> pa.Table:
        """A table without rows, shaped like those of `batches`."""
        ...

    def close(self) -> None: ...


def open_file(path: Path, *, delimiter: str | None, temp_dir: Path) -> IncomingFile:
    """Open by extension: .csv, .jsonl/.ndjson/.json, .parquet; the first two also with .gz.

    Raises InvalidInput that names the file and says what is wrong with it.
    """
    if not path.exists():
        raise InvalidInput(f"there is no file {path}")
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder", hint="name one file in it")
    try:
        if path.stat().st_size == 0:
            raise InvalidInput(f"{path} is empty", hint="a CSV file needs a header and rows, other files rows")
        kind = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
        match kind:
            case "csv" | "tsv" | "txt":
                return CsvFile(path, delimiter or ("\t" if kind == "tsv" else ","), temp_dir)
            case "jsonl" | "ndjson" | "json":
                return LinesFile(path)
            case "parquet":
                return ParquetFile(path)
    except (OSError, EOFError, zlib.error) as e:  # a compressed file that breaks off is one of these
        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            raise
        raise InvalidInput(f"{path} cannot be read: {e}", hint="copy it again") from e
    raise InvalidInput(
        f"{path} is of no kind that can be loaded", hint="rename it to .csv, .jsonl or .parquet (.gz too)"
    )


def fingerprint(path: Path) -> str:
    """The SHA-256 of the file's bytes: the same content is the same delivery, whatever its name."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class CsvFile:
    """A CSV file with a header. Row numbers count records, the header being row 1."""

    lines = False

    def __init__(self, path: Path, delimiter: str, temp_dir: Path) -> None:
        self._path = path
        names = _header(path, delimiter)
        self.columns = [IncomingColumn(name, f"c{i}", Shape.TEXT) for i, name in enumerate(names)]
        self._scan = CsvScan(path, names, delimiter=delimiter, temp_dir=temp_dir)
        good, self._broken = self._scan.survey()
        self.rows: int | None = good
        if good == 0 and self._broken.num_rows == 0:
            raise InvalidInput(f"{path} has a header but no rows")

    def refused(self) -> pa.Table | None:
        return self._broken

    def batches(self) -> Iterator[pa.Table]:
        # The k-th good row is the k-th number, from 2 on, that no broken row and no blank line has.
        passed_over = sorted({*self._broken["row_number"].to_pylist(), *self._blank_lines()})
        breaks = [number - i for i, number in enumerate(passed_over)]
        at, passed = 2, 0
        for batch in gathered(self._scan.rows()):
            numbers: list[pa.Array] = []
            left = batch.num_rows
            while left:
                while passed < len(breaks) and breaks[passed] <= at:
                    passed += 1
                step = min(left, breaks[passed] - at) if passed < len(breaks) else left
                numbers.append(pa.array(range(at + passed, at + passed + step), pa.int64()))
                at, left = at + step, left - step
            yield batch.add_column(0, "n", pa.chunked_array(numbers))

    def nothing(self) -> pa.Table:
        return _shaped(self.columns)

    def _blank_lines(self) -> list[int]:
        """The numbers of the lines that are passed over because nothing stands in them. Most files have none."""
        if len(self.columns) == 1:  # there a blank line is a row
            return []
        if not self._has_blank_lines():
            return []
        found: list[int] = []
        number, quoted = 1, False
        with _opened(self._path) as f:
            for line in f:
                if not quoted and line in (b"\n", b"\r\n"):
                    found.append(number)
                quoted ^= line.count(b'"') % 2 == 1
                number += not quoted
        return found

    def _has_blank_lines(self) -> bool:
        before = b""
        with _opened(self._path) as f:
            while block := f.read(_BLOCK):
                block = before + block
                if b"\n\n" in block or b"\n\r\n" in block:
                    return True
                before = block[-2:]
        return False

    def close(self) -> None:
        self._scan.close()


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _header(path: Path, delimiter: str) -> list[str]:
    """The header's names, checked. What is wrong with a whole file shows here first."""
    with _opened(path) as f:
        head = f.read(1024 * 1024)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidInput(f"{path} is UTF-16", hint="save it as UTF-8")
    if b"\x00" in head.partition(b"\n")[0]:
        raise InvalidInput(f"{path} is not a text file: it holds NUL bytes", hint="save it as CSV in UTF-8")
    text = head.decode("utf-8-sig", errors="replace")
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error as e:
        raise InvalidInput(f"{path}, line 1: the header cannot be read: {e}") from e
    if "�" in "".join(names):
        raise InvalidInput(f"{path}, line 1: the header is not UTF-8", hint="save the file as UTF-8")
    if not any(name.strip() for name in names):
        raise InvalidInput(f"{path}, line 1: the header is empty")
    if len(names) == 1:
        for other, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")):
            if other != delimiter and other in names[0]:
                raise InvalidInput(
                    f"{path}, line 1: the header has one column, {names[0]!r}",
                    hint=f"its cells seem to be separated by {word}: say --delimiter {other!r}",
                )
    names = [name.strip() for name in names]
    for i, name in enumerate(names):
        if not name:
            raise InvalidInput(f"{path}, line 1: column {i + 1} of the header has no name")
        if name in names[:i]:
            raise InvalidInput(
                f"{path}, line 1: the header names the column {name!r} twice", hint="rename or remove one of them"
            )
    return names


class LinesFile:
    """JSON lines: one object a line. Row numbers are line numbers."""

    lines = True
    rows: int | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._compression = "gzip" if path.name.lower().endswith(".gz") else None
        self.columns = [IncomingColumn(name, name, Shape.TEXT) for name in self._sampled()]

    def _sampled(self) -> list[str]:
        names: dict[str, None] = {}
        with pa.input_stream(str(self._path), compression=self._compression) as f:
            head: bytes = f.read(1024 * 1024)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InvalidInput(f"{self._path} is UTF-16", hint="save it as UTF-8")
        found = False
        for line in head.splitlines()[:1000]:
            found = found or bool(line.strip())
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                names.update(dict.fromkeys(document))
        if not found:
            raise InvalidInput(f"{self._path} has no lines")
        if head.lstrip().startswith(b"["):
            raise InvalidInput(f"{self._path} is one JSON list", hint="write one object a line: jq -c '.[]' does that")
        return list(names)

    def refused(self) -> pa.Table | None:
        return None

    def batches(self) -> Iterator[pa.Table]:
        yield from _gathered_tables(self._blocks())

    def _blocks(self) -> Iterator[pa.Table]:
        at, rest = 1, b""
        with pa.input_stream(str(self._path), compression=self._compression) as f:
            while True:
                try:
                    block: bytes = f.read(_BLOCK)
                except OSError as e:
                    raise InvalidInput(f"{self._path} breaks off behind line {at}: {e}") from e
                if at == 1 and not rest and block.startswith(b"\xef\xbb\xbf"):
                    block = block[3:]
                if not block:
                    break
                rest += block
                cut = rest.rfind(b"\n")
                if cut < 0:
                    if len(rest) > _LONGEST_LINE:
                        raise InvalidInput(
                            f"{self._path}, line {at}: longer than 64 MB", hint="JSON lines hold one object a line"
                        )
                    continue
                table, at = _split(rest[:cut], at)
                rest = rest[cut + 1 :]
                yield table
        if rest.strip():
            yield _split(rest, at)[0]

    def nothing(self) -> pa.Table:
        return pa.table({"n": pa.array([], pa.int64()), "line": pa.array([], pa.large_binary())})

    def close(self) -> None:
        pass


def _split(block: bytes, first: int) -> tuple[pa.Table, int]:
    """The lines of a block with their numbers, blank ones left out, and the number of the line behind it."""
    lines = pc.split_pattern(pa.array([block], pa.large_binary()), b"\n").values.cast(pa.large_binary())
    numbers = pa.array(range(first, first + len(lines)), pa.int64())
    there = pc.invert(pc.is_in(lines, pa.array([b"", b"\r"], pa.large_binary())))
    return pa.table({"n": numbers.filter(there), "line": lines.filter(there)}), first + len(lines)


class ParquetFile:
    """A Parquet file. Row numbers count rows from 1."""

    lines = False

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as e:
            raise InvalidInput(f"{path} is not a whole Parquet file", vendor=str(e), hint="copy it again") from e
        schema = self._file.schema_arrow
        self.columns = [IncomingColumn(f.name, f"c{i}", shape(f.type)) for i, f in enumerate(schema)]
        self.rows: int | None = self._file.metadata.num_rows
        names = schema.names
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise InvalidInput(f"{path} has the column {twice!r} twice")
        if self.rows == 0:
            raise InvalidInput(f"{path} has columns but no rows")
        for f in schema:
            if what := unreadable(f.type):
                raise InvalidInput(f"{path}, column {f.name!r}: {what}", hint="write that column as text")

    def refused(self) -> pa.Table | None:
        return None

    def batches(self) -> Iterator[pa.Table]:
        at = 1
        try:
            for table in gathered(self._file.iter_batches(batch_size=131_072)):
                renamed = readable(table.rename_columns([c.ref for c in self.columns]))
                numbers = pa.array(range(at, at + table.num_rows), pa.int64())
                at += table.num_rows
                yield renamed.add_column(0, "n", numbers)
        except (pa.ArrowException, OSError) as e:
            raise InvalidInput(f"{self._path} is damaged behind row {at}", vendor=str(e), hint="copy it again") from e

    def nothing(self) -> pa.Table:
        return _shaped(self.columns)

    def close(self) -> None:
        self._file.close()


def _shaped(columns: list[IncomingColumn]) -> pa.Table:
    return pa.table({"n": pa.array([], pa.int64())} | {c.ref: pa.array([], pa.string()) for c in columns})


def gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Small batches gathered to tables of a size worth a transaction."""
    return _gathered_tables(
        pa.Table.from_batches([b.slice(at, BATCH_ROWS)]) for b in batches for at in range(0, b.num_rows, BATCH_ROWS)
    )


def _gathered_tables(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Small tables gathered to ones of a size worth a transaction."""
    held: list[pa.Table] = []
    rows = size = 0
    try:
        for table in tables:
            held.append(table)
            rows += table.num_rows
            size += table.nbytes
            if rows >= BATCH_ROWS or size >= BATCH_BYTES:
                yield pa.concat_tables(held)
                held, rows, size = [], 0, 0
    except InvalidInput:
        if rows:  # the file is damaged further on: what was read lands
            yield pa.concat_tables(held)
        raise
    if rows:
        yield pa.concat_tables(held)

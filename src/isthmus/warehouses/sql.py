"""What the SQL connectors share, as plain functions over text. There is no base class: a Redshift is not a Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.duck import connect, identifier, literal
from isthmus.model.checks import Check
from isthmus.model.errors import Mismatch, Missing, Rejected, WarehouseError
from isthmus.model.table import DELETED, SEQ, Batch, Column, Receipt, SeqRange, Table, Type
from isthmus.warehouses.protocol import Relation, Window
from isthmus.warehouses.types import Spelling

RECEIPT_COLUMNS = (
    Column("batch_id", Type.TEXT),
    Column("table_name", Type.TEXT),
    Column("after_seq", Type.BIGINT),
    Column("upto_seq", Type.BIGINT),
    Column("rows", Type.BIGINT),
    Column("loaded_at", Type.TIMESTAMP),
)
"""The columns of the receipts table, the same in every SQL warehouse. `batch_id` is its primary key."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def names(columns: Iterable[str], *, of: str = "") -> str:
    """Quoted names, comma-separated, each behind the alias `of` if there is one."""
    return ", ".join(f"{of}.{identifier(c)}" if of else identifier(c) for c in columns)


def same(columns: Iterable[str], left: str, right: str) -> str:
    """The condition that two aliases agree in these columns."""
    return " AND ".join(f"{left}.{identifier(c)} = {right}.{identifier(c)}" for c in columns)


def definitions(columns: Iterable[Column], spellings: Mapping[Type, Spelling]) -> str:
    """The column list of a CREATE TABLE."""
    return ", ".join(f"{identifier(c.name)} {spellings[c.type].name}" for c in columns)


def missing_columns(table: Table, theirs: Mapping[str, str], spellings: Mapping[Type, Spelling]) -> list[Column]:
    """The columns of `table` that are not among `theirs` (name → type). Raises Mismatch for one with another type."""
    missing = []
    for column in table.columns:
        found = theirs.get(column.name)
        if found is None:
            missing.append(column)
        elif not spellings[column.type].holds(found):
            ours = spellings[column.type].name
            raise Mismatch(
                f"column {column.name} of table {table.name} is {found}, we need {ours}",
                column=column.name,
                ours=ours,
                theirs=found,
                hint=f"rename the column {column.name} (or the table); the next load then makes a fitting one",
            )
    return missing


def require_distinct(table: Table) -> None:
    """Raise Mismatch for two columns whose names differ only by case, where a warehouse takes them for one."""
    seen: dict[str, str] = {}
    for column in table.columns:
        other = seen.setdefault(column.name.lower(), column.name)
        if other != column.name:
            raise Mismatch(
                f"columns {other} and {column.name} of table {table.name} are one column to the warehouse",
                column=column.name,
                ours=column.name,
                theirs=other,
                hint="rename one of them",
            )


def reached(table: Table, receipts: str, ask: Callable[[str], Any]) -> int | None:
    """`Warehouse.reached`, with `ask` giving the one value of a query."""
    try:
        upto = ask(f"SELECT max(upto_seq) FROM {receipts} WHERE table_name = {literal(table.name)}")
    except Missing:
        return None
    return None if upto is None else int(upto)


def in_range(seqs: SeqRange) -> str:
    """The condition that a row's seq lies in the range. Open below, it holds for rows without a seq too."""
    if seqs.after is None and seqs.upto is not None:
        return f"({identifier(SEQ)} IS NULL OR {identifier(SEQ)} <= {seqs.upto})"
    bounds = []
    if seqs.after is not None:
        bounds.append(f"{identifier(SEQ)} > {seqs.after}")
    if seqs.upto is not None:
        bounds.append(f"{identifier(SEQ)} <= {seqs.upto}")
    return " AND ".join(bounds) or "true"


_NANOSECONDS = (datetime(1677, 9, 22, tzinfo=UTC), datetime(2262, 4, 11, tzinfo=UTC))
"""What 64 bits of nanoseconds hold for sure. A literal beyond them would not be compared but refused."""


def in_window(window: Window | None, theirs: str) -> str:
    """The WHERE condition of a window over a changed-at column of the type `theirs`.

    A time without a zone is taken as UTC. A window open at both ends also holds the rows whose changed-at is NULL.
    """
    if window is None:
        return "true"
    # The literal has the column's own kind of time, so that the warehouse can use its index or zone maps.
    kind = "TIMESTAMPTZ" if "with time zone" in theirs.lower() else "TIMESTAMP"
    nanoseconds = theirs.upper() == "TIMESTAMP_NS"
    if window.nulls:
        name, zone = identifier(window.changed_at), "+00" if kind == "TIMESTAMPTZ" else ""
        if nanoseconds:  # nothing before the year 1 can be said in them, but minus infinity: that is in the others
            return f"{name} IS NULL"
        return f"({name} IS NULL OR {name} < {kind} '0001-01-01 00:00:00{zone}')"
    bounds = []
    for operator, moment in ((">=", window.start), ("<=", window.end)):
        if moment is not None:
            if nanoseconds and not _NANOSECONDS[0] < moment < _NANOSECONDS[1]:
                holds_all = (moment < _NANOSECONDS[0]) == (operator == ">=")
                bounds.append(f"{identifier(window.changed_at)} IS NOT NULL" if holds_all else "false")
                continue
            text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
            text += "+00" if kind == "TIMESTAMPTZ" else ""
            bounds.append(f"{identifier(window.changed_at)} {operator} {kind} {literal(text)}")
    return " AND ".join(bounds) or "true"


def in_order(window: Window | None) -> str:
    """The ORDER BY of a window, with a blank before it, or nothing without one."""
    if window is None:
        return ""
    return f" ORDER BY {names([window.changed_at, *([window.key] if window.key else [])])}"


def window_type(window: Window, theirs: Mapping[str, str], relation: Relation) -> str:
    """The type of the window's changed-at column. Raises Missing or Mismatch if it cannot bound anything."""
    for name in (window.changed_at, window.key):
        if name is not None and name not in theirs:
            raise Missing(f"{relation} has no column {name}", hint=f"its columns are: {', '.join(theirs)}")
    found = theirs[window.changed_at]
    if not found.lower().startswith(("timestamp", "date")):
        raise Mismatch(
            f"column {window.changed_at} of {relation} is {found}, not a date or a timestamp",
            column=window.changed_at,
            ours="timestamp",
            theirs=found,
            hint="map a date or timestamp column as changed_at, or make a view that converts it",
        )
    return found


def parquet(files: Sequence[Path], options: str = "") -> str:
    """DuckDB's table function over exactly these files, whatever characters their names hold."""
    paths = ", ".join(literal(no_glob(f)) for f in files)
    return f"read_parquet([{paths}]{options})"


def no_glob(path: Path | str) -> str:
    """The path as DuckDB reads it: exactly this file."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path))


def instant(microseconds: int | None) -> datetime | None:
    """Microseconds since 1970 as an aware time, held to the years 1 to 9999: warehouses know infinity, Python not."""
    if microseconds is None:
        return None
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return (datetime.max if microseconds > 0 else datetime.min).replace(tzinfo=UTC)


def receipt_values(batch: Batch) -> str:
    """The values of a batch's receipt for a VALUES list, but for the last one, the time."""
    after, upto = ("NULL" if s is None else str(s) for s in (batch.seqs.after, batch.seqs.upto))
    return f"{literal(batch.batch_id)}, {literal(batch.table.name)}, {after}, {upto}, {batch.rows}"


def receipt(batch_id: str, row: Sequence[Any]) -> Receipt:
    """A receipt from its row: table name, rows, after, upto, loaded-at in microseconds."""
    table, rows, after, upto, loaded_at = row
    moment = instant(int(loaded_at))
    assert moment is not None
    return Receipt(batch_id, table, rows=rows, seqs=SeqRange(after, upto), loaded_at=moment, repeated=False)


def rows(batch: Batch, schema: pa.Schema, broken: list[Exception]) -> Iterator[pa.RecordBatch]:
    """The rows of the batch's files in the columns of `schema`, a bounded number of them at a time.

    An error is kept in `broken` as well, because it does not come through the driver as it was.
    """
    filtered = batch.table.key and DELETED not in schema.names
    wanted = [*schema.names, *([DELETED] if filtered else [])]
    try:
        for path in batch.files:
            with pq.ParquetFile(path) as file:
                for rows in file.iter_batches(batch_size=32_768, columns=wanted):
                    if filtered:
                        rows = rows.filter(pc.invert(pc.fill_null(rows.column(DELETED), False)))
                    yield rows.select(schema.names).cast(schema)
    except Exception as e:
        broken.append(e)
        raise


def broken_file(error: Exception) -> WarehouseError:
    """The error for a batch whose Parquet file cannot be read."""
    hint = "run the sync again: it makes the file anew"
    return WarehouseError("a file of the batch cannot be read", code=type(error).__name__, vendor=str(error), hint=hint)


def bad_value(batch: Batch, *, nul: bool) -> Rejected | None:
    """The first value of a batch that is no valid JSON in a JSON column, or (`nul`) a text with U+0000.

    Called after a warehouse refused the batch without saying where: looking before would cost every load a scan.
    """
    if not batch.files:
        return None
    key = " || ' / ' || ".join(f"coalesce({identifier(k)}::VARCHAR, 'NULL')" for k in batch.table.key) or "'?'"
    with closing(connect(memory_mb=200, temp_dir=batch.files[0].parent)) as con:
        for column in batch.table.columns:
            name = identifier(column.name)
            faults = (
                {"the character U+0000": f"contains({name}, chr(0))"} if nul and column.arrow == pa.string() else {}
            )
            if column.type is Type.JSON:
                faults["a text that is not JSON"] = f"NOT json_valid({name})"
            for fault, condition in faults.items():
                found = con.execute(f"SELECT {key} FROM {parquet(batch.files)} WHERE {condition} LIMIT 1").fetchone()
                if found:
                    return Rejected(
                        f"row {found[0]} has {fault} in column {column.name}, which the warehouse cannot hold",
                        row=found[0],
                        column=column.name,
                        hint="correct the value where it comes from",
                    )
    return None


@contextmanager
def transaction(execute: Callable[[str], Any]) -> Iterator[None]:
    """BEGIN, then COMMIT, or ROLLBACK if anything was raised."""
    execute("BEGIN")
    try:
        yield
    except BaseException:
        with suppress(WarehouseError):
            execute("ROLLBACK")
        raise
    execute("COMMIT")


def undone(execute: Callable[[str], Any], statements: Iterable[str]) -> None:
    """Run statements to see whether they may be run, and take all of them back."""
    execute("BEGIN")
    try:
        for statement in statements:
            execute(statement)
    finally:
        with suppress(WarehouseError):
            execute("ROLLBACK")


def answer(question: str, attempt: Callable[[], object], statement: str) -> Check:
    """A check: yes if the attempt raised nothing, else no, with the statement that would give what is missing."""
    try:
        attempt()
    except WarehouseError as e:
        return Check(question, False, detail=e.vendor or e.summary, hint=e.hint, statement=statement)
    return Check(question, True)


def schemas_there(wanted: Iterable[str], is_there: Callable[[str], bool]) -> Check:
    """The check that all schemas are there."""
    question = "Are the schemas there?"
    absent = [s for s in wanted if not is_there(s)]
    if not absent:
        return Check(question, True)
    return Check(
        question,
        False,
        detail=f"not there: {', '.join(absent)}",
        hint="make the missing schema; the set-up script makes all of them",
        statement=f"CREATE SCHEMA IF NOT EXISTS {identifier(absent[0])};",
    )

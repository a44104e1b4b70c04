"""The rows of a batch on their way into the stage: Parquet files in a bucket, or texts in INSERT statements.

DuckDB makes both out of the batch's files, whole columns at a time. It adds the digest of each row, and stops at the
first value that Redshift cannot hold: nothing is ever cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.duck import connect, identifier, literal, row_digest
from isthmus.model.errors import Rejected
from isthmus.model.table import DELETED, SEQ, Batch, Column, Type
from isthmus.warehouses import sql
from isthmus.warehouses.redshift_sql import JSON_LIMIT_BYTES, LONG_BYTES, STAGE, TEXT_LIMIT_BYTES

FILE_BYTES = 64_000_000
ROW_GROUP_BYTES = 32_000_000
MEMORY_MB = 600

STATEMENT_BYTES = 6_000_000
"""One INSERT has about so many bytes; Redshift takes 16 MB in a statement."""
SAID_JSON_LIMIT_BYTES = 7_000_000
"""The longest JSON text that fits into a statement: each byte may take two characters there."""
_LITERAL_BYTES = 30_000
"""A literal has at most twice so many characters; Redshift takes 65,535 bytes."""

_TOO_LONG = "isthmus cannot send a value"
_PIECE_CHARACTERS = 16_000
"""Of at most four bytes: a text in a SUPER ends at 65,535 bytes."""


def parquet(batch: Batch, folder: Path) -> list[Path]:
    """Write the rows as Parquet files for COPY into `folder`. Raises Rejected for a value that cannot be held."""
    chosen = [*_columns(batch, JSON_LIMIT_BYTES), *_longer_texts(batch), f"{_deleted(batch)} AS d"]
    with _duckdb(batch) as con, _checked(batch, JSON_LIMIT_BYTES):
        con.execute(
            f"COPY (SELECT {', '.join(chosen)} FROM {sql.parquet(batch.files)}{_kept(batch)}) TO "
            f"{literal(str(folder))} (FORMAT parquet, COMPRESSION snappy, FILE_SIZE_BYTES {FILE_BYTES}, "
            f"ROW_GROUP_SIZE_BYTES {ROW_GROUP_BYTES}, OVERWRITE_OR_IGNORE)"
        )
    return sorted(folder.glob("*.parquet"))


def manifest(placed: Sequence[tuple[str, int]]) -> bytes:
    """The manifest of a COPY: addresses and sizes of its files, all of which must be there."""
    entries = [{"url": url, "mandatory": True, "meta": {"content_length": size}} for url, size in placed]
    return json.dumps({"entries": entries}).encode()


def place(prefix: str, batch_id: str) -> str:
    """Where in the bucket everything staged for a batch lies, whatever attempt it was staged by."""
    digest = hashlib.md5(batch_id.encode(), usedforsecurity=False).hexdigest()
    return f"{prefix.strip('/')}/{digest}/".lstrip("/")


def inserts(batch: Batch) -> Iterator[str]:
    """The rows as INSERT statements of bounded size. Raises Rejected for a value that cannot be held."""
    values = [_said(c, f"c{n}") for n, c in enumerate(_sent(batch))]
    values += [_said_bytes(f"t{n}") for n, c in enumerate(batch.table.columns) if c.type is Type.JSON]
    inner = [*_columns(batch, SAID_JSON_LIMIT_BYTES), *_longer_texts(batch), f"({_deleted(batch)})::VARCHAR AS d"]
    row = " || ',' || ".join([*values, "'''' || d || ''''"])
    query = f"SELECT '(' || {row} || ')' FROM (SELECT {', '.join(inner)} FROM {sql.parquet(batch.files)}{_kept(batch)})"
    with _duckdb(batch) as con, _checked(batch, SAID_JSON_LIMIT_BYTES):
        waiting: list[str] = []
        size = 0
        for rows in con.execute(query).to_arrow_reader(2_048):
            for joined in _joined(rows.column(0)):
                if waiting and size + len(joined) > STATEMENT_BYTES:
                    yield f"INSERT INTO {STAGE} VALUES {','.join(waiting)}"
                    waiting, size = [], 0
                waiting.append(joined)
                size += len(joined)
        if waiting:
            yield f"INSERT INTO {STAGE} VALUES {','.join(waiting)}"


def _joined(rows: pa.Array) -> Iterator[str]:
    """Texts put together, with commas, in as few as a statement's size allows."""
    ends = pc.cumulative_sum(pc.add(pc.binary_length(rows.cast(pa.large_string())).cast(pa.int64()), 1))
    groups = pc.divide(ends, pa.scalar(STATEMENT_BYTES, pa.int64()))
    first = 0
    while first < len(rows):
        group = groups[first]
        count = pc.sum(pc.equal(groups, group)).as_py()
        part = rows.slice(first, count).cast(pa.large_string())
        whole = pa.LargeListArray.from_arrays(pa.array([0, count], pa.int64()), part)
        yield pc.binary_join(whole, pa.scalar(",", pa.large_string()))[0].as_py()
        first += count


def plain_digest(columns: Sequence[Column]) -> str:
    """DuckDB's spelling of `redshift_sql.plain_digest`."""
    parts = " || chr(31) || ".join(f"coalesce({_plain(c)}, '-')" for c in columns if c.type is not Type.JSON)
    return f"('0x' || substr(md5({parts}), 1, 15))::BIGINT"


def _plain(column: Column) -> str:
    name = identifier(column.name)
    match column.type:
        case Type.TIMESTAMP:
            return f"strftime({name} AT TIME ZONE 'UTC', '%Y%m%d%H%M%S%f')"
        case Type.DOUBLE:
            rounded = f"floor({name} * 10000 + 0.5)::BIGINT::VARCHAR"
            return f"CASE WHEN {name} IS NULL THEN '-' WHEN abs({name}) < 1e14 THEN {rounded} ELSE 'big' END"
        case Type.BIGINT:
            return f"{name}::VARCHAR"
        case Type.BOOLEAN:
            return f"CASE WHEN {name} THEN 't' WHEN NOT {name} THEN 'f' END"
        case _:
            return f"CASE WHEN strlen({name}) > {LONG_BYTES} THEN md5({name}) ELSE '=' || {name} END"


def _sent(batch: Batch) -> list[Column]:
    """The columns of the batch's table, and the digest if there is one."""
    columns = list(batch.table.columns)
    return [*columns, Column("digest", Type.BIGINT)] if SEQ in (c.name for c in columns) else columns


def _columns(batch: Batch, json_limit: int) -> list[str]:
    columns = batch.table.columns
    chosen = [f"{_sendable(c, json_limit)} AS c{n}" for n, c in enumerate(columns)]
    if SEQ in (c.name for c in columns):
        chosen.append(f"{row_digest(columns)} - {plain_digest(columns)} AS c{len(columns)}")
    return chosen


def _sendable(column: Column, json_limit: int) -> str:
    name = identifier(column.name)
    fault = f"{_fault(column, json_limit)} THEN error({literal(_TOO_LONG)})"
    match column.type:
        case Type.JSON:  # as bytes, so that COPY fills a VARBYTE with it
            return f"encode(CASE WHEN {fault} ELSE {name} END)"
        case Type.TEXT:
            return f"CASE WHEN {fault} ELSE {name} END"
        case Type.TIMESTAMP:
            return f"{name} AT TIME ZONE 'UTC'"
        case _:
            return name


def _fault(column: Column, json_limit: int) -> str:
    name = identifier(column.name)
    limit = json_limit if column.type is Type.JSON else TEXT_LIMIT_BYTES
    return f"contains({name}, chr(0)) OR strlen({name}) > {limit}"


def _longer_texts(batch: Batch) -> list[str]:
    """For JSON too long for one text in a SUPER: the same in pieces, should JSON_PARSE refuse it. A column for each."""
    made = []
    for number, column in enumerate(batch.table.columns):
        if column.type is Type.JSON:
            name = identifier(column.name)
            pieces = (
                f"list_transform(range(0, length({name}), {_PIECE_CHARACTERS}), "
                f"lambda first: substr({name}, first + 1, {_PIECE_CHARACTERS}))"
            )
            made.append(
                f"encode(CASE WHEN strlen({name}) > {TEXT_LIMIT_BYTES} "
                f"THEN to_json({{'_isthmus_text': {pieces}}})::VARCHAR END) AS t{number}"
            )
    return made


def _deleted(batch: Batch) -> str:
    return f"coalesce({identifier(DELETED)}, false)" if batch.table.key else "false"


def _kept(batch: Batch) -> str:
    """Rows that are deleted have no business where nothing is upserted."""
    return f" WHERE NOT {_deleted(batch)}" if batch.table.key and batch.adds_only else ""


def _said(column: Column, value: str) -> str:
    """The text of an SQL expression for a value."""
    match column.type:
        case Type.JSON:
            return _said_bytes(value)
        case Type.TEXT:
            # A backslash means something in Redshift's literals, so that what has one goes as bytes.
            odd = f"contains({value}, '\\') OR strlen({value}) > {_LITERAL_BYTES}"
            return (
                f"CASE WHEN {value} IS NULL THEN 'NULL' WHEN {odd} THEN 'from_varbyte(' || {_hex(f'encode({value})')} "
                f"|| ',''utf-8'')' ELSE '''' || replace({value}, '''', '''''') || '''' END"
            )
        case _:
            return f"coalesce('''' || {value}::VARCHAR || '''', 'NULL')"


def _said_bytes(value: str) -> str:
    return f"coalesce({_hex(value)}, 'NULL')"


def _hex(value: str) -> str:
    """Bytes as the sum of hexadecimal literals."""
    digits = 2 * _LITERAL_BYTES
    pieces = (
        f"list_transform(range(0, greatest(2 * octet_length({value}), 1), {digits}), "
        f"lambda first: 'to_varbyte(''' || substr(hex({value}), first + 1, {digits}) || ''',''hex'')')"
    )
    return f"array_to_string({pieces}, '||')"


@contextmanager
def _duckdb(batch: Batch) -> Iterator[duckdb.DuckDBPyConnection]:
    con = connect(memory_mb=MEMORY_MB, temp_dir=batch.files[0].parent)
    try:
        yield con
    finally:
        con.close()


@contextmanager
def _checked(batch: Batch, json_limit: int) -> Iterator[None]:
    """Raise what went wrong in DuckDB as ours: a value that is too long, by row and column, or a broken file."""
    try:
        yield
    except duckdb.Error as e:
        if _TOO_LONG in str(e):
            raise _rejected(batch, json_limit) from None
        raise sql.broken_file(e) from e


def _rejected(batch: Batch, json_limit: int) -> Rejected:
    key = " || ' / ' || ".join(f"coalesce({identifier(k)}::VARCHAR, 'NULL')" for k in batch.table.key) or "'?'"
    with _duckdb(batch) as con:
        for column in batch.table.columns:
            if column.arrow != pa.string():
                continue
            name = identifier(column.name)
            found = con.execute(
                f"SELECT {key}, contains({name}, chr(0)), strlen({name}) FROM {sql.parquet(batch.files)} "
                f"WHERE {_fault(column, json_limit)} LIMIT 1"
            ).fetchone()
            if found:
                return _too_long(found, column, json_limit)
    raise AssertionError("a value was refused, and then there was none")


def _too_long(found: Any, column: Column, json_limit: int) -> Rejected:
    row, has_nul, size = found
    limit = json_limit if column.type is Type.JSON else TEXT_LIMIT_BYTES
    what, hint = f"{size:,} bytes", "shorten the value where it comes from"
    if has_nul:
        what, hint = "the character U+0000", "correct the value where it comes from"
    elif column.type is Type.JSON and json_limit < JSON_LIMIT_BYTES:
        hint = "give the connection a staging bucket: without one, JSON has to fit into a statement"
    summary = f"row {row} has {what} in column {column.name}, which Redshift cannot hold"
    if not has_nul:
        summary += f" (at most {limit:,})"
    return Rejected(summary, row=row, column=column.name, hint=hint)

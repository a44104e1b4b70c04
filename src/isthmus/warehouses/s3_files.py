"""The SQL texts of the S3 connector, DuckDB's: how files are read and written in each format. Touches no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from isthmus.duck import identifier, literal
from isthmus.model.table import DELETED, SEQ, Batch, Column, SeqRange, Table, Type
from isthmus.warehouses import sql
from isthmus.warehouses.s3_manifest import DataFile
from isthmus.warehouses.types import DUCKDB

FILE = "_isthmus_file"
"""The column of a scan that says from which file a row is."""

WRITING = {
    "parquet": "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)",
    # Every value in quotes, so that an empty text and no value are two things.
    "csv": "(FORMAT csv, HEADER true, FORCE_QUOTE *, COMPRESSION gzip)",
    "jsonl": "(FORMAT json, COMPRESSION gzip)",
}

_LONGEST_BYTES = 64 * 1024 * 1024
"""The longest row of a text format that is read: an event has up to 5 MB, and quotes and escapes can double that."""


def scan(table: Table, files: Iterable[tuple[str, DataFile]], *, columns: Sequence[str] | None = None) -> str:
    """The rows of files, given with their addresses, in the columns of the table (or only some) and FILE.

    A column that a file does not have is NULL. Without files it is the same shape without rows.
    """
    wanted = [c for c in table.columns if columns is None or c.name in columns]
    parts = []
    shapes = sorted(files, key=lambda f: (f[1].format, f[1].columns))
    for (form, has), group in groupby(shapes, key=lambda f: (f[1].format, f[1].columns)):
        chosen = [_value(c) if c.name in has else _nothing(c) for c in wanted]
        addresses = [address for address, _ in group]
        origin = reading(form, addresses, [table.column(name) for name in has if name != DELETED])
        parts.append(f"SELECT {', '.join(chosen)}, filename AS {FILE} FROM {origin}")
    if not parts:
        parts = [f"SELECT {', '.join(_nothing(c) for c in wanted)}, NULL::VARCHAR AS {FILE} WHERE false"]
    return "(" + " UNION ALL ".join(parts) + ")"


def reading(form: str, addresses: Sequence[str], columns: Sequence[Column]) -> str:
    """The table function over files we wrote, with the types they were written from: nothing is guessed."""
    listed = ", ".join(literal(address) for address in addresses)
    if form == "parquet":
        return f"read_parquet([{listed}], filename=true, hive_partitioning=false)"
    types = ", ".join(f"{literal(c.name)}: {literal(DUCKDB[c.type].name)}" for c in columns)
    common = f"columns={{{types}}}, filename=true, hive_partitioning=false, compression='gzip'"
    if form == "csv":
        return (
            f"read_csv([{listed}], {common}, auto_detect=false, header=true, delim=',', quote='\"', escape='\"', "
            f"nullstr='', allow_quoted_nulls=false, max_line_size={_LONGEST_BYTES}, "
            f"buffer_size={2 * _LONGEST_BYTES}, parallel=false, strict_mode=true)"
        )
    return f"read_json([{listed}], {common}, format='newline_delimited', maximum_object_size={_LONGEST_BYTES})"


def copy(select: str, target: Path, form: str) -> str:
    return f"COPY ({select}) TO {literal(str(target))} {WRITING[form]}"


def measured(table: Table, origin: str) -> str:
    """Asks what a manifest says of a file: rows, lowest and highest key, lowest and highest seq, rows without one."""
    key = "NULL, NULL"
    if table.key and table.column(table.key[0]).type in (Type.TEXT, Type.BIGINT):
        name = identifier(table.key[0])
        key = f"min({name}), max({name})"
    seq = "NULL, NULL, 0"
    if has_seq(table):
        name = identifier(SEQ)
        seq = f"min({name}), max({name}), count(*) - count({name})"
    return f"SELECT count(*), {key}, {seq} FROM {origin}"


def has_seq(table: Table) -> bool:
    return any(c.name == SEQ for c in table.columns)


def written(table: Table, form: str) -> str:
    """The select list of what we write: all columns, and in Parquet `_deleted`, as the batch's own files have it."""
    names = sql.names(c.name for c in table.columns)
    return f"{names}, false AS {identifier(DELETED)}" if marks(table, form) else names


def marks(table: Table, form: str) -> bool:
    """Whether files of this format have the column `_deleted`: all of them or none, so that globs see one shape."""
    return form == "parquet" and bool(table.key)


def file_columns(table: Table, form: str) -> tuple[str, ...]:
    return (*(c.name for c in table.columns), *([DELETED] if marks(table, form) else []))


def none_deleted(batch: Batch) -> bool:
    """Whether the statistics of the batch's files prove that no row in them is a deletion.

    Raises OSError or ArrowException for a file that cannot be read.
    """
    proved = True
    for path in batch.files:
        footer = pq.read_metadata(path)
        place = footer.schema.to_arrow_schema().get_field_index(DELETED)
        if place < 0:
            continue
        for number in range(footer.num_row_groups):
            column = footer.row_group(number).column(place)
            known = column.statistics
            nothing = known is not None and known.has_null_count and known.null_count == column.num_values
            false = known is not None and known.has_min_max and known.max is False
            proved = proved and (nothing or false or not column.num_values)
    return proved


def overlaps(file: DataFile, seqs: SeqRange) -> bool:
    """Whether a file may hold rows of the range."""
    if file.seq_nulls and seqs.after is None:
        return True
    if file.seq_min is None or file.seq_max is None:
        return False
    return (seqs.upto is None or file.seq_min <= seqs.upto) and (seqs.after is None or file.seq_max > seqs.after)


def lies_in(file: DataFile, seqs: SeqRange) -> bool:
    """Whether all rows of a file are of the range."""
    if file.seq_nulls and seqs.after is not None:
        return False
    if file.seq_min is None or file.seq_max is None:
        return seqs.after is None
    return (seqs.upto is None or file.seq_max <= seqs.upto) and (seqs.after is None or file.seq_min > seqs.after)


def touched(table: Table, files: Iterable[DataFile], keys: str) -> str:
    """Asks for the names of those files whose range of keys holds at least one of the keys in the table `keys`."""
    first = table.column(table.key[0])
    kind, name = DUCKDB[first.type].name, identifier(first.name)

    def bounds(file: DataFile) -> str:
        low, high = file.key_min, file.key_max
        if low is None or high is None or "\0" in f"{low}{high}":  # no SQL text holds that character
            return "NULL, NULL"
        return f"{literal(str(low))}, {literal(str(high))}"

    rows = ", ".join(f"({literal(f.name)}, {bounds(f)})" for f in files)
    return (
        f"SELECT name FROM (SELECT name, low::{kind} AS low, high::{kind} AS high FROM (VALUES {rows}) "
        f"AS v(name, low, high)) AS r WHERE low IS NULL OR EXISTS "
        f"(SELECT 1 FROM {keys} AS k WHERE k.{name} BETWEEN r.low AND r.high)"
    )


def _value(column: Column) -> str:
    name = identifier(column.name)
    return f"{name}::VARCHAR AS {name}" if column.type is Type.JSON else name


def _nothing(column: Column) -> str:
    return f"NULL::{DUCKDB[column.type].name} AS {identifier(column.name)}"


# What a customer exposes

ENDINGS: Mapping[str, str] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".json": "jsonl",
    ".json.gz": "jsonl",
}
"""How the names of files end that can be imported, and what is in them."""


def form_of(key: str) -> str | None:
    """What is in a file by the end of its name; None for one that is not to be read: unknown, or hidden."""
    if any(part[:1] in ("_", ".") for part in key.split("/")):
        return None
    return next((form for ending, form in ENDINGS.items() if key.lower().endswith(ending)), None)


def theirs(form: str, addresses: Sequence[str], found: Mapping[str, str] | None = None) -> str:
    """The table function over a customer's files of one format; columns are brought together by name.

    `found` are the columns of lines of JSON with the types DuckDB sees in them. What it would take apart stays the JSON
    text it is: two lines need not look alike inside.
    """
    listed = ", ".join(literal(address) for address in addresses)
    if form == "parquet":
        return f"read_parquet([{listed}], union_by_name=true)"
    if form == "csv":
        return f"read_csv([{listed}], union_by_name=true, max_line_size=16777216, buffer_size=33554432)"
    columns = ""
    if found is not None:
        types = ((name, "JSON" if _is_nested(kind) else kind) for name, kind in found.items())
        columns = f", columns={{{', '.join(f'{literal(n)}: {literal(t)}' for n, t in types)}}}"
    return f"read_json([{listed}], union_by_name=true, maximum_object_size={_LONGEST_BYTES}{columns})"


_PLAIN = frozenset(
    "BOOLEAN TINYINT SMALLINT INTEGER BIGINT UTINYINT USMALLINT UINTEGER UBIGINT FLOAT DOUBLE VARCHAR BLOB DATE TIME "
    "TIMESTAMP TIMESTAMP_S TIMESTAMP_MS TIMESTAMP_NS".split()
) | {"TIMESTAMP WITH TIME ZONE"}
_NESTED = ("STRUCT(", "MAP(", "UNION(")


def plain_columns(found: Mapping[str, str]) -> str:
    """The select list over an origin `q` after which every column is a plain Arrow type: nested ones are JSON text."""
    return ", ".join(_plain(name, kind) for name, kind in found.items()) or "*"


def _plain(name: str, kind: str) -> str:
    quoted = identifier(name)
    if kind in _PLAIN or kind.startswith("DECIMAL("):
        return f"q.{quoted}"
    if _is_nested(kind):
        return f"to_json(q.{quoted})::VARCHAR AS {quoted}"
    return f"q.{quoted}::VARCHAR AS {quoted}"


def _is_nested(kind: str) -> bool:
    return kind.startswith(_NESTED) or kind.endswith("]")

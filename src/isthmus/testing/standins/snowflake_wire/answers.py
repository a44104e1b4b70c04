"""What a statement answers, and how it goes over the wire."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SELECT, DML, DDL = 0x1000, 0x3000, 0x6000
INSERTED, UPDATED, REMOVED, MERGED = 0x3100, 0x3200, 0x3300, 0x3400

CHUNK_ROWS = 100_000
"""A result of more rows comes in several parts, of which all but the first are fetched by URL."""


@dataclass
class Answer:
    """Rows of text with their names, or an Arrow table with the wire's description of its columns."""

    names: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    kind: int = SELECT
    table: pa.Table | None = None
    columns: list[dict[str, Any]] = field(default_factory=list)
    upload: dict[str, Any] | None = None  # what PUT answers, instead of rows
    query_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def plain(self) -> list[list[Any]]:
        """The rows, for whoever is not on the wire."""
        if self.table is not None:
            return [list(row.values()) for row in self.table.to_pylist()]
        return [list(row) for row in self.rows]


def done(message: str = "Statement executed successfully.") -> Answer:
    return Answer(["status"], [[message]], DDL)


def counted(kind: int, **numbers: int) -> Answer:
    return Answer([f"number of rows {name}" for name in numbers], [[str(n) for n in numbers.values()]], kind)


def text_column(name: str) -> dict[str, Any]:
    return column(name, "text", length=16777216)


def column(name: str, kind: str, **more: Any) -> dict[str, Any]:
    blank = dict.fromkeys(("length", "byteLength", "precision", "scale", "collation"))
    where = {"database": "", "schema": "", "table": ""}
    return {"name": name, "type": kind, "nullable": True, **where, **blank, **more}


def described(schema: pa.Schema, json_columns: frozenset[str], scales: Sequence[int]) -> list[dict[str, Any]]:
    """The wire's description of the columns of a result. `scales` are the digits of the seconds of each."""
    return [
        _described(f, "variant" if f.name in json_columns else "", scale)
        for f, scale in zip(schema, scales, strict=True)
    ]


def _described(f: pa.Field, kind: str, scale: int) -> dict[str, Any]:
    kinds = pa.types
    if kinds.is_decimal(f.type):
        return column(f.name, "fixed", precision=f.type.precision, scale=f.type.scale)
    if kinds.is_integer(f.type):
        return column(f.name, "fixed", precision=38, scale=0)
    if kinds.is_floating(f.type):
        return column(f.name, "real")
    if kinds.is_boolean(f.type):
        return column(f.name, "boolean")
    if kinds.is_date(f.type):
        return column(f.name, "date")
    if kinds.is_time(f.type):
        return column(f.name, "time", precision=0, scale=9)
    if kinds.is_timestamp(f.type):
        return column(f.name, "timestamp_tz" if f.type.tz else "timestamp_ntz", precision=0, scale=scale)
    if kinds.is_binary(f.type) or kinds.is_large_binary(f.type):
        return column(f.name, "binary", length=8388608, byteLength=8388608)
    if kinds.is_string(f.type) or kinds.is_large_string(f.type) or kinds.is_null(f.type):
        return column(f.name, kind or "text", length=16777216, byteLength=16777216)
    raise TypeError(f"no Snowflake type for column {f.name}, which is {f.type}")


def on_the_wire(table: pa.Table, columns: Sequence[dict[str, Any]]) -> pa.Table:
    """A result in the form in which Snowflake sends it: seconds and fractions, days, numbers by their scale."""
    arrays: list[pa.Array] = []
    fields: list[pa.Field] = []
    for values, about in zip(table.columns, columns, strict=True):
        array = _sent(values.combine_chunks() if values.num_chunks != 1 else values.chunk(0), about)
        about = {
            "logicalType": about["type"].upper(),
            **{k: str(about[k] or 0) for k in ("precision", "scale")},
            "charLength": str(about["length"] or 0),
            "byteLength": str(about["byteLength"] or 16),
        }
        arrays.append(array)
        fields.append(pa.field(columns[len(fields)]["name"], array.type, metadata=about))
    return pa.table(arrays, schema=pa.schema(fields))


def _sent(array: pa.Array, about: dict[str, Any]) -> pa.Array:
    kinds = pa.types
    if kinds.is_timestamp(array.type):
        return _moments(array, about["scale"])
    if kinds.is_time(array.type):
        return pc.multiply(array.cast(pa.time64("us")).cast(pa.int64()), 1000)
    if kinds.is_decimal(array.type):
        if array.type.precision <= 18:  # a whole number, shifted by the scale
            return _shifted(array)
        return array
    if kinds.is_null(array.type):
        return array.cast(pa.string())
    if kinds.is_unsigned_integer(array.type):
        return array.cast(pa.int64())
    return array


def _shifted(array: pa.Array) -> pa.Array:
    scale = array.type.scale
    return pa.array([None if v is None else int(v.scaleb(scale)) for v in array.to_pylist()], pa.int64())


def _moments(array: pa.Array, scale: int) -> pa.Array:
    """Times of up to seven digits without a zone are one number; others are a struct, NULL as a whole when NULL."""
    micros = array.cast(pa.timestamp("us", array.type.tz)).cast(pa.int64())
    if scale <= 6 and not array.type.tz:
        return pc.divide(micros, 10 ** (6 - scale)) if scale < 6 else micros
    filled = pc.fill_null(micros, 0)
    rest = _modulo(filled)
    seconds = pc.divide(pc.subtract(filled, rest), 1_000_000)
    parts = [("epoch", seconds), ("fraction", pc.multiply(rest, 1000).cast(pa.int32()))]
    if array.type.tz:
        parts.append(("timezone", pa.array([1440] * len(array), pa.int32())))  # minutes, 1440 is UTC
    return pa.StructArray.from_arrays(
        [values for _, values in parts],
        fields=[pa.field(name, values.type, nullable=False) for name, values in parts],
        mask=pc.is_null(array),
    )


def _modulo(numbers: pa.Array) -> pa.Array:
    """Microseconds of the second, never negative."""
    rest = pc.subtract(numbers, pc.multiply(pc.divide(numbers, 1_000_000), 1_000_000))
    return pc.if_else(pc.less(rest, 0), pc.add(rest, 1_000_000), rest)


def ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def parts_of(table: pa.Table) -> list[pa.Table]:
    return [table.slice(start, CHUNK_ROWS) for start in range(0, max(1, table.num_rows), CHUNK_ROWS)]


def as_data(answer: Answer, database: str | None, schema: str | None) -> tuple[dict[str, Any], list[pa.Table]]:
    """The `data` of a response, and the parts of the result that are still to be fetched."""
    if answer.upload is not None:
        return answer.upload, []
    common = {
        "parameters": [{"name": "TIMEZONE", "value": "UTC"}],
        "queryId": answer.query_id,
        "statementTypeId": answer.kind,
        "finalDatabaseName": database,
        "finalSchemaName": schema,
        "numberOfBinds": 0,
        "arrayBindSupported": False,
    }
    if answer.table is None:
        rows = [[None if v is None else str(v) for v in row] for row in answer.rows]
        rowtype = [text_column(name) for name in answer.names]
        counts = {"total": len(rows), "returned": len(rows)}
        return {**common, "rowtype": rowtype, "rowset": rows, **counts, "queryResultFormat": "json"}, []
    first, *others = parts_of(on_the_wire(answer.table, answer.columns))
    return {
        **common,
        "rowtype": answer.columns,
        "rowsetBase64": base64.b64encode(ipc(first)).decode() if first.num_rows else "",
        "total": answer.table.num_rows,
        "returned": answer.table.num_rows,
        "queryResultFormat": "arrow",
    }, others

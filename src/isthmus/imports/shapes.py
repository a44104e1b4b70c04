"""How the types of a Parquet file or a relation reach us, and those of its columns that need another one first."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.model.intake import Shape


def shape(kind: pa.DataType) -> Shape:
    """How values of an Arrow type reach us."""
    t = pa.types
    if t.is_dictionary(kind):
        return shape(kind.value_type)
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return Shape.STRING
    if t.is_floating(kind):
        return Shape.FLOAT
    if t.is_uint64(kind) or (t.is_decimal(kind) and kind.scale <= 0 and kind.precision > 18):
        return Shape.HUGE
    if t.is_integer(kind) or t.is_decimal(kind) or t.is_boolean(kind):
        return Shape.NUMBER
    if t.is_timestamp(kind):
        return Shape.TIMESTAMP
    if t.is_nested(kind):
        return Shape.NESTED
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind):
        return Shape.BINARY
    return Shape.EXACT


def unreadable(kind: pa.DataType) -> str:
    """Why the store's engine cannot take a column of this type; empty if it can."""
    t = pa.types
    if t.is_decimal256(kind):
        return "decimals of more than 38 digits cannot be read"
    if not t.is_nested(kind):
        return ""
    inner = [kind.field(i) for i in range(kind.num_fields)]
    names = [f.name.lower() for f in inner]
    if t.is_struct(kind) and len(set(names)) < len(names):
        return "fields of a struct that differ only by case cannot be told apart"
    return next(
        (
            what
            for f in inner
            if (what := "16-bit floats cannot be read in it" if t.is_float16(f.type) else unreadable(f.type))
        ),
        "",
    )


_YEARS = (-62_200_000_000, 253_500_000_000)  # seconds since 1970: a little before the year 1, a little behind 9999


def readable(table: pa.Table) -> pa.Table:
    """The table with types that the store's engine takes. A time far outside the years 1 to 9999 stays outside them,
    but no conversion of it can fail."""
    for i, f in enumerate(table.schema):
        column = table.column(i)
        if pa.types.is_float16(f.type):
            table = table.set_column(i, f.name, column.cast(pa.float32()))
        elif pa.types.is_timestamp(f.type) and f.type.unit in ("s", "ms"):
            factor = 1 if f.type.unit == "s" else 1000
            bounded = pc.min_element_wise(column.cast(pa.int64()), _YEARS[1] * factor, skip_nulls=False)
            bounded = pc.max_element_wise(bounded, _YEARS[0] * factor, skip_nulls=False)
            table = table.set_column(i, f.name, bounded.cast(f.type))
    return table


def words(kind: pa.DataType) -> str:
    """An Arrow type as a person calls it."""
    t = pa.types
    if t.is_dictionary(kind):
        return words(kind.value_type)
    if t.is_timestamp(kind):
        return "timestamp" if kind.tz else "timestamp without zone"
    if t.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return f"list of {words(kind.value_type)}"
    named = (
        *((t.is_boolean, "boolean"), (t.is_integer, "integer"), (t.is_floating, "float"), (t.is_date, "date")),
        *((t.is_time, "time of day"), (t.is_struct, "struct"), (t.is_map, "map"), (t.is_null, "nothing")),
        *((t.is_interval, "interval"), (t.is_duration, "interval")),
    )
    if name := next((name for is_one, name in named if is_one(kind)), ""):
        return name
    return {Shape.STRING: "text", Shape.BINARY: "binary"}.get(shape(kind), str(kind))

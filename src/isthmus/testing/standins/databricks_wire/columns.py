"""Types and values as Databricks shows them: names of types, JSON text, intervals as text."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

_SIMPLE = {
    "boolean": "boolean", "tinyint": "tinyint", "smallint": "smallint", "integer": "int", "bigint": "bigint",
    "hugeint": "decimal(38,0)", "float": "float", "double": "double", "varchar": "string", "blob": "binary",
    "date": "date", "timestamp": "timestamp_ntz", "timestamp with time zone": "timestamp",
    "interval": "interval day to second", "json": "variant", "sqlnull": "void",
}  # fmt: skip


def type_name(theirs: Any) -> str:
    """Databricks' name of a DuckDB type. Raises ValueError for one it has no word for."""
    if theirs.id in ("list", "array"):
        return f"array<{type_name(theirs.children[0][1])}>"
    if theirs.id == "map":
        (_, key), (_, value) = theirs.children
        return f"map<{type_name(key)},{type_name(value)}>"
    if theirs.id == "struct":
        return f"struct<{','.join(f'{name}:{type_name(each)}' for name, each in theirs.children)}>"
    if theirs.id == "decimal":
        (_, precision), (_, scale) = theirs.children
        return f"decimal({precision},{scale})"
    found = _SIMPLE.get("json" if str(theirs) == "JSON" else theirs.id)
    if found is None:
        raise ValueError(f"Databricks has no type like {theirs}")
    return found


def as_json(value: Any, *, options: dict[str, str], is_variant: bool = False) -> str | None:
    """`to_json` of a nested value, or of a variant, whose keys come in order."""
    if value is None:
        return None
    if is_variant:
        return json.dumps(json.loads(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return json.dumps(_plain(value, options), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any, options: dict[str, str]) -> Any:
    match value:
        case dict():
            keeps = options.get("ignoreNullFields", "true") == "false"
            return {k: _plain(v, options) for k, v in value.items() if keeps or v is not None}
        case list() if value and all(isinstance(each, tuple) for each in value):  # how Arrow hands a map over
            return {str(k): _plain(v, options) for k, v in value}
        case list():
            return [_plain(each, options) for each in value]
        case datetime(tzinfo=None):
            return _moment(value, options.get("timestampNTZFormat", ""))
        case datetime():
            return _moment(value.astimezone(UTC), options.get("timestampFormat", "")) + "Z"
        case date():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return float(value) if value % 1 else int(value)
    return value


def _moment(value: datetime, pattern: str) -> str:
    # Without a pattern Databricks writes milliseconds, if there are any: the rest is lost.
    if not pattern:
        part = f".{value.microsecond // 1000:03}" if value.microsecond >= 1000 else ""
    elif pattern.removesuffix("XXX") == "yyyy-MM-dd'T'HH:mm:ss.SSSSSS":
        part = f".{value.microsecond:06}"
    else:
        raise ValueError(f"a pattern of times this stand-in does not know: {pattern}")
    return value.strftime("%Y-%m-%dT%H:%M:%S") + part


def interval_text(value: Any) -> str | None:
    """A day-time interval cast to STRING."""
    if value is None:
        return None
    if value.months:
        years, months = divmod(abs(value.months), 12)
        return f"INTERVAL '{'-' if value.months < 0 else ''}{years}-{months}' YEAR TO MONTH"
    micros = value.days * 86_400_000_000 + value.nanoseconds // 1000
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    seconds, part = divmod(micros, 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}" + (f".{part:06}" if part else "")
    return f"INTERVAL '{sign}{days} {clock}' DAY TO SECOND"


def arrow_type(theirs: pa.DataType) -> pa.DataType:
    """The type a column travels in: DuckDB's own, but for what it has beyond Databricks."""
    if pa.types.is_large_string(theirs) or isinstance(theirs, pa.ExtensionType):
        return pa.string()
    return theirs

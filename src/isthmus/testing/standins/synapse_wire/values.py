"""T-SQL types: what DuckDB keeps for a column, and how a value looks on the wire, going out and coming in."""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.testing.standins.synapse_wire.packets import COLLATION, short_text

DEFAULT_COLLATION = "SQL_Latin1_General_CP1_CI_AS"
MAX = -1
_DAY_ONE = datetime.date(1, 1, 1).toordinal()
_ROWS_AT_ONCE = 20_000

_KEPT_AS = {
    "bigint": "BIGINT",
    "int": "INTEGER",
    "smallint": "SMALLINT",
    "tinyint": "UTINYINT",
    "bit": "BOOLEAN",
    "money": "DECIMAL(19,4)",
    "smallmoney": "DECIMAL(10,4)",
    "real": "FLOAT",
    "float": "DOUBLE",
    "date": "DATE",
    "time": "TIME",
    "datetime": "TIMESTAMP",
    "smalldatetime": "TIMESTAMP",
    "datetime2": "TIMESTAMP",
    "datetimeoffset": "TIMESTAMP WITH TIME ZONE",
    "uniqueidentifier": "UUID",
    "binary": "BLOB",
    "varbinary": "BLOB",
}
TEXTS = ("char", "varchar", "nchar", "nvarchar", "sysname")


@dataclass(frozen=True)
class SqlType:
    """A type as T-SQL writes it. `length` is in its own unit (bytes, or pairs of bytes), MAX for no limit."""

    name: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None

    @property
    def is_text(self) -> bool:
        return self.name in TEXTS

    @property
    def kept_as(self) -> str:
        """DuckDB's type for it."""
        if self.is_text:
            return "VARCHAR"
        if self.name == "decimal":
            return f"DECIMAL({self.precision},{self.scale})"
        return _KEPT_AS[self.name]

    def fits(self, quoted: str) -> str | None:
        """DuckDB's condition that a value of the column fits; None if any does."""
        if self.length in (None, MAX):
            return None
        if self.name in ("nchar", "nvarchar", "sysname"):
            return f"pairs_of_bytes({quoted}) <= {self.length}"
        if self.is_text:
            return f"strlen({quoted}) <= {self.length}"
        return f"octet_length({quoted}) <= {self.length}"

    def __str__(self) -> str:
        if self.length is not None and self.name != "sysname":
            return f"{self.name}({'max' if self.length == MAX else self.length})"
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.name in ("time", "datetime2", "datetimeoffset"):
            return f"{self.name}({self.scale})"
        return self.name


def of_arrow(kind: pa.DataType) -> SqlType:
    """The type of an expression's result, from what DuckDB made of it."""
    plain = {
        pa.bool_(): "bit",
        pa.uint8(): "tinyint",
        pa.int8(): "smallint",
        pa.int16(): "smallint",
        pa.int32(): "int",
        pa.uint16(): "int",
        pa.int64(): "bigint",
        pa.uint32(): "bigint",
        pa.float32(): "real",
        pa.float64(): "float",
    }
    if kind in plain:
        return SqlType(plain[kind])
    if pa.types.is_decimal(kind):
        return SqlType("decimal", precision=kind.precision, scale=kind.scale)
    if pa.types.is_date(kind):
        return SqlType("date")
    if pa.types.is_time(kind):
        return SqlType("time", scale=6)
    if pa.types.is_timestamp(kind):
        return SqlType("datetimeoffset" if kind.tz else "datetime2", scale=6)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return SqlType("varbinary", MAX)
    if pa.types.is_uint64(kind):
        return SqlType("decimal", precision=20, scale=0)
    return SqlType("nvarchar", MAX)


Encoder = Callable[[Any], bytes]


def _microseconds(moment: datetime.time | datetime.datetime) -> int:
    return ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1_000_000 + moment.microsecond


def _time_bytes(scale: int) -> tuple[Callable[[Any], bytes], int]:
    size = 3 if scale <= 2 else 4 if scale <= 4 else 5
    if scale <= 6:
        return lambda v: (_microseconds(v) // 10 ** (6 - scale)).to_bytes(size, "little"), size
    return lambda v: (_microseconds(v) * 10).to_bytes(size, "little"), size


def _date_bytes(value: datetime.date) -> bytes:
    return (value.toordinal() - _DAY_ONE).to_bytes(3, "little")


def _moment_1900(value: datetime.datetime) -> tuple[int, int]:
    days = value.toordinal() - datetime.date(1900, 1, 1).toordinal()
    return days, _microseconds(value)


def wire_type(kind: SqlType) -> tuple[bytes, Encoder, bytes]:
    """How a type is announced, how its values are written, and how NULL is."""
    name = kind.name
    fixed = {"tinyint": "<BB", "smallint": "<Bh", "int": "<Bi", "bigint": "<Bq"}
    if name in fixed:
        pack, size = struct.Struct(fixed[name]).pack, struct.calcsize(fixed[name]) - 1
        return bytes([0x26, size]), lambda v: pack(size, v), b"\x00"
    match name:
        case "bit":
            return b"\x68\x01", lambda v: b"\x01\x01" if v else b"\x01\x00", b"\x00"
        case "float":
            pack = struct.Struct("<Bd").pack
            return b"\x6d\x08", lambda v: pack(8, v), b"\x00"
        case "real":
            pack = struct.Struct("<Bf").pack
            return b"\x6d\x04", lambda v: pack(4, v), b"\x00"
        case "decimal":
            return _decimal(kind.precision or 18, kind.scale or 0)
        case "money" | "smallmoney":
            return _money(8 if name == "money" else 4)
        case "date":
            return b"\x28", lambda v: b"\x03" + _date_bytes(v), b"\x00"
        case "datetime":

            def ticks(value: Any) -> bytes:
                days, microseconds = _moment_1900(value)
                return struct.pack("<BiI", 8, days, round(microseconds * 3 / 10_000))

            return b"\x6f\x08", ticks, b"\x00"
        case "smalldatetime":

            def minutes(value: Any) -> bytes:
                days, microseconds = _moment_1900(value)
                return struct.pack("<BHH", 4, days, microseconds // 60_000_000)

            return b"\x6f\x04", minutes, b"\x00"
        case "time" | "datetime2" | "datetimeoffset":
            scale = 7 if kind.scale is None else kind.scale
            of_day, size = _time_bytes(scale)
            if name == "time":
                return bytes([0x29, scale]), lambda v: bytes([size]) + of_day(v), b"\x00"
            if name == "datetime2":
                return bytes([0x2A, scale]), lambda v: bytes([size + 3]) + of_day(v) + _date_bytes(v), b"\x00"
            return (
                bytes([0x2B, scale]),
                lambda v: bytes([size + 5]) + of_day(v) + _date_bytes(v) + b"\x00\x00",
                b"\x00",
            )
        case "uniqueidentifier":
            return b"\x24\x10", lambda v: b"\x10" + uuid.UUID(str(v)).bytes_le, b"\x00"
    return _bytes_or_text(kind)


def _decimal(precision: int, scale: int) -> tuple[bytes, Encoder, bytes]:
    size = 5 if precision <= 9 else 9 if precision <= 19 else 13 if precision <= 28 else 17

    def encode(value: Any) -> bytes:
        whole: int = int(value.scaleb(scale)) if isinstance(value, decimal.Decimal) else int(value) * int(10**scale)
        return bytes([size, whole >= 0]) + abs(whole).to_bytes(size - 1, "little")

    return bytes([0x6A, size, precision, scale]), encode, b"\x00"


def _money(size: int) -> tuple[bytes, Encoder, bytes]:
    def encode(value: Any) -> bytes:
        whole = int(decimal.Decimal(value).scaleb(4))
        if size == 4:
            return struct.pack("<Bi", 4, whole)
        return struct.pack("<BiI", 8, whole >> 32, whole & 0xFFFFFFFF)

    return bytes([0x6E, size]), encode, b"\x00"


def _bytes_or_text(kind: SqlType) -> tuple[bytes, Encoder, bytes]:
    is_wide = kind.name in ("nchar", "nvarchar", "sysname")
    is_text = kind.is_text
    code = {"char": 0xAF, "nchar": 0xEF, "varchar": 0xA7, "binary": 0xAD, "varbinary": 0xA5}.get(kind.name, 0xE7)
    collation = COLLATION if is_text else b""

    def raw(value: Any) -> bytes:
        if not is_text:
            return bytes(value)
        return str(value).encode("utf-16-le" if is_wide else "latin-1", "surrogatepass" if is_wide else "replace")

    if kind.length == MAX:

        def encode_max(value: Any) -> bytes:
            data = raw(value)
            return struct.pack("<QI", len(data), len(data)) + data + b"\0\0\0\0" if data else b"\0" * 12

        return bytes([code]) + b"\xff\xff" + collation, encode_max, b"\xff" * 8
    length = (kind.length or 128) * (2 if is_wide else 1)

    def encode(value: Any) -> bytes:
        data = raw(value)
        if kind.name in ("char", "nchar"):
            data = data.ljust(length) if kind.name == "char" else data + b" \x00" * ((length - len(data)) // 2)
        return struct.pack("<H", len(data)) + data

    return bytes([code]) + struct.pack("<H", length) + collation, encode, b"\xff\xff"


def rows(reader: pa.RecordBatchReader, types: list[SqlType]) -> Iterator[bytes]:
    """The tokens of a result: its columns, then its rows, a bounded number of them at a time."""
    coders = [wire_type(kind) for kind in types]
    yield announced(list(zip(reader.schema.names, types, strict=True)))
    for batch in reader:
        for start in range(0, max(batch.num_rows, 1), _ROWS_AT_ONCE):
            part = batch.slice(start, _ROWS_AT_ONCE)
            columns = []
            for i, (_, encode, null) in enumerate(coders):
                columns.append([null if v is None else encode(v) for v in _plain(part.column(i), types[i])])
            yield b"".join(b"\xd1" + b"".join(row) for row in zip(*columns, strict=True))


def announced(columns: list[tuple[str, SqlType]]) -> bytes:
    parts = [struct.pack("<IH", 0, 9) + wire_type(kind)[0] + short_text(name[:128]) for name, kind in columns]
    return b"\x81" + struct.pack("<H", len(parts)) + b"".join(parts)


def _plain(column: pa.Array, kind: SqlType) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.tz:  # names of zones are slow to look up, and all are UTC
        column = pc.cast(column, pa.timestamp("us"))
    values: list[Any] = column.to_pylist()
    return values


class Reader:
    """Reads what a client sent, from front to back."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    @property
    def is_at_end(self) -> bool:
        return self.at >= len(self.data)

    def take(self, size: int) -> bytes:
        value = self.data[self.at : self.at + size]
        self.at += size
        return value

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def short_text(self) -> str:
        return self.take(self.number("B") * 2).decode("utf-16-le")

    def skip_headers(self) -> None:
        self.at += int(struct.unpack("<I", self.data[self.at : self.at + 4])[0])

    def _partly(self) -> bytes | None:
        if self.number("Q") == 0xFFFFFFFFFFFFFFFF:
            return None
        parts = []
        while size := self.number("I"):
            parts.append(self.take(size))
        return b"".join(parts)

    def type_info(self) -> tuple[int, int, int]:
        """The code of a type, its size or precision, and its scale."""
        code = self.number("B")
        if code in (0x26, 0x68, 0x6D, 0x24, 0x6F, 0x6E):
            return code, self.number("B"), 0
        if code in (0x6A, 0x6C):
            self.take(1)
            precision = self.number("B")
            return code, precision, self.number("B")
        if code in (0xE7, 0xEF, 0xA7, 0xAF):
            size = self.number("H")
            self.take(5)
            return code, size, 0
        if code in (0xA5, 0xAD):
            return code, self.number("H"), 0
        if code in (0x29, 0x2A, 0x2B):
            return code, self.number("B"), 0
        return code, 0, 0

    def value(self, info: tuple[int, int, int]) -> Any:
        code, size, scale = info
        if code in (0xE7, 0xEF, 0xA7, 0xAF, 0xA5, 0xAD):
            if size == 0xFFFF:
                data = self._partly()
            else:
                length = self.number("H")
                data = None if length == 0xFFFF else self.take(length)
            if data is None or code in (0xA5, 0xAD):
                return data
            return data.decode("utf-16-le" if code in (0xE7, 0xEF) else "latin-1")
        fixed = {0x30: "B", 0x32: "?", 0x34: "h", 0x38: "i", 0x7F: "q", 0x3E: "d", 0x3B: "f"}
        if code == 0x1F:
            return None
        if code in fixed:
            return self.number(fixed[code])
        length = self.number("B")
        return self._short_value(code, size, scale, self.take(length)) if length else None

    def _short_value(self, code: int, size: int, scale: int, data: bytes) -> Any:
        match code:
            case 0x26:
                return int.from_bytes(data, "little", signed=len(data) > 1)
            case 0x68:
                return data != b"\0"
            case 0x6D:
                return struct.unpack("<d" if len(data) == 8 else "<f", data)[0]
            case 0x6A | 0x6C:
                return decimal.Decimal(int.from_bytes(data[1:], "little") * (1 if data[0] else -1)).scaleb(-scale)
            case 0x24:
                return uuid.UUID(bytes_le=data)
            case 0x28:
                return datetime.date.fromordinal(int.from_bytes(data, "little") + _DAY_ONE)
            case 0x6F:
                days, ticks = struct.unpack("<iI" if len(data) == 8 else "<HH", data)
                passed = datetime.timedelta(milliseconds=ticks * 10 / 3) if len(data) == 8 else None
                return (
                    datetime.datetime(1900, 1, 1)
                    + datetime.timedelta(days=days)
                    + (passed or datetime.timedelta(minutes=ticks))
                )
        width = {0x29: len(data), 0x2A: len(data) - 3, 0x2B: len(data) - 5}[code]
        microseconds = int.from_bytes(data[:width], "little") * 10**6 // 10**size
        if code == 0x29:
            return (datetime.datetime.min + datetime.timedelta(microseconds=microseconds)).time()
        day = datetime.date.fromordinal(int.from_bytes(data[width : width + 3], "little") + _DAY_ONE)
        moment = datetime.datetime.combine(day, datetime.time()) + datetime.timedelta(microseconds=microseconds)
        return moment if code == 0x2A else moment.replace(tzinfo=datetime.UTC)

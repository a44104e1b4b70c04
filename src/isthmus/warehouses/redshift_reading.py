"""Rows of Redshift as Arrow: which types they have, and how they come out of a cursor, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.duck import identifier, literal
from isthmus.model.errors import WarehouseError
from isthmus.warehouses.redshift_bucket import StagingBucket

_BOOLEAN, _BIGINT, _SMALLINT, _INTEGER, _REAL, _DOUBLE, _NUMERIC = 16, 20, 21, 23, 700, 701, 1700
_DATE, _TIMESTAMP, _TIMESTAMPTZ, _SUPER, _VARBYTE = 1082, 1114, 1184, 4000, 6551
_TEXTS = (18, 19, 25, 705, 1042, 1043)

_ARROW = {
    _BOOLEAN: pa.bool_(),
    _BIGINT: pa.int64(),
    _SMALLINT: pa.int16(),
    _INTEGER: pa.int32(),
    _REAL: pa.float32(),
    _DOUBLE: pa.float64(),
    _DATE: pa.date32(),
    _TIMESTAMP: pa.timestamp("us"),
    _TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
}
_NAMES = {_DATE: "date", _TIMESTAMP: "timestamp without time zone", _TIMESTAMPTZ: "timestamp with time zone"}
_TIMES = (_DATE, _TIMESTAMP, _TIMESTAMPTZ)
_2000_US = 946_684_800_000_000

FETCHED_BYTES = 16_000_000
"""About so much is asked for at a time."""
UNLOADED_FROM_ROWS = 100_000
"""From so many rows on, files in the bucket are worth the seconds they take to begin."""
UNLOADED_FILE_MB = 128
MOST_ROWS, ROWS_OF_ONE_NODE = 20_000, 1_000
"""Rows of one FETCH: a cluster of a single node gives no more than the latter."""


@dataclass(frozen=True)
class Shape:
    """One column of a result: its name, the number of its type, and precision and scale if it is a NUMERIC."""

    name: str
    oid: int
    modifier: int = -1

    @property
    def arrow(self) -> pa.DataType:
        """Its Arrow type. SUPER, times of the day, intervals and whatever else Arrow has no plain word for are text."""
        if self.oid == _NUMERIC and self.modifier >= 4:
            precision, scale = divmod(self.modifier - 4, 1 << 16)
            return pa.decimal128(precision, scale)
        return _ARROW.get(self.oid, pa.string())

    @property
    def kind(self) -> str:
        """Its type as Redshift names it, as far as a window wants to know."""
        return _NAMES.get(self.oid, f"of type {self.oid}" if self.oid not in _TEXTS else "character varying")

    @property
    def asked(self) -> str:
        """How it is asked for over the origin `q`, so that it comes as what `column` understands."""
        name = identifier(self.name)
        if self.oid == _DATE:  # like the other times, and not in the driver's own way
            return f"CAST(q.{name} AS TIMESTAMP) AS {name}"
        return self.exact

    @property
    def exact(self) -> str:
        """How it is asked for in an UNLOAD, whose files know more types than the driver."""
        name = identifier(self.name)
        if self.oid == _VARBYTE:
            return f"from_varbyte(q.{name}, 'hex') AS {name}"
        if self.oid in _ARROW or self.oid in _TEXTS or self.oid == _SUPER or isinstance(self.arrow, pa.Decimal128Type):
            return f"q.{name}"
        return f"CAST(q.{name} AS VARCHAR) AS {name}"

    def column(self, values: Sequence[Any]) -> pa.Array:
        """Values as the driver gives them, as an array."""
        if self.oid not in _TIMES:
            return pa.array(values, self.arrow)
        instants = pc.add(pa.array(values, pa.int64()), _2000_US).cast(pa.timestamp("us"))
        if self.oid == _DATE:
            return pc.floor_temporal(instants, unit="day").cast(pa.date32())
        return instants if self.oid == _TIMESTAMP else instants.cast(pa.int64()).cast(self.arrow)


def shapes(cursor: Any) -> list[Shape]:
    """The columns of the result a cursor has."""
    described = cursor.ps["row_desc"]
    return [Shape(d["label"].decode(), d["type_oid"], d["type_modifier"]) for d in described]


def schema(columns: Sequence[Shape]) -> pa.Schema:
    return pa.schema([pa.field(c.name, c.arrow) for c in columns])


def select(columns: Sequence[Shape], origin: str, rest: str, *, unloads: bool = False) -> str:
    """The query for these columns of an origin with the alias `q`."""
    chosen = ", ".join(c.exact if unloads else c.asked for c in columns)
    return f"SELECT {chosen or '*'} FROM {origin}{rest}"


def times_as_numbers(con: Any) -> None:
    """Have the driver give times as the microseconds since 2000 they travel as: it would put those outside of the
    years 1 to 9999 to the nearest it knows, and takes long to make all others."""
    as_number = con.redshift_types[_BIGINT]
    con.redshift_types[_TIMESTAMP] = con.redshift_types[_TIMESTAMPTZ] = as_number


def batches(
    con: Any, execute: Callable[[Any, str], None], query: str, columns: Sequence[Shape]
) -> Iterator[pa.RecordBatch]:
    """The rows of a query by way of a cursor, in a transaction of `con`. As many at a time as fit into some megabytes.

    `execute` says a statement with a cursor of the driver.
    """
    cursor = con.cursor()
    most = _most_rows(cursor, execute)
    execute(cursor, "BEGIN READ ONLY")
    execute(cursor, f"DECLARE _isthmus_rows CURSOR FOR {query}")
    wanted, target = 200, schema(columns)
    while True:
        execute(cursor, f"FETCH FORWARD {wanted} FROM _isthmus_rows")
        rows = cursor.fetchall()
        if not rows:
            break
        arrays = [c.column(values) for c, values in zip(columns, zip(*rows, strict=True), strict=True)]
        made = pa.RecordBatch.from_arrays(arrays, schema=target)
        yield made
        if len(rows) < wanted:
            break
        wanted = max(1, min(most, 4 * wanted, FETCHED_BYTES * len(rows) // max(1, made.nbytes)))
    execute(cursor, "COMMIT")


def _most_rows(cursor: Any, execute: Callable[[Any, str], None]) -> int:
    """How many rows this cluster gives at a time, found out with a query of one row."""
    execute(cursor, "BEGIN READ ONLY")
    execute(cursor, "DECLARE _isthmus_probe CURSOR FOR SELECT 1")
    try:
        execute(cursor, f"FETCH FORWARD {MOST_ROWS} FROM _isthmus_probe")
    except WarehouseError as e:
        if "single node" not in e.vendor:
            raise
        return ROWS_OF_ONE_NODE
    finally:
        execute(cursor, "ROLLBACK")
    return MOST_ROWS


def unload(query: str, staging: StagingBucket, prefix: str, *, in_order: bool) -> tuple[str, str]:
    """The statement that writes the rows of a query into the bucket, and where: one file after the other if their
    order counts, else by all slices at once."""
    place = f"{prefix.strip('/')}/unload-{uuid4().hex}/".lstrip("/")
    return place, (
        f"UNLOAD ($${query}$$) TO {literal(staging.url(place))} {staging.credentials} FORMAT AS PARQUET "
        f"MAXFILESIZE {UNLOADED_FILE_MB} MB PARALLEL {'OFF' if in_order else 'ON'}"
    )


def unloaded(staging: StagingBucket, place: str, columns: Sequence[Shape]) -> Iterator[pa.RecordBatch]:
    """The rows of an UNLOAD, file by file in the order of their names; each file lies here while it is read."""
    target = schema(columns)
    for key in sorted(staging.keys(place)):
        with TemporaryDirectory(prefix="isthmus-unload-") as folder:
            path = Path(folder) / "rows.parquet"
            staging.download(key, path)
            # 96-bit times become microseconds, not nanoseconds: those end in 2262.
            with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
                size = sum(file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups))
                wanted = FETCHED_BYTES * file.metadata.num_rows // max(1, size)
                for rows in file.iter_batches(batch_size=max(1, min(MOST_ROWS * 4, wanted))):
                    yield rows.cast(target)

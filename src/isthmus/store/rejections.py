"""Rejections in the store: rows that could not be taken, kept with the reason, and tried again.

A payload is kept with the names, shapes and types of the columns it had (`rejected_columns`), so that what is tried
again is the very row that was read, and becomes the same event as when it is read once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from isthmus import duck
from isthmus.model.intake import Counts, IncomingColumn, Reason, Shape
from isthmus.model.mapping import Data
from isthmus.store import cells
from isthmus.store.lake import Lake, Write

BATCH_ROWS = 50_000
BATCH_BYTES = 64 * 1024 * 1024

_HOPELESS = (Reason.BROKEN_ROW, Reason.BAD_ENCODING, Reason.NO_KEY, Reason.KEY_TWICE)
"""No mapping mends these: the payload is no row, or none that is told from others."""


def keep(write: Write, refused: pa.Table, *, label: str, data: str) -> None:
    """Keep rows with the columns row_number, column, reason, message and payload. One that is kept already (same file,
    row and reason) is not kept twice. A row's number counts from the top of the file, a header being row 1."""
    write.con.register("refused", refused)
    try:
        keep_from(
            write,
            f"SELECT *, {duck.literal(label)} AS source, '{data}' AS data, false AS landed, "
            "NULL::UUID AS row_key FROM refused",
        )
    finally:
        write.con.unregister("refused")


def keep_from(write: Write, select: str, *, columns: Sequence[IncomingColumn] = (), lines: bool = False) -> None:
    """Keep the rows of a SELECT with the columns source, data, row_number, column, reason, message, payload, landed,
    row_key (see `store.known`).

    `columns` are those of `incoming` that the payloads hold, `lines` says that they are JSON lines. Leaves `keeping`.
    """
    con = write.con
    con.execute(
        "CREATE OR REPLACE TEMP TABLE keeping AS SELECT DISTINCT ON (rejection_id) * FROM (SELECT "
        'md5(concat_ws(chr(31), source, data, row_number, "column", reason, payload))::UUID AS rejection_id, '
        'guard(source) AS source, data, row_number::BIGINT AS row_number, guard("column") AS column_name, reason, '
        f"guard(message) AS message, guard(payload) AS payload, landed, row_key FROM ({select}))"
    )
    row = con.execute(
        "SELECT count(*) FROM keeping ANTI JOIN lake.rejections r ON r.rejection_id = keeping.rejection_id"
    ).fetchone()
    if row and row[0]:
        write.touched = True
        columns_id = _keep_columns(write, columns, lines)
        con.execute(
            f"INSERT INTO lake.rejections SELECT k.* EXCLUDE (row_key), now(), {write.seq}, ?::UUID, k.row_key "
            "FROM keeping k ANTI JOIN lake.rejections r ON r.rejection_id = k.rejection_id",
            [columns_id],
        )


def _keep_columns(write: Write, columns: Sequence[IncomingColumn], lines: bool) -> str | None:
    con = write.con
    if not columns and not lines:
        return None
    if lines:
        text = "[]"
    else:
        types = {name: kind for name, kind, *_ in con.execute("DESCRIBE SELECT * FROM incoming").fetchall()}
        text = json.dumps([[c.name, c.shape.value, types[c.ref]] for c in columns])
    row = con.execute(
        "SELECT md5($t)::UUID::VARCHAR, md5($t)::UUID IN (SELECT columns_id FROM lake.rejected_columns)", {"t": text}
    ).fetchone()
    assert row is not None
    if not row[1]:
        con.execute("INSERT INTO lake.rejected_columns SELECT md5($t)::UUID, guard($t)", {"t": text})
    return str(row[0])


@dataclass(frozen=True)
class Group:
    """Rejections of one label whose payloads have the same columns; without `columns` they are JSON objects."""

    label: str
    data: Data
    columns_id: str | None
    columns: tuple[IncomingColumn, ...]
    types: tuple[str, ...]
    upto: int

    @property
    def where(self) -> str:
        which = f"columns_id = '{self.columns_id}'" if self.columns_id else f"columns_id IS NULL AND {_IS_OBJECT}"
        return f"{_label(self.label, self.data)} AND {_MENDABLE} AND seq <= {self.upto} AND {which}"


@dataclass(frozen=True)
class Kept:
    """Some rejections of a group, to be tried again."""

    group: Group
    ids: pa.Array

    @property
    def rows(self) -> int:
        return len(self.ids)


_MENDABLE = f"NOT landed AND reason NOT IN ({', '.join(duck.literal(r) for r in _HOPELESS)})"
_IS_OBJECT = "coalesce(CASE WHEN json_valid(payload) THEN json_type(payload) = 'OBJECT' END, false)"


def _label(label: str, data: str) -> str:
    return f"source = guard({duck.literal(label)}) AND data = '{data}'"


def kinds(lake: Lake, label: str) -> list[Data]:
    """Of what data this label has rows that were not taken."""
    rows = lake.query(
        "SELECT DISTINCT data FROM lake.rejections WHERE source = guard(?) AND NOT landed ORDER BY data", [label]
    )
    return [data for (data,) in rows]


def groups(lake: Lake, *, label: str, data: Data) -> list[Group]:
    """What of this label can be tried again, the oldest first; what is rejected from now on is not among it."""
    upto = lake.snapshot().seq
    rows = lake.query(
        f"SELECT g.columns_id::VARCHAR, unguard(c.columns) FROM (SELECT columns_id, min(seq) AS first FROM "
        f"lake.rejections WHERE {_label(label, data)} AND {_MENDABLE} GROUP BY columns_id) g "
        "LEFT JOIN lake.rejected_columns c USING (columns_id) ORDER BY g.first"
    )
    found = []
    for columns_id, text in rows:
        described = json.loads(text) if text else []
        columns = tuple(IncomingColumn(name, f"c{i}", Shape(shape)) for i, (name, shape, _) in enumerate(described))
        found.append(Group(label, data, columns_id, columns, tuple(kind for *_, kind in described), upto))
    return found


def batches(lake: Lake, group: Group) -> Iterator[Kept]:
    """The rejections of a group in the order in which they were kept, so many at once as fit in memory."""
    after = (-1, -1, "00000000-0000-0000-0000-000000000000")
    while True:
        rows = lake.query(
            "SELECT seq, coalesce(row_number, 0), rejection_id::VARCHAR, length(payload) FROM lake.rejections "
            f"WHERE {group.where} AND (seq, coalesce(row_number, 0), rejection_id) > (?::BIGINT, ?::BIGINT, ?::UUID) "
            f"ORDER BY seq, coalesce(row_number, 0), rejection_id LIMIT {BATCH_ROWS}",
            list(after),
        )
        full = len(rows) == BATCH_ROWS
        while rows:
            size = count = 0
            while count < len(rows) and (not count or size + rows[count][3] <= BATCH_BYTES):
                size += rows[count][3]
                count += 1
            yield Kept(group, pa.array([row[2] for row in rows[:count]]))
            after, rows = rows[count - 1][:3], rows[count:]
        if not full:
            return


def prepare(con: duckdb.DuckDBPyConnection, batch: Kept) -> None:
    """Make `incoming` of these rejections: their rows as they were read, beside rejection_id, row_number, payload."""
    group = batch.group
    con.register("wanted", pa.table({"id": batch.ids}))
    try:
        if group.columns:
            values = "".join(
                f", CAST(json_extract_string(payload, {duck.literal(cells.pointer(c.name))}) AS {kind}) AS {c.ref}"
                for c, kind in zip(group.columns, group.types, strict=True)
            )
        else:
            values = ", encode(payload) AS line"
        con.execute(
            "CREATE OR REPLACE TEMP TABLE incoming AS SELECT "
            "row_number() OVER (ORDER BY seq, row_number, rejection_id) AS n, rejection_id, row_number, row_key, "
            f"seq AS kept_seq, payload{values} FROM (SELECT rejection_id, row_number, row_key, seq, "
            "unguard(payload) AS payload FROM lake.rejections "
            "WHERE rejection_id IN (SELECT id::UUID FROM wanted))"
        )
    finally:
        con.unregister("wanted")


def withdraw(write: Write, *, label: str, keys: str) -> None:
    """Take away what is kept of rows of which the table `keys` has the row_key: they say something else by now, or are
    gone."""
    where = f"source = guard({duck.literal(label)}) AND row_key IN (SELECT row_key FROM {keys})"
    if write.con.execute(f"SELECT 1 FROM lake.rejections WHERE {where} LIMIT 1").fetchone():
        write.touched = True
        write.con.execute(f"DELETE FROM lake.rejections WHERE {where}")


def settle(write: Write) -> None:
    """Take away the rejections of `incoming` that are not among those just kept."""
    gone = (
        "rejection_id IN (SELECT rejection_id FROM incoming) AND rejection_id NOT IN (SELECT rejection_id FROM keeping)"
    )
    row = write.con.execute(f"SELECT count(*) FROM lake.rejections WHERE {gone}").fetchone()
    if row and row[0]:
        write.touched = True
        write.con.execute(f"DELETE FROM lake.rejections WHERE {gone}")


def left_alone(lake: Lake, *, label: str, data: Data, groups: Sequence[Group] = ()) -> Counts:
    """The rejections of a label that were not tried again: those that are no rows, and those of these groups."""
    others = [f"NOT ({_MENDABLE})", f"(columns_id IS NULL AND NOT {_IS_OBJECT})", *(f"({g.where})" for g in groups)]
    counts = Counts()
    for reason, count in lake.query(
        f"SELECT reason, count(*) FROM lake.rejections WHERE {_label(label, data)} AND NOT landed "
        f"AND ({' OR '.join(others)}) GROUP BY reason"
    ):
        counts.read += int(count)
        counts.rejected += int(count)
        counts.reasons[str(reason)] += int(count)
    return counts


def listed(lake: Lake, *, source: str | None, limit: int | None) -> list[dict[str, Any]]:
    """Rejections, newest first, as plain values."""
    where = "WHERE source = $source" if source else ""
    rows = lake.query(
        "SELECT id::VARCHAR, source, data, row_number, column_name, reason, message, payload, landed, rejected_at "
        f"FROM rejections {where} ORDER BY seq DESC, row_number {f'LIMIT {int(limit)}' if limit else ''}",
        {"source": source} if source else None,
    )
    names = ("id", "source", "data", "row", "column", "reason", "message", "payload", "landed", "rejected_at")
    return [dict(zip(names, row, strict=True)) for row in rows]


def write_to(lake: Lake, file: Path, *, source: str | None) -> int:
    """Write rejections to a JSON lines file, oldest first; how many there were."""
    where = f"WHERE source = {duck.literal(source)}" if source else ""
    rows = lake.query(
        'COPY (SELECT id, source, data, row_number AS row, column_name AS "column", reason, message, payload, landed, '
        f"rejected_at FROM rejections {where} ORDER BY seq, row_number) TO {duck.literal(str(file))} (FORMAT json)"
    )
    return int(rows[0][0])

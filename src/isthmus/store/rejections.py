"""Rejections in the store: rows that could not be taken, kept with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from isthmus import duck
from isthmus.store.lake import Lake, Write


def keep(write: Write, refused: pa.Table, *, label: str, data: str) -> None:
    """Keep rows with the columns row_number, column, reason, message and payload. One that is kept already (same file,
    row and reason) is not kept twice. A row's number counts from the top of the file, a header being row 1."""
    write.con.register("refused", refused)
    try:
        keep_from(write, f"SELECT *, {duck.literal(label)} AS source, '{data}' AS data, false AS landed FROM refused")
    finally:
        write.con.unregister("refused")


def keep_from(write: Write, select: str) -> None:
    """Keep the rows of a SELECT with the columns source, data, row_number, column, reason, message, payload, landed."""
    con = write.con
    con.execute(
        "CREATE OR REPLACE TEMP TABLE keeping AS SELECT DISTINCT ON (rejection_id) * FROM (SELECT "
        'md5(concat_ws(chr(31), source, data, row_number, "column", reason, payload))::UUID AS rejection_id, '
        'guard(source) AS source, data, row_number::BIGINT AS row_number, guard("column") AS column_name, reason, '
        f"guard(message) AS message, guard(payload) AS payload, landed FROM ({select}))"
    )
    row = con.execute(
        "SELECT count(*) FROM keeping ANTI JOIN lake.rejections r ON r.rejection_id = keeping.rejection_id"
    ).fetchone()
    if row and row[0]:
        write.touched = True
        con.execute(
            f"INSERT INTO lake.rejections SELECT k.*, now(), {write.seq} FROM keeping k "
            "ANTI JOIN lake.rejections r ON r.rejection_id = k.rejection_id"
        )


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

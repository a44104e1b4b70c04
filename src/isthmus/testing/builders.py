"""Batches made from plain rows, and what a warehouse must hold after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.duck import connect, identifier, row_digest
from isthmus.model.table import DELETED, SEQ, Batch, SeqRange, Table, Tally

Row = Mapping[str, Any]


def batch_of(
    folder: Path,
    table: Table,
    rows: Sequence[Row],
    *,
    batch_id: str = "",
    files: int = 1,
    adds_only: bool = False,
    replaces: SeqRange | None = None,
) -> Batch:
    """A batch of these rows, written to Parquet files in `folder`. Columns left out are NULL, `_deleted` false."""
    batch_id = batch_id or f"batch-{uuid4().hex}"
    complete = [{DELETED: False, **row} for row in rows]
    paths = []
    for number in range(files):
        part = pa.Table.from_pylist(complete[number::files], schema=table.batch_schema)
        paths.append(folder / f"{uuid4().hex}.parquet")
        pq.write_table(part, paths[-1], compression="zstd")
    seqs = [s for row in rows if (s := row.get(SEQ)) is not None]
    span = SeqRange(min(seqs) - 1, max(seqs)) if seqs else SeqRange(None, None)
    return Batch(batch_id, table, tuple(paths), len(rows), span, adds_only=adds_only, replaces=replaces)


def tallies(folder: Path, table: Table, rows: Iterable[Row]) -> list[Tally]:
    """What `tally` must say of a table that holds exactly these rows: DuckDB's own answer."""
    path = folder / f"{uuid4().hex}.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), schema=table.schema), path)
    seq = identifier(SEQ)
    with closing(connect(memory_mb=200, temp_dir=folder)) as con:
        found = con.execute(
            f"SELECT {seq}, count(*), sum({row_digest(table.columns)}) FROM read_parquet(?) "
            f"GROUP BY {seq} ORDER BY {seq} NULLS FIRST",
            [str(path)],
        ).fetchall()
    return [Tally(s, rows=n, checksum=int(total)) for s, n, total in found]

"""Batches and files made from plain rows, what a warehouse must hold after them, and empty homes."""

from __future__ import annotations

import atexit
import csv
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.duck import connect, identifier, row_digest
from isthmus.ledger.database import open_ledger
from isthmus.model.table import DELETED, SEQ, Batch, SeqRange, Table, Tally
from isthmus.store.lake import Lake
from isthmus.store.place import Place

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


def file_of(folder: Path, rows: Sequence[Row], kind: str = "jsonl", *, name: str = "") -> Path:
    """A file of these rows: "csv" (None is an empty cell), "jsonl" or "parquet", under a name of its own unless given.

    The columns of CSV and Parquet are those of all rows, in the order in which they first appear.
    """
    path = folder / (name or f"{uuid4().hex}.{kind}")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    match kind:
        case "jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        case "csv":
            with path.open("w", newline="", encoding="utf-8") as f:
                writer = csv.writer(f, quoting=csv.QUOTE_ALL)
                writer.writerow(columns)
                writer.writerows([row.get(column, "") for column in columns] for row in rows)
        case "parquet":
            pq.write_table(pa.table({column: [row.get(column) for row in rows] for column in columns}), path)
        case _:
            raise ValueError(kind)
    return path


def fresh_home(folder: Path) -> Path:
    """The home of an empty Isthmus in `folder`, many times faster than making one: a copy of one made before."""
    shutil.copytree(_empty_home(), folder, dirs_exist_ok=True)
    return folder


@cache
def _empty_home() -> Path:
    home = Path(mkdtemp(prefix="isthmus-empty-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    Lake.open(Place(root=home)).close()
    open_ledger(home / "ledger.sqlite").close()
    return home

"""What completed runs have delivered: the windows that a proof of delivery compares."""

from __future__ import annotations

from sqlalchemy import select

from isthmus.ledger.database import Tx
from isthmus.ledger.runs import DELIVERING
from isthmus.ledger.schema import chunks, runs
from isthmus.model.table import SeqRange
from isthmus.model.work import RunState


def windows(tx: Tx, sync_id: str, *, generation: int) -> list[SeqRange]:
    """The windows that completed runs of a generation have delivered, oldest first."""
    query = (
        select(runs.c.seqs_after, runs.c.seqs_upto)
        .where(
            runs.c.sync_id == sync_id,
            runs.c.generation == generation,
            runs.c.kind.in_(DELIVERING),
            runs.c.state == RunState.COMPLETED,
        )
        .order_by(runs.c.seqs_upto, runs.c.seqs_after)
    )
    return [SeqRange(row.seqs_after, row.seqs_upto) for row in tx.execute(query)]


def bounds(tx: Tx, sync_id: str, *, generation: int) -> list[int]:
    """The upper ends of the chunks that completed runs of a generation have delivered, in order, each once."""
    query = (
        select(chunks.c.seqs_upto)
        .join_from(chunks, runs)
        .where(
            runs.c.sync_id == sync_id,
            runs.c.generation == generation,
            runs.c.kind.in_(DELIVERING),
            runs.c.state == RunState.COMPLETED,
        )
        .distinct()
        .order_by(chunks.c.seqs_upto)
    )
    return list(tx.scalars(query))

"""What a run will deliver, as chunks with stable batch ids. Pure: from counts to a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from isthmus.model.errors import InvalidInput
from isthmus.model.work import Chunk

CHUNK_ROWS = 1_000_000
"""A chunk is the work that a crash repeats at most, and a batch is what a warehouse takes in one transaction."""


@dataclass(frozen=True)
class Pending:
    """What a run finds to do for one table: rows per commit as (seq, rows, rows that had landed before), deletions,
    and whether the table holds nothing that we may not know of."""

    table: str
    commits: Sequence[tuple[int, int, int]]
    deletions: int
    empty: bool


def history(pending: Sequence[Pending], *, upto: int, stem: str, limit: int = CHUNK_ROWS) -> list[Chunk]:
    """The chunks of a first run.

    Into an empty table rows are only added. A table that holds rows already is replaced stretch by stretch, so that
    what is no longer in scope goes and no reader ever sees it empty; together the stretches cover all there can be.
    """
    chunks: list[Chunk] = []
    for p in pending:
        if p.empty:
            for after, last, rows, _ in pack(p.commits, 0, limit):
                chunks.append(_chunk(chunks, p.table, "rows", after, last, rows, stem, adds_only=True))
        else:
            chunks += replacing(p.table, p.commits, None, None, stem, first=len(chunks), top=upto, limit=limit)
    return chunks


def changes(
    pending: Sequence[Pending], *, after: int, upto: int, stem: str, careful: bool, limit: int = CHUNK_ROWS
) -> list[Chunk]:
    """The chunks of a periodic run: rows first, in the order of the tables, then deletions, the other way round.

    `careful` when an earlier run that will not go on may have delivered some of it: then no chunk claims only to add.
    """
    chunks: list[Chunk] = []
    for p in pending:
        for start, last, rows, older in pack(p.commits, after, limit):
            chunks.append(
                _chunk(chunks, p.table, "rows", start, last, rows, stem, adds_only=older == 0 and not careful)
            )
    for p in reversed(pending):
        if p.deletions:
            chunks.append(_chunk(chunks, p.table, "deletes", after, upto, p.deletions, stem, adds_only=False))
    return chunks


def replacing(
    table: str,
    commits: Sequence[tuple[int, int, int]],
    after: int | None,
    upto: int | None,
    stem: str,
    *,
    first: int,
    top: int,
    limit: int = CHUNK_ROWS,
) -> list[Chunk]:
    """Chunks that put the store's rows in place of whatever the table has inside (`after`, `upto`].

    `top` is the newest commit there can be. The stretches lie end to end, the open ends at the outside.
    """
    packed = list(pack(commits, after or 0, limit)) or [(after or 0, upto or top, 0, 0)]
    chunks: list[Chunk] = []
    for i, (start, last, rows, _) in enumerate(packed):
        bottom = after if i == 0 else start
        end = upto if i == len(packed) - 1 else last
        stop = end if end is not None else top
        chunks.append(
            Chunk(
                number=first + i,
                table=table,
                part="rows",
                seqs_after=start,
                seqs_upto=stop,
                batch_id=f"{stem}.{table}.replace.{_name(bottom)}-{_name(end)}",
                rows=rows,
                adds_only=False,
                replaces=True,
                replaces_after=bottom,
                replaces_upto=end,
            )
        )
    return chunks


def pack(commits: Sequence[tuple[int, int, int]], after: int, limit: int) -> Iterator[tuple[int, int, int, int]]:
    """Neighbouring commits together up to `limit` rows: (after, upto, rows, older), end to end from `after` on.

    A commit is never split: one larger than the limit is a chunk of its own.
    """
    start, last, rows, older = after, after, 0, 0
    for seq, count, old in commits:
        if rows and rows + count > limit:
            yield start, last, rows, older
            start, rows, older = last, 0, 0
        last, rows, older = seq, rows + count, older + old
    if rows:
        yield start, last, rows, older


def events_since(history: str, now: datetime) -> datetime | None:
    """The moment from which a history of "30d", "90d", "1y", "all" or a date takes events; None for all.

    Raises InvalidInput for anything else.
    """
    text = history.strip().lower()
    if text == "all":
        return None
    try:
        if m := re.fullmatch(r"(\d{1,4})\s*(d|y)", text):
            return now - timedelta(days=int(m[1]) * (365 if m[2] == "y" else 1))
        moment = datetime.fromisoformat(history.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"history {history!r} is not understood", hint="write 30d, 90d, 1y, all or a date such as 2025-01-31"
        ) from None


def _chunk(
    chunks: list[Chunk], table: str, part: str, after: int, upto: int, rows: int, stem: str, *, adds_only: bool
) -> Chunk:
    return Chunk(
        number=len(chunks),
        table=table,
        part=part,
        seqs_after=after,
        seqs_upto=upto,
        batch_id=f"{stem}.{table}.{part}.{after}-{upto}",
        rows=rows,
        adds_only=adds_only,
    )


def _name(seq: int | None) -> str:
    return "open" if seq is None else str(seq)

"""Runs: their plan of chunks, how far each has got, how it ended and what went wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from isthmus.ledger import errors, stopping, syncs
from isthmus.ledger.database import Tx, new_id
from isthmus.ledger.schema import chunks, runs
from isthmus.ledger.schema import syncs as syncs_table
from isthmus.model.errors import InvalidInput, RunStopped, SyncBusy
from isthmus.model.work import ACTIVE, GOING, Chunk, Run, RunError, RunKind, RunState, Sync, SyncState

DELIVERING = (RunKind.HISTORICAL, RunKind.PERIODIC)
"""Kinds of run that move the watermark. A repair loads again what was delivered before."""


def new_run_id() -> str:
    """An id for a run that is about to be planned."""
    return new_id("run")


def schedule(tx: Tx, sync: Sync, *, at: datetime) -> Run:
    """A new run of a sync that is yet to be planned, as the one active run of it. Open a lane for it next.

    Raises SyncBusy if there is an active one, InvalidInput if the sync is disabled.
    """
    kind = RunKind.PERIODIC if sync.watermark else RunKind.HISTORICAL
    run = Run(
        run_id=new_run_id(),
        sync_id=sync.sync_id,
        sync_name=sync.name,
        kind=kind,
        state=RunState.SCHEDULED,
        after=sync.watermark,
        upto=sync.watermark,
        snapshot_id=0,
        snapshot_at=at,
        planned_at=at,
        planned=False,
        scheduled_at=at,
    )
    return start(tx, run, generation=sync.generation)


def plan(tx: Tx, run: Run, *, generation: int) -> Run:
    """Keep the window and the chunks of a run that was scheduled. Planning it twice is an error: `get` it first.

    Raises RunStopped if the run is not to go on, SyncBusy if its sync has changed since.
    """
    was, sync = held(tx, run.run_id)
    if was.state not in GOING or was.planned:
        raise RunStopped(f"the run {run.run_id} is {was.state}{' and planned' if was.planned else ''}")
    _require_fit(run, sync, generation)
    total = sum(chunk.rows for chunk in run.chunks)
    tx.execute(
        update(runs)
        .where(runs.c.run_id == run.run_id)
        .values(
            kind=run.kind,
            seqs_after=run.after,
            seqs_upto=run.upto,
            snapshot_id=run.snapshot_id,
            snapshot_at=run.snapshot_at,
            planned_at=run.planned_at,
            rows_total=total,
            planned=True,
        )
    )
    if run.chunks:
        tx.execute(insert(chunks), [_chunk_row(run.run_id, chunk) for chunk in run.chunks])
    return get(tx, run.run_id)


def start(tx: Tx, run: Run, *, generation: int) -> Run:
    """Keep the run with all its chunks, and make it the one active run of its sync.

    Raises SyncBusy if the sync has an active run, or has moved since the run was planned (another generation, or
    another watermark than the run's `after`): plan again. Raises InvalidInput if the sync is disabled.
    """
    sync = syncs.by_id(tx, run.sync_id, lock=True)
    _require_fit(run, sync, generation)
    other = tx.scalar(select(runs.c.run_id).where(runs.c.sync_id == run.sync_id, runs.c.state.in_(ACTIVE)))
    if other is not None:
        raise SyncBusy(f"a run of {sync.name!r} is under way ({other})", hint="wait for it, or cancel it")
    total = sum(chunk.rows for chunk in run.chunks)
    try:
        tx.execute(
            insert(runs).values(
                run_id=run.run_id,
                sync_id=run.sync_id,
                generation=generation,
                kind=run.kind,
                state=run.state,
                seqs_after=run.after,
                seqs_upto=run.upto,
                snapshot_id=run.snapshot_id,
                snapshot_at=run.snapshot_at,
                planned_at=run.planned_at,
                started_at=run.started_at,
                rows_total=total,
                rows_done=0,
                planned=run.planned,
                scheduled_at=run.scheduled_at or run.planned_at,
            )
        )
    except IntegrityError as e:
        raise SyncBusy(f"a run of {sync.name!r} was started at the same moment", hint="wait for it") from e
    if run.chunks:
        tx.execute(insert(chunks), [_chunk_row(run.run_id, chunk) for chunk in run.chunks])
    return get(tx, run.run_id)


def _require_fit(run: Run, sync: Sync, generation: int) -> None:
    if sync.state == SyncState.DISABLED:
        raise InvalidInput(f"the sync {sync.name!r} is disabled: its connection was removed")
    moved = sync.generation != generation or (run.kind in DELIVERING and sync.watermark != run.after)
    if moved:
        raise SyncBusy(f"the sync {sync.name!r} changed while its run was planned", hint="start it again")


def finish_chunk(
    tx: Tx,
    run_id: str,
    number: int,
    *,
    rows: int,
    size_bytes: int = 0,
    begun_at: datetime | None = None,
    at: datetime | None = None,
) -> RunState:
    """Keep that a chunk is in the warehouse, with `rows` delivered. Saying so again changes nothing.

    If those are more or fewer than were planned (what an import reads may grow meanwhile), so are those of the run.

    Returns the state of the run: go on only if it is still `running`. A person may have paused or cancelled it
    meanwhile; what was delivered is kept as done all the same, whoever says it: the warehouse has its receipt.
    """
    held(tx, run_id)  # the sync before the run, as everyone does: two lanes would wait for each other else
    which = (chunks.c.run_id == run_id, chunks.c.number == number)
    planned = tx.execute(select(chunks.c.done, chunks.c.rows).where(*which)).one_or_none()
    if planned is None:
        raise InvalidInput(f"the run {run_id} has no chunk {number}")
    if not planned.done:
        tx.execute(
            update(chunks)
            .where(*which)
            .values(done=True, rows=rows, size_bytes=size_bytes, begun_at=begun_at, done_at=at)
        )
        tx.execute(
            update(runs)
            .where(runs.c.run_id == run_id)
            .values(
                rows_done=runs.c.rows_done + rows,
                rows_total=runs.c.rows_total + (rows - planned.rows),
                bytes_done=runs.c.bytes_done + size_bytes,
                tries=0,
            )
        )
    return RunState(tx.scalars(select(runs.c.state).where(runs.c.run_id == run_id)).one())


def finish(tx: Tx, run_id: str, *, at: datetime) -> Run:
    """Complete a run whose chunks are all done and, unless it is a repair, move its sync's watermark to its end.

    Raises RunStopped, and changes nothing, if the run is over already, has chunks to do, or its sync has moved on.
    """
    run, sync = held(tx, run_id)
    if run.state not in ACTIVE:
        raise RunStopped(f"the run {run_id} is {run.state}")
    if to_do := left(tx, run_id):
        raise RunStopped(f"the run {run_id} has {to_do} chunks to do")
    if run.kind in DELIVERING and not syncs.advance(
        tx,
        run.sync_id,
        generation=generation_of(tx, run_id),
        watermark=run.upto,
        snapshot_id=run.snapshot_id,
        fresh_at=run.snapshot_at,
        at=at,
    ):
        raise RunStopped(f"the sync {sync.name!r} has moved on without the run {run_id}")
    tx.execute(update(runs).where(runs.c.run_id == run_id).values(state=RunState.COMPLETED, finished_at=at))
    return get(tx, run_id)


def fail(tx: Tx, run_id: str, error: RunError, *, state: RunState = RunState.FAILED) -> Run:
    """Keep what went wrong and let the run be `failed` (a person is needed) or `retrying` (it will be tried again).

    A run that a person paused or ended stays as it is, with the error in its log.
    """
    if state not in (RunState.FAILED, RunState.RETRYING):
        raise ValueError(f"an error does not make a run {state}")
    errors.keep(tx, run_id, error)
    tx.execute(
        update(runs)
        .where(runs.c.run_id == run_id, runs.c.state.in_(set(ACTIVE) - {RunState.PAUSED}))
        .values(state=state, finished_at=error.at if state == RunState.FAILED else None)
    )
    return get(tx, run_id)


def set_state(tx: Tx, run_id: str, state: RunState, *, at: datetime) -> Run:
    """Let a run wait, go, pause or be cancelled. A failed run may go again; a completed or cancelled one may not.

    Of one that pauses or is over no lane waits any more. The first time it goes is its `started_at`. Raises
    InvalidInput for a run that is over or for `completed` (which only `finish` can say), SyncBusy if a failed run
    cannot go again: a newer one is active or has moved the watermark.
    """
    run, sync = held(tx, run_id)
    if run.state == state:
        return run
    if state == RunState.COMPLETED or run.state in (RunState.COMPLETED, RunState.CANCELLED):
        raise InvalidInput(f"the run {run_id} is {run.state}: it cannot become {state}")
    if run.state == RunState.FAILED and state in ACTIVE:
        if not run.can_go_again:
            raise SyncBusy(f"the run {run_id} cannot go again: a newer one was begun", hint="start a new one")
        _require_fit(run, sync, generation_of(tx, run_id))
        if active(tx, run.sync_id) is not None:
            raise SyncBusy(f"another run of {sync.name!r} is under way", hint="wait for it")
    values: dict[str, Any] = {"state": state, "finished_at": None if state in ACTIVE else at, "retry_at": None}
    if state == RunState.RUNNING and run.started_at is None:
        values["started_at"] = at
    tx.execute(update(runs).where(runs.c.run_id == run_id).values(**values))
    if state not in GOING:
        stopping.unqueue(tx, [run_id])
    return get(tx, run_id)


def active(tx: Tx, sync_id: str) -> Run | None:
    """The run of a sync that still has work to do, with its chunks; None if there is none."""
    run_id = tx.scalar(select(runs.c.run_id).where(runs.c.sync_id == sync_id, runs.c.state.in_(ACTIVE)))
    return None if run_id is None else get(tx, run_id)


def snapshots_in_use(tx: Tx) -> list[int]:
    """The snapshots of the store that runs with work left are made from."""
    return list(tx.scalars(select(runs.c.snapshot_id).where(runs.c.state.in_(ACTIVE), runs.c.planned).distinct()))


def get(tx: Tx, run_id: str) -> Run:
    """One run with its chunks and errors. Raises InvalidInput if there is none with that id."""
    row = _header(tx, run_id)
    plan = tx.execute(select(chunks).where(chunks.c.run_id == run_id).order_by(chunks.c.number))
    return replace(_value(row, errors.of(tx, [run_id])), chunks=tuple(_chunk(one) for one in plan))


def matching(tx: Tx, prefix: str) -> Run:
    """The one run whose id begins like that, with or without the `run_`. Raises InvalidInput for none or several."""
    prefix = prefix.strip().lower()
    if prefix in ("", "run_"):
        raise InvalidInput("a run is named by its id or the beginning of it")
    prefix = prefix if prefix.startswith("run_") else f"run_{prefix}"
    # Ids are hexadecimal: what begins like that lies before "g". Unlike LIKE, every database finds that by its index.
    query = select(runs.c.run_id).where(runs.c.run_id >= prefix, runs.c.run_id < f"{prefix}g")
    found = tx.scalars(query.where(runs.c.run_id.startswith(prefix, autoescape=True)).limit(4)).all()
    if not found:
        raise InvalidInput(f"there is no run whose id begins with {prefix}", hint="isthmus run list shows them")
    if len(found) > 1:
        raise InvalidInput(f"several runs begin with {prefix}: {', '.join(found[:3])} …", hint="give more of the id")
    return get(tx, found[0])


def newest(tx: Tx, *, sync_id: str | None = None, limit: int = 50) -> list[Run]:
    """The newest runs, newest first, of one sync or of all: with their errors, without their chunks."""
    query = _QUERY.order_by(runs.c.planned_at.desc(), runs.c.run_id.desc()).limit(limit)
    rows = tx.execute(query if sync_id is None else query.where(runs.c.sync_id == sync_id)).all()
    log = errors.of(tx, [row.run_id for row in rows])
    return [_value(row, log) for row in rows]


def newest_of_each(tx: Tx) -> dict[str, Run]:
    """The newest run of every sync that has one: with its errors, without its chunks. One question for all syncs."""
    which = runs.alias("which")
    last = (
        select(which.c.run_id)
        .where(which.c.sync_id == syncs_table.c.sync_id)
        .order_by(which.c.planned_at.desc(), which.c.run_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = tx.execute(_QUERY.where(runs.c.run_id.in_(select(last).select_from(syncs_table)))).all()
    log = errors.of(tx, [row.run_id for row in rows])
    return {row.sync_id: _value(row, log) for row in rows}


def generation_of(tx: Tx, run_id: str) -> int:
    """The generation of its sync that a run belongs to."""
    generation: int = tx.scalars(select(runs.c.generation).where(runs.c.run_id == run_id)).one()
    return generation


def set_counts(tx: Tx, run_id: str, counts: dict[str, Any]) -> None:
    """Keep what became of the rows of an import's run."""
    tx.execute(update(runs).where(runs.c.run_id == run_id).values(counts=counts))


def held(tx: Tx, run_id: str) -> tuple[Run, Sync]:
    """The run, without its chunks and errors, and its sync, held against others. Everyone takes the sync first: two
    could wait for each other else."""
    sync = syncs.by_id(tx, _header(tx, run_id).sync_id, lock=True)
    tx.execute(select(runs.c.run_id).where(runs.c.run_id == run_id).with_for_update())
    return _value(_header(tx, run_id), {}), sync


def left(tx: Tx, run_id: str) -> int:
    """How many chunks of a run are not done."""
    query = select(func.count()).where(chunks.c.run_id == run_id, chunks.c.done.is_(False))
    return tx.scalars(query).one()


def _header(tx: Tx, run_id: str) -> Row[Any]:
    row = tx.execute(_QUERY.where(runs.c.run_id == run_id)).one_or_none()
    if row is None:
        raise InvalidInput(f"there is no run with the id {run_id}")
    return row


_QUERY = select(runs, syncs_table.c.name.label("sync_name")).join(syncs_table)


def _value(row: Row[Any], log: dict[str, tuple[RunError, ...]]) -> Run:
    return Run(
        run_id=row.run_id,
        sync_id=row.sync_id,
        sync_name=row.sync_name,
        kind=RunKind(row.kind),
        state=RunState(row.state),
        after=row.seqs_after,
        upto=row.seqs_upto,
        snapshot_id=row.snapshot_id,
        snapshot_at=row.snapshot_at,
        planned_at=row.planned_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        rows_total=row.rows_total,
        rows_done=row.rows_done,
        planned=row.planned,
        scheduled_at=row.scheduled_at,
        tries=row.tries,
        retry_at=row.retry_at,
        bytes_done=row.bytes_done,
        counts=row.counts or {},
        can_go_again=row.state == RunState.FAILED and row.planned and not row.closing,
        errors=log.get(row.run_id, ()),
    )


def _chunk(row: Row[Any]) -> Chunk:
    return Chunk(
        number=row.number,
        table=row.table_name,
        part=row.part,
        seqs_after=row.seqs_after,
        seqs_upto=row.seqs_upto,
        batch_id=row.batch_id,
        rows=row.rows,
        adds_only=row.adds_only,
        done=row.done,
        replaces_after=row.replaces_after,
        replaces_upto=row.replaces_upto,
        replaces=row.replaces,
        lane=row.lane,
        size_bytes=row.size_bytes,
        begun_at=row.begun_at,
        done_at=row.done_at,
    )


def _chunk_row(run_id: str, chunk: Chunk) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "number": chunk.number,
        "table_name": chunk.table,
        "part": chunk.part,
        "seqs_after": chunk.seqs_after,
        "seqs_upto": chunk.seqs_upto,
        "batch_id": chunk.batch_id,
        "rows": chunk.rows,
        "adds_only": chunk.adds_only,
        "done": False,
        "replaces": chunk.replaces,
        "replaces_after": chunk.replaces_after,
        "replaces_upto": chunk.replaces_upto,
    }

"""Runs are planned, carried out chunk by chunk, interrupted, and end one way or another."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from ledger_cast import NOON, apply_everything, deliver, planned

from isthmus.ledger import connections, delivered, errors, runs, syncs
from isthmus.ledger.database import Ledger, Tx
from isthmus.model.errors import InvalidInput, RunStopped, SyncBusy
from isthmus.model.table import SeqRange
from isthmus.model.work import RunError, RunKind, RunState, Selection

LATER = NOON + timedelta(hours=1)
TIMED_OUT = RunError("no answer", "08001", "timeout expired", "is it up?", True, NOON, chunk="klaviyo_event 0")


def test_a_run_comes_back_with_its_plan(tx: Tx) -> None:
    sync = apply_everything(tx)
    run = planned(sync)
    run = replace(run, chunks=(*run.chunks, replace(run.chunks[0], number=2, batch_id="x", replaces=True)))
    started = runs.start(tx, run, generation=1)
    assert started == runs.get(tx, run.run_id) == runs.active(tx, sync.sync_id)
    assert (started.rows_total, started.rows_done, started.sync_name) == (300, 0, "everything")
    assert started.chunks == run.chunks


def test_a_run_carried_out_moves_the_watermark_to_its_end(tx: Tx) -> None:
    sync = apply_everything(tx)
    run = runs.start(tx, planned(sync), generation=1)
    assert runs.set_state(tx, run.run_id, RunState.RUNNING, at=NOON).started_at == NOON
    assert runs.finish_chunk(tx, run.run_id, 0, rows=90) == RunState.RUNNING
    assert runs.finish_chunk(tx, run.run_id, 1, rows=100) == RunState.RUNNING
    done = runs.finish(tx, run.run_id, at=LATER)
    assert (done.state, done.finished_at) == (RunState.COMPLETED, LATER)
    assert (done.rows_done, done.rows_total) == (190, 190), "what a chunk came to, not what was thought before"
    assert [chunk.rows for chunk in done.chunks if chunk.done] == [90, 100]
    found = syncs.by_id(tx, sync.sync_id)
    assert (found.watermark, found.snapshot_id, found.fresh_at) == (run.upto, run.snapshot_id, run.snapshot_at)
    assert runs.active(tx, sync.sync_id) is None


def test_a_chunk_done_twice_counts_once(tx: Tx) -> None:
    run = runs.start(tx, planned(apply_everything(tx)), generation=1)
    runs.finish_chunk(tx, run.run_id, 0, rows=90)
    runs.finish_chunk(tx, run.run_id, 0, rows=70)
    found = runs.get(tx, run.run_id)
    assert (found.rows_done, found.chunks[0].rows) == (90, 90)
    with pytest.raises(InvalidInput, match="no chunk 7"):
        runs.finish_chunk(tx, run.run_id, 7, rows=1)


def test_a_run_with_chunks_to_do_cannot_be_finished(tx: Tx) -> None:
    sync = apply_everything(tx)
    run = runs.start(tx, planned(sync), generation=1)
    runs.finish_chunk(tx, run.run_id, 0, rows=100)
    with pytest.raises(RunStopped, match="1 chunks to do"):
        runs.finish(tx, run.run_id, at=LATER)
    assert syncs.by_id(tx, sync.sync_id).watermark == 0


@pytest.mark.parametrize("state", [RunState.SCHEDULED, RunState.RUNNING, RunState.RETRYING, RunState.PAUSED])
def test_a_second_run_of_a_sync_is_refused_while_one_is_active(tx: Tx, state: RunState) -> None:
    sync = apply_everything(tx)
    run = runs.start(tx, planned(sync), generation=1)
    runs.set_state(tx, run.run_id, state, at=NOON)
    with pytest.raises(SyncBusy, match=run.run_id):
        runs.start(tx, planned(sync, upto=11), generation=1)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED])
def test_a_new_run_may_start_after_one_that_failed_or_was_cancelled(tx: Tx, state: RunState) -> None:
    sync = apply_everything(tx)
    run = runs.start(tx, planned(sync), generation=1)
    assert runs.set_state(tx, run.run_id, state, at=LATER).finished_at == LATER
    runs.start(tx, planned(sync, upto=11), generation=1)


def test_the_database_itself_refuses_a_second_active_run(ledger: Ledger) -> None:
    from isthmus.model.errors import StoreBusy

    with ledger.transaction() as tx:
        run = runs.start(tx, planned(apply_everything(tx)), generation=1)
    columns = "sync_id, generation, kind, state, seqs_after, seqs_upto, snapshot_id, snapshot_at, planned_at"
    with pytest.raises(StoreBusy), ledger.transaction() as tx:
        tx.exec_driver_sql(
            f"INSERT INTO runs (run_id, {columns}, rows_total, rows_done) "
            f"SELECT 'run_2', {columns}, 0, 0 FROM runs WHERE run_id = '{run.run_id}'"
        )


def test_a_run_planned_before_another_one_finished_is_refused(tx: Tx) -> None:
    sync = apply_everything(tx)
    stale = planned(sync, upto=8)
    deliver(tx, sync, upto=10)
    with pytest.raises(SyncBusy, match="changed while its run was planned"):
        runs.start(tx, stale, generation=1)


def test_a_run_planned_for_the_former_selection_is_refused(tx: Tx) -> None:
    stale = planned(apply_everything(tx))
    apply_everything(tx, selection=Selection(profiles=False))
    with pytest.raises(SyncBusy, match="changed while its run was planned"):
        runs.start(tx, stale, generation=1)


def test_a_run_of_a_disabled_sync_is_refused(tx: Tx) -> None:
    sync = apply_everything(tx)
    connections.remove(tx, "dwh", at=NOON)
    with pytest.raises(InvalidInput, match="disabled"):
        runs.start(tx, planned(sync), generation=1)


def test_a_transient_error_parks_the_run_and_it_goes_on(tx: Tx) -> None:
    run = runs.start(tx, planned(apply_everything(tx)), generation=1)
    parked = runs.fail(tx, run.run_id, TIMED_OUT, state=RunState.RETRYING)
    assert (parked.state, parked.errors, parked.finished_at) == (RunState.RETRYING, (TIMED_OUT,), None)
    assert runs.set_state(tx, run.run_id, RunState.RUNNING, at=LATER).state == RunState.RUNNING


def test_a_failed_run_goes_again_from_where_it_stopped(tx: Tx) -> None:
    run = runs.start(tx, planned(apply_everything(tx)), generation=1)
    runs.finish_chunk(tx, run.run_id, 0, rows=100)
    failed = runs.fail(tx, run.run_id, TIMED_OUT)
    assert (failed.state, failed.finished_at) == (RunState.FAILED, NOON)
    again = runs.set_state(tx, run.run_id, RunState.RUNNING, at=LATER)
    assert (again.finished_at, [chunk.done for chunk in again.chunks]) == (None, [True, False])


def test_a_failed_run_cannot_go_again_when_a_newer_one_took_its_place(tx: Tx) -> None:
    sync = apply_everything(tx)
    failed = runs.fail(tx, runs.start(tx, planned(sync), generation=1).run_id, TIMED_OUT)
    newer = runs.start(tx, planned(sync, upto=11), generation=1)
    with pytest.raises(SyncBusy):
        runs.set_state(tx, failed.run_id, RunState.RUNNING, at=LATER)
    for chunk in newer.chunks:
        runs.finish_chunk(tx, newer.run_id, chunk.number, rows=1)
    runs.finish(tx, newer.run_id, at=LATER)
    with pytest.raises(SyncBusy):
        runs.set_state(tx, failed.run_id, RunState.RUNNING, at=LATER)


def test_a_run_paused_meanwhile_keeps_its_chunk_and_says_so(tx: Tx) -> None:
    run = runs.start(tx, planned(apply_everything(tx)), generation=1)
    runs.set_state(tx, run.run_id, RunState.RUNNING, at=NOON)
    runs.set_state(tx, run.run_id, RunState.PAUSED, at=NOON)
    assert runs.finish_chunk(tx, run.run_id, 0, rows=100) == RunState.PAUSED
    assert runs.get(tx, run.run_id).chunks[0].done
    assert runs.fail(tx, run.run_id, TIMED_OUT).state == RunState.PAUSED


def test_a_cancelled_run_stays_cancelled(tx: Tx) -> None:
    sync = apply_everything(tx)
    run = runs.start(tx, planned(sync, parts=0), generation=1)
    runs.set_state(tx, run.run_id, RunState.CANCELLED, at=NOON)
    assert runs.fail(tx, run.run_id, TIMED_OUT).state == RunState.CANCELLED
    with pytest.raises(InvalidInput, match="is cancelled"):
        runs.set_state(tx, run.run_id, RunState.RUNNING, at=NOON)
    with pytest.raises(RunStopped, match="is cancelled"):
        runs.finish(tx, run.run_id, at=NOON)
    assert syncs.by_id(tx, sync.sync_id).watermark == 0


def test_only_finishing_completes_a_run(tx: Tx) -> None:
    run = runs.start(tx, planned(apply_everything(tx)), generation=1)
    with pytest.raises(InvalidInput):
        runs.set_state(tx, run.run_id, RunState.COMPLETED, at=NOON)


def test_a_repair_leaves_the_watermark_alone(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    run = runs.start(tx, planned(sync, after=2, upto=5, parts=0, kind=RunKind.REPAIR), generation=1)
    assert runs.finish(tx, run.run_id, at=LATER).state == RunState.COMPLETED
    assert syncs.by_id(tx, sync.sync_id).watermark == 10
    assert delivered.windows(tx, sync.sync_id, generation=1) == [SeqRange(0, 10)]


def test_delivered_windows_are_those_of_completed_runs_of_the_generation(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    deliver(tx, syncs.by_id(tx, sync.sync_id), upto=15)
    failed = runs.start(tx, planned(sync, after=15, upto=20), generation=1)
    runs.fail(tx, failed.run_id, TIMED_OUT)
    assert delivered.windows(tx, sync.sync_id, generation=1) == [SeqRange(0, 10), SeqRange(10, 15)]
    deliver(tx, syncs.restart(tx, sync.sync_id, at=LATER), upto=30)
    assert delivered.windows(tx, sync.sync_id, generation=2) == [SeqRange(0, 30)]


def test_runs_are_listed_newest_first_and_by_sync(tx: Tx) -> None:
    one, two = apply_everything(tx, name="one"), apply_everything(tx, name="two")
    a = deliver(tx, one, upto=1)
    b = deliver(tx, two, upto=2)
    c = runs.start(tx, planned(syncs.by_id(tx, one.sync_id), after=1, upto=3), generation=1)
    runs.fail(tx, c.run_id, TIMED_OUT)
    assert [run.run_id for run in runs.newest(tx)] == [c.run_id, b.run_id, a.run_id]
    assert [run.run_id for run in runs.newest(tx, sync_id=one.sync_id)] == [c.run_id, a.run_id]
    (newest,) = runs.newest(tx, limit=1)
    assert (newest.errors, newest.chunks) == ((TIMED_OUT,), ())
    assert errors.since(tx, NOON) == {one.sync_id: 1}
    assert errors.since(tx, LATER) == {}


def test_a_run_is_found_by_the_beginning_of_its_id(tx: Tx) -> None:
    one, two = apply_everything(tx, name="one"), apply_everything(tx, name="two")
    for sync, run_id in ((one, "run_abc1"), (two, "run_abd2")):
        runs.start(tx, replace(planned(sync), run_id=run_id), generation=1)
    assert runs.matching(tx, "abc").run_id == "run_abc1"
    assert runs.matching(tx, "run_ABD2").run_id == "run_abd2"
    with pytest.raises(InvalidInput, match="several runs"):
        runs.matching(tx, "ab")
    for nothing in ("zz", "", "run_", "%", "a_c"):
        with pytest.raises(InvalidInput):
            runs.matching(tx, nothing)

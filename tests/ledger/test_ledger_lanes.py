"""Lanes: whoever is not at a lane gets a no, and a run goes on as long as somebody lives who can carry it out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledger_cast import NOON, apply_everything, planned
from sqlalchemy import select, update

from isthmus.ledger import dues, failures, lanes, runs, syncs, workers
from isthmus.ledger.database import Ledger, Tx, open_ledger
from isthmus.ledger.schema import lanes as lanes_table
from isthmus.ledger.schema import runs as runs_table
from isthmus.model.errors import InvalidInput, RunStopped, SyncBusy
from isthmus.model.work import ACTIVE, GOING, Attempt, LaneState, Run, RunError, RunKind, RunState, Sync, SyncState
from isthmus.runs import retry

ANN, BEN, CAT = "worker_ann", "worker_ben", "worker_cat"
WORKERS = (ANN, BEN, CAT)
LATER = NOON + timedelta(minutes=1)
ERROR = RunError("no answer from the host", "Unreachable", "timeout", "look at the network", True, NOON)
LIMIT = retry.MAX_FAILURES


@pytest.fixture
def tx(tx: Tx) -> Tx:
    join(tx, "command", *WORKERS)
    return tx


def join(tx: Tx, role: str, *worker_ids: str) -> None:
    for worker_id in worker_ids:
        workers.leave(tx, worker_id)
        workers.join(tx, worker_id, role=role, place="here", at=NOON)


def lost(tx: Tx, *gone: str) -> list[Attempt]:
    return lanes.lost(tx, gone, deaths=retry.MAX_DEATHS, failures_limit=LIMIT, at=LATER)


def schedule(tx: Tx, sync: Sync) -> Attempt:
    """A run of the sync that waits for a worker."""
    (attempt,) = dues.start(tx, sync.sync_id, at=NOON)
    return attempt


def plan(tx: Tx, attempt: Attempt, *, parts: int = 4, over: int = 1) -> list[Attempt]:
    """What a worker at the first lane does first: chunks, spread over some lanes. The attempts that are queued."""
    run = runs.get(tx, attempt.run_id)
    sync = syncs.by_id(tx, run.sync_id)
    upto = sync.watermark + 10
    ready = replace(planned(sync, after=sync.watermark, upto=upto, parts=parts, kind=run.kind), run_id=run.run_id)
    runs.plan(tx, ready, generation=sync.generation)
    return lanes.widen(tx, run.run_id, over, at=NOON) if over > 1 else []


def underway(tx: Tx, *, parts: int = 4, over: int = 1) -> list[Attempt]:
    """A planned run with ann at its first lane; all lanes, the others queued."""
    attempt = schedule(tx, apply_everything(tx))
    assert lanes.begin(tx, attempt, ANN, at=NOON)
    return [attempt, *plan(tx, attempt, parts=parts, over=over)]


def todo(tx: Tx, attempt: Attempt) -> list[int]:
    run = runs.get(tx, attempt.run_id)
    return [c.number for c in run.chunks if not c.done and c.lane == attempt.lane]


def load_next(tx: Tx, attempt: Attempt, worker_id: str) -> RunState | None:
    """One chunk of the lane is in the warehouse: the worker asks whether it is to go on."""
    runs.finish_chunk(tx, attempt.run_id, todo(tx, attempt)[0], rows=100)
    return lanes.goes_on(tx, attempt, worker_id)


def state(tx: Tx, attempt: Attempt) -> RunState:
    return runs.get(tx, attempt.run_id).state


def lane(tx: Tx, attempt: Attempt) -> tuple[LaneState, str | None, int]:
    """How the lane is now, whichever attempt it is at."""
    row = tx.execute(
        select(lanes_table).where(lanes_table.c.run_id == attempt.run_id, lanes_table.c.lane == attempt.lane)
    ).one()
    return LaneState(row.state), row.worker_id, row.attempt


def queued(tx: Tx) -> list[Attempt]:
    return [w.attempt for w in lanes.waiting(tx)]


def go_on(tx: Tx, run_id: str, worker_id: str = CAT) -> None:
    """Carry on with whatever is queued until nothing is."""
    if not workers.is_there(tx, worker_id):
        join(tx, "command", worker_id)
    for _ in range(40):
        for attempt in [w.attempt for w in lanes.waiting(tx, [run_id])]:
            if lanes.begin(tx, attempt, worker_id, at=LATER) is None:
                continue
            lanes.wake(tx, attempt, at=LATER)
            if not runs.get(tx, run_id).planned:
                plan(tx, attempt)
            while todo(tx, attempt) and load_next(tx, attempt, worker_id) is RunState.RUNNING:
                pass
            with suppress(RunStopped):
                lanes.settle(tx, attempt, worker_id, at=LATER)


# -- one worker, one lane ----------------------------------------------------------------------------------------------


def test_a_run_waits_then_runs_then_is_completed_by_whoever_loads_its_last_chunk(tx: Tx) -> None:
    attempt = schedule(tx, apply_everything(tx))
    assert (state(tx, attempt), queued(tx)) == (RunState.SCHEDULED, [attempt])
    begun = lanes.begin(tx, attempt, ANN, at=NOON)
    assert begun is not None and (begun.state, begun.started_at, begun.planned) == (RunState.RUNNING, NOON, False)
    assert lanes.is_held(tx, attempt, ANN) and not queued(tx) and lanes.going(tx) == {attempt: ANN}
    plan(tx, attempt, parts=2)
    assert load_next(tx, attempt, ANN) is RunState.RUNNING
    assert load_next(tx, attempt, ANN) is RunState.RUNNING
    done = lanes.settle(tx, attempt, ANN, at=LATER)
    assert done is not None and (done.state, done.rows_done) == (RunState.COMPLETED, 200)
    assert syncs.by_id(tx, done.sync_id).watermark == 10
    assert lane(tx, attempt) == (LaneState.IDLE, None, 1) and not queued(tx) and not lanes.going(tx)


def test_a_lane_is_begun_once(tx: Tx) -> None:
    attempt = schedule(tx, apply_everything(tx))
    assert lanes.begin(tx, attempt, ANN, at=NOON) is not None
    assert lanes.begin(tx, attempt, BEN, at=NOON) is None
    assert lanes.begin(tx, attempt, ANN, at=NOON) is None
    assert lanes.is_held(tx, attempt, ANN)


def test_an_older_attempt_at_a_queued_lane_is_not_begun(tx: Tx) -> None:
    (attempt,) = underway(tx)
    newer = lanes.hand_over(tx, attempt, ANN, at=NOON)
    assert newer == replace(attempt, number=2)
    assert lanes.begin(tx, attempt, BEN, at=NOON) is None
    assert lanes.begin(tx, newer, BEN, at=NOON) is not None
    assert lanes.begin(tx, Attempt(attempt.run_id, 7, 1), BEN, at=NOON) is None, "a lane that never was"


def test_the_time_at_which_a_run_began_stays_when_it_is_taken_up_again(tx: Tx) -> None:
    (attempt,) = underway(tx)
    newer = lanes.hand_over(tx, attempt, ANN, at=NOON)
    assert newer is not None
    begun = lanes.begin(tx, newer, BEN, at=LATER)
    assert begun is not None and begun.started_at == NOON


@pytest.mark.parametrize("who", [BEN, ANN])
def test_whoever_is_not_at_a_lane_gets_a_no(tx: Tx, who: str) -> None:
    """Ben never was; ann was, and her lane was given away while she was frozen."""
    (attempt,) = underway(tx)
    if who == ANN:
        (again,) = lost(tx, ANN)
        assert again == attempt and lanes.begin(tx, again, CAT, at=LATER)
    before = (state(tx, attempt), lane(tx, attempt), syncs.by_id(tx, runs.get(tx, attempt.run_id).sync_id))
    assert not lanes.is_held(tx, attempt, who)
    assert lanes.goes_on(tx, attempt, who) is None
    assert lanes.hand_over(tx, attempt, who, at=LATER) is None
    assert lanes.fail(tx, attempt, who, ERROR, retry_at=LATER, limit=LIMIT) is None
    assert lanes.fail(tx, attempt, who, ERROR, retry_at=None, limit=LIMIT) is None
    with pytest.raises(RunStopped):
        lanes.settle(tx, attempt, who, at=LATER)
    assert lanes.again(tx, attempt, who, at=LATER) is None
    assert before == (state(tx, attempt), lane(tx, attempt), syncs.by_id(tx, runs.get(tx, attempt.run_id).sync_id))
    assert len(runs.get(tx, attempt.run_id).errors) == 2, "what went wrong is kept all the same"


def test_a_lane_that_was_handed_over_waits_for_the_next_worker(tx: Tx) -> None:
    (attempt,) = underway(tx)
    load_next(tx, attempt, ANN)
    newer = lanes.hand_over(tx, attempt, ANN, at=LATER)
    assert newer is not None and queued(tx) == [newer] and state(tx, attempt) is RunState.SCHEDULED
    go_on(tx, attempt.run_id)
    done = runs.get(tx, attempt.run_id)
    assert (done.state, done.rows_done) == (RunState.COMPLETED, 400)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_a_transient_error_makes_the_run_wait_for_its_retry(tx: Tx) -> None:
    (attempt,) = underway(tx)
    newer = lanes.fail(tx, attempt, ANN, ERROR, retry_at=LATER, limit=LIMIT)
    run = runs.get(tx, attempt.run_id)
    assert newer == replace(attempt, number=2) and queued(tx) == [newer]
    assert (run.state, run.retry_at, run.tries, run.finished_at) == (RunState.RETRYING, LATER, 1, None)
    assert [e.summary for e in run.errors] == [ERROR.summary]
    assert lanes.begin(tx, newer, BEN, at=LATER)
    run = runs.get(tx, attempt.run_id)
    assert (run.state, run.retry_at, run.tries) == (RunState.RUNNING, None, 1), "a start is no progress"
    load_next(tx, newer, BEN)
    assert runs.get(tx, attempt.run_id).tries == 0


def test_a_permanent_error_fails_the_run_and_lets_the_sync_live(tx: Tx) -> None:
    (attempt,) = underway(tx)
    assert lanes.fail(tx, attempt, ANN, ERROR, retry_at=None, limit=LIMIT) is None
    run = runs.get(tx, attempt.run_id)
    sync = syncs.by_id(tx, run.sync_id)
    assert (run.state, run.finished_at, run.can_go_again) == (RunState.FAILED, NOON, True)
    assert (sync.state, sync.failures) == (SyncState.ENABLED, 1)
    assert lane(tx, attempt)[0] is LaneState.IDLE and not queued(tx)


def test_the_failed_run_goes_on_when_the_sync_is_due_again(tx: Tx) -> None:
    (attempt,) = underway(tx)
    load_next(tx, attempt, ANN)
    lanes.fail(tx, attempt, ANN, ERROR, retry_at=None, limit=LIMIT)
    (again,) = dues.start(tx, runs.get(tx, attempt.run_id).sync_id, at=LATER)
    assert again == replace(attempt, number=2)
    go_on(tx, attempt.run_id)
    run = runs.get(tx, attempt.run_id)
    assert (run.state, run.rows_done) == (RunState.COMPLETED, 400)
    assert syncs.by_id(tx, run.sync_id).failures == 0


def test_a_failed_run_that_goes_again_has_all_its_tries_again(tx: Tx) -> None:
    (attempt,) = underway(tx)
    for _ in range(retry.MAX_TRIES - 1):
        newer = lanes.fail(tx, attempt, ANN, ERROR, retry_at=LATER, limit=LIMIT)
        assert newer is not None and lanes.begin(tx, newer, ANN, at=LATER)
        attempt = newer
    assert runs.get(tx, attempt.run_id).tries == retry.MAX_TRIES - 1
    lanes.fail(tx, attempt, ANN, ERROR, retry_at=None, limit=LIMIT)
    dues.start(tx, runs.get(tx, attempt.run_id).sync_id, at=LATER)
    assert runs.get(tx, attempt.run_id).tries == 0


def test_the_fifth_failed_run_in_a_row_pauses_the_sync_which_says_why_and_resume_forgives(tx: Tx) -> None:
    (attempt,) = underway(tx)
    sync_id = runs.get(tx, attempt.run_id).sync_id
    for failed in range(1, LIMIT + 1):
        assert syncs.by_id(tx, sync_id).state is SyncState.ENABLED
        lanes.fail(tx, attempt, ANN, ERROR, retry_at=None, limit=LIMIT)
        assert syncs.by_id(tx, sync_id).failures == failed
        if failed < LIMIT:
            (attempt,) = dues.start(tx, sync_id, at=LATER)
            assert lanes.begin(tx, attempt, ANN, at=LATER)
    sync = syncs.by_id(tx, sync_id)
    assert sync.state is SyncState.PAUSED
    assert sync.paused_because == (
        "paused itself after 5 failed runs in a row, the last one because no answer from the host"
    )
    assert not dues.due(tx, NOON + timedelta(days=30))
    with pytest.raises(InvalidInput):
        dues.start(tx, sync_id, at=LATER)
    syncs.set_state(tx, sync_id, SyncState.ENABLED, at=LATER)
    failures.forgive(tx, sync_id)
    sync = syncs.by_id(tx, sync_id)
    assert (sync.failures, sync.paused_because) == (0, "")
    assert [s.sync_id for s in dues.due(tx, LATER)] == [sync_id], "it is due at once"


def test_an_error_after_a_person_paused_or_cancelled_changes_nothing_but_the_log(tx: Tx) -> None:
    for stopped in (RunState.PAUSED, RunState.CANCELLED):
        sync = apply_everything(tx, name=f"when {stopped.value}")
        attempt = schedule(tx, sync)
        lanes.begin(tx, attempt, ANN, at=NOON)
        plan(tx, attempt)
        runs.set_state(tx, attempt.run_id, stopped, at=NOON)
        assert lanes.fail(tx, attempt, ANN, ERROR, retry_at=LATER, limit=LIMIT) is None
        run = runs.get(tx, attempt.run_id)
        assert (run.state, run.retry_at, len(run.errors)) == (stopped, None, 1)
        assert lane(tx, attempt)[0] is LaneState.IDLE
        assert syncs.by_id(tx, sync.sync_id).failures == 0


# -- a person stops and lets go on -------------------------------------------------------------------------------------


def test_a_paused_run_stops_at_the_next_chunk_and_goes_on_behind_it(tx: Tx) -> None:
    (attempt,) = underway(tx)
    load_next(tx, attempt, ANN)
    runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=NOON)
    assert load_next(tx, attempt, ANN) is RunState.PAUSED
    assert lane(tx, attempt)[0] is LaneState.IDLE and not lanes.going(tx)
    assert lanes.queue(tx, attempt.run_id, at=LATER) == [replace(attempt, number=2)]
    assert state(tx, attempt) is RunState.SCHEDULED
    assert todo(tx, attempt) == [2, 3]
    go_on(tx, attempt.run_id)
    assert state(tx, attempt) is RunState.COMPLETED


def test_a_run_resumed_before_its_worker_noticed_the_pause_goes_on_there_and_nothing_is_queued(tx: Tx) -> None:
    (attempt,) = underway(tx)
    runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=NOON)
    assert lanes.queue(tx, attempt.run_id, at=NOON) == []
    assert (state(tx, attempt), queued(tx)) == (RunState.RUNNING, [])
    assert load_next(tx, attempt, ANN) is RunState.RUNNING


def test_a_pause_before_anybody_began_keeps_the_run_from_being_begun(tx: Tx) -> None:
    attempt = schedule(tx, apply_everything(tx))
    runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=NOON)
    assert not queued(tx)
    assert lanes.begin(tx, attempt, ANN, at=NOON) is None
    (again,) = lanes.queue(tx, attempt.run_id, at=NOON)
    assert lanes.begin(tx, again, ANN, at=NOON) is not None


def test_a_run_paused_behind_its_last_chunk_is_completed_when_it_is_resumed(tx: Tx) -> None:
    (attempt,) = underway(tx, parts=1)
    runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=NOON)
    assert load_next(tx, attempt, ANN) is RunState.PAUSED
    (again,) = lanes.queue(tx, attempt.run_id, at=LATER)
    assert lanes.begin(tx, again, BEN, at=LATER)
    assert lanes.settle(tx, again, BEN, at=LATER) is not None
    assert state(tx, attempt) is RunState.COMPLETED


def test_a_cancelled_run_is_over_for_everybody(tx: Tx) -> None:
    first, second = underway(tx, over=2)
    runs.set_state(tx, first.run_id, RunState.CANCELLED, at=NOON)
    assert load_next(tx, first, ANN) is RunState.CANCELLED
    assert lanes.begin(tx, second, BEN, at=NOON) is None
    assert lane(tx, second)[0] is LaneState.IDLE and not queued(tx) and not lanes.going(tx)
    with pytest.raises(InvalidInput):
        lanes.queue(tx, first.run_id, at=NOON)


def test_no_lane_waits_of_a_run_that_is_over(tx: Tx) -> None:
    """The engine may not even know of a lane that waits: nobody would ever take it out of the queue."""
    attempt = schedule(tx, apply_everything(tx))
    runs.set_state(tx, attempt.run_id, RunState.CANCELLED, at=NOON)
    again = schedule(tx, apply_everything(tx))
    syncs.restart(tx, runs.get(tx, again.run_id).sync_id, at=NOON)
    assert [lane(tx, one)[0] for one in (attempt, again)] == [LaneState.IDLE, LaneState.IDLE]


@pytest.mark.parametrize("stopped", [RunState.PAUSED, RunState.CANCELLED])
def test_a_lane_of_a_run_that_was_stopped_is_handed_to_nobody(tx: Tx, stopped: RunState) -> None:
    first, second = underway(tx, over=2)
    assert lanes.begin(tx, second, BEN, at=NOON)
    runs.set_state(tx, first.run_id, stopped, at=NOON)
    assert lanes.hand_over(tx, first, ANN, at=NOON) is None
    assert lanes.again(tx, second, BEN, at=NOON) is None
    assert [lane(tx, one)[0] for one in (first, second)] == [LaneState.IDLE, LaneState.IDLE]


def test_a_lane_without_work_is_let_go_although_its_run_was_stopped_meanwhile(tx: Tx) -> None:
    (attempt,) = underway(tx, parts=0)
    runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=NOON)
    assert lanes.settle(tx, attempt, ANN, at=NOON) is None
    assert lane(tx, attempt)[0] is LaneState.IDLE
    assert state(tx, attempt) is RunState.PAUSED


def test_a_worker_that_was_given_up_and_does_not_know_it_begins_nothing(tx: Tx) -> None:
    """Else each lane it takes is lost a second later, and ten such deaths in a row fail a run that nothing is wrong
    with."""
    attempt = schedule(tx, apply_everything(tx))
    workers.leave(tx, ANN)
    assert lanes.begin(tx, attempt, ANN, at=NOON) is None
    assert queued(tx) == [attempt], "it waits for another one"
    assert lanes.begin(tx, attempt, BEN, at=NOON)


# -- several lanes -----------------------------------------------------------------------------------------------------


def test_chunks_are_spread_over_lanes_and_the_last_lane_completes_the_run(tx: Tx) -> None:
    first, second, third = underway(tx, parts=5, over=3)
    assert [todo(tx, a) for a in (first, second, third)] == [[0, 3], [1, 4], [2]]
    assert lanes.begin(tx, second, BEN, at=NOON) and lanes.begin(tx, third, CAT, at=NOON)
    for attempt, who in ((third, CAT), (first, ANN), (first, ANN), (second, BEN)):
        assert load_next(tx, attempt, who) is RunState.RUNNING
    assert lanes.settle(tx, third, CAT, at=NOON) is None
    assert lanes.settle(tx, first, ANN, at=NOON) is None
    assert state(tx, first) is RunState.RUNNING
    assert load_next(tx, second, BEN) is RunState.RUNNING
    assert lanes.settle(tx, second, BEN, at=NOON) is not None
    assert state(tx, first) is RunState.COMPLETED


def test_a_worker_with_its_share_of_a_run_leaves_the_other_lanes_to_one_that_has_less_to_do(tx: Tx) -> None:
    join(tx, "worker", ANN, BEN)
    _, second, third, _ = underway(tx, over=4)
    assert lanes.pass_on(tx, second, ANN, at=NOON) is None, "half of four is two"
    assert lanes.begin(tx, second, ANN, at=NOON)
    passed = lanes.pass_on(tx, third, ANN, at=NOON)
    assert passed == Attempt(third.run_id, third.lane, third.number + 1)
    assert lanes.begin(tx, third, ANN, at=NOON) is None, "that attempt is over"
    assert lanes.pass_on(tx, passed, BEN, at=NOON) is None
    assert lanes.begin(tx, passed, BEN, at=NOON)


def test_a_lane_that_nobody_else_comes_for_is_taken_after_a_moment(tx: Tx) -> None:
    join(tx, "worker", ANN, BEN)
    _, second, third, _ = underway(tx, over=4)
    lanes.begin(tx, second, ANN, at=NOON)
    passed = lanes.pass_on(tx, third, ANN, at=NOON)
    assert passed is not None
    assert lanes.pass_on(tx, passed, ANN, at=NOON + lanes.POLITE) is not None
    (waiting,) = (w.attempt for w in lanes.waiting(tx) if w.attempt.lane == third.lane)
    assert lanes.pass_on(tx, waiting, ANN, at=NOON + lanes.POLITE + timedelta(milliseconds=1)) is None


def test_a_worker_that_is_the_only_one_leaves_nothing_to_others(tx: Tx) -> None:
    join(tx, "worker", ANN)
    join(tx, "command", BEN, CAT)  # a person's command takes up nothing else
    _, second, third, _ = underway(tx, over=4)
    lanes.begin(tx, second, ANN, at=NOON)
    assert lanes.pass_on(tx, third, ANN, at=NOON) is None


def test_a_run_waits_when_its_one_busy_lane_is_done_and_the_others_are_queued(tx: Tx) -> None:
    first, second = underway(tx, parts=2, over=2)
    load_next(tx, first, ANN)
    assert lanes.settle(tx, first, ANN, at=NOON) is None
    assert (state(tx, first), queued(tx)) == (RunState.SCHEDULED, [second])


def test_when_one_lane_errs_the_other_stops_and_both_go_on_with_the_retry(tx: Tx) -> None:
    first, second = underway(tx, parts=6, over=2)
    assert lanes.begin(tx, second, BEN, at=NOON)
    newer = lanes.fail(tx, first, ANN, ERROR, retry_at=LATER, limit=LIMIT)
    assert newer is not None
    assert load_next(tx, second, BEN) is RunState.RETRYING
    assert lane(tx, second)[0] is LaneState.IDLE and queued(tx) == [newer]
    assert lanes.begin(tx, newer, CAT, at=LATER)
    assert lanes.wake(tx, newer, at=LATER) == [replace(second, number=2)]
    assert lanes.wake(tx, newer, at=LATER) == [], "it is awake"
    go_on(tx, first.run_id, BEN)
    assert load_next(tx, newer, CAT) is RunState.RUNNING
    load_next(tx, newer, CAT), load_next(tx, newer, CAT)
    assert lanes.settle(tx, newer, CAT, at=LATER) is not None


def test_a_lane_that_does_not_notice_the_others_error_before_the_retry_just_goes_on(tx: Tx) -> None:
    first, second = underway(tx, parts=6, over=2)
    assert lanes.begin(tx, second, BEN, at=NOON)
    newer = lanes.fail(tx, first, ANN, ERROR, retry_at=LATER, limit=LIMIT)
    assert newer is not None and lanes.begin(tx, newer, CAT, at=LATER)
    assert lanes.wake(tx, newer, at=LATER) == []
    assert load_next(tx, second, BEN) is RunState.RUNNING


def test_a_permanent_error_in_one_lane_takes_all_others_off(tx: Tx) -> None:
    first, second, third = underway(tx, parts=6, over=3)
    assert lanes.begin(tx, second, BEN, at=NOON)
    lanes.fail(tx, first, ANN, ERROR, retry_at=None, limit=LIMIT)
    assert load_next(tx, second, BEN) is None
    assert lanes.begin(tx, third, CAT, at=NOON) is None
    assert state(tx, first) is RunState.FAILED
    assert len(dues.start(tx, runs.get(tx, first.run_id).sync_id, at=LATER)) == 3
    go_on(tx, first.run_id)
    assert state(tx, first) is RunState.COMPLETED


def test_both_lanes_err_and_the_run_comes_back_once_for_each(tx: Tx) -> None:
    first, second = underway(tx, parts=6, over=2)
    assert lanes.begin(tx, second, BEN, at=NOON)
    lanes.fail(tx, first, ANN, ERROR, retry_at=LATER, limit=LIMIT)
    lanes.fail(tx, second, BEN, ERROR, retry_at=LATER, limit=LIMIT)
    assert (state(tx, first), runs.get(tx, first.run_id).tries, len(queued(tx))) == (RunState.RETRYING, 2, 2)
    go_on(tx, first.run_id)
    assert state(tx, first) is RunState.COMPLETED


# -- workers that are gone ---------------------------------------------------------------------------------------------


def test_what_a_dead_worker_was_at_is_queued_as_the_same_attempt(tx: Tx) -> None:
    first, second = underway(tx, over=2)
    assert lanes.begin(tx, second, BEN, at=NOON)
    assert lost(tx, ANN) == [first]
    assert (state(tx, first), queued(tx)) == (RunState.RUNNING, [first])
    assert lost(tx, ANN) == [], "once is enough"
    assert lost(tx, BEN) == [second]
    assert state(tx, first) is RunState.SCHEDULED
    go_on(tx, first.run_id)
    assert state(tx, first) is RunState.COMPLETED


def test_the_tenth_death_in_a_row_at_one_lane_fails_the_run_and_any_progress_begins_the_count_again(tx: Tx) -> None:
    (attempt,) = underway(tx)
    for _ in range(retry.MAX_DEATHS - 1):
        assert lost(tx, ANN) == [attempt]
        assert lanes.begin(tx, attempt, ANN, at=NOON)
    load_next(tx, attempt, ANN)
    for _ in range(retry.MAX_DEATHS - 1):
        assert lost(tx, ANN) == [attempt]
        assert lanes.begin(tx, attempt, ANN, at=NOON)
    assert lost(tx, ANN) == []
    run = runs.get(tx, attempt.run_id)
    assert run.state is RunState.FAILED and lane(tx, attempt)[0] is LaneState.IDLE
    assert (run.errors[-1].code, run.errors[-1].summary) == (
        "WorkerDied",
        "the process died 10 times in a row at the same place",
    )
    assert syncs.by_id(tx, run.sync_id).failures == 1


def test_a_run_that_killed_ten_workers_may_kill_as_many_when_it_goes_again(tx: Tx) -> None:
    (attempt,) = underway(tx)
    for _ in range(retry.MAX_DEATHS - 1):
        lost(tx, ANN)
        lanes.begin(tx, attempt, ANN, at=NOON)
    lost(tx, ANN)
    (again,) = dues.start(tx, runs.get(tx, attempt.run_id).sync_id, at=LATER)
    assert lanes.begin(tx, again, BEN, at=LATER)
    assert lost(tx, BEN) == [again]


def test_the_fifth_run_that_failed_because_workers_died_pauses_the_sync(tx: Tx) -> None:
    (attempt,) = underway(tx)
    sync_id = runs.get(tx, attempt.run_id).sync_id
    with_deaths = update(lanes_table).values(deaths=retry.MAX_DEATHS - 1)
    for failed in range(1, LIMIT + 1):
        tx.execute(with_deaths)
        assert lost(tx, ANN) == []
        assert syncs.by_id(tx, sync_id).failures == failed
        if failed < LIMIT:
            (attempt,) = dues.start(tx, sync_id, at=LATER)
            assert lanes.begin(tx, attempt, ANN, at=LATER)
    assert syncs.by_id(tx, sync_id).state is SyncState.PAUSED


def test_a_dead_worker_at_a_run_that_was_stopped_leaves_nothing_queued(tx: Tx) -> None:
    (attempt,) = underway(tx)
    runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=NOON)
    assert lost(tx, ANN) == []
    assert (state(tx, attempt), lane(tx, attempt)[0]) == (RunState.PAUSED, LaneState.IDLE)
    assert lanes.queue(tx, attempt.run_id, at=LATER) == [replace(attempt, number=2)]


def test_a_dead_worker_while_the_run_waits_for_a_retry_leaves_both_lanes_queued(tx: Tx) -> None:
    first, second = underway(tx, parts=6, over=2)
    assert lanes.begin(tx, second, BEN, at=NOON)
    newer = lanes.fail(tx, first, ANN, ERROR, retry_at=LATER, limit=LIMIT)
    assert lost(tx, BEN) == [second]
    assert (state(tx, first), set(queued(tx))) == (RunState.RETRYING, {newer, second})
    go_on(tx, first.run_id)
    assert state(tx, first) is RunState.COMPLETED


def test_a_verification_whose_process_died_is_cancelled_and_makes_room(tx: Tx) -> None:
    sync = apply_everything(tx)
    run = replace(planned(sync, upto=0, parts=0, kind=RunKind.VERIFICATION), state=RunState.RUNNING)
    runs.start(tx, run, generation=sync.generation)
    attempt = lanes.open_lane(tx, run.run_id, ANN, at=NOON)
    with pytest.raises(SyncBusy):
        dues.start(tx, sync.sync_id, at=NOON)
    assert lost(tx, ANN) == []
    assert (state(tx, attempt), lane(tx, attempt)[0]) == (RunState.CANCELLED, LaneState.IDLE)
    assert dues.start(tx, sync.sync_id, at=LATER)
    assert syncs.by_id(tx, sync.sync_id).failures == 0


def test_an_attempt_that_ended_without_a_word_is_queued_again_unless_its_lane_moved_on(tx: Tx) -> None:
    (attempt,) = underway(tx)
    newer = lanes.again(tx, attempt, ANN, at=LATER)
    assert newer == replace(attempt, number=2) and queued(tx) == [newer]
    assert state(tx, attempt) is RunState.SCHEDULED
    assert lanes.again(tx, attempt, ANN, at=LATER) is None
    assert lanes.again(tx, newer, ANN, at=LATER) is None, "nobody is at it"
    newest = lanes.again(tx, newer, None, at=LATER)
    assert newest == replace(attempt, number=3)
    go_on(tx, attempt.run_id)
    assert lanes.again(tx, newest, None, at=LATER) is None, "there is nothing to do"


def test_waiting_says_whose_limit_an_attempt_counts_against_those_due_first_at_the_front(tx: Tx) -> None:
    (attempt,) = underway(tx)
    retried = lanes.fail(tx, attempt, ANN, ERROR, retry_at=NOON + timedelta(hours=1), limit=LIMIT)
    sync = apply_everything(tx, name="another")
    soon = schedule(tx, sync)
    first, second = lanes.waiting(tx)
    assert (first.attempt, second.attempt) == (soon, retried)
    assert (first.due_at, second.due_at) == (NOON, NOON + timedelta(hours=1))
    assert (first.connection_id, first.kind, first.concurrency) == (sync.connection_id, "snowflake", None)
    assert lanes.waiting(tx, []) == [] and [w.attempt for w in lanes.waiting(tx, [soon.run_id])] == [soon]


def test_the_chunks_left_open_are_the_first_of_each_lane_that_is_not_done(tx: Tx) -> None:
    first, second, _ = underway(tx, parts=6, over=3)
    assert list(lanes.left_open(runs.get(tx, first.run_id))) == [0, 1, 2]
    lanes.begin(tx, second, BEN, at=NOON)
    load_next(tx, second, BEN)
    assert list(lanes.left_open(runs.get(tx, first.run_id))) == [0, 2, 4]


# -- any story ---------------------------------------------------------------------------------------------------------


@dataclass
class Hand:
    """What a worker believes that it is at."""

    attempt: Attempt
    worker_id: str


class Lanes(RuleBasedStateMachine):
    """Three workers, one sync, and whatever may happen to them. A worker that is thought dead may still act."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.ledger: Ledger = open_ledger(Path(self.folder.name) / "ledger.sqlite")
        self.hands: list[Hand] = []
        self.done: dict[str, set[int]] = {}
        self.over: dict[str, RunState] = {}

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    @initialize()
    def make(self) -> None:
        with self.ledger.transaction() as tx:
            self.sync_id = apply_everything(tx).sync_id
            join(tx, "command", *WORKERS)

    def _active(self, tx: Tx) -> Run | None:
        return runs.active(tx, self.sync_id)

    def _hand(self, data: st.DataObject) -> Hand:
        return data.draw(st.sampled_from(self.hands))

    @rule()
    def the_schedule_comes_round(self) -> None:
        with self.ledger.transaction() as tx, suppress(SyncBusy, InvalidInput):
            dues.start(tx, self.sync_id, at=NOON)

    @rule(data=st.data(), who=st.sampled_from(WORKERS))
    def a_worker_begins(self, data: st.DataObject, who: str) -> None:
        with self.ledger.transaction() as tx:
            waiting = queued(tx)
            if waiting:
                attempt = data.draw(st.sampled_from(waiting))
                if lanes.begin(tx, attempt, who, at=NOON):
                    lanes.wake(tx, attempt, at=NOON)
                    self.hands.append(Hand(attempt, who))

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), parts=st.integers(0, 5), over=st.integers(1, 3))
    def a_worker_plans(self, data: st.DataObject, parts: int, over: int) -> None:
        hand = self._hand(data)
        with self.ledger.transaction() as tx:
            if lanes.is_held(tx, hand.attempt, hand.worker_id):
                with suppress(RunStopped):
                    plan(tx, hand.attempt, parts=parts, over=max(1, min(over, parts)))

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def a_worker_loads_a_chunk(self, data: st.DataObject) -> None:
        hand = self._hand(data)
        with self.ledger.transaction() as tx:
            held = lanes.is_held(tx, hand.attempt, hand.worker_id)
            if todo(tx, hand.attempt):
                answer = load_next(tx, hand.attempt, hand.worker_id)
                assert (answer is not None) == held
                if answer is not RunState.RUNNING:
                    self.hands.remove(hand)

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def a_worker_settles(self, data: st.DataObject) -> None:
        hand = self._hand(data)
        with self.ledger.transaction() as tx:
            held = lanes.is_held(tx, hand.attempt, hand.worker_id)
            if runs.get(tx, hand.attempt.run_id).planned and not todo(tx, hand.attempt):
                self.hands.remove(hand)
                try:
                    lanes.settle(tx, hand.attempt, hand.worker_id, at=NOON)
                    assert held
                except RunStopped:
                    assert not held

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def a_worker_hands_over(self, data: st.DataObject) -> None:
        hand = self._hand(data)
        self.hands.remove(hand)
        with self.ledger.transaction() as tx:
            goes_on = lanes.is_held(tx, hand.attempt, hand.worker_id) and state(tx, hand.attempt) in GOING
            assert (lanes.hand_over(tx, hand.attempt, hand.worker_id, at=NOON) is not None) == goes_on

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), transient=st.booleans())
    def a_worker_errs(self, data: st.DataObject, transient: bool) -> None:
        hand = self._hand(data)
        self.hands.remove(hand)
        with self.ledger.transaction() as tx:
            again = LATER if transient else None
            lanes.fail(tx, hand.attempt, hand.worker_id, ERROR, retry_at=again, limit=LIMIT)

    @rule(who=st.sampled_from(WORKERS), freezes=st.booleans())
    def a_worker_is_given_up(self, who: str, freezes: bool) -> None:
        with self.ledger.transaction() as tx:
            lost(tx, who)
        if not freezes:
            self.hands = [hand for hand in self.hands if hand.worker_id != who]

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def an_attempt_ends_without_a_word(self, data: st.DataObject) -> None:
        hand = self._hand(data)
        self.hands.remove(hand)
        with self.ledger.transaction() as tx:
            lanes.again(tx, hand.attempt, hand.worker_id, at=NOON)

    @rule()
    def a_person_pauses(self) -> None:
        with self.ledger.transaction() as tx:
            active = self._active(tx)
            if active is not None:
                runs.set_state(tx, active.run_id, RunState.PAUSED, at=NOON)
            syncs.set_state(tx, self.sync_id, SyncState.PAUSED, at=NOON)

    @rule()
    def a_person_resumes(self) -> None:
        with self.ledger.transaction() as tx:
            syncs.set_state(tx, self.sync_id, SyncState.ENABLED, at=NOON)
            failures.forgive(tx, self.sync_id)
            active = self._active(tx)
            if active is not None and active.state is RunState.PAUSED:
                lanes.queue(tx, active.run_id, at=NOON)

    @rule()
    def a_person_cancels(self) -> None:
        with self.ledger.transaction() as tx:
            active = self._active(tx)
            if active is not None:
                runs.set_state(tx, active.run_id, RunState.CANCELLED, at=NOON)

    @rule()
    def a_person_reactivates(self) -> None:
        with self.ledger.transaction() as tx:
            syncs.set_state(tx, self.sync_id, SyncState.ENABLED, at=NOON)
            failures.forgive(tx, self.sync_id)
            syncs.restart(tx, self.sync_id, at=NOON)

    # -- what is always so

    @invariant()
    def at_most_one_run_is_active(self) -> None:
        with self.ledger.reading() as tx:
            active = tx.scalars(select(runs_table.c.run_id).where(runs_table.c.state.in_(ACTIVE))).all()
        assert len(active) <= 1

    @invariant()
    def the_state_of_a_run_is_that_of_its_lanes(self) -> None:
        with self.ledger.reading() as tx:
            for run_id in tx.scalars(select(runs_table.c.run_id)).all():
                run = runs.get(tx, run_id)
                own = tx.execute(select(lanes_table).where(lanes_table.c.run_id == run_id)).all()
                going = [row for row in own if row.state == LaneState.GOING]
                waiting = [row for row in own if row.state == LaneState.QUEUED]
                assert all((row.worker_id is not None) == (row.state == LaneState.GOING) for row in own)
                match run.state:
                    case RunState.RUNNING:
                        assert going
                    case RunState.SCHEDULED:
                        assert waiting and not going
                    case RunState.RETRYING:
                        assert waiting and run.retry_at is not None
                    case RunState.FAILED:
                        assert not going and not waiting and run.finished_at is not None
                    case RunState.COMPLETED:
                        assert all(chunk.done for chunk in run.chunks) and not going
                assert run.retry_at is None or run.state is RunState.RETRYING
                assert not waiting or run.state in GOING, "nobody would ever begin it"
                assert run.rows_done == sum(chunk.rows for chunk in run.chunks if chunk.done)

    @invariant()
    def what_is_done_or_over_stays_so(self) -> None:
        with self.ledger.reading() as tx:
            for run_id in tx.scalars(select(runs_table.c.run_id)).all():
                run = runs.get(tx, run_id)
                done = {chunk.number for chunk in run.chunks if chunk.done}
                assert done >= self.done.get(run_id, set())
                self.done[run_id] = done
                assert self.over.get(run_id, run.state) is run.state
                if run.state in (RunState.CANCELLED, RunState.COMPLETED):
                    self.over[run_id] = run.state

    @invariant()
    def whoever_carries_on_comes_to_the_end(self) -> None:
        """From here, with every worker gone and one that lives: the run is completed, unless a person stopped it."""
        with self.ledger.rehearsal() as tx:
            active = self._active(tx)
            if active is None:
                return
            lost(tx, *WORKERS)
            if state(tx, Attempt(active.run_id, 0, 0)) is RunState.FAILED:
                return
            go_on(tx, active.run_id, "worker_dan")
            expected = RunState.PAUSED if active.state is RunState.PAUSED else RunState.COMPLETED
            assert runs.get(tx, active.run_id).state is expected
            if expected is RunState.PAUSED:
                lanes.queue(tx, active.run_id, at=NOON)
                go_on(tx, active.run_id, "worker_dan")
                assert runs.get(tx, active.run_id).state is RunState.COMPLETED

    @invariant()
    def whoever_is_alive_and_at_it_comes_to_the_end(self) -> None:
        """From here, with nobody gone: those at a lane go on, and another one takes what is queued."""
        with self.ledger.rehearsal() as tx:
            active = self._active(tx)
            if active is None or active.state is RunState.PAUSED:
                return
            at_it = [(a, who) for a, who in lanes.going(tx).items() if a.run_id == active.run_id]
            known = {(hand.attempt, hand.worker_id) for hand in self.hands}
            if not set(at_it) <= known:  # one that ended without a word: the housekeeping finds it
                return
            for attempt, who in at_it:
                if not runs.get(tx, attempt.run_id).planned:
                    plan(tx, attempt)
                while todo(tx, attempt) and load_next(tx, attempt, who) is RunState.RUNNING:
                    pass
                with suppress(RunStopped):
                    lanes.settle(tx, attempt, who, at=NOON)
            go_on(tx, active.run_id, "worker_dan")
            assert runs.get(tx, active.run_id).state is RunState.COMPLETED


TestAnyStory = Lanes.TestCase
TestAnyStory.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

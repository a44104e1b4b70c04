"""Retention: what the ledger forgets, and what it keeps however old it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from ledger_cast import NOON, apply_everything, deliver, planned, put_dwh
from sqlalchemy import func, select

from isthmus.ledger import checks, lanes, retention, runs, syncs
from isthmus.ledger.database import Ledger, Tx
from isthmus.ledger.schema import checks as checks_table
from isthmus.ledger.schema import chunks, run_errors
from isthmus.ledger.schema import lanes as lanes_table
from isthmus.model.checks import Check
from isthmus.model.work import Run, RunError, RunKind, RunState, Sync

KEEP = timedelta(days=30)
DAY = timedelta(days=1)


def gc(ledger: Ledger, days: float) -> int:
    """So many days after noon."""
    return retention.gc(ledger, now=NOON + days * DAY, keep=KEEP)


def left(ledger: Ledger) -> set[str]:
    with ledger.reading() as tx:
        return {run.run_id for run in runs.newest(tx, limit=2000)}


def count(ledger: Ledger) -> tuple[int, int, int]:
    with ledger.reading() as tx:
        return tuple(tx.scalar(select(func.count()).select_from(t)) for t in (chunks, lanes_table, run_errors))  # type: ignore[return-value]


def begun(tx: Tx, sync: Sync, *, day: float, parts: int = 1, **other: object) -> Run:
    """A run planned so many days after noon, with a lane."""
    at = NOON + day * DAY
    ready = planned(syncs.by_id(tx, sync.sync_id), parts=parts, kind=RunKind.PERIODIC)
    after = syncs.by_id(tx, sync.sync_id).watermark
    ready = replace(ready, after=after, upto=after + 1, planned_at=at, snapshot_at=at, **other)  # type: ignore[arg-type]
    run = runs.start(tx, ready, generation=sync.generation)
    lanes.open_lane(tx, run.run_id, "worker_ann", at=at)
    return run


def periodic(tx: Tx, sync: Sync, *, day: float, parts: int = 1) -> Run:
    run = begun(tx, sync, day=day, parts=parts)
    for chunk in run.chunks:
        runs.finish_chunk(tx, run.run_id, chunk.number, rows=100)
    return runs.finish(tx, run.run_id, at=NOON + day * DAY)


def test_old_runs_are_forgotten_with_all_that_belongs_to_them(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        first = deliver(tx, sync, upto=10)
        old, recent, newest = (periodic(tx, sync, day=day) for day in (1, 20, 31.5))
        runs.fail(tx, recent.run_id, _error(20))
    assert gc(ledger, 30) == 0
    assert gc(ledger, 31.6) == 1
    assert left(ledger) == {first.run_id, recent.run_id, newest.run_id} and old.run_id not in left(ledger)
    assert count(ledger) == (4, 2, 1)
    assert gc(ledger, 31.6) == 0
    assert gc(ledger, 60) == 1
    assert count(ledger) == (3, 1, 0)
    assert gc(ledger, 1000) == 0, "the history, which a proof needs, and the newest run"


def test_the_history_of_an_older_generation_is_forgotten(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        first = deliver(tx, sync, upto=10)
        sync = syncs.restart(tx, sync.sync_id, at=NOON)
        second = deliver(tx, sync, upto=20)
        newest = periodic(tx, sync, day=1)
    assert gc(ledger, 100) == 1
    assert left(ledger) == {second.run_id, newest.run_id} and first.run_id not in left(ledger)


@pytest.mark.parametrize("state", [RunState.SCHEDULED, RunState.RUNNING, RunState.RETRYING, RunState.PAUSED])
def test_a_run_that_has_work_to_do_is_kept(ledger: Ledger, state: RunState) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        deliver(tx, sync, upto=10)
        run = begun(tx, sync, day=0)
        runs.set_state(tx, run.run_id, state, at=NOON)
        other = apply_everything(tx, name="another")
        deliver(tx, other, upto=10)
        periodic(tx, other, day=1)
        periodic(tx, other, day=2)
    assert gc(ledger, 100) == 1
    assert run.run_id in left(ledger)


def test_the_newest_run_of_each_sync_is_kept_however_it_ended(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        deliver(tx, sync, upto=10)
        run = begun(tx, sync, day=1)
        runs.set_state(tx, run.run_id, RunState.CANCELLED, at=NOON)
    assert gc(ledger, 1000) == 0 and run.run_id in left(ledger)


def test_runs_that_found_nothing_to_do_go_after_two_days(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        deliver(tx, sync, upto=10)
        for day in range(1, 6):
            periodic(tx, sync, day=day, parts=0)
        full = periodic(tx, sync, day=5.5)
        last = periodic(tx, sync, day=6, parts=0)
    assert gc(ledger, 6) == 3
    assert gc(ledger, 8.5) == 2
    assert {full.run_id, last.run_id} < left(ledger)


def test_a_run_that_failed_before_it_was_planned_keeps_its_error_as_long_as_any(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        deliver(tx, sync, upto=10)
        failed = begun(tx, sync, day=1, parts=0)
        runs.fail(tx, failed.run_id, _error(1))
        periodic(tx, sync, day=2)
    assert gc(ledger, 20) == 0
    assert gc(ledger, 32) == 1 and failed.run_id not in left(ledger)


def test_old_checks_go_even_if_old_runs_go_too_and_the_newest_of_a_connection_stays(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        dwh = put_dwh(tx)
        for day in (0, 1, 2):
            checks.keep(tx, dwh.connection_id, [Check("q", "reach", True, "yes")], at=NOON + day * DAY)
        sync = apply_everything(tx)
        deliver(tx, sync, upto=10)
        periodic(tx, sync, day=1)
        periodic(tx, sync, day=2)
    assert gc(ledger, 100) == 1
    with ledger.reading() as tx:
        assert tx.scalar(select(func.count()).select_from(checks_table)) == 1


def test_what_is_left_when_it_is_killed_in_the_middle_is_for_the_next_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_STEP", 3)
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        deliver(tx, sync, upto=10)
        for day in range(1, 11):
            periodic(tx, sync, day=day)
    begins = ledger.transaction
    begun_before: list[int] = []

    @contextmanager
    def killed_at_the_third() -> Iterator[Tx]:
        begun_before.append(1)
        with begins() as tx:
            yield tx
            if len(begun_before) == 3:
                raise KeyboardInterrupt

    object.__setattr__(ledger, "transaction", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        gc(ledger, 100)
    object.__setattr__(ledger, "transaction", begins)
    assert len(left(ledger)) == 11 - 6 and count(ledger)[0] == 2 + 10 - 6
    assert gc(ledger, 100) == 3
    assert len(left(ledger)) == 2


def _error(day: float) -> RunError:
    at: datetime = NOON + day * DAY
    return RunError("no answer", "Unreachable", "", "", True, at)

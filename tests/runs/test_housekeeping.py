"""Housekeeping: who is gone, what is due, and an engine that forgets. Time passes only when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from isthmus.ledger import connections, dues, failures, lanes, runs, syncs, workers
from isthmus.ledger.database import Ledger, Tx, open_ledger
from isthmus.ledger.workers import Worker
from isthmus.model.errors import StoreAway
from isthmus.model.work import Attempt, Finding, Run, RunError, RunKind, RunState, Selection, Sync, SyncState
from isthmus.runs import retry
from isthmus.runs.engine import AttemptState
from isthmus.runs.housekeeping import Housekeeping
from isthmus.secrets import Seal

NOON = datetime(2026, 11, 21, 12, 2, 30, tzinfo=UTC)  # behind all start delays of "every 5m"
DAY = timedelta(days=1)
ANN, BEN, CAT = "worker_ann", "worker_ben", "worker_cat"


@dataclass
class Queues:
    """The five calls of an engine, kept in memory."""

    known: dict[Attempt, tuple[AttemptState, float]] = field(default_factory=dict)
    at: dict[Attempt, str] = field(default_factory=dict)  # who has those that are going
    heard: set[int] = field(default_factory=set)
    limits: dict[Attempt, tuple[str, int]] = field(default_factory=dict)
    enqueued: list[Attempt] = field(default_factory=list)
    cancelled: list[Attempt] = field(default_factory=list)
    before_live: Callable[[], None] = lambda: None

    def hear(self, limits: Iterable[int]) -> None:
        self.heard |= set(limits)

    def enqueue(self, tx: Tx, attempt: Attempt, *, partition: str, limit: int, delay_s: float = 0.0) -> None:
        if attempt not in self.known:
            self.known[attempt] = (AttemptState.WAITING, delay_s)
            self.limits[attempt] = (partition, limit)
            self.enqueued.append(attempt)

    def cancel(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self.cancelled.append(attempt)
            if attempt in self.known:
                self.known[attempt] = (AttemptState.OVER, 0)

    def states(self, attempts: Iterable[Attempt]) -> dict[Attempt, AttemptState]:
        return {attempt: self.known[attempt][0] for attempt in attempts if attempt in self.known}

    def resume_orphans(self, live: Callable[[], Collection[str]]) -> list[Attempt]:
        going = [attempt for attempt, (state, _) in self.known.items() if state is AttemptState.GOING]
        if not going:
            return []
        self.before_live()
        there = live()
        lost = [attempt for attempt in going if self.at[attempt] not in there]
        for attempt in lost:
            self.known[attempt] = (AttemptState.WAITING, 0)
        return lost

    def gc(self, before: datetime) -> int:
        return 0

    # -- what workers do

    def take(self, attempt: Attempt, worker_id: str) -> None:
        self.known[attempt], self.at[attempt] = (AttemptState.GOING, 0), worker_id

    def end(self, attempt: Attempt) -> None:
        self.known[attempt] = (AttemptState.OVER, 0)


@dataclass
class Locks:
    """Whose process has ended."""

    ended: set[str] = field(default_factory=set)
    is_certain: bool = True

    def keep(self) -> None: ...

    def hold(self, worker_id: str, *, alone: bool = False) -> None: ...

    def gone(self, worker_ids: Collection[str]) -> set[str]:
        return set(worker_ids) & self.ended

    def close(self) -> None: ...


class House:
    """ann keeps house; ben and cat are workers like her. Each look is a second after the one before."""

    def __init__(self, ledger: Ledger, alone: bool = False) -> None:
        self.ledger, self.now, self.clock = ledger, NOON, 1000.0
        self.engine, self.locks = Queues(), Locks()
        self.alive = {ANN, BEN}
        self.keeping = self.keeper(alone)
        self.syncs: dict[str, str] = {}
        with ledger.transaction() as tx:
            self.connection = connections.put(
                tx, name="dwh", kind="postgres", fields={}, secrets={}, seal=Seal(Fernet.generate_key()), at=NOON
            )[0]
            for worker_id in (ANN, BEN):
                workers.join(tx, worker_id, role="worker", place="here", at=NOON)

    def keeper(self, alone: bool = False) -> Housekeeping:
        return Housekeeping(
            self.ledger,
            self.locks,
            self.engine,  # type: ignore[arg-type]
            ANN,
            alone,
            lambda kind, given: given or 4,
            lambda: self.now,
            lambda: self.clock,
        )

    def join(self, worker_id: str, role: str = "worker") -> None:
        with self.ledger.transaction() as tx:
            workers.join(tx, worker_id, role=role, place="here", at=self.now)
        self.alive.add(worker_id)

    def look(self, seconds: float = 1.0, *, wall: float | None = None) -> None:
        """So much later those that live have beaten, and ann looks after everything."""
        self.clock += seconds
        self.now += timedelta(seconds=seconds if wall is None else wall)
        with self.ledger.transaction() as tx:
            for worker_id in self.alive:
                workers.beat(tx, worker_id, at=self.now)
        self.keeping.tick()

    def apply(self, name: str = "everything", schedule: str = "every 5m") -> Sync:
        with self.ledger.transaction() as tx:
            return syncs.apply_export(
                tx,
                name=name,
                connection_id=self.connection.connection_id,
                selection=Selection(),
                schedule=schedule,
                at=self.now,
            )[0]

    def sync(self, name: str = "everything") -> Sync:
        with self.ledger.reading() as tx:
            return syncs.named(tx, name)

    def runs(self) -> list[Run]:
        with self.ledger.reading() as tx:
            return runs.newest(tx)

    def workers(self) -> set[str]:
        with self.ledger.reading() as tx:
            return {w.worker_id for w in workers.every(tx)}

    def waiting(self) -> list[Attempt]:
        with self.ledger.reading() as tx:
            return [w.attempt for w in lanes.waiting(tx)]

    def begin(self, attempt: Attempt, worker_id: str) -> None:
        self.engine.take(attempt, worker_id)
        with self.ledger.transaction() as tx:
            assert lanes.begin(tx, attempt, worker_id, at=self.now)
            run = runs.get(tx, attempt.run_id)
            if not run.planned:
                ready = replace(run, upto=run.after + 1, snapshot_id=1, snapshot_at=self.now)
                runs.plan(tx, ready, generation=syncs.by_id(tx, run.sync_id).generation)

    def finish(self, attempt: Attempt, worker_id: str) -> None:
        with self.ledger.transaction() as tx:
            assert lanes.settle(tx, attempt, worker_id, at=self.now)
        self.engine.end(attempt)

    def complete(self) -> None:
        (attempt,) = self.waiting()
        self.begin(attempt, BEN)
        self.finish(attempt, BEN)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    yield House(ledger)
    ledger.close()


# -- what is due -------------------------------------------------------------------------------------------------------


def test_a_new_sync_starts_at_once_and_the_engine_knows_whose_limit_it_counts_against(house: House) -> None:
    sync = house.apply()
    house.look()
    (attempt,) = house.waiting()
    assert house.engine.enqueued == [attempt]
    assert house.engine.limits[attempt] == (sync.connection_id, 4) and 4 in house.engine.heard
    assert house.now < (house.sync().next_due or NOON) <= house.now + timedelta(minutes=5)


def test_only_a_look_that_found_nothing_to_be_done_says_so(house: House) -> None:
    house.look()
    assert house.keeping.is_idle
    house.apply()
    house.look()
    assert not house.keeping.is_idle, "something is due"
    (attempt,) = house.waiting()
    house.look()
    assert not house.keeping.is_idle, "a lane waits"
    house.begin(attempt, BEN)
    house.look()
    assert not house.keeping.is_idle, "a worker is at it"
    house.finish(attempt, BEN)
    house.look()
    assert house.keeping.is_idle


def test_missed_ticks_come_to_one_run(house: House) -> None:
    house.apply()
    house.look()
    house.complete()
    house.look(7 * 3600)
    assert len(house.runs()) == 2
    house.complete()
    for _ in range(5):
        house.look()
    assert len(house.runs()) == 2
    due = house.sync().next_due
    assert due is not None and house.now < due <= house.now + timedelta(minutes=5)


def test_a_sync_is_never_started_while_a_run_of_it_is_active(house: House) -> None:
    house.apply()
    house.look()
    (attempt,) = house.waiting()
    for _ in range(3):
        house.look(301)
    assert len(house.runs()) == 1
    house.begin(attempt, BEN)
    for _ in range(3):
        house.look(301)
    assert len(house.runs()) == 1
    house.finish(attempt, BEN)
    house.look(301)
    assert len(house.runs()) == 2


@pytest.mark.parametrize("state", [SyncState.PAUSED, SyncState.DISABLED])
def test_a_paused_or_disabled_sync_is_not_started(house: House, state: SyncState) -> None:
    sync = house.apply()
    with house.ledger.transaction() as tx:
        syncs.set_state(tx, sync.sync_id, state, at=NOON)
    for _ in range(3):
        house.look(3600)
    assert not house.runs()


def test_a_schedule_that_becomes_manual_while_its_run_is_going_starts_no_more(house: House) -> None:
    house.apply()
    house.look()
    (attempt,) = house.waiting()
    house.begin(attempt, BEN)
    house.apply(schedule="manual")
    house.look(3600)
    house.finish(attempt, BEN)
    for _ in range(3):
        house.look(3600)
    assert len(house.runs()) == 1 and house.runs()[0].state is RunState.COMPLETED
    house.apply(schedule="hourly")
    house.look()
    assert len(house.runs()) == 2


def test_a_schedule_that_changes_while_its_run_is_going_counts_from_then_on(house: House) -> None:
    house.apply(schedule="daily")
    house.look()
    house.complete()
    with house.ledger.transaction() as tx:
        syncs.apply_export(
            tx,
            name="everything",
            connection_id=house.connection.connection_id,
            selection=Selection(),
            schedule="every 5m",
            at=house.now,
            due=lambda sync_id: house.now + timedelta(minutes=5),
        )
    house.look(301)
    assert len(house.runs()) == 2


def test_a_sync_that_becomes_manual_after_it_was_seen_to_be_due_is_not_started(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.apply()
    seen = dues.due

    def changed_behind_us(tx: Tx, now: datetime) -> list[Sync]:
        found = seen(tx, now)
        house.apply(schedule="manual")
        return found

    monkeypatch.setattr(dues, "due", changed_behind_us)
    house.look()
    assert not house.runs()


def test_a_schedule_that_is_not_understood_stops_no_other_sync(house: House) -> None:
    house.apply("written by another version", schedule="when the moon is full")
    house.apply()
    house.look()
    house.look()
    assert sorted(run.sync_name for run in house.runs()) == ["everything", "written by another version"]


@pytest.mark.parametrize("days", [-1, 1])
def test_a_wall_clock_that_jumps_by_a_day_stops_no_sync(house: House, days: int) -> None:
    house.apply()
    house.look()
    house.complete()
    house.look(wall=days * DAY.total_seconds())
    due = house.sync().next_due
    assert due is not None and due <= house.now + timedelta(minutes=5), "it is not a day away"
    began = len(house.runs())
    assert began == (1 if days < 0 else 2), "a jump ahead is one run at the most"
    if began == 2:
        house.complete()
    house.look(301)
    assert len(house.runs()) == began + 1


def test_a_clock_that_was_put_back_while_nobody_was_there_is_noticed_by_the_first_look(house: House) -> None:
    sync = house.apply()
    with house.ledger.transaction() as tx:
        dues.set_due(tx, sync.sync_id, NOON + DAY)
    house.look()
    assert (house.sync().next_due or NOON + DAY) <= house.now + timedelta(minutes=5)


def test_a_retry_that_a_clock_put_a_day_away_is_queued_once_and_at_once(house: House) -> None:
    house.apply()
    house.look()
    (attempt,) = house.waiting()
    house.begin(attempt, BEN)
    error = RunError("no answer", "Unreachable", "", "", True, house.now)
    with house.ledger.transaction() as tx:
        again = lanes.fail(tx, attempt, BEN, error, retry_at=house.now + timedelta(seconds=8), limit=5)
        assert again is not None
        house.engine.enqueue(tx, again, partition="p", limit=4, delay_s=8)
    house.engine.end(attempt)
    house.look()
    assert house.waiting() == [again]
    house.look(wall=-DAY.total_seconds())
    house.look()
    (now,) = house.waiting()
    assert now == replace(again, number=3) and house.engine.known[now] == (AttemptState.WAITING, 0)
    for _ in range(3):
        house.look()
    assert house.waiting() == [now], "once is enough"
    (run,) = house.runs()
    assert run.state is RunState.RETRYING and run.retry_at is not None and run.retry_at <= house.now
    house.begin(now, BEN)


# -- who is gone -------------------------------------------------------------------------------------------------------


def going_at(house: House, worker_id: str) -> Attempt:
    house.apply()
    house.look()
    (attempt,) = house.waiting()
    house.begin(attempt, worker_id)
    return attempt


def test_what_a_process_was_at_that_ended_is_queued_at_the_next_look(house: House) -> None:
    attempt = going_at(house, BEN)
    house.alive.remove(BEN)
    house.locks.ended.add(BEN)
    house.look()
    assert house.waiting() == [attempt] and house.workers() == {ANN}
    assert house.engine.known[attempt][0] is AttemptState.WAITING
    assert len(house.runs()) == 1 and house.runs()[0].state is RunState.SCHEDULED


def test_a_frozen_worker_is_given_up_after_ten_seconds_of_my_clock(house: House) -> None:
    attempt = going_at(house, BEN)
    house.alive.remove(BEN)
    for _ in range(10):
        house.look(wall=3600)
        assert BEN in house.workers() and not house.waiting()
    house.look()
    assert BEN not in house.workers() and house.waiting() == [attempt]
    with house.ledger.transaction() as tx:
        assert not workers.beat(tx, BEN, at=house.now), "it has to join again"


def test_a_worker_that_beats_is_not_given_up_whatever_the_wall_clock_says(house: House) -> None:
    going_at(house, BEN)
    for wall in (-DAY, DAY, timedelta(0), DAY):
        house.look(wall=wall.total_seconds())
    assert house.workers() == {ANN, BEN} and not house.waiting()


def test_whoever_was_frozen_himself_gives_nobody_up_when_he_wakes(house: House) -> None:
    """The whole machine stood still for an hour: nobody has beaten, and nobody could."""
    going_at(house, BEN)
    house.alive.remove(BEN)
    house.look(3600)
    assert house.workers() == {ANN, BEN}
    house.alive.add(BEN)
    house.look()
    house.alive.remove(BEN)
    for _ in range(9):
        house.look()
    assert BEN in house.workers()


def away(tx: Tx) -> list[Worker]:
    raise StoreAway("the ledger's database does not answer", hint="see that the server runs")


def test_whoever_could_not_look_takes_nobody_for_gone_who_was_cut_off_too(house: House) -> None:
    """The database was away: all locks are free, and nobody has taken his again or beaten yet."""
    attempt = going_at(house, BEN)
    house.locks.is_certain = False
    house.locks.ended.add(BEN)
    house.alive.remove(BEN)
    with changed(workers, "every", away), pytest.raises(StoreAway):
        house.look()
    house.look(2.4)
    assert BEN in house.workers() and not house.waiting()
    for _ in range(2):
        house.look()
    assert BEN not in house.workers() and house.waiting() == [attempt]


def test_a_look_that_takes_long_is_no_silence_of_others(house: House) -> None:
    going_at(house, BEN)
    hear = house.engine.hear

    def slowly(limits: Iterable[int]) -> None:
        house.clock += 30
        hear(limits)

    house.engine.hear = slowly  # type: ignore[method-assign]
    for _ in range(4):
        house.look()
    assert BEN in house.workers()


def test_a_worker_that_joined_after_the_list_was_read_is_not_taken_for_dead(house: House) -> None:
    house.apply()
    house.look()
    (attempt,) = house.waiting()
    every, once = workers.every, []

    def joins_meanwhile(tx: Tx) -> list[Worker]:
        found = every(tx)
        if not once:
            once.append("yes")
            house.join(CAT)
            house.begin(attempt, CAT)
        return found

    with changed(workers, "every", joins_meanwhile):
        house.look()
    assert not house.waiting() and house.engine.known[attempt][0] is AttemptState.GOING


def test_a_worker_that_begins_an_attempt_while_orphans_are_sought_keeps_it(house: House) -> None:
    house.apply()
    house.look()
    (attempt,) = house.waiting()
    house.engine.take(attempt, CAT)  # cat has joined and taken it just now
    house.engine.before_live = lambda: house.join(CAT) if CAT not in house.alive else None
    house.look()
    assert house.engine.known[attempt][0] is AttemptState.GOING


def test_a_lane_at_a_worker_that_nobody_knows_is_queued_again(house: House) -> None:
    attempt = going_at(house, BEN)
    with house.ledger.transaction() as tx:
        workers.leave(tx, BEN)
    house.look()
    assert house.waiting() == [attempt]


def test_the_one_worker_of_a_home_takes_at_once_what_another_one_left_that_only_looks_alive(house: House) -> None:
    attempt = going_at(house, BEN)
    house.alive.remove(BEN)
    house.keeping = house.keeper(alone=True)
    house.look()
    house.look()
    assert house.waiting() == [attempt] and house.workers() == {ANN}


def test_a_command_beside_the_one_worker_of_a_home_is_left_in_peace(house: House) -> None:
    house.keeping = house.keeper(alone=True)
    house.join("worker_dan", role="command")
    house.alive.remove("worker_dan")
    house.look()
    house.look()
    assert "worker_dan" in house.workers()


def test_a_verification_whose_process_died_makes_room_for_the_next_run(house: House) -> None:
    sync = house.apply()
    house.join("worker_dan", role="command")
    run = Run(
        run_id=runs.new_run_id(),
        sync_id=sync.sync_id,
        sync_name=sync.name,
        kind=RunKind.VERIFICATION,
        state=RunState.RUNNING,
        after=0,
        upto=0,
        snapshot_id=0,
        snapshot_at=NOON,
        planned_at=NOON,
        started_at=NOON,
    )
    with house.ledger.transaction() as tx:
        runs.start(tx, run, generation=sync.generation)
        lanes.open_lane(tx, run.run_id, "worker_dan", at=NOON)
    house.look()
    assert [r.kind for r in house.runs()] == [RunKind.VERIFICATION]
    house.alive.remove("worker_dan")
    house.locks.ended.add("worker_dan")
    house.look(301)
    assert {r.kind: r.state for r in house.runs()} == {
        RunKind.VERIFICATION: RunState.CANCELLED,
        RunKind.HISTORICAL: RunState.SCHEDULED,
    }


def test_a_run_at_which_workers_keep_dying_fails_in_the_end(house: House) -> None:
    attempt = going_at(house, BEN)
    for _ in range(retry.MAX_DEATHS - 1):
        house.locks.ended.add(BEN)
        house.look()
        house.locks.ended.clear()
        house.join(BEN)
        house.begin(attempt, BEN)
    house.locks.ended.add(BEN)
    house.look()
    assert [r.state for r in house.runs()] == [RunState.FAILED] and not house.waiting()


# -- an engine that does not know what the ledger knows ----------------------------------------------------------------


def test_an_attempt_that_ended_without_a_word_is_queued_again(house: House) -> None:
    attempt = going_at(house, BEN)
    house.engine.end(attempt)
    house.look()
    assert house.waiting() == [replace(attempt, number=2)]
    house.look()
    assert house.engine.known[replace(attempt, number=2)][0] is AttemptState.WAITING


def test_an_attempt_that_ended_before_it_began_is_queued_again(house: House) -> None:
    house.apply()
    house.look()
    (attempt,) = house.waiting()
    house.engine.end(attempt)
    house.look()
    house.look()
    (again,) = house.waiting()
    assert again.number == 2 and house.engine.known[again][0] is AttemptState.WAITING


def test_an_engine_that_lost_everything_is_told_of_all_lanes_that_wait(house: House) -> None:
    names = ("a", "b", "c")
    for name in names:
        house.apply(name)
    house.look()
    first, second, third = house.waiting()
    house.begin(first, BEN)
    error = RunError("no answer", "Unreachable", "", "", True, house.now)
    with house.ledger.transaction() as tx:
        retried = lanes.fail(tx, first, BEN, error, retry_at=house.now + timedelta(seconds=60), limit=5)
    house.begin(second, BEN)
    house.engine.known.clear()
    house.look()
    assert set(house.engine.known) == {third, retried}
    assert house.engine.known[third] == (AttemptState.WAITING, 0)
    assert retried is not None and 0 < house.engine.known[retried][1] <= 60
    assert second not in house.engine.known, "ben is at it"
    house.finish(second, BEN)


def test_an_attempt_that_finished_while_it_was_looked_at_is_left_alone(house: House) -> None:
    attempt = going_at(house, BEN)
    states = house.engine.states

    def late(attempts: Iterable[Attempt]) -> dict[Attempt, AttemptState]:
        asked = list(attempts)
        if attempt in asked and house.engine.known[attempt][0] is AttemptState.GOING:
            house.finish(attempt, BEN)
        return states(asked)

    house.engine.states = late  # type: ignore[method-assign]
    house.look()
    (run,) = [r for r in house.runs() if r.run_id == attempt.run_id]
    assert run.state is RunState.COMPLETED and not house.engine.cancelled
    assert attempt.run_id not in [a.run_id for a in house.waiting()]


def test_a_run_that_was_paused_is_not_queued_and_goes_on_when_it_is_resumed(house: House) -> None:
    attempt = going_at(house, BEN)
    with house.ledger.transaction() as tx:
        runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=house.now)
        assert lanes.goes_on(tx, attempt, BEN) is RunState.PAUSED
    house.engine.end(attempt)
    for _ in range(3):
        house.look()
    assert not house.waiting() and house.engine.enqueued == [attempt]
    with house.ledger.transaction() as tx:
        lanes.queue(tx, attempt.run_id, at=house.now)
    house.look()
    assert house.engine.enqueued == [attempt, replace(attempt, number=2)]


def test_a_sync_that_paused_itself_starts_at_once_when_it_is_resumed(house: House) -> None:
    attempt = going_at(house, BEN)
    with house.ledger.transaction() as tx:
        error = RunError("no grant", "Denied", "", "", False, house.now)
        lanes.fail(tx, attempt, BEN, error, retry_at=None, limit=1)
    house.engine.end(attempt)
    house.look(3600)
    assert house.sync().state is SyncState.PAUSED and not house.waiting()
    with house.ledger.transaction() as tx:
        syncs.set_state(tx, house.sync().sync_id, SyncState.ENABLED, at=house.now)
        failures.forgive(tx, house.sync().sync_id)
    house.look()
    assert house.waiting() == [replace(attempt, number=2)], "the run that failed goes on"


@contextmanager
def changed(module: Any, name: str, to: Any) -> Iterator[None]:
    was = getattr(module, name)
    setattr(module, name, to)
    try:
        yield
    finally:
        setattr(module, name, was)


# -- connections that nobody gets into ---------------------------------------------------------------------------------


def shut(house: House, *, minutes: float) -> None:
    """Somebody finds that nobody gets in; the next one may try so much later."""
    with house.ledger.transaction() as tx:
        finding, later = Finding("no answer", house.now), house.now + timedelta(minutes=minutes)
        connections.set_unable(tx, house.connection.connection_id, finding, next_try_at=later)


def test_at_a_shut_connection_one_sync_tries_when_it_is_time_and_the_others_wait(house: House) -> None:
    shut(house, minutes=10)
    for name in ("a", "b", "c"):
        house.apply(name)
    house.look(300)
    assert not house.runs()
    house.look(301)
    assert len(house.runs()) == 1
    with house.ledger.reading() as tx:
        next_try_at = connections.named(tx, "dwh").next_try_at
    assert next_try_at is not None and next_try_at > house.now
    house.look(60)
    assert len(house.runs()) == 1, "nobody else while that one tries"

    with house.ledger.transaction() as tx:
        connections.set_able(tx, house.connection.connection_id, at=house.now)
    house.look()
    assert sorted(run.sync_name for run in house.runs()) == ["a", "b", "c"]


def test_a_connection_where_only_a_right_is_missing_holds_up_nobody(house: House) -> None:
    with house.ledger.transaction() as tx:
        connections.set_unable(tx, house.connection.connection_id, Finding("no right", house.now))
    house.apply("a")
    house.apply("b")
    house.look()
    assert len(house.runs()) == 2


def test_a_shut_connection_keeps_no_other_ones_syncs(house: House) -> None:
    shut(house, minutes=10)
    house.apply("a")
    with house.ledger.transaction() as tx:
        other = connections.put(
            tx, name="other", kind="postgres", fields={}, secrets={}, seal=Seal(Fernet.generate_key()), at=NOON
        )[0]
        syncs.apply_export(
            tx, name="b", connection_id=other.connection_id, selection=Selection(), schedule="hourly", at=NOON
        )
    house.look()
    assert [run.sync_name for run in house.runs()] == ["b"]

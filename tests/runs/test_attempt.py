"""One attempt at a run: how it comes to its end, whatever happens on the way. What it does is a list of rows here."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import update

from isthmus.ledger import connections, dues, lanes, runs, syncs, workers
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Ledger, Tx, open_ledger
from isthmus.ledger.schema import runs as runs_table
from isthmus.model.errors import (
    Busy,
    Denied,
    InvalidInput,
    IsthmusError,
    Missing,
    RunStopped,
    StoreFull,
    Unreachable,
    WarehouseError,
)
from isthmus.model.work import Attempt, Chunk, ConnectionState, Finding, Run, RunError, RunState, Selection, SyncState
from isthmus.runs import retry
from isthmus.runs.attempt import Done, Ended, Hands, Keep, Still, carry_out
from isthmus.secrets import Seal, Secret

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ANN, BEN = "worker_ann", "worker_ben"


@dataclass
class Rows:
    """A Work that loads chunk n by appending n to a list, once for each batch id, as a warehouse would."""

    parts: int = 4
    over: int = 1
    loaded: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    before: Callable[[int], None] = lambda number: None  # what happens before a chunk is loaded
    planning: Callable[[], None] = lambda: None
    kept: bool = True
    opened: int = 0
    closed: int = 0
    knocks: int = 0
    leaves_easily: bool = True
    shut: IsthmusError | None = None

    def plan(self, run: Run, keep: Keep) -> Run:
        self.planning()
        chunks = tuple(
            Chunk(n, "event", "rows", 0, 10, f"{run.run_id}.{n}", rows=100, adds_only=True) for n in range(self.parts)
        )
        ready = replace(run, upto=10, snapshot_id=7, snapshot_at=NOON, planned_at=NOON, chunks=chunks)
        with self.ledger.transaction() as tx:
            return keep(tx, ready, syncs.by_id(tx, run.sync_id).generation, self.over)

    def can_go_on(self, run: Run) -> bool:
        return self.kept

    @contextmanager
    def open(self, run: Run) -> Iterator[Callable[[Chunk, Still], Done]]:
        self.opened += 1
        try:
            yield self._load
        finally:
            self.closed += 1

    def outcome(self, run: Run) -> dict[str, int]:
        return {}

    def knock(self) -> IsthmusError | None:
        self.knocks += 1
        return self.shut

    def _load(self, chunk: Chunk, still: Still) -> Done:
        self.asked.append(chunk.number)
        self.before(chunk.number)
        still()
        if chunk.number not in self.loaded:
            self.loaded.append(chunk.number)
        return Done(100, 1000)

    ledger: Ledger = None  # type: ignore[assignment]


@dataclass
class Shop:
    """A ledger with one enabled export, and what was queued."""

    ledger: Ledger
    queued: list[tuple[Attempt, float]] = field(default_factory=list)
    now: datetime = NOON
    stopping: bool = False
    reports: list[tuple[bool, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with self.ledger.transaction() as tx:
            connection = connections.put(
                tx, name="dwh", kind="postgres", fields={}, secrets={}, seal=Seal(Fernet.generate_key()), at=NOON
            )[0]
            self.sync_id = syncs.apply_export(
                tx,
                name="everything",
                connection_id=connection.connection_id,
                selection=Selection(),
                schedule="hourly",
                at=NOON,
            )[0].sync_id
            for worker_id in (ANN, BEN):
                workers.join(tx, worker_id, role="command", place="here", at=NOON)

    def rows(self, **other: object) -> Rows:
        return Rows(ledger=self.ledger, **other)  # type: ignore[arg-type]

    def start(self) -> Attempt:
        with self.ledger.transaction() as tx:
            (attempt,) = dues.start(tx, self.sync_id, at=self.now)
            return attempt

    def hands(self, worker_id: str = ANN) -> Hands:
        def enqueue(tx: Tx, attempt: Attempt, delay_s: float) -> None:
            self.queued.append((attempt, delay_s))

        def report(run: Run, done: int) -> None:
            self.reports.append((run.planned, done))

        return Hands(worker_id, lambda: self.now, enqueue, lambda: self.stopping, report)

    def carry(self, work: Rows, attempt: Attempt, worker_id: str = ANN) -> Ended:
        return carry_out(self.ledger, lambda: work, attempt, self.hands(worker_id))

    def run(self, attempt: Attempt) -> Run:
        with self.ledger.reading() as tx:
            return runs.get(tx, attempt.run_id)

    def set(self, attempt: Attempt, state: RunState) -> None:
        with self.ledger.transaction() as tx:
            runs.set_state(tx, attempt.run_id, state, at=self.now)

    def going(self) -> dict[Attempt, str]:
        with self.ledger.reading() as tx:
            return lanes.going(tx)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    yield Shop(ledger)
    ledger.close()


def raising(e: Exception, *, at: int = 0, times: int = 1) -> Callable[[int], None]:
    """Goes wrong at one chunk, so many times."""
    left = [times]

    def before(number: int) -> None:
        if number == at and left[0] > 0:
            left[0] -= 1
            raise e

    return before


def test_a_run_is_planned_loaded_chunk_by_chunk_and_completed(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows()
    ended = shop.carry(work, attempt)
    assert ended.error is None and ended.run is not None
    assert (ended.run.state, ended.run.rows_done, ended.run.bytes_done) == (RunState.COMPLETED, 400, 4000)
    assert work.loaded == [0, 1, 2, 3] and work.opened == work.closed == 1
    assert shop.reports == [(True, 0), (True, 100), (True, 200), (True, 300), (True, 400)]
    assert not shop.queued and not shop.going()
    assert all(c.done and c.begun_at == c.done_at == NOON for c in ended.run.chunks)
    with shop.ledger.reading() as tx:
        assert syncs.by_id(tx, shop.sync_id).watermark == 10
    assert shop.carry(work, attempt) == Ended(None), "it is over"


def test_a_run_with_nothing_to_do_opens_nothing(shop: Shop) -> None:
    work = shop.rows(parts=0)
    ended = shop.carry(work, shop.start())
    assert ended.run is not None and ended.run.state is RunState.COMPLETED and work.opened == 0


def test_the_next_attempt_goes_on_behind_what_is_done(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows(before=raising(Unreachable("no answer"), at=2))
    ended = shop.carry(work, attempt)
    assert ended.run is not None and (ended.run.state, ended.run.rows_done) == (RunState.RETRYING, 200)
    assert work.closed == 1
    ((again, _),) = shop.queued
    done = shop.carry(work, again, BEN)
    assert done.run is not None and done.run.state is RunState.COMPLETED
    assert work.asked == [0, 1, 2, 2, 3] and work.loaded == [0, 1, 2, 3]


def test_a_transient_error_is_tried_again_after_a_delay_that_doubles(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows(before=raising(Unreachable("no answer", hint="wait"), times=99))
    for tries in range(1, retry.MAX_TRIES):
        ended = shop.carry(work, attempt)
        assert ended.run is not None and (ended.run.state, ended.run.tries) == (RunState.RETRYING, tries)
        attempt, delay_s = shop.queued[-1]
        longest = min(retry.LONGEST_S, retry.FIRST_S * 2 ** (tries - 1))
        assert longest / 2 <= delay_s <= longest
        assert ended.run.retry_at == NOON + timedelta(seconds=delay_s)
    ended = shop.carry(work, attempt)
    assert ended.run is not None and ended.run.state is RunState.FAILED and len(shop.queued) == retry.MAX_TRIES - 1
    assert len(ended.run.errors) == retry.MAX_TRIES


def test_a_chunk_that_is_delivered_makes_the_delay_short_again(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows(before=raising(Unreachable("no answer"), times=5))
    for _ in range(5):
        shop.carry(work, attempt)
        attempt = shop.queued[-1][0]
    assert shop.queued[-1][1] >= retry.FIRST_S * 2**4 / 2
    work.before = raising(Unreachable("no answer"), at=2)
    ended = shop.carry(work, attempt)
    assert ended.run is not None and ended.run.tries == 1
    assert shop.queued[-1][1] <= retry.FIRST_S


def test_an_error_that_trying_again_cannot_help_fails_the_run_at_once_with_what_to_do(shop: Shop) -> None:
    denied = Denied("the role may not write", code="42501", vendor="permission denied", hint="run the set-up script")
    attempt = shop.start()
    ended = shop.carry(shop.rows(before=raising(denied, at=1)), attempt)
    assert ended.error is denied and ended.run is not None and ended.run.state is RunState.FAILED
    (error,) = ended.run.errors
    assert (error.summary, error.code, error.vendor, error.hint, error.retryable) == (
        *("the role may not write", "42501", "permission denied", "run the set-up script"),
        False,
    )
    assert (error.chunk, error.attempt, error.at) == ("event rows (0, 10]", 1, NOON)
    assert not shop.queued and not shop.going()


@pytest.mark.parametrize("where", ["planning", "loading"])
def test_what_nobody_foresaw_fails_the_run_and_its_text_is_kept_nowhere(shop: Shop, where: str) -> None:
    e = KeyError("password=hunter2 of ann@example.com")
    work = shop.rows(before=raising(e))
    if where == "planning":
        work.planning = lambda: raising(e)(0)
    attempt = shop.start()
    ended = shop.carry(work, attempt)
    assert ended.run is not None and ended.run.state is RunState.FAILED
    (error,) = ended.run.errors
    assert (error.code, error.vendor, error.summary) == ("KeyError", "KeyError", "something went wrong inside Isthmus")
    assert "hunter2" not in repr(ended.run) + repr(ended.error) and "report it" in error.hint


@pytest.mark.parametrize(
    ("e", "summary", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full", StoreFull),
        (OSError(errno.EACCES, "Permission denied"), "files on their way cannot be written", IsthmusError),
    ],
)
def test_what_the_machine_says_is_told_in_our_words(shop: Shop, e: OSError, summary: str, kind: type) -> None:
    ended = shop.carry(shop.rows(before=raising(e)), shop.start())
    assert isinstance(ended.error, kind) and ended.run is not None
    assert ended.run.errors[0].summary == summary and ended.run.state is RunState.FAILED


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        (RunState.PAUSED, "to go on: isthmus sync resume everything"),
        (RunState.CANCELLED, "to go on: isthmus sync run everything"),
    ],
)
def test_a_run_stopped_by_a_person_ends_at_the_chunk_and_says_how_to_go_on(
    shop: Shop, state: RunState, hint: str
) -> None:
    attempt = shop.start()
    work = shop.rows(before=lambda number: shop.set(attempt, state) if number == 1 else None)
    ended = shop.carry(work, attempt)
    assert isinstance(ended.error, RunStopped) and ended.error.hint == hint
    assert ended.run is not None and (ended.run.state, ended.run.rows_done) == (state, 200)
    assert not shop.going() and not shop.queued and not ended.run.errors


@pytest.mark.parametrize("when", ["planning", "last chunk"])
def test_a_pause_where_no_chunk_is_left_lets_go_of_the_lane(shop: Shop, when: str) -> None:
    attempt = shop.start()
    work = shop.rows(parts=1, before=lambda number: shop.set(attempt, RunState.PAUSED))
    if when == "planning":
        work.planning = lambda: shop.set(attempt, RunState.PAUSED)
    ended = shop.carry(work, attempt)
    assert isinstance(ended.error, RunStopped)
    assert shop.run(attempt).state is RunState.PAUSED
    with shop.ledger.transaction() as tx:
        again = lanes.queue(tx, attempt.run_id, at=NOON)
    if not again:  # it is at the lane still: the housekeeping finds that its attempt ended without a word
        with shop.ledger.transaction() as tx:
            again = [a for a in [lanes.again(tx, attempt, ANN, at=NOON)] if a]
    work.before, work.planning = (lambda number: None), (lambda: None)
    done = shop.carry(work, again[0], BEN)
    assert done.run is not None and done.run.state is RunState.COMPLETED and work.loaded == [0]


def test_a_pause_between_the_last_chunk_and_the_close_lets_go_of_the_lane(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, settle = shop.start(), lanes.settle

    def paused_first(tx: Tx, *arguments: object, **named: object) -> Run | None:
        runs.set_state(tx, attempt.run_id, RunState.PAUSED, at=NOON)
        return settle(tx, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(lanes, "settle", paused_first)
    ended = shop.carry(shop.rows(), attempt)
    assert isinstance(ended.error, RunStopped) and "sync resume everything" in ended.error.hint
    assert not shop.going()


def test_a_process_that_is_to_end_hands_over_at_the_next_chunk(shop: Shop) -> None:
    attempt = shop.start()
    work = shop.rows(before=lambda number: setattr(shop, "stopping", number == 1))
    ended = shop.carry(work, attempt)
    assert isinstance(ended.error, RunStopped)
    assert ended.run is not None and (ended.run.state, ended.run.rows_done) == (RunState.SCHEDULED, 200)
    ((again, delay_s),) = shop.queued
    assert (again, delay_s) == (replace(attempt, number=2), 0)
    shop.stopping = False
    done = shop.carry(work, again, BEN)
    assert done.run is not None and done.run.state is RunState.COMPLETED and work.asked == [0, 1, 2, 3]


def test_a_process_that_is_to_end_begins_nothing_but_finishes_what_is_at_its_end(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows()
    shop.stopping = True
    assert shop.carry(work, attempt).run is not None and work.opened == 0
    assert shop.run(attempt).planned and shop.run(attempt).state is RunState.SCHEDULED
    shop.stopping = False
    work.before = lambda number: setattr(shop, "stopping", number == 3)
    done = shop.carry(work, shop.queued[-1][0])
    assert done.run is not None and done.run.state is RunState.COMPLETED and done.error is None


def test_a_run_whose_moment_of_the_store_is_gone_makes_room_for_a_new_one(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows(before=raising(Unreachable("no answer"), at=2))
    shop.carry(work, attempt)
    work.kept = False
    with shop.ledger.transaction() as tx:
        dues.set_due(tx, shop.sync_id, NOON + timedelta(days=1))
    ended = shop.carry(work, shop.queued[-1][0])
    assert ended.stale and ended.run is not None and ended.run.state is RunState.CANCELLED
    assert not shop.going()
    with shop.ledger.reading() as tx:
        new = runs.active(tx, shop.sync_id)
    assert new is not None and (new.state, new.planned) == (RunState.SCHEDULED, False), "a new one is begun at once"
    assert shop.queued[-1][0].run_id == new.run_id


def test_a_run_that_was_given_to_another_is_not_cancelled_because_its_moment_is_gone(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows(before=raising(Unreachable("no answer"), at=2))
    shop.carry(work, attempt)
    again = shop.queued[-1][0]

    def look(run: Run) -> bool:
        with shop.ledger.transaction() as tx:
            lanes.lost(tx, [ANN], deaths=9, failures_limit=9, at=NOON)
            lanes.begin(tx, again, BEN, at=NOON)
        return False

    work.can_go_on = look  # type: ignore[method-assign]
    ended = shop.carry(work, again)
    assert isinstance(ended.error, RunStopped) and not ended.stale
    assert shop.run(attempt).state is RunState.RUNNING and shop.going() == {again: BEN}


def test_lanes_share_the_chunks_and_a_retry_wakes_them(shop: Shop) -> None:
    attempt = shop.start()
    work = shop.rows(parts=6, over=2, before=raising(Unreachable("no answer"), at=2))
    first = shop.carry(work, attempt)
    assert first.run is not None and first.run.state is RunState.RETRYING
    (second, _), (again, _) = shop.queued
    assert second == replace(attempt, lane=1) and again == replace(attempt, number=2)
    assert shop.carry(work, second, BEN).error is None
    assert shop.run(attempt).rows_done == 400
    done = shop.carry(work, again, ANN)
    assert done.run is not None and done.run.state is RunState.COMPLETED
    assert sorted(work.loaded) == [0, 1, 2, 3, 4, 5] and work.asked.count(1) == 1


def test_hands_that_are_alone_open_no_lane_for_others(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows(parts=6, over=3)
    ended = carry_out(shop.ledger, lambda: work, attempt, replace(shop.hands(), alone=True))
    assert ended.run is not None and ended.run.state is RunState.COMPLETED and not shop.queued


def test_a_frozen_worker_that_was_given_up_writes_nothing_when_it_wakes(shop: Shop) -> None:
    """ann freezes inside a chunk, ben takes over and finishes, ann goes on."""
    attempt = shop.start()
    inside, thawed = threading.Event(), threading.Event()

    def freeze(number: int) -> None:
        if number == 1:
            inside.set()
            assert thawed.wait(30)

    frozen, ended = shop.rows(before=freeze), []
    ann = threading.Thread(target=lambda: ended.append(shop.carry(frozen, attempt, ANN)))
    ann.start()
    assert inside.wait(30)
    with shop.ledger.transaction() as tx:
        (same,) = lanes.lost(tx, [ANN], deaths=retry.MAX_DEATHS, failures_limit=retry.MAX_FAILURES, at=NOON)
    work = shop.rows()
    done = shop.carry(work, same, BEN)
    assert done.run is not None and done.run.state is RunState.COMPLETED and work.loaded == [1, 2, 3]
    thawed.set()
    ann.join(30)
    assert frozen.loaded == [0] and frozen.asked == [0, 1]
    assert isinstance(ended[0].error, RunStopped) and "in other hands" in ended[0].error.summary
    assert ended[0].run == done.run == shop.run(attempt)
    assert not shop.queued


def test_a_worker_that_froze_behind_the_question_loads_the_same_batch_and_stops(shop: Shop) -> None:
    """Too late to ask: what it loads is what the other one loaded, and it goes no further."""
    attempt = shop.start()
    work, others = shop.rows(), shop.rows()
    load = work._load

    def late(chunk: Chunk, still: Still) -> Done:
        found = load(chunk, still)
        if chunk.number == 1:
            with shop.ledger.transaction() as tx:
                (same,) = lanes.lost(tx, [ANN], deaths=9, failures_limit=9, at=NOON)
            shop.carry(others, same, BEN)
        return found

    work._load = late  # type: ignore[method-assign]
    ended = shop.carry(work, attempt, ANN)
    assert work.loaded == [0, 1] and others.loaded == [1, 2, 3]
    assert isinstance(ended.error, RunStopped) and ended.run is not None
    assert (ended.run.state, ended.run.rows_done) == (RunState.COMPLETED, 400), "no chunk counts twice"


def test_an_error_of_a_worker_that_was_given_up_is_kept_but_stops_nobody(shop: Shop) -> None:
    attempt = shop.start()

    def given_up(number: int) -> None:
        with shop.ledger.transaction() as tx:
            (same,) = lanes.lost(tx, [ANN], deaths=9, failures_limit=9, at=NOON)
            lanes.begin(tx, same, BEN, at=NOON)
        raise Denied("signed out")

    ended = shop.carry(shop.rows(before=given_up), attempt, ANN)
    assert ended.run is not None and ended.run.state is RunState.RUNNING and shop.going() == {attempt: BEN}
    assert [e.summary for e in ended.run.errors] == ["signed out"]


def test_a_plan_that_comes_too_late_is_not_kept(shop: Shop) -> None:
    attempt = shop.start()

    def given_up() -> None:
        with shop.ledger.transaction() as tx:
            lanes.lost(tx, [ANN], deaths=9, failures_limit=9, at=NOON)

    work = shop.rows()
    work.planning = given_up
    assert isinstance(shop.carry(work, attempt, ANN).error, RunStopped)
    assert not shop.run(attempt).planned and work.opened == 0


def test_a_sync_that_changed_while_its_run_was_planned_is_not_delivered(shop: Shop) -> None:
    attempt = shop.start()

    def changed() -> None:
        with shop.ledger.transaction() as tx:
            syncs.restart(tx, shop.sync_id, at=NOON)

    work = shop.rows()
    work.planning = changed
    ended = shop.carry(work, attempt)
    assert isinstance(ended.error, RunStopped) and shop.run(attempt).state is RunState.CANCELLED


def test_the_run_that_fails_for_the_fifth_time_pauses_its_sync(shop: Shop) -> None:
    work = shop.rows(before=raising(Denied("no"), times=99))
    for _ in range(retry.MAX_FAILURES):
        shop.carry(work, shop.start())
    with shop.ledger.reading() as tx:
        assert syncs.by_id(tx, shop.sync_id).state is SyncState.PAUSED


def test_a_run_with_a_clock_that_was_put_back_is_begun_all_the_same(shop: Shop) -> None:
    attempt, work = shop.start(), shop.rows()
    with shop.ledger.transaction() as tx:
        tx.execute(update(runs_table).values(planned_at=NOON + timedelta(days=3)))
    shop.now = NOON - timedelta(days=1)
    ended = shop.carry(work, attempt)
    assert ended.run is not None and ended.run.state is RunState.COMPLETED


# -- the connection ----------------------------------------------------------------------------------------------------


def connection_of(shop: Shop) -> StoredConnection:
    with shop.ledger.reading() as tx:
        return connections.named(tx, "dwh")


def new_secret(shop: Shop) -> None:
    with shop.ledger.transaction() as tx:
        given = {"password": Secret("new")}
        seal = Seal(Fernet.generate_key())
        connections.put(tx, name="dwh", kind="postgres", fields={}, secrets=given, seal=seal, at=shop.now)


def last_error(ended: Ended) -> RunError:
    assert ended.run is not None
    return ended.run.errors[-1]


@pytest.mark.parametrize("e", [Denied("no", code="28P01"), Missing("no database"), Busy("no", hint="wait")])
def test_where_it_is_not_clear_why_a_run_fails_for_good_it_is_knocked(shop: Shop, e: WarehouseError) -> None:
    said = Denied("the password is wrong", code="28P01", vendor="no such password", hint="edit it")
    work = shop.rows(before=raising(e, times=99), shut=said)
    attempt = shop.start()
    with shop.ledger.transaction() as tx:
        tx.execute(update(runs_table).values(tries=retry.MAX_TRIES))
    ended = shop.carry(work, attempt)
    assert ended.run is not None and ended.run.state is RunState.FAILED and work.knocks == 1
    assert last_error(ended).blame == "door" and last_error(ended).summary == e.summary
    found = connection_of(shop)
    assert found.is_shut and found.finding is not None and found.next_try_at is not None
    assert (found.finding.summary, found.finding.code, found.finding.run_id) == (
        said.summary,
        "28P01",
        ended.run.run_id,
    )
    with shop.ledger.reading() as tx:
        sync = syncs.by_id(tx, shop.sync_id)
    assert (sync.failures, sync.next_due) == (0, None), "it is not the fault of the sync, and it waits"


def test_a_connection_that_can_be_entered_is_not_shut_by_a_table_that_is_missing(shop: Shop) -> None:
    work = shop.rows(before=raising(Missing("no table")))
    ended = shop.carry(work, shop.start())
    assert last_error(ended).blame == "" and work.knocks == 1
    assert connection_of(shop).state is ConnectionState.ENABLED


def test_a_right_that_is_missing_makes_it_unable_and_counts_against_the_sync(shop: Shop) -> None:
    ended = shop.carry(shop.rows(before=raising(Denied("no right", code="42501"))), shop.start())
    assert last_error(ended).blame == "grant"
    found = connection_of(shop)
    assert found.state is ConnectionState.UNABLE and not found.is_shut
    with shop.ledger.reading() as tx:
        assert syncs.by_id(tx, shop.sync_id).failures == 1


def test_nobody_knocks_while_it_will_be_tried_again(shop: Shop) -> None:
    work = shop.rows(before=raising(Busy("full")))
    ended = shop.carry(work, shop.start())
    assert ended.run is not None and ended.run.state is RunState.RETRYING and work.knocks == 0
    assert connection_of(shop).state is ConnectionState.ENABLED


def test_five_failures_at_the_door_pause_no_sync(shop: Shop) -> None:
    for _ in range(retry.MAX_FAILURES + 1):
        shop.carry(shop.rows(before=raising(Denied("no")), shut=Denied("no")), shop.start())
    with shop.ledger.reading() as tx:
        assert syncs.by_id(tx, shop.sync_id).state is SyncState.ENABLED
    assert connection_of(shop).tries == retry.MAX_FAILURES + 1


def test_where_nobody_gets_in_a_run_does_not_try_again_by_itself(shop: Shop) -> None:
    with shop.ledger.transaction() as tx:
        finding = Finding("no answer", NOON)
        later = NOON + timedelta(hours=1)
        connections.set_unable(tx, connection_of(shop).connection_id, finding, next_try_at=later)
    ended = shop.carry(shop.rows(before=raising(Unreachable("no answer"))), shop.start())
    assert ended.run is not None and ended.run.state is RunState.FAILED
    assert connection_of(shop).tries == 2


def test_an_old_secret_that_is_refused_after_the_new_one_came_fails_nothing(shop: Shop) -> None:
    def before(number: int) -> None:
        if number == 2 and not seen:
            seen.append(number)
            new_secret(shop)
            raise Denied("the old one", code="28P01")

    seen: list[int] = []
    work = shop.rows(before=before, shut=Denied("the old one"))
    ended = shop.carry(work, shop.start())
    assert ended.run is not None and ended.run.state is RunState.COMPLETED and work.knocks == 0
    assert work.asked == [0, 1, 2, 2, 3] and work.opened == work.closed == 2
    assert last_error(ended).retryable and "changed meanwhile" in last_error(ended).hint


def test_a_changed_connection_is_opened_anew_at_the_next_chunk(shop: Shop) -> None:
    work = shop.rows(before=lambda number: new_secret(shop) if number == 1 else None)
    ended = shop.carry(work, shop.start())
    assert ended.run is not None and ended.run.state is RunState.COMPLETED and not ended.run.errors
    assert work.asked == [0, 1, 2, 3] and work.opened == work.closed == 2


def test_a_run_that_was_cancelled_while_its_connection_moved_touches_the_new_place_no_more(shop: Shop) -> None:
    def moved(number: int) -> None:
        with shop.ledger.transaction() as tx:
            seal = Seal(Fernet.generate_key())
            fields = {"host": "elsewhere"}
            connections.put(tx, name="dwh", kind="postgres", fields=fields, secrets={}, seal=seal, at=shop.now)
        raise Denied("not any more")

    work = shop.rows(before=moved)
    ended = shop.carry(work, shop.start())
    assert ended.run is not None and ended.run.state is RunState.CANCELLED and isinstance(ended.error, RunStopped)
    assert work.asked == [0] and not shop.going()


def test_what_is_delivered_opens_a_shut_connection_at_the_first_chunk(shop: Shop) -> None:
    attempt = shop.start()
    with shop.ledger.transaction() as tx:
        connections.set_unable(tx, connection_of(shop).connection_id, Finding("no", NOON), next_try_at=NOON)
    states: list[ConnectionState] = []
    shop.carry(shop.rows(before=lambda number: states.append(connection_of(shop).state)), attempt)
    assert states == [ConnectionState.UNABLE, *[ConnectionState.ENABLED] * 3]


def test_work_that_cannot_be_made_is_the_connections_fault(shop: Shop) -> None:
    def unreadable() -> Rows:
        raise InvalidInput("a stored credential cannot be unsealed", hint="bring back the key")

    ended = carry_out(shop.ledger, unreadable, shop.start(), shop.hands())
    assert last_error(ended).blame == "door" and connection_of(shop).is_shut


def test_a_lane_whose_place_is_wanted_is_left_at_the_next_chunk_if_that_is_easy(shop: Shop) -> None:
    wanted = replace(shop.hands(), is_wanted_elsewhere=lambda: True)
    work = shop.rows()
    ended = carry_out(shop.ledger, lambda: work, shop.start(), wanted)
    assert work.asked == [0] and ended.run is not None and ended.run.state is RunState.SCHEDULED
    ((attempt, _),) = shop.queued
    work.leaves_easily = False
    ended = carry_out(shop.ledger, lambda: work, attempt, wanted)
    assert work.asked == [0, 1, 2, 3] and ended.run is not None and ended.run.state is RunState.COMPLETED

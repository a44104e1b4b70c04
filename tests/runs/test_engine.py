"""The run engine on both databases: what it promises, and every trap of DBOS that we know of."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from runs_cast import Another, Works, wait_for
from sqlalchemy import text

from isthmus.ledger.database import open_ledger
from isthmus.model.errors import InvalidInput
from isthmus.model.work import Attempt
from isthmus.runs import engine as module
from isthmus.runs.engine import AttemptState


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def works(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Works]:
    """One engine for all these tests: it takes a second to hear a queue for the first time."""
    where: Path | str = tmp_path_factory.mktemp("engine") / "ledger.sqlite"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        where = server.url(server.fresh_database())
    ledger = open_ledger(where)
    opened = Works(where, ledger)
    opened.engine.hear({1, 2})
    yield opened
    opened.close()
    ledger.close()


def row(works: Works, attempt: Attempt) -> dict[str, object]:
    """What the engine has written of an attempt."""
    with works.ledger.reading() as tx:
        schema = "isthmus_engine." if tx.dialect.name == "postgresql" else ""
        found = tx.execute(
            text(f"SELECT * FROM {schema}workflow_status WHERE workflow_uuid = :id"), {"id": str(attempt)}
        )
        return dict(found.mappings().one())


def change(works: Works, attempt: Attempt, **values: object) -> None:
    with works.ledger.transaction() as tx:
        schema = "isthmus_engine." if tx.dialect.name == "postgresql" else ""
        given = ", ".join(f"{name} = :{name}" for name in values)
        statement = text(f"UPDATE {schema}workflow_status SET {given} WHERE workflow_uuid = :id")
        tx.execute(statement, {"id": str(attempt), **values})


def state(works: Works, attempt: Attempt) -> AttemptState | None:
    return works.engine.states([attempt]).get(attempt)


def test_an_attempt_that_was_queued_is_carried_out_once_and_then_over(works: Works) -> None:
    attempt = works.attempt()
    let_go = works.hold(attempt.run_id)
    assert state(works, attempt) is None
    works.enqueue(attempt)
    wait_for(lambda: attempt in works.begun)
    assert state(works, attempt) is AttemptState.GOING
    let_go.set()
    wait_for(lambda: state(works, attempt) is AttemptState.OVER)
    works.enqueue(attempt)
    assert state(works, attempt) is AttemptState.OVER
    time.sleep(0.5)
    assert works.begun.count(attempt) == 1


def test_nothing_is_queued_if_the_callers_transaction_is_undone(works: Works) -> None:
    attempt = works.attempt()
    with pytest.raises(ZeroDivisionError), works.ledger.transaction() as tx:
        works.engine.enqueue(tx, attempt, partition="p", limit=2)
        raise ZeroDivisionError
    assert state(works, attempt) is None
    time.sleep(0.3)
    assert attempt not in works.begun


def test_the_same_attempt_queued_twice_runs_once(works: Works) -> None:
    attempt = works.attempt()
    with works.ledger.transaction() as tx:
        works.engine.enqueue(tx, attempt, partition="p", limit=2)
        works.engine.enqueue(tx, attempt, partition="p", limit=2)
    works.enqueue(attempt)
    wait_for(lambda: state(works, attempt) is AttemptState.OVER)
    time.sleep(0.3)
    assert works.begun.count(attempt) == 1


def test_a_delayed_attempt_waits_for_its_time_and_keeps_nobody_from_working(works: Works) -> None:
    """A retry is a new attempt that is not yet due. DBOS's own retries would sleep in the place of others."""
    later = works.enqueue(works.attempt(), partition="one at a time", limit=1, delay_s=1.5)
    began = time.monotonic()
    assert state(works, later) is AttemptState.WAITING
    now = [works.enqueue(works.attempt(), partition="one at a time", limit=1) for _ in range(2)]
    wait_for(lambda: all(state(works, attempt) is AttemptState.OVER for attempt in now))
    assert later not in works.begun
    wait_for(lambda: later in works.begun)
    assert 1.4 < time.monotonic() - began < 8


def test_an_attempt_that_raises_is_over_and_is_not_tried_again_by_the_engine(works: Works) -> None:
    attempt = works.enqueue(works.attempt("fails"))
    wait_for(lambda: state(works, attempt) is AttemptState.OVER)
    time.sleep(0.3)
    assert works.begun.count(attempt) == 1


def test_an_attempt_that_was_taken_out_of_its_queue_is_not_begun(works: Works) -> None:
    attempt, unknown = works.enqueue(works.attempt(), delay_s=1), works.attempt()
    works.engine.cancel([])
    works.engine.cancel([attempt, unknown])
    assert state(works, attempt) is AttemptState.OVER
    time.sleep(1.5)
    assert attempt not in works.begun


def test_a_hung_attempt_takes_one_place_and_no_more(works: Works) -> None:
    hung = works.attempt("hung")
    let_go = works.hold(hung.run_id)
    works.enqueue(hung, partition="slow warehouse")
    wait_for(lambda: hung in works.begun)
    others = [works.enqueue(works.attempt(), partition="slow warehouse") for _ in range(3)]
    wait_for(lambda: all(state(works, attempt) is AttemptState.OVER for attempt in others))
    assert state(works, hung) is AttemptState.GOING
    let_go.set()
    wait_for(lambda: state(works, hung) is AttemptState.OVER)


def test_only_certain_limits_are_known(works: Works) -> None:
    with pytest.raises(InvalidInput, match="takes 1, 2, 4, 8 chunks at once, not 3"):
        works.enqueue(works.attempt(), limit=3)


def test_what_the_engine_writes_is_json_and_no_pickle(works: Works) -> None:
    attempt = works.enqueue(works.attempt())
    wait_for(lambda: state(works, attempt) is AttemptState.OVER)
    failed = works.enqueue(works.attempt("fails"))
    wait_for(lambda: state(works, failed) is AttemptState.OVER)
    with works.ledger.reading() as tx:
        postgres = tx.dialect.name == "postgresql"
        names = (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'isthmus_engine'"
            if postgres
            else "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%workflow_uuid%'"
        )
        tables = [str(name) for name in tx.scalars(text(names))]
        written = [
            value
            for table in tables
            for found in tx.execute(text(f"SELECT * FROM {'isthmus_engine.' if postgres else ''}{table}")).mappings()
            for value in found.values()
        ]
    assert "workflow_status" in tables
    assert not [value for value in written if isinstance(value, bytes | memoryview)]
    assert not [value for value in written if isinstance(value, str) and re.match(r"gA[SRW]", value)]
    assert [value for value in written if isinstance(value, str) and attempt.run_id in value and value[0] in "[{"]
    for value in written:
        if isinstance(value, str) and value[:1] in ("[", "{"):
            json.loads(value)


def test_an_attempt_that_was_dispatched_a_thousand_times_is_carried_out_all_the_same(works: Works) -> None:
    attempt = works.attempt()
    let_go = works.hold(attempt.run_id)
    works.enqueue(attempt, delay_s=1)
    change(works, attempt, recovery_attempts=1000)
    wait_for(lambda: attempt in works.begun)
    let_go.set()
    wait_for(lambda: state(works, attempt) is AttemptState.OVER)
    assert row(works, attempt)["status"] == "SUCCESS"


def test_another_version_of_the_code_queues_what_this_one_carries_out(works: Works, tmp_path: Path) -> None:
    """And it prints nothing: neither advertising nor anything else."""
    attempt = works.attempt()
    another = Another(works.where, tmp_path / "another", attempt, limits="", own_code=True).ready()
    wait_for(lambda: works.begun.count(attempt) == 1 or str(attempt) in another.begun())
    another.go()
    wait_for(lambda: state(works, attempt) is AttemptState.OVER)
    assert row(works, attempt)["application_version"] == "1"
    assert another.end() == ("", "")


def test_a_connection_takes_no_more_than_its_limit_however_many_processes_work(works: Works, tmp_path: Path) -> None:
    """And a process that comes takes nothing from one that is at work: no two have one id."""
    another = Another(works.where, tmp_path / "another").ready()
    own = [works.attempt() for _ in range(6)]
    gates = [works.hold(attempt.run_id) for attempt in own]
    for attempt in own:
        works.enqueue(attempt, partition="narrow", limit=2)

    def going() -> int:
        mine = [a for a in own if a in works.begun and a not in works.ended]
        theirs = {str(a) for a in own} & another.begun() - another.ended()
        return len(mine) + len(theirs)

    most = 0
    another.go()  # what it begins ends at once
    until = time.monotonic() + 20
    for gate in gates:
        while time.monotonic() < until:
            most = max(most, going())
            states = works.engine.states(own)
            assert list(states.values()).count(AttemptState.GOING) <= 2
            if going() == 2 or AttemptState.WAITING not in states.values():
                break
            time.sleep(0.02)
        gate.set()
    wait_for(lambda: all(s is AttemptState.OVER for s in works.engine.states(own).values()))
    assert most <= 2
    assert len([a for a in own if a in works.begun]) + len({str(a) for a in own} & another.begun()) == 6
    assert another.end() == ("", "")


def test_an_orphan_comes_back_in_its_own_queue_and_who_lives_is_asked_after_the_list_was_read(works: Works) -> None:
    works.engine.resume_orphans(lambda: {works.worker_id})
    asked: list[str] = []

    def live() -> set[str]:
        asked.append("live")
        return {works.worker_id}

    assert works.engine.resume_orphans(live) == []
    assert not asked, "nothing is going: nobody needs to be asked"
    mine = works.attempt()
    let_go = works.hold(mine.run_id)
    works.enqueue(mine)
    wait_for(lambda: mine in works.begun)
    theirs = works.enqueue(works.attempt(), limit=8, delay_s=600)  # a queue that nobody hears
    change(works, theirs, status="PENDING", executor_id="worker_dead")
    listed: list[list[str]] = []
    listing = works.engine._list

    def spied(**which: object) -> list[object]:
        listed.append(asked.copy())
        return listing(**which)

    works.engine._list = spied  # type: ignore[method-assign]
    try:
        assert works.engine.resume_orphans(lambda: {works.worker_id, "worker_dead"}) == []
        assert works.engine.resume_orphans(live) == [theirs]
    finally:
        works.engine._list = listing  # type: ignore[method-assign]
    assert listed == [[], []] and asked == ["live"]
    assert state(works, theirs) is AttemptState.WAITING and state(works, mine) is AttemptState.GOING
    assert row(works, theirs)["queue_name"] == "runs-8"
    let_go.set()
    works.engine.cancel([theirs])


def test_an_attempt_of_a_killed_process_is_carried_out_by_another(works: Works, tmp_path: Path) -> None:
    attempt = works.attempt()
    works.hold(attempt.run_id).set()
    another = Another(works.where, tmp_path / "another").ready()
    attempts = [works.enqueue(works.attempt()) for _ in range(1)]
    for _ in range(40):  # until the other one has taken one
        if another.begun():
            break
        attempts.append(works.enqueue(works.attempt()))
        time.sleep(0.3)
    assert another.begun()
    another.kill()
    theirs = {Attempt.parse(text) for text in another.begun()}
    assert set(works.engine.resume_orphans(lambda: {works.worker_id})) == theirs
    wait_for(lambda: all(s is AttemptState.OVER for s in works.engine.states(attempts).values()))
    assert theirs <= set(works.ended)


def test_the_end_of_an_attempt_that_was_given_to_another_process_is_not_taken_for_its_end(
    works: Works, tmp_path: Path
) -> None:
    another = Another(works.where, tmp_path / "another").ready()
    attempts: list[Attempt] = []
    for _ in range(40):
        attempts.append(works.attempt())
        works.hold(attempts[-1].run_id)
        works.enqueue(attempts[-1])
        wait_for(lambda: attempts[-1] in works.begun or str(attempts[-1]) in another.begun())
        if another.begun():
            break
        works.held[attempts[-1].run_id].set()
    theirs = attempts[-1]
    another.freeze()
    assert works.engine.resume_orphans(lambda: {works.worker_id}) == [theirs]
    wait_for(lambda: theirs in works.begun)
    another.go()
    another.thaw()
    wait_for(lambda: str(theirs) in another.ended())
    time.sleep(1)
    assert state(works, theirs) is AttemptState.GOING
    works.held[theirs.run_id].set()
    wait_for(lambda: state(works, theirs) is AttemptState.OVER)
    another.end()


def test_attempts_that_are_over_are_forgotten_and_no_others(works: Works) -> None:
    over, waiting = works.enqueue(works.attempt()), works.enqueue(works.attempt(), delay_s=600)
    wait_for(lambda: state(works, over) is AttemptState.OVER)
    assert works.engine.gc(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert works.engine.gc(datetime.now(UTC) + timedelta(hours=1)) > 0
    assert works.engine.states([over, waiting]) == {waiting: AttemptState.WAITING}
    works.engine.cancel([waiting])


def test_an_engine_that_is_launched_again_hears_of_what_waits_although_an_attempt_hangs(works: Works) -> None:
    """The last test here: it closes the engine that all others use."""
    hung, waiting = works.attempt("hung"), works.attempt()
    let_go = works.hold(hung.run_id)
    works.enqueue(hung, partition="x", limit=1)
    wait_for(lambda: hung in works.begun)
    works.enqueue(waiting, partition="x", limit=1)
    before = works.worker_id
    began = time.monotonic()
    works.engine.close(patience_s=0)
    assert time.monotonic() - began < 12, "it does not wait for what hangs"
    works.launch()
    assert works.worker_id != before
    works.engine.hear({1})
    works.engine.hear({1})
    assert works.engine.resume_orphans(lambda: {works.worker_id}) == [hung]
    let_go.set()
    wait_for(lambda: set(works.engine.states([hung, waiting]).values()) == {AttemptState.OVER})
    assert works.begun.count(waiting) == 1 and works.begun.count(hung) == 2


def test_the_engine_asks_for_nothing_that_only_one_database_knows() -> None:
    """DBOS finds nothing by attribute on SQLite, sleeps in a slot between its own retries, and knows schedules of its
    own: none of it is used."""
    tree = ast.parse(Path(module.__file__).read_text())
    words = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    calls = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert not words & {"attributes", "retries_allowed", "max_attempts", "deduplication_id"}
    assert not calls & {"step", "sleep", "sleep_async", "create_schedule", "apply_schedules", "set_event"}

"""Somebody watches from outside: what the ledger says of everything, at one moment, whatever its size."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from ledger_cast import NOON, apply_everything, deliver, planned
from sqlalchemy import Select, insert

from isthmus.ledger import figures, runs, syncs, workers
from isthmus.ledger.database import Tx
from isthmus.ledger.figures import DAY, Figures, SyncFigures
from isthmus.ledger.schema import incidents, lanes
from isthmus.model.work import LaneState, RunError, RunState, SyncState

NOW = NOON + timedelta(hours=2)


def read(tx: Tx, at: datetime = NOW) -> Figures:
    return figures.read(tx, at=at, seen_after=at - timedelta(seconds=30))


def only(tx: Tx, at: datetime = NOW) -> SyncFigures:
    (sync,) = read(tx, at).syncs
    return sync


def test_an_empty_ledger_has_figures_too(tx: Tx) -> None:
    assert read(tx) == Figures(NOW, (), (), {}, {}, {})


def test_a_sync_that_has_never_run(tx: Tx) -> None:
    apply_everything(tx)
    assert only(tx) == SyncFigures("everything", SyncState.ENABLED, None, 0, None, {}, 0, 0)


def test_what_was_delivered_and_how_runs_ended_in_the_last_day(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    sync = syncs.by_id(tx, sync.sync_id)
    failing = runs.start(tx, planned(sync, after=10, upto=20), generation=1)
    runs.finish_chunk(tx, failing.run_id, 0, rows=70, size_bytes=5000, at=NOON + timedelta(minutes=30))
    error = RunError("no", "x", "", "", False, NOON + timedelta(hours=1))
    runs.fail(tx, failing.run_id, error)
    active = runs.start(tx, planned(sync, after=10, upto=21), generation=1)
    runs.set_state(tx, active.run_id, RunState.RUNNING, at=NOON)
    found = only(tx)
    assert (found.run, found.fresh_at) == (RunState.RUNNING, NOON + timedelta(minutes=10))
    assert found.finished == {RunState.COMPLETED: 1, RunState.FAILED: 1}
    assert (found.rows, found.size_bytes) == (270, 5000)


def test_a_run_that_began_before_counts_with_what_it_delivered_since(tx: Tx) -> None:
    sync = apply_everything(tx)
    run = runs.start(tx, replace(planned(sync), planned_at=NOON - timedelta(days=9)), generation=1)
    runs.finish_chunk(tx, run.run_id, 0, rows=50, size_bytes=500, at=NOW - DAY - timedelta(seconds=1))
    runs.finish_chunk(tx, run.run_id, 1, rows=60, size_bytes=600, at=NOW - DAY + timedelta(seconds=1))
    assert (only(tx).rows, only(tx).size_bytes, only(tx).finished) == (60, 600, {})
    runs.finish(tx, run.run_id, at=NOW)
    assert only(tx).finished == {RunState.COMPLETED: 1}
    assert only(tx, NOW + DAY + timedelta(seconds=1)).finished == {}
    assert only(tx, NOW + DAY + timedelta(seconds=1)).rows == 0


def test_lanes_at_work_workers_that_live_and_incidents_that_are_open(tx: Tx) -> None:
    sync = apply_everything(tx)
    run = runs.start(tx, planned(sync), generation=1)
    for number, state in enumerate([LaneState.QUEUED, LaneState.QUEUED, LaneState.GOING, LaneState.IDLE], start=10):
        tx.execute(insert(lanes).values(run_id=run.run_id, lane=number, attempt=1, state=state, deaths=0))
    for worker_id, role, age_s in [("a", "serve", 1), ("b", "worker", 29), ("c", "worker", 31), ("d", "worker", 0)]:
        workers.join(tx, worker_id, role=role, place="here", at=NOW - timedelta(seconds=age_s))
    for number, (kind, cleared_at) in enumerate([("failure", None), ("silence", None), ("failure", NOON)]):
        values: dict[str, Any] = {"incident_id": str(number), "sync_id": sync.sync_id, "kind": kind, "summary": "s"}
        tx.execute(
            insert(incidents).values(
                **values, details={}, opened_at=NOON, cleared_at=cleared_at, told={}, settled=cleared_at is not None
            )
        )
    found = read(tx)
    assert found.lanes == {LaneState.QUEUED: 2, LaneState.GOING: 1}
    assert found.workers == {"serve": 1, "worker": 2}
    assert found.incidents == {"failure": 1, "silence": 1}


UNDER_WAY = ("one_active_run", "lanes_at_work", "one_open_incident")
"""Indexes that hold nothing else, and may be read as a whole."""


@pytest.mark.parametrize(
    ("query", "indexes"),
    [
        (figures.active_runs(), ["one_active_run"]),
        (figures.lanes_at_work(), ["lanes_at_work"]),
        (figures.open_incidents(), ["one_open_incident"]),
        (figures.finished(NOON), ["runs_by_planned_at", "runs_by_sync_id_planned_at"]),
        (figures.delivered(NOON), ["runs_by_planned_at", "runs_by_sync_id_planned_at", "sqlite_autoindex_chunks_"]),
    ],
)
def test_no_question_reads_a_table_that_grows(tx: Tx, query: Select[Any], indexes: list[str]) -> None:
    if tx.dialect.name != "sqlite":
        pytest.skip("PostgreSQL reads an empty table as a whole, and rightly so")
    compiled = query.compile(dialect=tx.dialect, compile_kwargs={"render_postcompile": True})
    told = tx.exec_driver_sql(
        f"EXPLAIN QUERY PLAN {compiled}", tuple(compiled.params[name] for name in compiled.positiontup or ())
    )
    steps = [row.detail for row in told]
    for index in indexes:
        assert any(f"INDEX {index}" in step for step in steps), steps
    may = ("syncs", "ended", "moved", "(subquery", *UNDER_WAY)
    wrong = [step for step in steps if step.startswith("SCAN") and not any(name in step for name in may)]
    assert not wrong, steps

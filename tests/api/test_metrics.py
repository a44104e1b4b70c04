"""Prometheus asks for the metrics; a person reads about each in docs/observability.md."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from api_cast import Get
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update

from isthmus import __version__
from isthmus.api.metrics import METRICS
from isthmus.app import App
from isthmus.ledger import connections, runs, syncs, workers
from isthmus.ledger.schema import incidents
from isthmus.ledger.schema import syncs as syncs_table
from isthmus.model.work import (
    Chunk,
    ConnectionState,
    Finding,
    Run,
    RunError,
    RunKind,
    RunState,
    Selection,
    Sync,
    SyncState,
)

STATES = tuple(ConnectionState)
PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


def put_sync(app: App, name: str) -> Sync:
    with app.ledger.transaction() as tx:
        connection, _ = connections.put(
            tx, name="dwh", kind="duckdb", fields={}, secrets={}, seal=app.seal, at=app.now()
        )
        sync, _ = syncs.apply_export(
            tx,
            name=name,
            connection_id=connection.connection_id,
            selection=Selection(),
            schedule="hourly",
            at=app.now(),
        )
        return sync


def put_run(app: App, sync: Sync) -> Run:
    """A run of one chunk, delivered but not finished."""
    now = app.now()
    chunk = Chunk(0, "klaviyo_event", "rows", 0, 10, f"batch-{sync.sync_id}", 100, True)
    run = Run(
        run_id=runs.new_run_id(),
        sync_id=sync.sync_id,
        sync_name=sync.name,
        kind=RunKind.HISTORICAL,
        state=RunState.RUNNING,
        after=0,
        upto=10,
        snapshot_id=1,
        snapshot_at=now - timedelta(seconds=600),
        planned_at=now,
        chunks=(chunk,),
    )
    with app.ledger.transaction() as tx:
        runs.start(tx, run, generation=1)
        runs.finish_chunk(tx, run.run_id, 0, rows=120, size_bytes=4096, at=now)
    return run


def samples(text: str) -> dict[str, float]:
    """Every sample by its name and labels, as one writes it in a query."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_an_empty_isthmus_has_its_metrics_at_zero(get: Get) -> None:
    answer = get("/metrics")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    found = samples(answer.text)
    ours = {name: value for name, value in found.items() if name.startswith("isthmus_")}
    (build,) = [name for name in ours if name.startswith("isthmus_build_info")]
    assert f'version="{__version__}"' in build and ours.pop(build) == 1
    assert ours == {
        "isthmus_up": 1,
        'isthmus_lanes{state="queued"}': 0,
        'isthmus_lanes{state="going"}': 0,
        'isthmus_workers{role="serve"}': 0,
        'isthmus_workers{role="worker"}': 0,
        'isthmus_workers{role="command"}': 0,
        'isthmus_incidents_open{kind="failure"}': 0,
        'isthmus_incidents_open{kind="silence"}': 0,
        'isthmus_incidents_open{kind="unable"}': 0,
        'isthmus_incidents_open{kind="drift"}': 0,
    }
    assert found["process_resident_memory_bytes"] > 1_000_000


def test_the_metrics_say_what_the_ledger_says(app: App, get: Get) -> None:
    done, going, failing = (put_sync(app, name) for name in ("done", "going", 'odd "name"\n'))
    finished, _, wrong = put_run(app, done), put_run(app, going), put_run(app, failing)
    now = app.now()
    with app.ledger.transaction() as tx:
        runs.finish(tx, finished.run_id, at=now)
        runs.fail(tx, wrong.run_id, RunError("no", "x", "", "", False, now))
        tx.execute(update(syncs_table).where(syncs_table.c.sync_id == failing.sync_id).values(failures=3))
        syncs.set_state(tx, going.sync_id, SyncState.PAUSED, at=now)
        workers.join(tx, "worker_1", role="serve", place="here", at=now)
        values = {"sync_id": failing.sync_id, "kind": "failure", "summary": "s", "details": {}, "told": {}}
        tx.execute(insert(incidents).values(incident_id="i", opened_at=now, settled=False, **values))
    found = samples(get("/metrics").text)
    assert 600 <= found.pop('isthmus_sync_freshness_seconds{sync="done"}') < 660
    assert not [name for name in found if name.startswith("isthmus_sync_freshness_seconds")]
    odd = 'odd "name"\n'
    expected = {
        'isthmus_sync_state{state="enabled",sync="done"}': 1,
        'isthmus_sync_state{state="paused",sync="done"}': 0,
        'isthmus_sync_state{state="paused",sync="going"}': 1,
        'isthmus_sync_failures_in_a_row{sync="done"}': 0,
        f'isthmus_sync_failures_in_a_row{{sync="{odd}"}}': 3,
        'isthmus_runs{state="running",sync="done"}': 0,
        'isthmus_runs{state="running",sync="going"}': 1,
        'isthmus_last_day_finished_runs{state="completed",sync="done"}': 1,
        'isthmus_last_day_finished_runs{state="failed",sync="done"}': 0,
        f'isthmus_last_day_finished_runs{{state="failed",sync="{odd}"}}': 1,
        'isthmus_last_day_delivered_rows{sync="done"}': 120,
        'isthmus_last_day_delivered_rows{sync="going"}': 120,
        'isthmus_last_day_delivered_bytes{sync="done"}': 4096,
        'isthmus_workers{role="serve"}': 1,
        'isthmus_incidents_open{kind="failure"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_the_state_of_a_connection_and_the_age_of_its_checks(app: App, get: Get) -> None:
    sync, now = put_sync(app, "everything"), app.now()
    with app.ledger.transaction() as tx:
        connections.set_checked(tx, sync.connection_id, at=now - timedelta(hours=2))
        connections.set_unable(tx, sync.connection_id, Finding("no", now))
    found = samples(get("/metrics").text)
    states = {str(state): found[f'isthmus_connection_state{{connection="dwh",state="{state}"}}'] for state in STATES}
    assert states == {"enabled": 0, "unable to connect": 1, "disabled": 0}
    assert 7200 <= found['isthmus_connection_check_age_seconds{connection="dwh"}'] < 7260
    with app.ledger.transaction() as tx:
        connections.remove(tx, "dwh", at=now)
    found = samples(get("/metrics").text)
    assert found['isthmus_connection_state{connection="dwh",state="disabled"}'] == 1
    assert not [name for name in found if "check_age" in name]


def test_of_a_sync_without_its_connection_only_the_state_is_told(app: App, get: Get) -> None:
    sync = put_sync(app, "gone")
    with app.ledger.transaction() as tx:
        syncs.disable(tx, sync.sync_id, at=app.now())
    found = samples(get("/metrics").text)
    assert {name for name in found if 'sync="gone"' in name} == {
        f'isthmus_sync_state{{state="{state}",sync="gone"}}' for state in SyncState
    }
    assert found['isthmus_sync_state{state="disabled",sync="gone"}'] == 1


def test_a_ledger_that_is_gone_is_a_metric_and_no_error(app: App, get: Get, caplog: pytest.LogCaptureFixture) -> None:
    assert samples(get("/metrics").text)["isthmus_up"] == 1
    shutil.rmtree(app.home)
    answer = get("/metrics")
    found = samples(answer.text)
    assert answer.status == 200 and found["isthmus_up"] == 0
    assert {name.split("{")[0] for name in found if name.startswith("isthmus_")} == {"isthmus_up", "isthmus_build_info"}
    assert "metrics cannot be read" in str([line.msg for line in caplog.records])


def test_names_follow_the_conventions() -> None:
    for name, (help, labels, _) in METRICS.items():
        assert re.fullmatch(r"isthmus_[a-z_]+[a-z]", name) and help.endswith(".")
        assert not name.endswith(("_total", "_count", "_sum")), "no counter: nothing is counted here"
        assert set(labels) <= {"sync", "connection", "state", "role", "kind"}


def test_every_metric_is_on_the_page_as_it_is(app: App, get: Get) -> None:
    put_run(app, sync := put_sync(app, "everything"))
    with app.ledger.transaction() as tx:
        tx.execute(update(syncs_table).where(syncs_table.c.sync_id == sync.sync_id).values(fresh_at=app.now()))
    shown = {
        family.name + ("_info" if family.type == "info" else ""): family.documentation
        for family in text_string_to_metric_families(get("/metrics").text)
    }
    text = PAGE.read_text()
    table = dict(re.findall(r"^\| `(\w+)(?:\{[\w,]+\})?` \| (.*) \|$", text, re.MULTILINE))
    assert {name: help for name, help in shown.items() if name.startswith("isthmus_")} == {
        name: help for name, help in table.items() if name.startswith("isthmus_")
    }
    labels = {name: f"{name}{{{','.join(labels)}}}" if labels else name for name, (_, labels, _) in METRICS.items()}
    assert not [spelt for spelt in labels.values() if f"| `{spelt}` |" not in text]
    words = set(re.findall(r"(?<!#)\bisthmus_\w+", text))
    assert not words - set(shown), "rules and examples name metrics that are there"

"""Exports: history once, then only changes, each row once in effect, whatever happens in between."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from exports_cast import EVENT_COLUMNS, METRIC_COLUMNS, PROFILE_COLUMNS, Office, differing

from isthmus.actions import syncing
from isthmus.exports import plan
from isthmus.model.errors import InvalidInput, SyncBusy, Unreachable
from isthmus.model.work import RunKind, RunState
from isthmus.store import upkeep
from isthmus.warehouses.duckdb import DuckDBConfig, DuckDBWarehouse


def days_ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def cast(office: Office) -> None:
    office.profiles({"ext": "ann", "first": "Ann", "lat": 48.1, "tier": "gold"}, {"ext": "ben", "first": "Ben"})
    office.events(
        {"ext": "ann", "id": "a1", "worth": 10.5, "items": [1, {"x": None}]},
        {"ext": "ann", "id": "a2", "metric": "Visit"},
        {"ext": "ben", "id": "b1", "integration": "Shop"},
    )


def test_the_tables_have_the_columns_and_values_that_are_promised(office: Office) -> None:
    cast(office)
    office.apply()
    run = office.run()
    assert run is not None and (run.kind, run.state) == (RunKind.HISTORICAL, RunState.COMPLETED)
    for table, columns in (
        ("klaviyo_event", EVENT_COLUMNS),
        ("klaviyo_profile", PROFILE_COLUMNS),
        ("klaviyo_metric", METRIC_COLUMNS),
    ):
        there = {name for (name,) in office.dwh(f"SELECT column_name FROM (DESCRIBE {table})")}
        assert there == {*columns.split(", "), "_isthmus_seq"}
    [event] = office.dwh("SELECT * EXCLUDE (id, uuid, metric_id, ingested) FROM klaviyo_event WHERE unique_id = 'a1'")
    ann = office.who("ann")
    properties = '{"$event_id":"a1","$value":10.5,"$currency_code":"EUR","items":[1,{"x":null}]}'
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert set(map(str, event)) >= {ann, "Order", "File", "10.5", "EUR", "a1"}
    assert event[1] == at
    assert json.loads(event[2]) == json.loads(properties)
    [profile] = office.dwh(
        f"SELECT first_name, location_latitude, properties, last_event_date FROM klaviyo_profile WHERE id = '{ann}'"
    )
    assert profile == ("Ann", 48.1, '{"tier":"gold"}', at)
    assert set(office.dwh("SELECT name, integration_name FROM klaviyo_metric")) == {
        ("Order", "File"),
        ("Visit", "File"),
        ("Order", "Shop"),
    }
    assert office.dwh("SELECT count(*) FROM klaviyo_event e JOIN klaviyo_metric m ON m.id = e.metric_id") == [(3,)]
    office.assert_same()


def test_nothing_changed_and_the_warehouse_is_not_opened(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    cast(office)
    office.apply()
    office.run()
    opened: list[str] = []
    opening = DuckDBConfig.open

    def watched(self: DuckDBConfig) -> DuckDBWarehouse:
        opened.append(self.path)
        return opening(self)

    monkeypatch.setattr(DuckDBConfig, "open", watched)
    assert office.run() is None and office.run() is None
    before = syncing.show_sync(office.app, "everything")[0].fresh_at
    assert office.events({"ext": "ann", "id": "a1"}).repeated == 1
    assert office.run() is None
    after = syncing.show_sync(office.app, "everything")[0].fresh_at
    assert before is not None and after is not None and after > before, "freshness moves without a run"
    assert opened == []
    assert office.verify().equal
    assert len(opened) == 1


def test_changes_merges_and_erasures_reach_the_warehouse(office: Office) -> None:
    cast(office)
    office.events({"email": "ann@example.com", "id": "mail"})
    office.apply()
    office.run()
    visitor = office.who("ann@example.com")
    office.events({"ext": "ann", "email": "ann@example.com", "id": "both"})  # merges the visitor into Ann
    office.profiles({"ext": "ben", "first": "Benjamin"})
    run = office.run()
    assert run is not None and run.kind is RunKind.PERIODIC
    assert office.dwh(f"SELECT count(*) FROM klaviyo_profile WHERE id = '{visitor}'") == [(0,)]
    assert office.dwh("SELECT DISTINCT profile_id FROM klaviyo_event WHERE unique_id IN ('mail', 'both')") == [
        (office.who("ann"),)
    ]
    office.assert_same()
    office.erase("ann")
    assert office.run() is not None
    assert office.ids() == {"b1"}
    office.assert_same()
    assert office.run() is None


def test_an_event_both_sides_of_a_merge_had_goes_from_the_warehouse_too(office: Office) -> None:
    office.events({"ext": "kay", "id": "same"}, {"email": "kay@example.com", "id": "same"})
    office.apply()
    office.run()
    assert office.dwh("SELECT count(*) FROM klaviyo_event") == [(2,)]
    office.events({"ext": "kay", "email": "kay@example.com", "id": "both"})
    office.run()
    assert office.ids() == {"same", "both"}
    office.assert_same()


def test_only_the_chosen_metrics_and_integrations_are_sent(office: Office) -> None:
    cast(office)
    office.apply(events={"metrics": ["Order"], "exclude_integrations": ["Shop"]})
    office.run()
    assert office.ids() == {"a1"}
    assert office.dwh("SELECT count(*) FROM klaviyo_profile") == [(2,)]
    assert office.dwh("SELECT name, integration_name FROM klaviyo_metric") == [("Order", "File")]
    office.events({"ext": "ben", "id": "b2", "metric": "Visit"}, {"ext": "ben", "id": "b3", "integration": "Shop"})
    office.run()
    assert office.ids() == {"a1"}
    office.events({"ext": "ben", "id": "b4"})
    office.run()
    assert office.ids() == {"a1", "b4"}
    assert office.verify().equal


@pytest.mark.parametrize(
    ("what", "tables"), [("profiles", {"klaviyo_profile"}), ("events", {"klaviyo_event", "klaviyo_metric"})]
)
def test_one_kind_alone_makes_only_its_tables(office: Office, what: str, tables: set[str]) -> None:
    cast(office)
    office.apply(profiles=what == "profiles", events=what == "events")
    office.run()
    assert {t for (t,) in office.dwh("SELECT table_name FROM duckdb_tables()")} - {"_isthmus_receipts"} == tables
    assert office.verify().equal


@pytest.mark.parametrize(
    ("history", "sent"),
    [
        ("30d", {"29"}),
        pytest.param("90d", {"29", "89"}, marks=pytest.mark.long),
        pytest.param("1y", {"29", "89", "364"}, marks=pytest.mark.long),
        pytest.param("all", {"29", "89", "364", "4000"}, marks=pytest.mark.long),
        ((datetime.now(UTC) - timedelta(days=100)).date().isoformat(), {"29", "89"}),
    ],
)
def test_history_is_cut_by_the_time_of_the_event_and_what_comes_later_is_not(
    office: Office, history: str, sent: set[str]
) -> None:
    office.events(*({"ext": "ann", "id": f"{days}", "at": days_ago(days)} for days in (29, 89, 364, 4000)))
    office.apply(history=history)
    office.run()
    assert office.ids() == sent
    office.events({"ext": "ann", "id": "late and old", "at": "2001-01-01"})
    office.run()
    assert office.ids() == {*sent, "late and old"}
    assert office.verify().equal
    # A merge moves an old event; it is still out of scope.
    office.events({"email": "ann@example.com", "id": "x"})
    office.events({"ext": "ann", "email": "ann@example.com", "id": "y"})
    office.run()
    assert office.ids() == {*sent, "late and old", "x", "y"}
    assert office.verify().equal


def test_what_lands_while_history_is_under_way_comes_with_the_next_run(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.events({"ext": "ann", "id": "before", "at": days_ago(1)})
    office.apply(history="30d")
    landed = []
    loading = DuckDBWarehouse.load

    def landing(self: DuckDBWarehouse, batch: Any) -> Any:
        if not landed:
            landed.append(office.events({"ext": "ann", "id": "seam", "at": "2001-01-01"}))
        return loading(self, batch)

    monkeypatch.setattr(DuckDBWarehouse, "load", landing)
    office.run()
    assert office.ids() == {"before"}
    office.run()
    assert office.ids() == {"before", "seam"}
    assert office.run() is None
    office.assert_same()


@pytest.mark.parametrize("number", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (0, 1))])
def test_a_run_that_failed_goes_on_where_it_stopped(
    office: Office, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cast(office)
    office.apply()
    loading, loads = DuckDBWarehouse.load, []

    def failing(self: DuckDBWarehouse, batch: Any) -> Any:
        loads.append(batch.batch_id)
        if len(loads) == number + 1:
            raise Unreachable("no answer")
        return loading(self, batch)

    with monkeypatch.context() as m:
        m.setattr(DuckDBWarehouse, "load", failing)
        with pytest.raises(Unreachable):
            office.run()
    stopped = syncing.list_runs(office.app, sync="everything", limit=5)
    assert [r.state for r in stopped] == [RunState.RETRYING]
    office.events({"ext": "ann", "id": "meanwhile"})
    office.run()
    run = syncing.show_run(office.app, stopped[0].run_id)
    assert run.state is RunState.COMPLETED
    assert run.errors[0].summary == "no answer"
    assert sum(c.rows for c in run.chunks) == 8, "it delivered the moment that it was planned for"
    assert office.ids() == {"a1", "a2", "b1", "meanwhile"}, "and what came since, came after it"
    office.assert_same()


def test_a_batch_that_was_in_although_the_answer_was_lost_is_not_loaded_twice(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast(office)
    office.apply()
    loading = DuckDBWarehouse.load

    def lost(self: DuckDBWarehouse, batch: Any) -> Any:
        loading(self, batch)
        raise Unreachable("the answer was lost")

    for _ in range(3):
        with monkeypatch.context() as m:
            m.setattr(DuckDBWarehouse, "load", lost)
            with pytest.raises(Unreachable):
                office.run()
    office.run()
    office.assert_same()
    assert office.dwh("SELECT count(*), count(DISTINCT batch_id) FROM _isthmus_receipts") == [(3, 3)]


@pytest.mark.parametrize("first", [pytest.param(True, marks=pytest.mark.long), False])
def test_a_run_planned_again_after_its_moment_is_gone_doubles_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    cast(office)
    office.apply()
    if not first:
        office.run()
        office.events({"ext": "ann", "id": "a3"}, {"ext": "cleo", "id": "c1", "metric": "New"})
    loading, loads = DuckDBWarehouse.load, []

    def failing(self: DuckDBWarehouse, batch: Any) -> Any:
        receipt = loading(self, batch)
        loads.append(batch)
        if batch.table.name == "klaviyo_event":
            raise Unreachable("no answer")  # after the rows are in
        return receipt

    with monkeypatch.context() as m:
        m.setattr(DuckDBWarehouse, "load", failing)
        with pytest.raises(Unreachable):
            office.run()
    office.erase("ben")
    office.events({"ext": "ann", "id": "later"})
    moment = datetime.now(UTC) + timedelta(days=9)
    upkeep.tidy(office.app.lake, retention=timedelta(hours=1), now=moment)
    run = office.run()
    assert run is not None and run.state is RunState.COMPLETED
    states = [r.state for r in syncing.list_runs(office.app, sync="everything", limit=5)]
    assert states[:2] == [RunState.COMPLETED, RunState.CANCELLED]
    office.assert_same()
    office.events({"ext": "ann", "id": "last"})
    office.run()
    office.assert_same()


def test_reactivating_replaces_what_is_no_longer_in_scope(office: Office) -> None:
    cast(office)
    office.apply()
    office.run()
    office.apply(events={"metrics": ["Visit"]})
    office.run()
    assert office.ids() == {"a2"}
    assert office.verify().equal
    office.dwh("INSERT INTO klaviyo_event (id, unique_id) VALUES ('stray', 'stray')")
    syncing.reactivate_sync(office.app, "everything")
    run = office.run()
    assert run is not None and run.kind is RunKind.HISTORICAL
    assert office.ids() == {"a2"}
    assert office.verify().equal


@pytest.mark.long
def test_a_table_that_somebody_emptied_or_dropped_is_made_good_by_reactivating(office: Office) -> None:
    cast(office)
    office.apply()
    office.run()
    office.dwh("DROP TABLE klaviyo_event")
    office.dwh("DELETE FROM klaviyo_profile")
    syncing.reactivate_sync(office.app, "everything")
    office.run()
    office.assert_same()


# Proof


def windows(office: Office) -> None:
    """Three deliveries, so that there are three windows."""
    office.events(*({"ext": "ann", "id": f"first {n}"} for n in range(5)))
    office.apply()
    office.run()
    for word in ("second", "third"):
        office.events(*({"ext": "ben", "id": f"{word} {n}"} for n in range(5)))
        office.run()


TAMPERINGS: list[tuple[str, list[tuple[str, str, bool]]]] = [
    ("DELETE FROM klaviyo_event WHERE unique_id = 'second 3'", [("klaviyo_event", "(1, 2]", False)]),
    ("UPDATE klaviyo_event SET value = 1 WHERE unique_id = 'third 0'", [("klaviyo_event", "(2, 3]", False)]),
    (
        "UPDATE klaviyo_event SET event_properties = event_properties || ' ' WHERE unique_id = 'first 0'",
        [("klaviyo_event", "(0, 1]", False)],
    ),
    (
        "INSERT INTO klaviyo_event SELECT * REPLACE ('copy' AS id) FROM klaviyo_event WHERE unique_id = 'second 0'",
        [("klaviyo_event", "(1, 2]", False)],
    ),
    (
        "INSERT INTO klaviyo_event SELECT * FROM klaviyo_event WHERE unique_id = 'second 0'",
        [("klaviyo_event", "(1, 2]", False)],
    ),
    ("INSERT INTO klaviyo_event (id) VALUES ('stray')", [("klaviyo_event", "(…, …]", True)]),
    (
        "UPDATE klaviyo_event SET _isthmus_seq = 2 WHERE unique_id = 'third 0'",
        [("klaviyo_event", "(1, 2]", False), ("klaviyo_event", "(2, 3]", False)],
    ),
    (
        "UPDATE klaviyo_event SET _isthmus_seq = 99 WHERE unique_id = 'third 0'",
        [("klaviyo_event", "(2, 3]", False), ("klaviyo_event", "(…, …]", True)],
    ),
    (
        "UPDATE klaviyo_profile SET email = 'x@y.z' WHERE external_id = 'ann'",
        [("klaviyo_profile", "(0, 1]", False)],
    ),
    ("DELETE FROM klaviyo_metric", [("klaviyo_metric", "(0, 1]", False)]),
]


def test_every_difference_is_named_by_table_and_window_and_mended_there(office: Office) -> None:
    windows(office)
    assert office.verify().equal
    for tampering, expected in TAMPERINGS:
        office.dwh(tampering)
        before, run, after = syncing.repair_sync(office.app, "everything")
        assert differing(before) == expected, tampering
        assert run is not None and run.kind is RunKind.REPAIR
        assert {"klaviyo_" + c.table for c in run.chunks} == {table for table, _, _ in expected}
        if not any(outside for _, _, outside in expected):
            assert len(run.chunks) == len(expected), "only the windows that differ are sent again"
        assert after.equal, tampering
    office.assert_same()
    assert syncing.repair_sync(office.app, "everything")[1] is None
    office.events({"ext": "ann", "id": "later"})
    office.run()
    office.assert_same()


def test_proof_and_repair_are_of_the_moment_of_the_last_delivery(office: Office) -> None:
    windows(office)
    office.erase("ben")
    office.events({"ext": "ann", "id": "not sent yet"})
    assert office.verify().equal, "what is not delivered yet is no difference"
    office.dwh("DELETE FROM klaviyo_event WHERE unique_id = 'first 1'")
    assert syncing.repair_sync(office.app, "everything")[2].equal
    office.run()
    assert office.ids() == {*(f"first {n}" for n in range(5)), "not sent yet"}
    office.assert_same()


def test_a_rewrite_of_everything_since_changes_nothing_about_the_moment_that_is_proven(office: Office) -> None:
    windows(office)
    office.events(*({"ext": "gone", "id": f"gone {n}"} for n in range(3)))
    office.run()
    delivered = office.dwh("SELECT * FROM klaviyo_profile ORDER BY id")
    for name in ("ann", "ben"):
        office.profiles({"ext": name, "first": name.title()})
    office.erase("gone")  # rewrites the files: no profile is as it was at the last delivery
    proof = office.verify()
    assert differing(proof) == []
    assert sum(w.store.rows for w in proof.windows if w.table == "klaviyo_profile") == 3
    assert syncing.repair_sync(office.app, "everything")[1] is None
    assert office.dwh("SELECT * FROM klaviyo_profile ORDER BY id") == delivered
    office.run()
    office.assert_same()


def test_before_anything_was_delivered_there_is_nothing_to_verify(office: Office) -> None:
    office.apply()
    with pytest.raises(InvalidInput, match="not delivered anything"):
        office.verify()


def test_an_empty_store_is_delivered_and_what_comes_then_too(office: Office) -> None:
    office.apply()
    office.run()
    cast(office)
    office.run()
    office.assert_same()


# One at a time

_HOLD = """
import sys, time
from pathlib import Path
from isthmus.actions.here import present
from isthmus.app import App
from isthmus.ledger import dues, lanes
from isthmus.settings import Settings
with App(Settings.load({}, Path(sys.argv[2]))) as app, present(app) as here:
    with app.ledger.transaction() as tx:
        for attempt in dues.start(tx, sys.argv[1], at=app.now()):
            lanes.begin(tx, attempt, here.worker_id, at=app.now())
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_of_one_sync_at_once_one_wins_and_the_other_says_so(office: Office) -> None:
    cast(office)
    office.apply()
    sync = office.app.sync("everything")
    command = [sys.executable, "-c", _HOLD, sync.sync_id, str(office.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        for attempt in (office.run, lambda: syncing.repair_sync(office.app, "everything")):
            with pytest.raises(SyncBusy) as told:
                attempt()
            assert "'everything'" in told.value.summary and told.value.hint
        other.kill()
        other.wait()
    assert office.run() is not None, "what a killed process was at is taken up"


def test_a_paused_sync_is_not_run_and_goes_on_when_resumed(office: Office) -> None:
    cast(office)
    office.apply()
    syncing.pause_sync(office.app, "everything")
    with pytest.raises(InvalidInput, match="paused"):
        office.run()
    syncing.resume_sync(office.app, "everything")
    assert office.run() is not None
    office.assert_same()


@pytest.mark.long
def test_a_run_paused_between_two_chunks_goes_on_there(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    cast(office)
    office.apply()
    loading, loads = DuckDBWarehouse.load, []

    def pausing(self: DuckDBWarehouse, batch: Any) -> Any:
        loads.append(batch.batch_id)
        if len(loads) == 2:
            syncing.pause_sync(office.app, "everything")
        return loading(self, batch)

    monkeypatch.setattr(DuckDBWarehouse, "load", pausing)
    with pytest.raises(Exception, match="paused by a person"):
        office.run()
    assert len(loads) == 2
    syncing.resume_sync(office.app, "everything")
    office.run()
    assert len(loads) == len(set(loads)) == 3
    office.assert_same()


@pytest.mark.long
def test_chunks_smaller_than_the_history_add_up(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(6):
        office.events(*({"ext": f"p{n}", "id": f"{n} {i}"} for i in range(4)))
    monkeypatch.setattr(plan, "CHUNK_ROWS", 8)
    monkeypatch.setattr(plan.history, "__kwdefaults__", {"limit": 8})
    office.apply()
    run = office.run()
    assert run is not None
    assert len([c for c in run.chunks if c.table == "event"]) == 3
    office.assert_same()
    syncing.reactivate_sync(office.app, "everything")
    office.run()
    office.assert_same()


@pytest.mark.parametrize("history", ["", "31", "30 days", "yesterday", "2026-13-01", "-30d", "0x10d"])
def test_a_history_that_is_not_understood_is_refused(office: Office, history: str) -> None:
    with pytest.raises(InvalidInput):
        office.apply(history=history)


def test_the_preview_says_what_a_run_sends(office: Office) -> None:
    cast(office)
    office.apply()
    assert {p["table"]: p["rows"] for p in syncing.preview_sync(office.app, "everything")} == {
        "klaviyo_metric": 3,
        "klaviyo_profile": 2,
        "klaviyo_event": 3,
    }
    assert not Path(office.connection["path"]).exists()
    office.run()
    assert sum(int(str(p["rows"])) for p in syncing.preview_sync(office.app, "everything")) == 0

"""The whole product at every kind of warehouse, through its stand-in: out, back in, and silence without news."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from isthmus.actions import connecting, people, syncing
from isthmus.actions.applying import apply
from isthmus.app import App
from isthmus.imports.load import load
from isthmus.model.mapping import Given, Mapping, as_document, parse, renamed
from isthmus.model.tables import ALL, named
from isthmus.settings import Settings
from isthmus.testing.builders import file_of, fresh_home
from isthmus.testing.standins.ready import READY, Ready

VISITS = Mapping(
    data="events",
    identifiers=(("external_id", "ext"), ("email", "email")),
    event_time="at",
    metric=Given(constant="Visit"),
    unique_id="id",
)
ORDERS = {
    "event_time": "bought_at",
    "metric": {"constant": "Order"},
    "identifiers": {"external_id": "customer"},
    "changed_at": "loaded_at",
    "unique_id": "order_id",
    "value": "amount",
    "value_currency": {"constant": "EUR"},
}
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(scope="module", params=READY)
def standin(request: pytest.FixtureRequest) -> Iterator[Ready]:
    with READY[request.param]([named(t, "klaviyo_") for t in ALL]) as ready:
        yield ready


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with App(Settings.load({}, fresh_home(tmp_path / "home"))) as app:
        yield app


def wish(app: App, standin: Ready, folder: Path, **more: Any) -> None:
    connection, secrets = standin.connection()
    file = folder / "isthmus.yaml"
    file.write_text(yaml.safe_dump({"connections": [{"name": "dwh", **connection}], **more}))
    apply(app, file, plan_only=False, environ=secrets)


def visits(app: App, folder: Path, *rows: dict[str, Any]) -> None:
    filled = [{"at": "2026-01-01T12:00:00Z", **row} for row in rows]
    assert load(app.lake, file_of(folder, filled), "events", mapping=VISITS).rejected == 0


def orders(*numbers: int, loaded_at: datetime, note: str = "note") -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "order_id": f"o{n}",
                "customer": f"c{n % 3}",
                "bought_at": NOON + timedelta(hours=n),
                "loaded_at": loaded_at,
                "amount": n / 8,
                note: None if n % 2 else f'{{"n": {n}}}',
            }
            for n in numbers
        ]
    )


def test_every_check_says_yes(app: App, standin: Ready, tmp_path: Path) -> None:
    file = tmp_path / "exposed.parquet"
    pq.write_table(orders(1, loaded_at=NOON), file)
    standin.expose("something", file)  # an empty import schema would be worth a word
    wish(app, standin, tmp_path)
    answers = list(connecting.check_connection(app, "dwh"))
    assert [a for a in answers if not a.passed or a.warns] == []
    assert len(answers) >= 5


def test_history_changes_merges_and_erasures_arrive_and_are_proven(app: App, standin: Ready, tmp_path: Path) -> None:
    if not standin.config.traits.loads:
        return
    visits(app, tmp_path, {"ext": "ann", "id": "a1", "note": "ünï\\c0dé {x}"}, {"email": "ann@example.com", "id": "m1"})
    export = {"name": "everything", "connection": "dwh", "schedule": "manual", "table_prefix": "first_"}
    wish(app, standin, tmp_path, exports=[export])
    assert syncing.run_sync(app, "everything") is not None
    assert syncing.verify_sync(app, "everything").equal
    visits(app, tmp_path, {"ext": "ann", "email": "ann@example.com", "id": "a2"}, {"ext": "ben", "id": "b1"})
    syncing.run_sync(app, "everything")
    assert syncing.verify_sync(app, "everything").equal
    people.erase_person(app, "ann")
    syncing.run_sync(app, "everything")
    proof = syncing.verify_sync(app, "everything")
    assert proof.equal and proof.rows == 3  # ben, his visit, and the metric
    before = list(standin.statements()) if standin.statements else []
    assert syncing.run_sync(app, "everything") is None
    after = list(standin.statements()) if standin.statements else []
    assert after == before, "nothing changed, and yet something was asked"


@pytest.mark.long
def test_a_difference_is_named_and_mended(app: App, standin: Ready, tmp_path: Path) -> None:
    if not standin.config.traits.loads:
        return
    export = {"name": "everything", "connection": "dwh", "schedule": "manual", "table_prefix": "second_"}
    visits(app, tmp_path, {"ext": "ann", "id": "a1"}, {"ext": "ann", "id": "a2"})
    wish(app, standin, tmp_path, exports=[export])
    syncing.run_sync(app, "everything")
    visits(app, tmp_path, {"ext": "ben", "id": "b1"})
    syncing.run_sync(app, "everything")
    # A second store, at the same tables: what it delivers is not what the first one holds.
    with App(Settings.load({}, fresh_home(tmp_path / "other"))) as other:
        visits(other, tmp_path, {"ext": "eve", "id": "e1"})
        wish(other, standin, tmp_path, exports=[export])
        syncing.run_sync(other, "everything")
    assert not syncing.verify_sync(app, "everything").equal
    assert syncing.repair_sync(app, "everything")[2].equal
    assert syncing.verify_sync(app, "everything").equal


def test_what_the_customer_exposes_comes_in_once(app: App, standin: Ready, tmp_path: Path) -> None:
    file = tmp_path / "orders.parquet"
    note = "Note_42" if standin.config.kind == "bigquery" else "Note ü"  # BigQuery knows no such name
    pq.write_table(orders(*range(10), loaded_at=NOON, note=note), file)
    standin.expose("orders", file)
    mapping = as_document(renamed(parse(ORDERS, "events"), standin.named))
    intake = {"name": "orders", "connection": "dwh", "data": "events", "relation": "orders", "mapping": mapping}
    wish(app, standin, tmp_path, imports=[intake])
    run = syncing.run_sync(app, "orders")
    assert run is not None and run.counts["landed"] == 10
    assert app.lake.query("SELECT sum(value), count(DISTINCT profile_id) FROM events") == [(45 / 8, 3)]
    times = "SELECT min(epoch_us(datetime)), max(epoch_us(datetime)) FROM events"
    first, last = (int(t.timestamp()) * 1_000_000 + t.microsecond for t in (NOON, NOON + timedelta(hours=9)))
    assert app.lake.query(times) == [(first, last)]
    ((found,),) = app.lake.query("SELECT event_properties::VARCHAR FROM events WHERE unique_id = 'o4'")
    properties = json.loads(found)
    # Some fold the case of a column's name.
    assert [v for name, v in properties.items() if name.lower() == note.lower()] == [{"n": 4}], properties
    again = syncing.run_sync(app, "orders")
    assert again is None or again.counts.get("landed", 0) == 0
    # The same moment once more, and a later one: neither is lost, and nothing is doubled.
    for moment, numbers in ((NOON, (10, 11)), (NOON + timedelta(seconds=1), (12,))):
        pq.write_table(orders(*numbers, loaded_at=moment, note=note), file)
        standin.expose("orders", file)
    syncing.run_sync(app, "orders")
    assert app.lake.query("SELECT count(*), count(DISTINCT unique_id) FROM events") == [(13, 13)]

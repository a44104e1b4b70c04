"""The office of the export tests: a home, a warehouse, an export between them, and short words for what happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import yaml

from isthmus.actions import people, syncing
from isthmus.actions.applying import apply
from isthmus.app import App
from isthmus.exports.prove import Proof
from isthmus.imports.load import load
from isthmus.model.intake import Counts
from isthmus.model.mapping import Given, Mapping
from isthmus.model.work import Run
from isthmus.settings import Settings
from isthmus.store import people as persons
from isthmus.testing.builders import file_of, fresh_home

EVENTS = Mapping(
    data="events",
    identifiers=(("external_id", "ext"), ("email", "email")),
    event_time="at",
    metric=Given(column="metric"),
    integration=Given(column="integration"),
    unique_id="id",
    value="worth",
    value_currency=Given(constant="EUR"),
)
PROFILES = Mapping(
    data="profiles",
    identifiers=EVENTS.identifiers,
    fields=(("first_name", "first"), ("location_latitude", "lat")),
)

Ask = Callable[[str], list[tuple[Any, ...]]]

EVENT_COLUMNS = (
    "id, metric_id, profile_id, datetime, uuid, event_properties, metric_name, integration_name, value, "
    "value_currency, unique_id, ingested"
)
PROFILE_COLUMNS = (
    "id, external_id, email, phone_number, first_name, last_name, title, organization, image, locale, "
    "location_address1, location_address2, location_city, location_region, location_country, location_zip, "
    "location_latitude, location_longitude, location_timezone, location_ip, properties, subscriptions, created, "
    "updated, last_event_date"
)
METRIC_COLUMNS = "id, name, integration_name, created, updated"

IN_STORE = {
    "klaviyo_event": "SELECT id::VARCHAR, metric_id::VARCHAR, profile_id::VARCHAR, epoch_us(datetime), id::VARCHAR, "
    "event_properties::VARCHAR, metric_name, integration_name, value, value_currency, unique_id, epoch_us(ingested), "
    "seq FROM events",
    "klaviyo_profile": "SELECT id::VARCHAR, external_id, email, first_name, location_latitude, properties::VARCHAR, "
    "epoch_us(created), epoch_us(updated), epoch_us(last_event_date), seq FROM profiles",
    "klaviyo_metric": "SELECT id::VARCHAR, name, integration_name, epoch_us(created), epoch_us(updated), seq "
    "FROM metrics",
}
IN_DUCKDB = {
    "klaviyo_event": "SELECT id, metric_id, profile_id, epoch_us(datetime), uuid, event_properties, metric_name, "
    "integration_name, value, value_currency, unique_id, epoch_us(ingested), _isthmus_seq FROM klaviyo_event",
    "klaviyo_profile": "SELECT id, external_id, email, first_name, location_latitude, properties, epoch_us(created), "
    "epoch_us(updated), epoch_us(last_event_date), _isthmus_seq FROM klaviyo_profile",
    "klaviyo_metric": "SELECT id, name, integration_name, epoch_us(created), epoch_us(updated), _isthmus_seq "
    "FROM klaviyo_metric",
}


class Office:
    """A home with an export "everything" to the DuckDB file `dwh`, unless applied otherwise."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None, home: Path | None = None) -> None:
        self.folder = folder
        self.home = home or fresh_home(folder / "home")
        self.environ = environ or {}
        self.app = App(Settings.load(self.environ, self.home))
        self.connection: dict[str, Any] = {"name": "dwh", "kind": "duckdb", "path": str(folder / "dwh.duckdb")}

    def close(self) -> None:
        self.app.__exit__()

    def apply(self, **export: Any) -> None:
        document = {
            "connections": [self.connection],
            "exports": [{"name": "everything", "connection": "dwh", "schedule": "manual", **export}],
        }
        file = self.folder / "isthmus.yaml"
        file.write_text(yaml.safe_dump(document))
        apply(self.app, file, plan_only=False, environ={})

    def events(self, *rows: dict[str, Any]) -> Counts:
        filled = [{"at": "2026-01-01T12:00:00Z", "metric": "Order", "id": uuid4().hex, **row} for row in rows]
        return load(self.app.lake, file_of(self.folder, filled), "events", mapping=EVENTS)

    def profiles(self, *rows: dict[str, Any]) -> Counts:
        return load(self.app.lake, file_of(self.folder, rows), "profiles", mapping=PROFILES)

    def who(self, key: str) -> str:
        return persons.find(self.app.lake, key)

    def erase(self, key: str) -> None:
        people.erase_person(self.app, key)

    def run(self) -> Run | None:
        return syncing.run_sync(self.app, "everything")

    def verify(self) -> Proof:
        return syncing.verify_sync(self.app, "everything")

    def dwh(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask, or change, the warehouse behind everybody's back."""
        with closing(duckdb.connect(self.connection["path"])) as con:
            con.execute("SET TimeZone='UTC'")
            return con.execute(sql).fetchall()

    def ids(self) -> set[str]:
        """The unique ids of the events in the warehouse, each once."""
        found = [unique_id for (unique_id,) in self.dwh("SELECT unique_id FROM klaviyo_event")]
        assert len(found) == len(set(found)), "an event is there twice"
        return set(found)

    def assert_same(self) -> None:
        """Store and warehouse hold the same rows: by looking at every row, and by the product's own proof."""
        for table, here in IN_STORE.items():
            ours = sorted(self.app.lake.query(here), key=repr)
            theirs = sorted(self.dwh(IN_DUCKDB[table]), key=repr)
            assert theirs == ours, table
        assert self.verify().equal


def differing(proof: Proof) -> list[tuple[str, str, bool]]:
    """(table, window, outside) of every window that differs."""
    return [(w.table, str(w.window), w.outside) for w in proof.windows if not w.equal]

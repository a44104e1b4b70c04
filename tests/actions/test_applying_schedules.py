"""A person says in the file how often, how fresh and how many at once; the ledger knows when that is due."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import update

from isthmus.actions import applying
from isthmus.app import App
from isthmus.ledger import connections, syncs
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Change
from isthmus.ledger.schema import syncs as table
from isthmus.model.errors import InvalidInput
from isthmus.model.work import Scope, Sync, SyncState
from isthmus.runs import schedule
from isthmus.settings import Settings
from isthmus.testing.builders import fresh_home

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "apply.md"


class Person:
    """Somebody with a file, at noon."""

    def __init__(self, app: App, folder: Path) -> None:
        self.app, self.folder = app, folder

    def apply(
        self, *, connection: dict[str, Any] | None = None, plan_only: bool = False, **export: Any
    ) -> list[Change]:
        """Apply a file with one connection and one export; what became of each."""
        file = self.folder / "isthmus.yaml"
        dwh = {"name": "dwh", "kind": "duckdb", "path": "dwh.duckdb"} | (connection or {})
        everything = {"name": "everything", "connection": "dwh"} | export
        file.write_text(yaml.safe_dump({"connections": [dwh], "exports": [everything]}))
        return [applied.change for applied in applying.apply(self.app, file, plan_only=plan_only, environ={})]

    def begin(self, next_due: datetime | None = None) -> None:
        """What the first run and the scheduler do: fix a scope, and say when it is due again."""
        with self.app.ledger.transaction() as tx:
            sync = syncs.named(tx, "everything")
            syncs.set_scope(tx, sync.sync_id, Scope(None, 1), generation=sync.generation, at=NOON)
            tx.execute(update(table).values(next_due=next_due))

    @property
    def sync(self) -> Sync:
        return self.app.sync("everything")

    @property
    def connection(self) -> StoredConnection:
        return self.app.connection("dwh")


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    monkeypatch.setattr(App, "now", lambda self: NOON)
    with App(Settings.load({}, fresh_home(tmp_path / "home"))) as app:
        yield Person(app, tmp_path)


def test_a_schedule_is_kept_in_one_way_of_writing_it(person: Person) -> None:
    assert person.apply(schedule="0 6  * * mon-fri europe/berlin") == [Change.CREATED, Change.CREATED]
    assert person.sync.schedule == "0 6 * * MON-FRI Europe/Berlin"
    assert person.apply(schedule="0 6 * * MON-FRI Europe/Berlin") == [Change.UNCHANGED, Change.UNCHANGED]


@pytest.mark.parametrize("wrong", ["sometimes", "every 5s", "61 * * * *", "0 0 30 2 *", "0 6 * * * Europe/Nowhere"])
def test_a_schedule_that_is_none_changes_nothing_and_says_what_to_write(person: Person, wrong: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        person.apply(schedule=wrong)
    assert wrong in raised.value.summary and raised.value.hint
    with person.app.ledger.reading() as tx:
        assert not syncs.every(tx) and not connections.every(tx)


def test_a_new_sync_is_due_now(person: Person) -> None:
    person.apply(schedule="daily")
    assert person.sync.next_due is None
    person.apply(schedule="weekly")  # nothing was looking yet
    assert person.sync.next_due is None


def test_a_changed_schedule_waits_for_its_next_moment(person: Person) -> None:
    person.apply(schedule="daily")
    person.begin(NOON + timedelta(hours=12))
    assert person.apply(schedule="every 5m") == [Change.UNCHANGED, Change.CHANGED]
    assert person.sync.next_due == schedule.read("every 5m").following(NOON, person.sync.sync_id)
    assert person.apply(schedule="manual") == [Change.UNCHANGED, Change.CHANGED]
    assert person.sync.next_due is None
    person.apply(schedule="0 6 * * *")
    assert person.sync.next_due == schedule.read("0 6 * * *").following(NOON, person.sync.sync_id)


def test_the_same_schedule_again_leaves_the_next_moment_alone(person: Person) -> None:
    person.apply(schedule="daily")
    person.begin(NOON)
    assert person.apply(schedule="Daily") == [Change.UNCHANGED, Change.UNCHANGED]
    assert person.apply(schedule="daily", freshness_limit="2d") == [Change.UNCHANGED, Change.CHANGED]
    assert person.sync.next_due == NOON


def test_a_sync_that_begins_again_is_due_now_whatever_its_schedule(person: Person) -> None:
    person.apply(schedule="daily")
    person.begin(NOON + timedelta(hours=12))
    assert person.apply(schedule="weekly", history="1y") == [Change.UNCHANGED, Change.RESTARTED]
    assert person.sync.next_due is None
    person.begin(NOON + timedelta(hours=12))
    assert person.apply(connection={"path": "other.duckdb"}, schedule="daily", history="1y") == [
        Change.RESTARTED,
        Change.CHANGED,
    ]
    assert person.sync.next_due is None


def test_a_sync_whose_connection_comes_back_is_due_now_and_begins_to_count_anew(person: Person) -> None:
    person.apply()
    person.begin(NOON + timedelta(hours=1))
    with person.app.ledger.transaction() as tx:
        tx.execute(update(table).values(state=SyncState.PAUSED, failures=5, paused_because="it failed 5 times"))
        connections.remove(tx, "dwh", at=NOON)
    assert (person.sync.state, person.sync.failures) == (SyncState.DISABLED, 5)
    person.apply(schedule="daily")
    back = person.sync
    assert (back.state, back.next_due, back.failures, back.paused_because) == (SyncState.ENABLED, None, 0, "")


def test_a_freshness_limit_is_kept_in_seconds_changed_and_taken_back(person: Person) -> None:
    for written, kept in (("3h", 10_800), ("90m", 5400), ("2d", 172_800), (None, None)):
        change = person.apply(freshness_limit=written)[1]
        assert person.sync.freshness_limit_s == kept
        assert change is (Change.CREATED if written == "3h" else Change.CHANGED)
        assert person.apply(freshness_limit=written)[1] is Change.UNCHANGED
    assert person.sync.generation == 1


@pytest.mark.parametrize("wrong", ["soon", "0m", "30s", "3", 90])
def test_a_freshness_limit_that_is_none_names_the_field(person: Person, wrong: object) -> None:
    with pytest.raises(InvalidInput, match="freshness_limit"):
        person.apply(freshness_limit=wrong)


def test_a_concurrency_is_kept_and_changing_it_begins_nothing_again(person: Person) -> None:
    person.apply()
    person.begin(NOON)
    assert person.connection.concurrency is None
    for given in (8, 1, None):
        assert person.apply(connection={"concurrency": given}) == [Change.CHANGED, Change.UNCHANGED]
        assert person.connection.concurrency == given
        assert person.apply(connection={"concurrency": given}) == [Change.UNCHANGED, Change.UNCHANGED]
    assert (person.sync.generation, person.sync.next_due) == (1, NOON)
    assert "concurrency" not in person.connection.fields


@pytest.mark.parametrize("wrong", [0, 3, 16, -1, "many", 1.5])
def test_another_concurrency_is_an_error_that_says_which_there_are(person: Person, wrong: object) -> None:
    with pytest.raises(InvalidInput, match=r"connections\.0\.concurrency: .*1, 2, 4 or 8"):
        person.apply(connection={"concurrency": wrong})


def test_a_plan_says_what_would_change_and_changes_nothing(person: Person) -> None:
    person.apply()
    person.begin(NOON)
    changes = person.apply(connection={"concurrency": 2}, schedule="daily", freshness_limit="3h", plan_only=True)
    assert changes == [Change.CHANGED, Change.CHANGED]
    assert (person.sync.schedule, person.sync.freshness_limit_s, person.sync.next_due) == ("hourly", None, NOON)
    assert person.connection.concurrency is None


def test_every_key_of_the_file_is_in_its_reference() -> None:
    text = REFERENCE.read_text()
    keys = [*applying._Document.model_fields, *applying._Connection.model_fields, *applying._Export.model_fields]
    keys += applying._Events.model_fields
    later = {"imports", "mailboxes"}
    assert not [key for key in keys if key not in later and f"`{key}`" not in text and f"## {key}" not in text]

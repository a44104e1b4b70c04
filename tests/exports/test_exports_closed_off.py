"""A worker that is frozen in the middle of a chunk whose run was ended meanwhile brings nothing old back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from exports_cast import Office

from isthmus.actions import syncing
from isthmus.actions.here import present
from isthmus.app import App
from isthmus.exports import plan
from isthmus.ledger import closing, dues, lanes, runs
from isthmus.model.errors import IsthmusError, RunStopped, SyncBusy
from isthmus.model.table import Batch
from isthmus.model.work import Run, RunError, RunState
from isthmus.settings import Settings
from isthmus.testing.standins import PostgresServer
from isthmus.warehouses import duckdb, postgres
from isthmus.warehouses.protocol import Receipt

PEOPLE = 3


@dataclass
class Ice:
    """Freezes whoever loads a batch that is asked for, before its first statement, until it thaws."""

    wanted: Callable[[Batch], bool] = lambda batch: False
    frozen: threading.Event = field(default_factory=threading.Event)
    thawed: threading.Event = field(default_factory=threading.Event)
    loaded: list[tuple[str, int]] = field(default_factory=list)
    stuck: int | None = None

    def pass_by(self, batch: Batch) -> None:
        if self.stuck is None and self.wanted(batch):
            self.stuck = threading.get_ident()
            self.frozen.set()
            assert self.thawed.wait(60)


class Branch:
    """An office, and a second worker (ann) that is to freeze, each with an opening of the home of its own."""

    def __init__(self, office: Office, ice: Ice) -> None:
        self.office, self.ice = office, ice
        self.ann = App(Settings.load(office.environ, office.home))
        self.outcome: list[object] = []
        self.thread: threading.Thread | None = None

    def ids(self) -> set[str]:
        return {str(found) for (found,) in self.office.dwh("SELECT unique_id FROM klaviyo_event")}

    def newest(self) -> Run:
        return syncing.list_runs(self.office.app, sync="everything", limit=1)[0]

    def freeze(self, wanted: Callable[[Batch], bool], what: Callable[[App], object] | None = None) -> Run:
        """ann runs the sync (or does `what`) and freezes; the run that she is at."""
        self.ice.wanted = wanted
        ask = what or (lambda app: syncing.run_sync(app, "everything"))

        def run() -> None:
            try:
                self.outcome.append(ask(self.ann))
            except IsthmusError as e:
                self.outcome.append(e)

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.ice.frozen.wait(60)
        return self.newest()

    def thaw(self) -> object:
        self.ice.thawed.set()
        assert self.thread is not None
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.outcome[0]

    def close(self) -> None:
        self.ice.thawed.set()
        if self.thread is not None:
            self.thread.join(60)
        self.ann.close()
        self.office.close()


@pytest.fixture(params=["duckdb", pytest.param("postgres", marks=pytest.mark.long)])
def branch(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Branch]:
    office, ice = Office(tmp_path), Ice()
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database = server.fresh_database()
        url = server.url(database)
        office.connection = {
            "name": "dwh",
            "kind": "postgres",
            "host": server.host,
            "port": server.port,
            "database": database,
            "username": server.username,
            "password": server.password,
        }

        def asked(sql: str) -> list[tuple[Any, ...]]:
            with psycopg.connect(url, autocommit=True) as con:
                cursor = con.execute(sql)
                return cursor.fetchall() if cursor.description else []

        office.dwh = asked  # type: ignore[method-assign]
    warehouse = duckdb.DuckDBWarehouse if request.param == "duckdb" else postgres.PostgresWarehouse
    if request.param == "duckdb":
        _let_go_while_frozen(monkeypatch, ice)
    else:
        load = warehouse.load

        def late(self: Any, batch: Batch) -> Receipt:
            ice.pass_by(batch)
            receipt = load(self, batch)
            ice.loaded.append((batch.batch_id, receipt.rows))
            return receipt

        monkeypatch.setattr(warehouse, "load", late)
    for planned in (plan.history, plan.changes):
        monkeypatch.setitem(planned.__kwdefaults__, "limit", 1)  # a chunk for each commit
    for n in range(PEOPLE):
        office.events({"ext": f"person {n}", "email": f"p{n}@example.com", "id": f"e{n}"})
    office.apply()
    opened = Branch(office, ice)
    yield opened
    opened.close()


def _let_go_while_frozen(monkeypatch: pytest.MonkeyPatch, ice: Ice) -> None:
    """A DuckDB file has one process at a time: who freezes lets go of it, and takes it again when it thaws."""
    load = duckdb.DuckDBWarehouse.load
    config = duckdb.DuckDBConfig
    opens = config.open
    by_warehouse: dict[int, Any] = {}

    def opened(self: Any) -> Any:
        found = opens(self)
        by_warehouse[id(found)] = self
        return found

    def late(self: Any, batch: Batch) -> Receipt:
        if ice.stuck is None and ice.wanted(batch):
            self.close()
            ice.pass_by(batch)
            with contextlib.closing(opens(by_warehouse[id(self)])) as again:
                receipt = load(again, batch)
        else:
            receipt = load(self, batch)
        ice.loaded.append((batch.batch_id, receipt.rows))
        return receipt

    monkeypatch.setattr(config, "open", opened)
    monkeypatch.setattr(duckdb.DuckDBWarehouse, "load", late)


def events(batch: Batch) -> bool:
    return batch.table.name.endswith("event") and bool(batch.files)


def profiles(batch: Batch) -> bool:
    return batch.table.name.endswith("profile") and bool(batch.files)


@pytest.mark.parametrize("wanted", [events, profiles])
def test_a_history_that_was_cancelled_brings_back_nobody_who_was_erased(
    branch: Branch, wanted: Callable[[Batch], bool]
) -> None:
    office = branch.office
    run = branch.freeze(wanted)
    syncing.cancel_run(office.app, run.run_id)
    office.erase("person 0")
    office.events({"ext": "person 1", "email": "new@example.com", "id": "later"})
    assert office.run() is not None
    assert office.verify().equal
    there = branch.ids()
    assert there == {"e1", "e2", "later"}
    answer = branch.thaw()
    assert isinstance(answer, RunStopped)
    assert branch.ids() == there
    assert office.verify().equal
    assert branch.newest().state is not RunState.RUNNING
    assert syncing.show_run(office.app, run.run_id).state is RunState.CANCELLED


def test_changes_that_were_cancelled_do_not_come_back_over_newer_ones(branch: Branch) -> None:
    office = branch.office
    office.run()
    office.profiles({"ext": "person 0", "first": "Old"})
    run = branch.freeze(profiles)
    syncing.cancel_run(office.app, run.run_id)
    office.profiles({"ext": "person 0", "first": "New"})
    office.erase("person 1")
    office.run()
    branch.thaw()
    assert office.verify().equal
    names = {name for (name,) in office.dwh("SELECT first_name FROM klaviyo_profile WHERE external_id = 'person 0'")}
    assert names == {"New"} and branch.ids() == {"e0", "e2"}
    office.events({"ext": "person 2", "id": "later"})
    office.run()
    assert office.verify().equal


def test_a_sync_that_was_reactivated_is_not_disturbed_by_its_earlier_generation(branch: Branch) -> None:
    office = branch.office
    branch.freeze(events)
    syncing.reactivate_sync(office.app, "everything")
    office.erase("person 0")
    office.run()
    there = branch.ids()
    branch.thaw()
    assert branch.ids() == there == {"e1", "e2"}
    assert office.verify().equal


def test_a_repair_that_was_cancelled_brings_nothing_old_back(branch: Branch) -> None:
    office = branch.office
    office.run()
    office.dwh("DELETE FROM klaviyo_event")
    run = branch.freeze(events, lambda app: syncing.repair_sync(app, "everything"))
    assert run.kind == "repair"
    syncing.cancel_run(office.app, run.run_id)
    office.erase("person 0")
    office.run()
    branch.thaw()
    assert "e0" not in branch.ids()
    syncing.repair_sync(office.app, "everything")
    assert office.verify().equal and branch.ids() == {"e1", "e2"}


def test_a_failed_run_that_was_closed_off_is_never_taken_up_again(branch: Branch) -> None:
    office = branch.office
    office.run()
    office.events({"ext": "person 0", "id": "new"})
    run = branch.freeze(events)
    error = RunError("no grant", "Denied", "", "", False, office.app.now())
    with office.app.ledger.transaction() as tx:
        (attempt,) = lanes.going(tx)
        worker_id = lanes.going(tx)[attempt]
        lanes.fail(tx, attempt, worker_id, error, retry_at=None, limit=9)
        sync = office.app.sync("everything")
        assert dues.resumable(tx, sync) is not None, "until something else is planned it could go on"
        assert [r.run_id for r in closing.to_close_off(tx, sync.sync_id)] == [run.run_id]
        assert dues.resumable(tx, sync) is None
        with pytest.raises(SyncBusy, match="cannot go again"):
            runs.set_state(tx, run.run_id, RunState.SCHEDULED, at=office.app.now())
    assert office.run() is not None
    branch.thaw()
    assert branch.newest().run_id != run.run_id and office.verify().equal
    assert syncing.show_run(office.app, run.run_id).state is RunState.FAILED
    assert branch.ids() == {"e0", "e1", "e2", "new"}


def test_a_run_that_goes_on_elsewhere_is_not_disturbed_by_who_was_frozen_in_it(branch: Branch) -> None:
    """Not cancelled: given to another worker. What both load is the same batch."""
    office = branch.office
    run = branch.freeze(events)
    with present(office.app) as here, office.app.ledger.transaction() as tx:
        assert here.worker_id
        lanes.lost(tx, list(lanes.going(tx).values()), deaths=9, failures_limit=9, at=office.app.now())
    done = office.run()
    assert done is not None and done.run_id == run.run_id and done.state is RunState.COMPLETED
    assert isinstance(branch.thaw(), RunStopped)
    assert branch.ids() == {"e0", "e1", "e2"} and office.verify().equal


def test_a_run_is_closed_off_although_its_tables_are_not_wanted_any_more(branch: Branch) -> None:
    """Events are left out, and the tables have another name, by the time the cancelled run is to be closed off."""
    office = branch.office
    run = branch.freeze(events)
    syncing.cancel_run(office.app, run.run_id)
    office.apply(events=False, table_prefix="other_")
    done = office.run()
    assert done is not None and done.state is RunState.COMPLETED
    branch.thaw()
    assert office.verify().equal

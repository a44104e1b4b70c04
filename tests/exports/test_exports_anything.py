"""Whatever happens in whatever order, an export ends with the warehouse equal to the store."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp

import pytest
from exports_cast import Office
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from isthmus.actions import syncing
from isthmus.model.errors import InvalidInput, Unreachable
from isthmus.store import upkeep
from isthmus.warehouses.duckdb import DuckDBWarehouse

NAMES = st.sampled_from(["ann", "ben", "cleo"])
MAILS = NAMES.map(lambda name: f"{name}@example.com")
ROWS = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 9).map(str), "metric": st.sampled_from(["Order", "Visit"]), "worth": st.integers(0, 9)},
        optional={"ext": NAMES, "email": MAILS},
    ).filter(lambda row: "ext" in row or "email" in row),
    min_size=1,
    max_size=6,
)


class Anything(RuleBasedStateMachine):
    """One office, and people who do things in it in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="isthmus-anything-"))
        self.office = Office(self.folder)
        self.office.apply()
        self.delivered = False

    @rule(rows=ROWS)
    def land_events(self, rows: list[dict[str, object]]) -> None:
        self.office.events(*rows)

    @rule(name=NAMES, first=st.sampled_from("ABC"))
    def land_a_profile(self, name: str, first: str) -> None:
        self.office.profiles({"ext": name, "first": first, "tier": first})

    @rule(name=NAMES)
    def merge(self, name: str) -> None:
        self.office.profiles({"ext": name, "email": f"{name}@example.com"})

    @rule(key=NAMES | MAILS)
    def erase(self, key: str) -> None:
        try:
            self.office.erase(key)
        except InvalidInput:
            pass  # nobody is known by that

    @rule()
    def keep_in_order(self) -> None:
        moment = datetime.now(UTC) + timedelta(days=3)
        keep = [run.snapshot_id for run in syncing.list_runs(self.office.app, sync=None, limit=100)]
        upkeep.tidy(self.office.app.lake, retention=timedelta(), keep=lambda: keep, erase_now=True, now=moment)

    @rule(after=st.integers(0, 2), answered=st.booleans())
    def export_and_fail(self, after: int, answered: bool) -> None:
        loading, loads = DuckDBWarehouse.load, []

        def failing(warehouse: DuckDBWarehouse, batch: object) -> object:
            loads.append(batch)
            if len(loads) <= after:
                return loading(warehouse, batch)  # type: ignore[arg-type]
            if not answered:
                loading(warehouse, batch)  # type: ignore[arg-type]
            raise Unreachable("no answer")

        with pytest.MonkeyPatch.context() as m:
            m.setattr(DuckDBWarehouse, "load", failing)
            try:
                self.office.run()
            except Unreachable:
                pass

    @rule()
    def export(self) -> None:
        self.office.run()  # what was cut off
        self.office.run()  # what came since
        self.delivered = True
        self.office.assert_same()
        assert self.office.run() is None

    @precondition(lambda self: self.delivered)
    @rule()
    def ask_for_the_history_again(self) -> None:
        syncing.reactivate_sync(self.office.app, "everything")
        self.delivered = False

    @precondition(lambda self: self.delivered)
    @rule()
    def tamper_and_repair(self) -> None:
        self.export()
        self.office.dwh("DELETE FROM klaviyo_event WHERE random() < 0.5")
        assert syncing.repair_sync(self.office.app, "everything")[2].equal
        self.office.assert_same()

    def teardown(self) -> None:
        try:
            self.export()
        finally:
            self.office.close()
            shutil.rmtree(self.folder, ignore_errors=True)


Anything.TestCase.settings = settings(
    max_examples=2, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


class TestAnything(Anything.TestCase):  # type: ignore[misc,name-defined]
    pass


class LongAnything(Anything):
    pass


LongAnything.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@pytest.mark.long
class TestAnythingForLong(LongAnything.TestCase):  # type: ignore[misc,name-defined]
    pass

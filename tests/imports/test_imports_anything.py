"""Whatever happens to a table, and whenever an import of it is killed: in the end the store holds every row once."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from shop_cast import Shop

from isthmus.actions import syncing
from isthmus.imports import files, relation
from isthmus.model.errors import InvalidInput
from isthmus.store.landing import Landing
from isthmus.warehouses.duckdb import DuckDBWarehouse
from isthmus.warehouses.protocol import Count

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
LOOK_BACK = timedelta(minutes=10)


class Killed(Exception):
    pass


class Anything(RuleBasedStateMachine):
    """Rows come in order, late, many at one moment, from the future, without a time; runs end or are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(relation, "BATCH_ROWS", 3)
        self.patch.setattr(files, "BATCH_ROWS", 3)
        self.shop = Shop(Path(self.folder.name))
        self.shop.apply(look_back="10m")
        self.clock = START  # of those who load the table: no row is later than ten minutes after its time
        self.expected: set[str] = set()
        real = DuckDBWarehouse.count

        def count(*args: Any, **options: Any) -> Count:
            return replace(real(*args, **options), now=self.clock)  # loaders and warehouse have one clock

        self.patch.setattr(DuckDBWarehouse, "count", count)

    @rule(count=st.integers(1, 8), seconds=st.integers(0, 900))
    def rows_come(self, count: int, seconds: int) -> None:
        self.clock += timedelta(seconds=seconds)
        self.expected |= set(self.shop.orders(count, self.clock))

    @rule(count=st.integers(1, 4), late=st.integers(0, 599))
    def rows_come_late(self, count: int, late: int) -> None:
        self.expected |= set(self.shop.orders(count, self.clock - timedelta(seconds=late)))

    @rule(count=st.integers(1, 2))
    def rows_come_from_the_future(self, count: int) -> None:
        self.expected |= set(self.shop.orders(count, self.clock + timedelta(days=400)))

    @rule(count=st.integers(1, 2))
    def rows_come_without_a_time(self, count: int) -> None:
        self.shop.orders(count, None)

    @rule()
    def rows_are_stamped_again(self) -> None:
        """As loaders do that write a whole table anew: the same rows, another time."""
        self.clock += timedelta(seconds=1)
        moment = self.clock.isoformat()
        self.shop.sql(
            f"UPDATE {self.shop.at('orders')} SET loaded_at = TIMESTAMPTZ '{moment}' "
            f"WHERE loaded_at IS NOT NULL AND loaded_at <= TIMESTAMPTZ '{moment}' AND amount % 3 = 0"
        )

    @rule()
    def a_run_ends(self) -> None:
        syncing.resume_sync(self.shop.app, "pos")  # it pauses itself when it was killed too often
        try:
            self.shop.run()
        except InvalidInput as e:
            assert "rows were rejected" in e.summary  # there was nothing new but rows without a time

    @rule(batches=st.integers(0, 3), after=st.booleans())
    def a_run_is_killed(self, batches: int, after: bool) -> None:
        real = Landing.land
        left = batches

        def killed(landing: Landing, *args: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0 and not after:
                raise Killed
            done = real(landing, *args, **options)
            if left == 0:
                raise Killed
            left -= 1
            return done

        with pytest.MonkeyPatch.context() as patch, suppress(Exception):
            patch.setattr(Landing, "land", killed)
            self.shop.run()

    @invariant()
    def nothing_is_there_twice(self) -> None:
        here = self.shop.here()
        assert len(here) == len(set(here))
        assert set(here) <= self.expected

    def teardown(self) -> None:
        try:
            self.a_run_ends()
            assert set(self.shop.here()) == self.expected
            assert self.shop.run() is None
        finally:
            self.shop.close()
            self.patch.undo()
            self.folder.cleanup()


Anything.TestCase.settings = settings(
    max_examples=4, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.long
class TestAnything(Anything.TestCase):  # type: ignore[misc,name-defined]
    pass


class LongAnything(Anything):
    pass


LongAnything.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.long
class TestAnythingForLong(LongAnything.TestCase):  # type: ignore[misc,name-defined]
    pass

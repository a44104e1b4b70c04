"""Whatever happens to a table that is compared, and whenever a run is killed: the store ends with what it says."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from shop_cast import Shop
from test_imports_compare import Comparing

from isthmus.actions import syncing
from isthmus.imports import files, relation
from isthmus.store.known import Known
from isthmus.store.landing import Landing

KEYS = st.integers(0, 11)


class Killed(Exception):
    pass


class Anything(RuleBasedStateMachine):
    """Rows come, change, change their order number or customer, go and come again; runs end or are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        for module in (relation, files):
            self.patch.setattr(module, "BATCH_ROWS", 3)
        self.its = Comparing(Shop(Path(self.folder.name)))
        self.its.events(key=["note"], deletes="remove", deletes_limit=100)
        self.rows: dict[int, tuple[str, str, int]] = {}  # key → order, customer, amount

    def put(self, key: int, order: str, customer: str, amount: int) -> None:
        self.its.sql(f"DELETE FROM {{orders}} WHERE note = 'k{key}'")
        values = f"'{order}', '{customer}', '2026-01-01 00:00:00+00', {amount}, 'k{key}'"
        self.its.sql(f"INSERT INTO {{orders}} VALUES ({values})")
        self.rows[key] = (order, customer, amount)

    @rule(first=KEYS, count=st.integers(1, 6), amount=st.integers(0, 9))
    def rows_come_or_change(self, first: int, count: int, amount: int) -> None:
        for key in range(first, first + count):
            order, customer, _ = self.rows.get(key, (f"o{key}", f"c{key % 3}", 0))
            if key in self.rows or all(order != taken for taken, *_ in self.rows.values()):
                self.put(key, order, customer, amount)

    @rule(key=KEYS, customer=st.integers(0, 4))
    def a_row_gets_another_customer(self, key: int, customer: int) -> None:
        if key in self.rows:
            order, _, amount = self.rows[key]
            self.put(key, order, f"c{customer}", amount)

    @rule(a=KEYS, b=KEYS)
    def two_rows_change_places(self, a: int, b: int) -> None:
        if a in self.rows and b in self.rows and a != b:
            first, second = self.rows[a], self.rows[b]
            self.put(a, *second[:2], first[2])
            self.put(b, *first[:2], second[2])

    @rule(first=KEYS, count=st.integers(1, 6))
    def rows_go(self, first: int, count: int) -> None:
        for key in range(first, first + count):
            self.its.sql(f"DELETE FROM {{orders}} WHERE note = 'k{key}'")
            self.rows.pop(key, None)

    @rule()
    def a_run_ends(self) -> None:
        syncing.resume_sync(self.its.app, "pos")  # it pauses itself when it was killed too often
        self.its.shop.run()
        self.here_is_what_the_table_says()

    @rule(batches=st.integers(0, 4), after=st.booleans())
    def a_run_is_killed(self, batches: int, after: bool) -> None:
        """Before or after the commit of any batch, or of the decision on what is gone."""
        left = batches

        def killed(real: Any) -> Any:
            def run(*args: Any, **options: Any) -> Any:
                nonlocal left
                if left == 0 and not after:
                    raise Killed
                done = real(*args, **options)
                if left == 0:
                    raise Killed
                left -= 1
                return done

            return run

        syncing.resume_sync(self.its.app, "pos")
        with pytest.MonkeyPatch.context() as patch, suppress(Exception):
            patch.setattr(Landing, "land", killed(Landing.land))
            patch.setattr(Known, "forget", killed(Known.forget))
            self.its.shop.run()

    @invariant()
    def nothing_is_there_twice(self) -> None:
        (counts,) = self.its.app.lake.query(
            "SELECT count(*), count(DISTINCT event_id), "
            "(SELECT count(*) - count(DISTINCT row_key) FROM lake.known_rows), "
            "(SELECT count(*) FROM lake.tombstones t JOIN lake.events e ON e.event_id = t.id) FROM lake.events"
        )
        assert counts[0] == counts[1], "an event"
        assert counts[2:] == (0, 0), "a key, or an event that is both here and gone"

    def here_is_what_the_table_says(self) -> None:
        found = self.its.app.lake.query(
            "SELECT e.unique_id, i.value, e.value FROM events e JOIN identifiers i ON i.profile_id = e.profile_id"
        )
        assert sorted(found) == sorted(self.rows.values())
        stale = self.its.app.lake.query(
            "SELECT p.external_id FROM profiles p LEFT JOIN events e ON e.profile_id = p.id "
            "GROUP BY p.id, p.external_id, p.last_event_date HAVING p.last_event_date IS DISTINCT FROM max(e.datetime)"
        )
        assert stale == []

    def teardown(self) -> None:
        try:
            self.a_run_ends()
            before = self.its.seq()
            self.its.shop.run()
            self.its.shop.run()
            self.here_is_what_the_table_says()
            assert self.its.app.lake.query("SELECT max(seq) <= ? FROM events", [before]) in ([(True,)], [(None,)])
        finally:
            self.its.shop.close()
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

"""Faults in the middle of an import: what has landed counts, nothing else moves, and the next run goes on there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from shop_cast import NOON, SECOND, PostgresShop, Shop

from isthmus.actions import syncing
from isthmus.imports import relation
from isthmus.model.errors import Denied, IsthmusError, Missing
from isthmus.store.landing import Landing
from isthmus.testing.standins import PostgresServer
from isthmus.warehouses.duckdb import DuckDBWarehouse
from isthmus.warehouses.protocol import Count


class ReaderShop(PostgresShop):
    """A PostgreSQL of which the import reads as a role that has only been granted what it needs."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.role = f"reader_{uuid4().hex[:8]}"
        super().__init__(folder, server)
        self.sql(f"CREATE ROLE {self.role} LOGIN PASSWORD 'secret'")
        self.sql(f"GRANT USAGE ON SCHEMA {self.schema} TO {self.role}")
        self.sql(f"GRANT SELECT ON {self.at('orders')} TO {self.role}")

    def connect(self) -> dict[str, Any]:
        return {**super().connect(), "username": self.role, "password": "secret"}


@pytest.fixture
def shop(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[ReaderShop]:
    shop = ReaderShop(tmp_path, postgres_server)
    yield shop
    shop.close()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation, "BATCH_ROWS", 100)
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 100)


def run_until(shop: Shop, number: int, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, and `do` that before the batch of that number lands; a run that fails of it is no wonder."""
    real, landed = Landing.land, [0]

    def landing(self: Landing, *args: Any, **options: Any) -> Any:
        landed[0] += 1
        if landed[0] == number:
            do()
        return real(self, *args, **options)

    with monkeypatch.context() as patch, suppress(IsthmusError):
        patch.setattr(Landing, "land", landing)
        shop.run()


@pytest.mark.long
@pytest.mark.parametrize("what", ["SELECT ON {table}", "USAGE ON SCHEMA {schema}"])
def test_a_right_that_is_revoked_stops_the_import_and_a_grant_lets_it_go_on(
    shop: ReaderShop, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ids = shop.orders(1000, NOON, apart=SECOND)
    shop.apply()
    right = what.format(table=shop.at("orders"), schema=shop.schema)

    def revoke_and_die() -> None:
        shop.sql(f"REVOKE {right} FROM {shop.role}")
        raise Missing("cut off")

    run_until(shop, 4, revoke_and_die, monkeypatch)
    before = (shop.cursor(), len(shop.here()))
    assert 0 < before[1] < 1000
    with pytest.raises(Denied) as caught:
        shop.run()
    assert "orders" in caught.value.summary
    assert (shop.cursor(), len(shop.here())) == before
    for statement in caught.value.hint.partition(": ")[2].split(";"):
        if statement.strip():
            shop.sql(statement)
    shop.run()
    assert shop.here() == sorted(ids)


@pytest.mark.long
def test_a_connection_that_is_cut_between_any_two_batches_loses_and_doubles_nothing(
    shop: ReaderShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.sql(f"ALTER TABLE {shop.at('orders')} ADD COLUMN wide TEXT DEFAULT repeat(md5(random()::text), 500)")
    ids: list[str] = []
    shop.apply()
    for number in range(1, 8):
        ids += shop.orders(600, NOON + timedelta(hours=2 * number), apart=SECOND)

        def cut() -> None:
            shop.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{shop.role}'")

        run_until(shop, number, cut, monkeypatch)
        syncing.resume_sync(shop.app, "pos")
        while shop.run() is not None:
            pass
        assert shop.here() == sorted(ids), f"cut before batch {number}"


@pytest.mark.long
def test_a_relation_that_goes_in_the_middle_is_named_and_may_come_back(
    shop: ReaderShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = shop.orders(1000, NOON, apart=SECOND)
    shop.apply()

    def die() -> None:
        raise Missing("cut off")

    run_until(shop, 4, die, monkeypatch)
    before = (shop.cursor(), len(shop.here()))
    shop.sql(f"ALTER TABLE {shop.at('orders')} RENAME TO elsewhere")
    with pytest.raises(Missing, match="orders"):
        shop.run()
    assert (shop.cursor(), len(shop.here())) == before
    shop.sql(f"CREATE VIEW {shop.at('orders')} AS SELECT * FROM {shop.at('elsewhere')}")
    shop.sql(f"GRANT SELECT ON {shop.at('orders')} TO {shop.role}")
    shop.run()
    assert shop.here() == sorted(ids)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_over_there_that_is_a_day_off_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Rows are stamped by the clock over there, and the cursor is held to that clock, never to ours."""
    shop = Shop(tmp_path)
    real, off = DuckDBWarehouse.count, timedelta(days=days)

    def count(*args: Any, **options: Any) -> Count:
        found = real(*args, **options)
        return replace(found, now=found.now and found.now + off)

    monkeypatch.setattr(DuckDBWarehouse, "count", count)
    theirs = datetime.now(UTC) + off
    ids = shop.orders(5, theirs - timedelta(hours=2), apart=SECOND) + shop.orders(2, theirs)
    shop.apply(look_back="5m")
    shop.run()
    for minutes in (1, 2, -3):
        ids += shop.orders(2, theirs + timedelta(minutes=minutes))
        shop.run()
        assert shop.here() == sorted(ids)
    assert shop.run() is None
    shop.close()

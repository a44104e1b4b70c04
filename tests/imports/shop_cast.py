"""The shop of the import tests: a home, and a warehouse whose rows it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from isthmus.actions import syncing
from isthmus.actions.applying import apply
from isthmus.app import App
from isthmus.model.work import Run
from isthmus.settings import Settings
from isthmus.testing.builders import fresh_home
from isthmus.testing.standins import PostgresServer
from isthmus.warehouses.duckdb import DuckDBWarehouse
from isthmus.warehouses.postgres import PostgresWarehouse

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SECOND, TICK = timedelta(seconds=1), timedelta(microseconds=1)
MAPPING: dict[str, Any] = {
    "event_time": "bought_at",
    "metric": {"constant": "Placed Order"},
    "identifiers": {"external_id": "customer_id"},
    "changed_at": "loaded_at",
    "unique_id": "order_id",
    "value": "amount",
}


class Shop:
    """A home, and a warehouse with the table `orders` in the import schema."""

    schema = "KLAVIYO_IMPORT_FROM_DWH"
    warehouse: type[Any] = DuckDBWarehouse

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = App(Settings.load({}, fresh_home(folder / "home")))
        self.connection = self.connect()
        self.number = 0
        self.sql(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')
        self.sql(
            f"CREATE TABLE {self.at('orders')} (order_id TEXT, customer_id TEXT, bought_at TIMESTAMPTZ, "
            "loaded_at TIMESTAMPTZ, amount DOUBLE PRECISION)"
        )

    def connect(self) -> dict[str, Any]:
        return {"name": "dwh", "kind": "duckdb", "path": str(self.folder / "dwh.duckdb")}

    def close(self) -> None:
        self.app.__exit__()

    def at(self, name: str) -> str:
        return f'"{self.schema}".{name}'

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(duckdb.connect(self.connection["path"])) as con:
            con.execute("SET TimeZone='UTC'")
            return con.execute(statement).fetchall()

    def apply(self, **wanted: Any) -> None:
        given = {"name": "pos", "connection": "dwh", "data": "events", "relation": "orders", "schedule": "manual"}
        document = {"connections": [self.connection], "imports": [{**given, "mapping": MAPPING, **wanted}]}
        file = self.folder / "isthmus.yaml"
        file.write_text(yaml.safe_dump(document))
        apply(self.app, file, plan_only=False, environ={})

    def orders(self, count: int, loaded_at: datetime | None, *, apart: timedelta = timedelta()) -> list[str]:
        """Insert orders, `apart` from each other; their ids."""
        first, self.number = self.number, self.number + count
        moment = "NULL::TIMESTAMPTZ" if loaded_at is None else f"TIMESTAMPTZ '{loaded_at.isoformat()}'"
        step = f"INTERVAL '{apart // TICK} microseconds'"
        self.sql(
            f"INSERT INTO {self.at('orders')} SELECT 'o' || i, 'c' || (i % 7), "
            f"TIMESTAMPTZ '2026-01-01 00:00:00+00' + i * INTERVAL '1 second', {moment} + (i - {first}) * {step}, i "
            f"FROM generate_series({first}, {first + count - 1}) AS t(i)"
        )
        return [f"o{i}" for i in range(first, self.number)]

    def run(self) -> Run | None:
        return syncing.run_sync(self.app, "pos")

    def here(self) -> list[str]:
        """The orders in the store."""
        return sorted(u for (u,) in self.app.lake.query("SELECT unique_id FROM events"))

    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many rows every further reading gives."""
        rows: list[int] = []
        real = self.warehouse.read

        def counted(*args: Any, **options: Any) -> Iterator[Any]:
            for batch in real(*args, **options):
                rows.append(batch.num_rows)
                yield batch

        monkeypatch.setattr(self.warehouse, "read", counted)
        return rows

    def cursor(self) -> str:
        rows = self.app.lake.query("SELECT cursor FROM lake.import_state WHERE source LIKE 'import %'")
        (text,) = rows[0]
        return str(text)


class PostgresShop(Shop):
    schema = "klaviyo_import_from_dwh"
    warehouse = PostgresWarehouse

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.server, self.database = server, server.fresh_database()
        super().__init__(folder)

    def connect(self) -> dict[str, Any]:
        return {
            "name": "dwh",
            "kind": "postgres",
            "host": self.server.host,
            "port": self.server.port,
            "database": self.database,
            "username": self.server.username,
            "password": self.server.password,
        }

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, database=self.database)

"""A table of a warehouse that grows while an import brings it in, beside all that a story tells.

Its people, events and metric are called `aside`, so that the story is judged without them, and they by themselves.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import duckdb
import psycopg
import pyarrow as pa

from isthmus.app import App
from isthmus.testing.standins import PostgresServer
from long.story import ASIDE, unequal

Sql = Callable[[str], list[tuple[Any, ...]]]

METRIC = f"{ASIDE}sold"
_MAPPING = {
    "event_time": "sold_at",
    "metric": {"constant": METRIC},
    "identifiers": {"external_id": "customer"},
    "changed_at": "rung_at",
    "unique_id": "receipt",
    "value": "amount",
}


def of_duckdb(path: str) -> Sql:
    def sql(statement: str) -> list[tuple[Any, ...]]:
        with closing(duckdb.connect(path)) as con:
            return con.execute(statement).fetchall()

    return sql


def of_postgres(server: PostgresServer, database: str) -> Sql:
    return lambda statement: server.execute(statement, database=database)


class Till:
    """The table `sold`. Every row that `sold` counts is in it."""

    def __init__(self, sql: Sql, connection: str, schema: str) -> None:
        self._sql, self._connection = sql, connection
        self._table = f'"{schema}".sold'
        self.sold = 0
        sql(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        sql(
            f"CREATE TABLE {self._table} (receipt TEXT PRIMARY KEY, customer TEXT, sold_at TIMESTAMPTZ, "
            "rung_at TIMESTAMPTZ, amount DOUBLE PRECISION)"
        )

    def wanted(self) -> dict[str, object]:
        """The import, as it is applied."""
        what = {"data": "events", "relation": "sold", "schedule": "every 1m", "look_back": "1m", "mapping": _MAPPING}
        return {"name": "till", "connection": self._connection, **what}

    def selling(self, seed: int) -> Any:
        """Rows come as long as the test goes on; each is there once, however often the database goes away."""
        chance = random.Random(seed)

        def sell(over: threading.Event) -> None:
            while not over.wait(chance.uniform(0.5, 2.5)):
                first, last = self.sold, self.sold + chance.randrange(1, 25)
                while True:
                    try:
                        self._sql(
                            f"INSERT INTO {self._table} SELECT '{ASIDE}' || i, '{ASIDE}' || (i % 17), "
                            "TIMESTAMPTZ '2026-01-01 00:00:00+00' + i * INTERVAL '1 second', now(), i / 4.0 "
                            f"FROM generate_series({first}, {last - 1}) AS t(i) ON CONFLICT DO NOTHING"
                        )
                        break
                    except (duckdb.IOException, psycopg.Error):  # a worker has the file, or the server is away
                        time.sleep(0.05)
                self.sold = last

        return sell

    def arrived(self, app: App) -> bool:
        """Whether as many rows are in the store as were sold."""
        return app.lake.query(f"SELECT count(*) FROM events WHERE metric_name = '{METRIC}'") == [(self.sold,)]

    def found_wrong(self, app: App) -> Iterator[str]:
        """Rows of the table that are not in the store once, as they are."""
        rows = self._sql(f"SELECT receipt, customer, sold_at, amount FROM {self._table}")
        names = {"receipt": pa.string(), "customer": pa.string(), "sold_at": pa.timestamp("us", "UTC")}
        names |= {"amount": pa.float64()}
        cells = zip(*rows, strict=True)
        theirs = pa.table({n: pa.array(list(c), t) for (n, t), c in zip(names.items(), cells, strict=True)})
        con = app.lake.con
        con.register("sold", theirs)
        ours = (
            "SELECT e.unique_id, i.value, e.datetime, e.value FROM events e JOIN identifiers i ON "
            f"i.profile_id = e.profile_id AND i.kind = 'external_id' WHERE e.metric_name = '{METRIC}'"
        )
        yield from unequal(con, "sold", ours, "SELECT * FROM sold")
        con.unregister("sold")

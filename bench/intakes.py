"""Imports from a warehouse table: what one measurement in a process of its own does. `variants.py` calls these by name.

A million real purchases in PostgreSQL, of people among two million known ones, each row with two identifiers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ground
from ground import Ground

ORDERS, PEOPLE = 1_000_000, 2_000_000
LATER = 1_000
INTAKE = "orders"
MAPPING = {
    "identifiers": {"external_id": "customer_id", "email": "email"},
    "event_time": "ordered_at",
    "metric": {"constant": "Placed Order"},
    "changed_at": "loaded_at",
    "unique_id": "order_id",
    "value": "amount",
    "value_currency": {"column": "currency"},
}
"""Five more columns become properties."""

_SCHEMA = "klaviyo_import_from_dwh"


def sizes(ground_: Ground) -> tuple[int, int]:
    """How many orders, and how many people are known."""
    return (ORDERS, PEOPLE) if not ground_.rows else (ground_.rows, 2 * ground_.rows)


def prepare_people(ground_: Ground, clock: Any) -> int:
    """A store that knows everybody, kept; each measurement has a copy of it."""
    home, (_, people) = ground_.folder / "home-people", sizes(ground_)
    if (home / "done").exists():
        return 0
    shutil.rmtree(home, ignore_errors=True)
    file = ground_._made(
        "people.parquet",
        f"SELECT 'c' || i AS external_id, 'person.' || i || '@example.com' AS email FROM range({people}) AS t(i)",
    )
    with ground.app(home) as app, clock.running():
        counts = ground.land(app, file, "profiles", {"identifiers": {"external_id": "external_id", "email": "email"}})
        assert counts.landed == people, counts
    (home / "done").touch()
    return people


def prepare_orders(ground_: Ground, clock: Any, *, connection: dict[str, Any], one_moment: bool = False) -> int:
    """The table of orders: real purchases, each basket somebody's, loaded night by night or all at one moment."""
    import pyarrow.parquet as pq
    from adbc_driver_postgresql import dbapi

    rows, people = sizes(ground_)
    who = f"hash(basket_id) % {people}"
    loaded_at = (
        "TIMESTAMPTZ '2018-01-01'" if one_moment else "date_trunc('day', transaction_timestamp) + INTERVAL 27 HOUR"
    )
    file = ground_._made(
        f"orders-{one_moment}.parquet",
        f"SELECT basket_id || '-' || product_id AS order_id, 'c' || {who} AS customer_id, 'person.' || {who} || "
        "'@example.com' AS email, transaction_timestamp::TIMESTAMPTZ AS ordered_at, sales_value AS amount, "
        "'USD' AS currency, 'store ' || store_id AS store, product_id, quantity, retail_disc AS retail_discount, "
        f"coupon_disc AS coupon_discount, week, ({loaded_at})::TIMESTAMPTZ AS loaded_at "
        f"FROM read_parquet('{ground_.purchases}') LIMIT {rows}",
    )
    with _postgres(connection) as con:
        con.execute(f"CREATE SCHEMA {_SCHEMA}")
    with dbapi.connect(_uri(connection)) as theirs, theirs.cursor() as cursor:
        cursor.adbc_ingest("orders", pq.read_table(file), mode="create", db_schema_name=_SCHEMA)
        theirs.commit()
    with _postgres(connection) as con:
        con.execute(f"CREATE INDEX ON {_SCHEMA}.orders (loaded_at)")
        con.execute(f"ANALYZE {_SCHEMA}.orders")
    return rows


def import_orders(ground_: Ground, clock: Any, *, connection: dict[str, Any]) -> int:
    """The first run of an import: read, map, who is who, de-duplicate, land."""
    with ground.app(_with_people(ground_)) as app:
        _wish(app, connection)
        app.lake.snapshot()
        with clock.running():
            rows = _run(app)
        assert rows == sizes(ground_)[0]
        return rows


def plain_import(ground_: Ground, clock: Any, *, connection: dict[str, Any]) -> int:
    """The same rows read with the driver and put into a table of a lake of the same settings, as they are."""
    from adbc_driver_postgresql import dbapi

    from isthmus.store.lake import sync_files

    home = ground_.folder / "plain"
    shutil.rmtree(home, ignore_errors=True)
    with ground.app(home) as app, dbapi.connect(_uri(connection)) as theirs, theirs.cursor() as cursor:
        con = app.lake.con
        with clock.running():
            cursor.execute(f"SELECT * FROM {_SCHEMA}.orders")
            con.register("orders", cursor.fetch_record_batch())
            con.execute("BEGIN")
            con.execute("CREATE TABLE lake.plain AS FROM orders")
            sync_files(app.lake.data_files())
            con.execute("COMMIT")
        return int(con.execute("SELECT count(*) FROM lake.plain").fetchone()[0])


def import_nothing(ground_: Ground, clock: Any, *, connection: dict[str, Any]) -> int:
    """A run of an import that has no news: how many rows it reads."""
    with ground.app(_work(ground_)) as app:
        app.lake.snapshot()
        rows = _counting()
        with clock.running():
            _run(app)
        return sum(rows)


def import_ties(ground_: Ground, clock: Any, *, connection: dict[str, Any]) -> int:
    """All rows at one moment, and twice 1,000 more at the same one. Prints what is missing, doubled and kept."""
    home, (rows, people) = ground_.folder / "ties", sizes(ground_)
    shutil.rmtree(home, ignore_errors=True)
    with ground.app(home) as app:
        _wish(app, connection)
        with clock.running():
            _run(app)
        for _ in range(2):
            with _postgres(connection) as con:
                con.execute(
                    f"INSERT INTO {_SCHEMA}.orders (order_id, customer_id, ordered_at, loaded_at, amount, currency) "
                    f"SELECT 'o' || i, 'c' || i % {people}, now(), timestamptz '2018-01-01', 1, 'USD' "
                    f"FROM generate_series({rows}, {rows + LATER - 1}) AS t(i)"
                )
            rows += LATER
            with clock.running():
                _run(app)
        here, orders = app.lake.query("SELECT count(*), count(DISTINCT unique_id) FROM events")[0]
        (state,) = app.lake.query("SELECT sum(octet_length(encode(cursor))) FROM lake.import_state")[0]
        (told,) = app.lake.query("SELECT count(*) FROM rejections")[0]
        print(f"missing {rows - orders}, doubled {here - orders}, rejected {told}, {state} bytes of state", flush=True)
        assert (orders, here, told) == (rows, rows, 0)
        return int(state)


def _counting() -> list[int]:
    """How many rows each batch has that is read from now on."""
    from isthmus.warehouses.postgres import PostgresWarehouse

    read, rows = PostgresWarehouse.read, list[int]()

    def counted(*args: Any, **options: Any) -> Iterator[Any]:
        for batch in read(*args, **options):
            rows.append(batch.num_rows)
            yield batch

    PostgresWarehouse.read = counted  # type: ignore[method-assign]
    return rows


def _with_people(ground_: Ground) -> Path:
    ground.copy(ground_.folder / "home-people", _work(ground_))
    return _work(ground_)


def _work(ground_: Ground) -> Path:
    return ground_.folder / "work-people"


def _wish(app: Any, connection: dict[str, Any]) -> None:
    from isthmus.actions.applying import apply

    wanted = {"name": INTAKE, "connection": "dwh", "data": "events", "relation": "orders", "schedule": "manual"}
    document = {
        "connections": [{"name": "dwh", "kind": "postgres", **connection}],
        "imports": [{**wanted, "mapping": MAPPING}],
    }
    path = app.home / "isthmus.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    apply(app, path, plan_only=False, environ={})


def _run(app: Any) -> int:
    from isthmus.actions import syncing

    run = syncing.run_sync(app, INTAKE)
    return 0 if run is None else run.rows_done


def _uri(c: dict[str, Any]) -> str:
    return f"postgresql://{c['username']}:{c['password']}@{c['host']}:{c['port']}/{c['database']}"


def _postgres(connection: dict[str, Any]) -> Any:
    import psycopg

    return psycopg.connect(_uri(connection), autocommit=True)

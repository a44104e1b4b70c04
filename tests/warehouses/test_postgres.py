"""The PostgreSQL connector against a real server: the conformance suite, and what only PostgreSQL has."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from warehouses_cast import PEOPLE

from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Rejected, Unreachable
from isthmus.model.table import SEQ, Column, Table, Type
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import PostgresServer
from isthmus.warehouses import postgres_sql
from isthmus.warehouses.postgres import PostgresConfig, PostgresWarehouse
from isthmus.warehouses.protocol import Relation, Window

PASSWORD = "it's a \\ secret"
IMPORT = "klaviyo_import_from_dwh"


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.fresh_database()


@pytest.fixture
def config(postgres_server: PostgresServer, database: str) -> PostgresConfig:
    """A database as good as new in which the set-up script was run twice, and the user it made with a password."""
    made = PostgresConfig(
        host=postgres_server.host,
        port=postgres_server.port,
        database=database,
        username=f"user of {database}",
        password=Secret(PASSWORD),
    )
    schemas = f"public, private, {made.import_schema}, {made.temp_schema}"
    quoted = PASSWORD.replace("'", "''")
    with psycopg.connect(postgres_server.url(database), autocommit=True) as con:
        con.execute(f"DROP SCHEMA IF EXISTS {schemas} CASCADE".encode())
        for _ in range(2):
            con.execute(made.setup_script([]).encode())
        con.execute(f"ALTER ROLE \"{made.username}\" PASSWORD '{quoted}' CONNECTION LIMIT -1".encode())
    return made


class TestPostgres(Conformance):
    @pytest.fixture
    def config(self, config: PostgresConfig, postgres_server: PostgresServer) -> PostgresConfig:
        self.owner = {"username": postgres_server.username, "password": Secret(postgres_server.password)}
        return config

    def exposing(self, config: PostgresConfig) -> PostgresConfig:
        """The customer's own user: ours may only read there."""
        return replace(config, schema=config.import_schema, **self.owner)


@pytest.fixture
def admin(config: PostgresConfig, postgres_server: PostgresServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_server.url(config.database), autocommit=True) as con:
        yield con


@pytest.fixture
def warehouse(config: PostgresConfig) -> Iterator[PostgresWarehouse]:
    with closing(config.open()) as opened:
        yield opened


def test_the_script_makes_tables_a_user_can_load_and_widen(
    config: PostgresConfig, admin: psycopg.Connection, warehouse: PostgresWarehouse, tmp_path: Path
) -> None:
    for _ in range(2):
        admin.execute(config.setup_script([PEOPLE]).encode())
    warehouse.create(Table("people", (*PEOPLE.columns, Column("born", Type.TIMESTAMP)), PEOPLE.key))
    for seq in (1, 2):
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "Ann", SEQ: seq}]))
    assert warehouse.count(Relation("public", "people")).rows == 1


def test_the_user_of_the_script_may_do_no_more_than_it_must(
    config: PostgresConfig, admin: psycopg.Connection, warehouse: PostgresWarehouse
) -> None:
    admin.execute("CREATE SCHEMA private")
    admin.execute("CREATE TABLE private.salaries (n integer)")
    admin.execute(f"CREATE TABLE {IMPORT}.orders (n integer)")
    admin.execute(f"CREATE VIEW {IMPORT}.big_orders AS SELECT * FROM {IMPORT}.orders WHERE n > 100")
    found = list(warehouse.relations())
    assert found == [Relation(IMPORT, "big_orders", "view"), Relation(IMPORT, "orders")]
    assert [warehouse.count(r).rows for r in found] == [0, 0]
    with pytest.raises(Denied):
        warehouse.count(Relation("private", "salaries"))
    with pytest.raises(Denied):
        warehouse._execute(f"DELETE FROM {IMPORT}.orders")


@pytest.mark.parametrize(
    "revoked",
    [
        "USAGE ON SCHEMA {import}",
        "SELECT ON ALL TABLES IN SCHEMA {import}",
        "CREATE ON SCHEMA {temp}",
        "CREATE ON SCHEMA public",
    ],
)
def test_the_statement_of_a_no_makes_it_a_yes(config: PostgresConfig, admin: psycopg.Connection, revoked: str) -> None:
    admin.execute(f"CREATE TABLE {IMPORT}.orders (n integer)")
    what = revoked.replace("{import}", config.import_schema).replace("{temp}", config.temp_schema)
    admin.execute(f'REVOKE {what} FROM "{config.username}"'.encode())
    (refused,) = [c for c in config.check() if not c.passed]
    assert refused.detail or refused.hint
    admin.execute(refused.statement.encode())
    assert all(c.passed for c in config.check())


def test_types_arrow_has_no_word_for_come_as_text(warehouse: PostgresWarehouse, admin: psycopg.Connection) -> None:
    admin.execute("CREATE TYPE mood AS ENUM ('fine')")
    admin.execute(f"""CREATE TABLE {IMPORT}.odd AS SELECT 1.50::numeric AS price, '{{"b": 1,  "a":2}}'::json AS doc,
        '{{"b": 1,  "a":2}}'::jsonb AS docb, '00000000-0000-0000-0000-000000000001'::uuid AS uid, 'fine'::mood AS mood,
        '1.2.3.4'::inet AS ip, ARRAY['x', 'y"z'] AS tags, '1 day'::interval AS wait, 'ab'::char(3) AS code,
        DATE '2024-01-01' AS day, 7::smallint AS small, 'NaN'::numeric AS nan, NULL::numeric AS nothing""")
    (batch,) = warehouse.read(Relation(IMPORT, "odd"))
    assert batch.schema.equals(warehouse.schema(Relation(IMPORT, "odd")))
    (row,) = batch.to_pylist()
    assert row == {
        "price": "1.50", "doc": '{"b": 1,  "a":2}', "docb": '{"a": 2, "b": 1}',
        "uid": "00000000-0000-0000-0000-000000000001", "mood": "fine", "ip": "1.2.3.4/32", "tags": '["x","y\\"z"]',
        "wait": "1 day", "code": "ab ", "day": datetime(2024, 1, 1).date(), "small": 7, "nan": "NaN", "nothing": None,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_every_kind_of_time_bounds_a_window(warehouse: PostgresWarehouse, admin: psycopg.Connection, kind: str) -> None:
    admin.execute("SET timezone = 'UTC'")
    admin.execute(f"CREATE TABLE {IMPORT}.days AS SELECT n, (DATE '2024-01-01' + n)::{kind} AS day "
                  "FROM generate_series(0, 9) AS n")  # fmt: skip
    window = Window("day", "n", datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
    days = Relation(IMPORT, "days")
    assert [row["n"] for batch in warehouse.read(days, window=window) for row in batch.to_pylist()] == [2, 3]
    assert warehouse.count(days, window=window).first == datetime(2024, 1, 3, tzinfo=UTC)


def test_a_window_is_ordered_by_the_value_of_its_key(warehouse: PostgresWarehouse) -> None:
    query = Relation("", "SELECT n::numeric AS n, now() AS at FROM generate_series(8, 11) AS n -- ties;", "query")
    window = Window("at", "n", datetime(2000, 1, 1, tzinfo=UTC), None)
    assert [row["n"] for b in warehouse.read(query, window=window) for row in b.to_pylist()] == ["8", "9", "10", "11"]


def test_a_moment_beyond_all_calendars_can_be_counted(warehouse: PostgresWarehouse) -> None:
    query = Relation("", "SELECT unnest(ARRAY['infinity', '-infinity', NULL]::timestamptz[]) AS at", "query")
    count = warehouse.count(query, window=Window("at", None, None, None))
    expected = (3, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    assert (count.rows, count.first, count.last) == expected


def test_names_are_found_as_postgresql_folds_them(warehouse: PostgresWarehouse, admin: psycopg.Connection) -> None:
    admin.execute(f"CREATE TABLE {IMPORT}.pos_orders AS SELECT 1 AS n")
    assert warehouse.count(Relation("KLAVIYO_IMPORT_FROM_DWH", "Pos_Orders")).rows == 1
    admin.execute(f'CREATE TABLE {IMPORT}."Pos_Orders" AS SELECT generate_series(1, 3) AS n')
    assert warehouse.count(Relation(IMPORT, "Pos_Orders")).rows == 3


def test_a_table_of_theirs_gets_the_key_it_lacks(
    config: PostgresConfig, warehouse: PostgresWarehouse, tmp_path: Path
) -> None:
    warehouse._execute(f'CREATE TABLE people (id varchar, note text DEFAULT $$theirs$$ NOT NULL, "{SEQ}" bigint)')
    for _ in range(2):
        warehouse.create(PEOPLE)
    for seq in (1, 2):
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": f"{seq}", SEQ: seq}]))
    (batch,) = warehouse.read(Relation("public", "people"))
    assert batch.to_pylist() == [{"id": "1", "note": "theirs", SEQ: 2, "name": "2"}]
    assert len(warehouse._execute("SELECT 1 FROM pg_index WHERE indrelid = 'people'::regclass")) == 1


def test_a_column_that_would_cut_values_is_refused(warehouse: PostgresWarehouse) -> None:
    warehouse._execute("CREATE TABLE people (id text, name varchar(5))")
    with pytest.raises(Mismatch) as caught:
        warehouse.create(PEOPLE)
    assert (caught.value.column, caught.value.theirs) == ("name", "character varying(5)")


def test_a_broken_promise_of_new_keys_is_refused_without_showing_values(
    warehouse: PostgresWarehouse, tmp_path: Path
) -> None:
    warehouse.create(PEOPLE)
    rows = [{"id": "ann@example.com", SEQ: 1}]
    warehouse.load(batch_of(tmp_path, PEOPLE, rows, adds_only=True))
    with pytest.raises(Rejected) as caught:
        warehouse.load(batch_of(tmp_path, PEOPLE, rows, adds_only=True))
    assert caught.value.code == "23505"
    assert "ann@example.com" not in str(caught.value.as_dict())


def test_a_lock_somebody_holds_is_busy(warehouse: PostgresWarehouse, admin: psycopg.Connection, tmp_path: Path) -> None:
    warehouse.create(PEOPLE)
    warehouse._execute("SET lock_timeout = '100ms'")
    with admin.transaction():
        admin.execute("LOCK TABLE people")
        with pytest.raises(Busy) as caught:
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))
        assert caught.value.code == "55P03"
    warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))


_FREEZES = """
import os, pickle, signal, sys
from isthmus.warehouses import sql

config, batch = pickle.load(sys.stdin.buffer)
rows = sql.rows

def freezing(*arguments):
    for number, some in enumerate(rows(*arguments)):
        if number == 1:
            print("in the middle", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        yield some

sql.rows = freezing
config.open().load(batch)
"""


def test_a_batch_of_a_process_that_is_frozen_in_the_middle_of_it_is_loaded_by_another_one(
    config: PostgresConfig, admin: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [{"id": str(n), "name": "x" * 100, SEQ: 1} for n in range(100_000)]
    batch = batch_of(tmp_path, PEOPLE, people, adds_only=True)
    monkeypatch.setattr(postgres_sql, "SESSION", postgres_sql.SESSION.replace("'60s'", "'1s'"))  # locks are waited for
    with closing(config.open()) as warehouse:
        warehouse.create(PEOPLE)
        frozen = subprocess.Popen(
            [sys.executable, "-c", _FREEZES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert frozen.stdin is not None and frozen.stdout is not None
            frozen.stdin.write(pickle.dumps((config, batch)))
            frozen.stdin.close()
            assert frozen.stdout.readline() == b"in the middle\n"
            assert not warehouse.load(batch).repeated
            os.kill(frozen.pid, signal.SIGCONT)
            assert frozen.wait(60) == 1, "it is told that its session was ended"
            assert warehouse.load(batch).repeated
        finally:
            frozen.kill()
            frozen.wait()
            frozen.stdout.close()
    assert admin.execute("SELECT count(*), count(DISTINCT id) FROM people").fetchone() == (100_000, 100_000)


def test_a_session_that_was_ended_is_unreachable(warehouse: PostgresWarehouse, admin: psycopg.Connection) -> None:
    ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
    admin.execute((ended + "AND pid <> pg_backend_pid()").encode())
    with pytest.raises(Unreachable) as caught:
        warehouse.create(PEOPLE)
    assert caught.value.retryable


def test_what_can_be_wrong_while_signing_in(config: PostgresConfig, admin: psycopg.Connection) -> None:
    with pytest.raises(Missing, match="database"):
        replace(config, database="no such").open()
    with pytest.raises(Denied):
        replace(config, username="nobody here").open()
    admin.execute(f'ALTER ROLE "{config.username}" CONNECTION LIMIT 0'.encode())
    with pytest.raises(Busy):
        config.open()
    refused = [c for c in config.check() if not c.passed]
    assert [c.question for c in refused] == ["Can we sign in?"]


def test_nothing_waits_for_ever(warehouse: PostgresWarehouse) -> None:
    ((lock, statement),) = warehouse._execute(
        "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
    )
    assert (lock, statement) == ("1min", "1h")

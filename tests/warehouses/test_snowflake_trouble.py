"""What goes wrong between us and Snowflake, and what is read from it: nothing missing, nothing doubled, nothing cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from snowflake_cast import IMPORT, made
from warehouses_cast import PEOPLE, people

from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Rejected, Unreachable, WarehouseError
from isthmus.model.table import SEQ, Column, Table, Type
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import SnowflakeServer
from isthmus.warehouses import snowflake, snowflake_sql
from isthmus.warehouses.protocol import Relation, Window
from isthmus.warehouses.snowflake import SnowflakeConfig
from isthmus.warehouses.snowflake_session import SnowflakeWarehouse

MERGE, COPY, PUT, LOCK, COMMIT = "^MERGE", "^COPY", "^PUT", "^UPDATE", "^COMMIT"


@pytest.fixture(scope="module")
def module_config(snowflake_server: SnowflakeServer) -> SnowflakeConfig:
    return made(snowflake_server)


@pytest.fixture
def config(module_config: SnowflakeConfig, snowflake_server: SnowflakeServer) -> SnowflakeConfig:
    """The connection, with empty schemas."""
    dropped = [f"DROP SCHEMA {s}" for s in ("KLAVIYO", IMPORT)]
    snowflake_server.execute(*dropped, role="SYSADMIN", database=module_config.database)
    snowflake_server.script(module_config.setup_script([]))
    return module_config


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver asks twice before it gives up, not six times with ever longer pauses."""
    usual = snowflake._for_version

    def quick(major: int) -> dict[str, Any]:
        return {**usual(major), "retry_max_attempts": 2, "retry_backoff_base_ms": 10, "put_get_max_attempts": 2}

    monkeypatch.setattr(snowflake, "_for_version", quick)


@pytest.fixture
def warehouse(config: SnowflakeConfig) -> Iterator[SnowflakeWarehouse]:
    with closing(config.open()) as opened:
        opened.create(PEOPLE)
        yield opened


def there(config: SnowflakeConfig, server: SnowflakeServer) -> list[list[Any]]:
    return server.execute("SELECT id, name FROM KLAVIYO.PEOPLE ORDER BY id", database=config.database)


# Faults


@pytest.mark.parametrize("adds_only", [False, True], ids=["upserting", "adding"])
@pytest.mark.parametrize("kind", ["drop", "lose"])
@pytest.mark.parametrize("at", [PUT, COPY, LOCK, MERGE, COMMIT])
def test_a_line_that_is_cut_leaves_all_or_nothing_and_the_next_load_finds_out(
    config: SnowflakeConfig,
    warehouse: SnowflakeWarehouse,
    snowflake_server: SnowflakeServer,
    tmp_path: Path,
    at: str,
    kind: str,
    adds_only: bool,
) -> None:
    if adds_only and at == MERGE:
        return  # there is none
    warehouse.load(people(tmp_path, "0"))
    batch = people(tmp_path, "1", "2", adds_only=adds_only)
    first = {"kind": kind, "pattern": at, "times": 99}
    if at == COMMIT and not adds_only:
        first["after"] = 1  # the first is that of the rows that wait
    with snowflake_server.faults(first), pytest.raises(Unreachable) as caught:
        warehouse.load(batch)
    assert caught.value.retryable and caught.value.hint
    with closing(config.open()) as again:
        assert again.load(batch).repeated == (at == COMMIT and kind == "drop")
        assert again.load(batch).repeated
    assert there(config, snowflake_server) == [["0", "v1"], ["1", "v1"], ["2", "v1"]]


@pytest.mark.parametrize("at", [COPY, MERGE, COMMIT])
def test_an_answer_that_is_lost_once_is_not_even_noticed(
    config: SnowflakeConfig, warehouse: SnowflakeWarehouse, snowflake_server: SnowflakeServer, tmp_path: Path, at: str
) -> None:
    with snowflake_server.faults({"kind": "drop", "pattern": at}):
        assert not warehouse.load(people(tmp_path, "1")).repeated
    assert there(config, snowflake_server) == [["1", "v1"]]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "http", "status": 429}, Busy),
        ({"kind": "http", "status": 503}, Unreachable),
        ({"kind": "refuse", "code": 608, "message": "Warehouse 'W' cannot be resumed because it is suspended"}, Busy),
        ({"kind": "refuse", "code": 390114, "message": "Authentication token has expired."}, Unreachable),
        ({"kind": "refuse", "code": 390111, "message": "Session no longer exists."}, Unreachable),
        ({"kind": "refuse", "code": 625, "message": "this lock has not yet been released"}, Busy),
        ({"kind": "refuse", "code": 987654, "message": "The flux of capacitor 7 is low"}, WarehouseError),
    ],
)
@pytest.mark.parametrize("at", [COPY, MERGE])
def test_a_refusal_leaves_nothing_and_says_what_it_is(
    config: SnowflakeConfig,
    warehouse: SnowflakeWarehouse,
    snowflake_server: SnowflakeServer,
    tmp_path: Path,
    fault: dict[str, Any],
    expected: type[WarehouseError],
    at: str,
) -> None:
    batch = people(tmp_path, "1")
    with snowflake_server.faults({**fault, "pattern": at, "times": 99}), pytest.raises(expected) as caught:
        warehouse.load(batch)
    assert type(caught.value) is expected
    if expected is WarehouseError:
        assert "The flux of capacitor 7 is low" in caught.value.vendor
    with closing(config.open()) as again:
        assert again.receipt(batch.batch_id) is None
        assert not again.load(batch).repeated
    assert there(config, snowflake_server) == [["1", "v1"]]


def test_a_session_that_expired_is_renewed(
    warehouse: SnowflakeWarehouse, snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    with snowflake_server.faults({"kind": "refuse", "code": 390112, "message": "Session expired", "pattern": MERGE}):
        assert not warehouse.load(people(tmp_path, "1")).repeated


@pytest.mark.parametrize("fault", [{"kind": "truncate"}, {"kind": "upload", "status": 503, "times": 99}])
@pytest.mark.parametrize("adds_only", [False, True], ids=["upserting", "adding"])
def test_a_file_that_does_not_arrive_whole_is_not_loaded_by_half(
    config: SnowflakeConfig,
    warehouse: SnowflakeWarehouse,
    snowflake_server: SnowflakeServer,
    tmp_path: Path,
    fault: dict[str, Any],
    adds_only: bool,
) -> None:
    batch = people(tmp_path, "1", "2", "3", files=3, adds_only=adds_only)
    with snowflake_server.faults(fault), pytest.raises(WarehouseError):
        warehouse.load(batch)
    assert there(config, snowflake_server) == []
    assert not warehouse.load(batch).repeated
    assert len(there(config, snowflake_server)) == 3


def test_a_file_that_never_arrives_is_missed(
    config: SnowflakeConfig,
    warehouse: SnowflakeWarehouse,
    snowflake_server: SnowflakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = people(tmp_path, "1", "2", "3", files=3, adds_only=True)
    put = warehouse._put
    monkeypatch.setattr(warehouse, "_put", lambda f, place: None if f.name == "1.parquet" else put(f, place))
    with pytest.raises(WarehouseError, match="took 2 of the 3 rows"):
        warehouse.load(batch)
    assert there(config, snowflake_server) == []


@pytest.mark.parametrize("adds_only", [False, True], ids=["upserting", "adding"])
def test_a_process_that_froze_in_the_middle_of_a_batch_commits_nothing_when_it_wakes(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer, tmp_path: Path, adds_only: bool
) -> None:
    """Snowflake ends a transaction that is idle and in the way; what comes after it would be another one."""
    batch = people(tmp_path, "1", "2", adds_only=adds_only)
    frozen, thaw = threading.Event(), threading.Event()

    class Freezing(SnowflakeWarehouse):
        def _take(self, *arguments: Any) -> None:
            frozen.set()
            assert thaw.wait(60)
            super()._take(*arguments)

    with closing(config.open()) as opened:
        opened.create(PEOPLE)
        freezing = Freezing(config, opened._con)
        told: list[Exception] = []

        def load() -> None:
            try:
                freezing.load(batch)
            except WarehouseError as e:
                told.append(e)

        thread = threading.Thread(target=load)
        thread.start()
        assert frozen.wait(60)
        with closing(config.open()) as other:
            assert not other.load(batch).repeated
        thaw.set()
        thread.join(60)
        assert [type(e) for e in told] == [Busy]
        assert freezing.load(batch).repeated
    assert there(config, snowflake_server) == [["1", "v1"], ["2", "v1"]]
    assert snowflake_server.state()["held"] == []


def test_a_table_that_somebody_holds_is_busy(
    config: SnowflakeConfig,
    snowflake_server: SnowflakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(snowflake_sql.SESSION, "LOCK_TIMEOUT", 0)
    with closing(config.open()) as one, closing(config.open()) as other:
        one.create(PEOPLE)
        one.load(people(tmp_path, "1"))
        one._execute("BEGIN")
        one._execute('UPDATE KLAVIYO."_ISTHMUS_RECEIPTS" SET "ROWS" = "ROWS"')
        with pytest.raises(Busy) as caught:
            other.load(people(tmp_path, "2"))
        assert caught.value.code == "000625"
        one._execute("ROLLBACK")
        other.load(people(tmp_path, "2"))
    assert len(there(config, snowflake_server)) == 2


def test_two_connections_do_not_meet(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    second = made(snowflake_server)
    with closing(config.open()) as one, closing(second.open()) as other:
        for each in (one, other):
            each.create(PEOPLE)
        batch = people(tmp_path, "1", batch_id="the same")
        assert [one.load(batch).repeated, other.load(batch).repeated] == [False, False]


def test_opening_asks_nothing_and_every_statement_is_tagged(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer
) -> None:
    before = len(snowflake_server.log())
    config.open().close()
    assert snowflake_server.log(since=before) == []
    with closing(config.open()) as warehouse:
        warehouse.create(PEOPLE)
    assert {entry["tag"] for entry in snowflake_server.log(since=before)} == {"isthmus"}


def test_files_may_have_any_name(
    config: SnowflakeConfig, warehouse: SnowflakeWarehouse, snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    files = []
    for n, folder in enumerate(("it's [1] *", "ü %s")):
        (tmp_path / folder).mkdir()
        (file,) = people(tmp_path, str(n)).files
        files.append(file.rename(tmp_path / folder / "same.parquet"))
    warehouse.load(replace(people(tmp_path, "0", "1"), files=tuple(files)))
    assert len(there(config, snowflake_server)) == 2


# Tables of theirs


def test_a_column_that_would_cut_values_is_refused(config: SnowflakeConfig, snowflake_server: SnowflakeServer) -> None:
    for kind in ("VARCHAR(5)", "TIMESTAMP_NTZ(3)", "VARIANT"):
        snowflake_server.execute(
            f"CREATE OR REPLACE TABLE KLAVIYO.PEOPLE (ID VARCHAR, NAME {kind})",
            f"GRANT OWNERSHIP ON TABLE KLAVIYO.PEOPLE TO ROLE {config.role}",
            database=config.database,
        )
        with closing(config.open()) as warehouse, pytest.raises(Mismatch) as caught:
            warehouse.create(PEOPLE)
        assert (caught.value.column, caught.value.theirs) == ("name", kind)


def test_a_table_of_the_original_is_taken_over(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    """Its times may be without a zone: they are UTC then, whatever the session's zone."""
    columns = (Column("id", Type.TEXT), Column("datetime", Type.TIMESTAMP), Column(SEQ, Type.BIGINT))
    table = Table("event", columns, key=("id",))
    snowflake_server.execute(
        "CREATE TABLE KLAVIYO.EVENT (ID VARCHAR, DATETIME TIMESTAMP_NTZ, NOTE VARCHAR)",
        f"GRANT OWNERSHIP ON TABLE KLAVIYO.EVENT TO ROLE {config.role}",
        database=config.database,
    )
    moment = datetime(2024, 2, 29, 23, 30, 15, 123456, tzinfo=UTC)
    with closing(config.open()) as warehouse:
        warehouse.create(table)
        warehouse.load(batch_of(tmp_path, table, [{"id": "1", "datetime": moment, SEQ: 1}]))
        (rows,) = warehouse.read(Relation("klaviyo", "event"))
    assert rows.to_pylist() == [
        {"ID": "1", "DATETIME": moment.replace(tzinfo=None), "NOTE": None, "_ISTHMUS_SEQ": Decimal(1)}
    ]


def test_a_value_that_a_column_of_theirs_refuses_is_told_by_its_column(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    snowflake_server.execute(
        'CREATE TABLE KLAVIYO.PEOPLE (ID VARCHAR, NAME VARCHAR NOT NULL, "_ISTHMUS_SEQ" NUMBER(38,0))',
        f"GRANT OWNERSHIP ON TABLE KLAVIYO.PEOPLE TO ROLE {config.role}",
        database=config.database,
    )
    with closing(config.open()) as warehouse:
        warehouse.create(PEOPLE)
        with pytest.raises(Rejected) as caught:
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}], adds_only=True))
    assert caught.value.column == "NAME", caught.value.vendor
    assert there(config, snowflake_server) == []


# Reading


def exposed(server: SnowflakeServer, config: SnowflakeConfig, *statements: str) -> None:
    server.execute(*statements, database=config.database, schema=IMPORT)


def test_every_type_is_read_as_what_it_is(
    config: SnowflakeConfig, warehouse: SnowflakeWarehouse, snowflake_server: SnowflakeServer
) -> None:
    exposed(
        snowflake_server,
        config,
        "CREATE TABLE ODD AS SELECT 1.50::NUMBER(10,2) AS PRICE, 12345678901234567890::NUMBER(38,2) AS HUGE, "
        "7::INTEGER AS N, 0.5::FLOAT AS F, TRUE AS OK, '2024-02-29'::DATE AS DAY, '12:30:15.5'::TIME AS CLOCK, "
        "'2024-02-29 12:30:15.123456'::TIMESTAMP_NTZ AS NAIVE, "
        "'2024-02-29 12:30:15.123456 +02:00'::TIMESTAMP_TZ AS ZONED, "
        "'0001-01-01 00:00:00 +00:00'::TIMESTAMP_TZ AS FIRST, '9999-12-31 23:59:59.999999'::TIMESTAMP_NTZ AS LAST, "
        "PARSE_JSON('{\"b\": [1, null]}') AS DOC, PARSE_JSON('[2, 1]') AS TAGS, "
        "'ab'::BINARY AS BYTES, NULL::TIMESTAMP_NTZ AS NOTHING",
    )
    odd = Relation(IMPORT, "odd")
    (batch,) = warehouse.read(odd)
    assert batch.schema.equals(warehouse.schema(odd))
    (row,) = batch.to_pylist()
    assert row.pop("BYTES") in (b"ab", b"\xab")
    assert row == {
        "PRICE": Decimal("1.50"), "HUGE": Decimal("12345678901234567890"), "N": 7, "F": 0.5, "OK": True,
        "DAY": date(2024, 2, 29), "CLOCK": "12:30:15.500000",
        "NAIVE": datetime(2024, 2, 29, 12, 30, 15, 123456), "NOTHING": None,
        "ZONED": datetime(2024, 2, 29, 10, 30, 15, 123456, tzinfo=UTC), "FIRST": datetime(1, 1, 1, tzinfo=UTC),
        "LAST": datetime(9999, 12, 31, 23, 59, 59, 999999), "DOC": '{"b":[1,null]}', "TAGS": "[2,1]",
    }  # fmt: skip
    assert batch.schema.field("PRICE").type == pa.decimal128(38, 2)


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ"])
def test_every_kind_of_time_bounds_a_window(
    config: SnowflakeConfig, warehouse: SnowflakeWarehouse, snowflake_server: SnowflakeServer, kind: str
) -> None:
    rows = " UNION ALL ".join(f"SELECT {n} AS N, '2024-01-{n + 1:02}'::{kind} AS DAY" for n in range(10))
    exposed(snowflake_server, config, f"CREATE TABLE DAYS AS {rows} UNION ALL SELECT 10, NULL")
    days = Relation(IMPORT, "days")
    window = Window("day", "n", datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
    assert [int(row["N"]) for batch in warehouse.read(days, window=window) for row in batch.to_pylist()] == [2, 3]
    count = warehouse.count(days, window=window)
    assert (count.rows, count.first) == (2, datetime(2024, 1, 3, tzinfo=UTC))
    assert warehouse.count(days, window=Window("DAY", None, None, None, nulls=True)).rows == 1
    assert warehouse.count(days, window=Window("day", None, datetime.min.replace(tzinfo=UTC), None)).rows == 10


def test_names_are_found_as_snowflake_folds_them_or_as_they_are(
    config: SnowflakeConfig, warehouse: SnowflakeWarehouse, snowflake_server: SnowflakeServer
) -> None:
    exposed(snowflake_server, config, "CREATE TABLE POS_ORDERS AS SELECT 1 AS N",
            'CREATE TABLE "Odd Name" AS SELECT 1 AS "Some Column"')  # fmt: skip
    assert warehouse.count(Relation(IMPORT.lower(), "Pos_Orders")).rows == 1
    odd, orders = warehouse.relations()
    assert (odd.name, orders.name) == ("Odd Name", "POS_ORDERS")
    assert warehouse.schema(odd).names == ["Some Column"]
    with pytest.raises(Missing) as caught:
        warehouse.count(Relation(IMPORT, "nowhere"))
    assert "GRANT SELECT ON TABLE" in caught.value.hint and '"NOWHERE"' in caught.value.hint


def test_a_query_may_end_with_a_semicolon_or_a_comment(warehouse: SnowflakeWarehouse) -> None:
    for text in ("SELECT 1 AS n;", "SELECT 1 AS n -- one"):
        query = Relation("", text, "query")
        assert warehouse.schema(query).names == ["N"]
        assert warehouse.count(query).rows == 1


def test_a_query_that_is_wrong_is_the_persons_to_mend(warehouse: SnowflakeWarehouse) -> None:
    for text in ("SELEC 1", "SELECT nope FROM KLAVIYO.PEOPLE", "SELECT * FROM nowhere"):
        with pytest.raises(WarehouseError) as caught:
            list(warehouse.read(Relation("", text, "query")))
        assert not caught.value.retryable
        assert caught.value.vendor


def test_a_table_without_a_right_is_denied_with_the_statement_that_gives_it(
    config: SnowflakeConfig, warehouse: SnowflakeWarehouse, snowflake_server: SnowflakeServer
) -> None:
    exposed(snowflake_server, config, "CREATE TABLE ORDERS (N INTEGER)")
    everything = f"REVOKE SELECT ON ALL TABLES IN SCHEMA {IMPORT} FROM ROLE {config.role}"
    references = f"GRANT REFERENCES ON TABLE {IMPORT}.ORDERS TO ROLE {config.role}"
    snowflake_server.execute(everything, references, role="ACCOUNTADMIN", database=config.database)
    with pytest.raises(Denied) as caught:
        warehouse.count(Relation(IMPORT, "orders"))
    assert f'GRANT SELECT ON TABLE "{config.database}"."{IMPORT}"."ORDERS" TO ROLE' in caught.value.hint

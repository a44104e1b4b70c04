"""What goes wrong between us and BigQuery, and what is read from it: nothing missing, nothing doubled, nothing cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bigquery_cast import emptied, made
from warehouses_cast import PEOPLE, people

from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Unreachable, WarehouseError
from isthmus.model.table import SEQ, Column, SeqRange, Table, Type
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import BigQueryServer
from isthmus.testing.standins.bigquery_wire.calls import BACKEND, QUOTA, RATE_LIMIT, Cut, Fault, Lost, Refusal
from isthmus.warehouses.bigquery import BigQueryConfig, BigQueryWarehouse
from isthmus.warehouses.protocol import Relation, Window

FIND, LOAD, TAKE, WAIT, DROP = (
    "jobs.query query",
    "jobs.insert load",
    "jobs.insert query",
    "jobs.getQueryResults",
    "tables.delete",
)


@pytest.fixture(scope="module")
def place(bigquery_server: BigQueryServer) -> BigQueryConfig:
    return made(bigquery_server)


@pytest.fixture
def config(place: BigQueryConfig, bigquery_server: BigQueryServer) -> BigQueryConfig:
    return emptied(place, bigquery_server)


@pytest.fixture
def warehouse(config: BigQueryConfig) -> Iterator[BigQueryWarehouse]:
    with closing(config.open()) as opened:
        opened.create(PEOPLE)
        yield opened


def there(config: BigQueryConfig, server: BigQueryServer) -> list[tuple[Any, ...]]:
    return server.execute(f"SELECT id, name FROM `{config.dataset}.people` ORDER BY id")


def staged(config: BigQueryConfig, server: BigQueryServer) -> list[str]:
    with closing(server.client()) as client:
        return [t.table_id for t in client.list_tables(config.temp_dataset)]


# Faults


@pytest.mark.parametrize(
    ("fault", "adds_only"),
    [(RATE_LIMIT, False), (BACKEND, True), (Cut(), True), (Lost(), False)],
    ids=["429 upserting", "503 adding", "cut adding", "lost upserting"],
)
@pytest.mark.parametrize("at", [FIND, LOAD, TAKE])
def test_a_call_that_fails_leaves_all_or_nothing_and_the_next_load_finds_out(
    config: BigQueryConfig,
    warehouse: BigQueryWarehouse,
    bigquery_server: BigQueryServer,
    tmp_path: Path,
    at: str,
    fault: Fault,
    adds_only: bool,
) -> None:
    warehouse.load(people(tmp_path, "0"))
    batch = people(tmp_path, "1", "2", adds_only=adds_only)
    bigquery_server.calls.fail(at, fault)
    with pytest.raises((Busy, Unreachable)) as caught:
        warehouse.load(batch)
    assert caught.value.retryable and caught.value.hint
    bigquery_server.calls.heal()
    with closing(config.open()) as again:
        assert again.load(batch).repeated == (at == TAKE and fault == Lost())
        assert again.load(batch).repeated
    assert there(config, bigquery_server) == [("0", "v1"), ("1", "v1"), ("2", "v1")]


@pytest.mark.parametrize("fault", [BACKEND, Cut(), Lost()], ids=["503", "cut", "lost"])
def test_a_script_whose_end_is_not_heard_of_is_asked_about_first(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path, fault: Fault
) -> None:
    batch = people(tmp_path, "1", "2")
    bigquery_server.calls.fail(WAIT, fault, times=99)
    bigquery_server.calls.fail("jobs.get", fault, times=99)
    with pytest.raises((Busy, Unreachable)):
        warehouse.load(batch)
    bigquery_server.calls.heal()
    with closing(config.open()) as again:
        again.load(batch)
        assert again.load(batch).repeated
    assert there(config, bigquery_server) == [("1", "v1"), ("2", "v1")]


def test_what_was_staged_goes_when_google_says_no_and_ends_by_itself_when_it_says_nothing(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    bigquery_server.calls.fail(TAKE, RATE_LIMIT)
    with pytest.raises(Busy):
        warehouse.load(people(tmp_path, "1", "2", files=2))
    assert staged(config, bigquery_server) == []
    bigquery_server.calls.fail(TAKE, Cut())
    with pytest.raises(Unreachable):
        warehouse.load(people(tmp_path, "1", "2", files=2))
    assert len(staged(config, bigquery_server)) == 2  # the script may be running on, and reads them
    with closing(config._session()) as session:
        assert session.default_expiration_ms(config.temp_dataset) == 24 * 3600 * 1000


def test_a_staged_table_that_cannot_be_dropped_is_no_failure_of_the_load(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    bigquery_server.calls.fail(DROP, BACKEND, times=9)
    assert not warehouse.load(people(tmp_path, "1")).repeated
    assert there(config, bigquery_server) == [("1", "v1")]


def test_a_quota_that_is_used_up_is_busy_though_google_calls_it_forbidden(
    warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    bigquery_server.calls.fail(TAKE, QUOTA)
    with pytest.raises(Busy) as caught:
        warehouse.load(people(tmp_path, "1"))
    assert caught.value.code == "quotaExceeded" and "Quota exceeded" in caught.value.vendor


def test_billing_that_is_off_is_a_no_that_a_person_mends(
    warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    said = Refusal(403, "billingNotEnabled", "Billing has not been enabled for this project.")
    bigquery_server.calls.fail(TAKE, said)
    with pytest.raises(Denied) as caught:
        warehouse.load(people(tmp_path, "1"))
    assert not caught.value.retryable and "billing" in caught.value.hint.lower()


def test_a_query_that_would_bill_more_than_the_limit_is_not_run(
    config: BigQueryConfig, bigquery_server: BigQueryServer
) -> None:
    words = "Query exceeded limit for bytes billed: 1. 10485760 or higher required."
    said = Refusal(400, "bytesBilledLimitExceeded", words)
    with closing(config.open()) as warehouse:
        bigquery_server.calls.fail(FIND, said)
        with pytest.raises(WarehouseError) as caught:
            warehouse.count(Relation("", "SELECT 1 AS n", "query"))
    assert not caught.value.retryable and caught.value.hint


def test_rows_that_stop_coming_in_the_middle_are_an_error_not_an_end(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer
) -> None:
    bigquery_server.execute(
        f"CREATE TABLE `{config.import_dataset}.many` AS SELECT n FROM UNNEST(GENERATE_ARRAY(1, 50000)) AS n"
    )
    many = Relation(config.import_dataset, "many")
    assert sum(batch.num_rows for batch in warehouse.read(many)) == 50_000
    for what in ("CreateReadSession", "ReadRows"):
        bigquery_server.calls.fail(what, BACKEND)
        with pytest.raises((Busy, Unreachable)):
            list(warehouse.read(many))
    assert sum(batch.num_rows for batch in warehouse.read(many)) == 50_000


def test_a_session_that_was_closed_says_so(config: BigQueryConfig, tmp_path: Path) -> None:
    warehouse = config.open()
    warehouse.close()
    with pytest.raises(Unreachable, match="closed"):
        warehouse.load(people(tmp_path, "1"))


# What is asked


def test_a_batch_that_is_there_costs_one_question(
    warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    batch = people(tmp_path, "1")
    warehouse.load(batch)
    before = len(bigquery_server.calls.made)
    assert warehouse.load(batch).repeated
    assert [c.what for c in bigquery_server.calls.made[before:]] == [FIND]


# Names and values


def test_columns_that_differ_in_case_only_are_refused_before_anything_is_made(
    config: BigQueryConfig, warehouse: BigQueryWarehouse
) -> None:
    table = Table("t", (Column("Id", Type.TEXT), Column("id", Type.TEXT), Column(SEQ, Type.BIGINT)))
    with pytest.raises(Mismatch) as caught:
        warehouse.create(table)
    assert caught.value.hint
    with pytest.raises(Missing):
        warehouse.count(Relation(config.dataset, "t"))


def test_names_that_are_words_of_sql_are_names(warehouse: BigQueryWarehouse, tmp_path: Path) -> None:
    table = Table(
        "order", (Column("select", Type.TEXT), Column("from", Type.DOUBLE), Column(SEQ, Type.BIGINT)), key=("select",)
    )
    warehouse.create(table)
    warehouse.load(batch_of(tmp_path, table, [{"select": "1", "from": 0.5, SEQ: 1}]))
    warehouse.load(batch_of(tmp_path, table, [{"select": "1", "from": 1.5, SEQ: 2}]))
    (tally,) = warehouse.tally(table, SeqRange(None, 9))
    assert (tally.seq, tally.rows) == (2, 1)


def test_json_is_kept_to_the_letter_since_a_json_column_would_rewrite_it(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    table = Table("docs", (Column("id", Type.TEXT), Column("doc", Type.JSON), Column(SEQ, Type.BIGINT)), key=("id",))
    texts = ['{"b": 1, "a": 1.10}', '{"n": 12345678901234567890123}', '{"half": "\\ud83d"}', "[]", "null"]
    warehouse.create(table)
    warehouse.load(batch_of(tmp_path, table, [{"id": str(n), "doc": t, SEQ: 1} for n, t in enumerate(texts)]))
    rows = bigquery_server.execute(f"SELECT doc FROM `{config.dataset}.docs` ORDER BY id")
    assert [row[0] for row in rows] == texts


def test_a_text_of_ten_million_characters_goes_and_comes(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    long = "ä" * 10_000_000
    warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": long, SEQ: 1}]))
    rows = bigquery_server.execute(f"SELECT LENGTH(name), name = REPEAT('ä', 10000000) FROM `{config.dataset}.people`")
    assert rows == [(10_000_000, True)]


def test_a_column_of_another_type_is_a_mismatch(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer
) -> None:
    bigquery_server.execute(f"DROP TABLE `{config.dataset}.people`")
    for kind in ("INT64", "DATETIME", "STRING(5)"):
        bigquery_server.execute(f"CREATE OR REPLACE TABLE `{config.dataset}.people` (id STRING, name {kind})")
        with pytest.raises(Mismatch) as caught:
            warehouse.create(PEOPLE)
        assert (caught.value.column, caught.value.theirs) == ("name", kind)


# Reading


def test_every_type_is_read_as_what_it_is(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer
) -> None:
    bigquery_server.execute(
        f"CREATE TABLE `{config.import_dataset}.odd` AS SELECT NUMERIC '1.50' AS price, "
        "BIGNUMERIC '12345678901234567890.5' AS huge, 7 AS n, 0.5 AS f, TRUE AS ok, DATE '2024-02-29' AS day, "
        "TIME '12:30:15.5' AS clock, DATETIME '2024-02-29 12:30:15.123456' AS naive, "
        "TIMESTAMP '2024-02-29 12:30:15.123456+02' AS zoned, TIMESTAMP '0001-01-01 00:00:00+00' AS first, "
        "DATETIME '9999-12-31 23:59:59.999999' AS last, JSON '{\"b\": [1, null]}' AS doc, [2, 1] AS tags, "
        "STRUCT(1 AS a, 'x' AS b) AS pair, b'ab' AS bytes, CAST(NULL AS TIMESTAMP) AS nothing"
    )
    odd = Relation(config.import_dataset, "odd")
    (batch,) = warehouse.read(odd)
    assert batch.schema.equals(warehouse.schema(odd))
    (row,) = batch.to_pylist()
    assert Decimal(row.pop("huge")) == Decimal("12345678901234567890.5")
    assert row.pop("clock").rstrip("0") == "12:30:15.5"
    assert row == {
        "price": Decimal("1.50"), "n": 7, "f": 0.5, "ok": True,
        "day": date(2024, 2, 29), "naive": datetime(2024, 2, 29, 12, 30, 15, 123456),
        "zoned": datetime(2024, 2, 29, 10, 30, 15, 123456, tzinfo=UTC), "first": datetime(1, 1, 1, tzinfo=UTC),
        "last": datetime(9999, 12, 31, 23, 59, 59, 999999), "doc": '{"b":[1,null]}', "tags": "[2,1]",
        "pair": '{"a":1,"b":"x"}', "bytes": b"ab", "nothing": None,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["DATE", "DATETIME", "TIMESTAMP"])
def test_every_kind_of_time_bounds_a_window(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer, kind: str
) -> None:
    rows = " UNION ALL ".join(f"SELECT {n} AS n, {kind} '2024-01-{n + 1:02}' AS day" for n in range(10))
    bigquery_server.execute(
        f"CREATE TABLE `{config.import_dataset}.days` AS {rows} UNION ALL SELECT 10, CAST(NULL AS {kind})"
    )
    days = Relation(config.import_dataset, "days")
    window = Window("day", "n", datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
    assert [row["n"] for batch in warehouse.read(days, window=window) for row in batch.to_pylist()] == [2, 3]
    count = warehouse.count(days, window=window)
    assert (count.rows, count.first) == (2, datetime(2024, 1, 3, tzinfo=UTC))
    assert warehouse.count(days, window=Window("day", None, None, None, nulls=True)).rows == 1
    assert warehouse.count(days, window=Window("day", None, datetime.min.replace(tzinfo=UTC), None)).rows == 10


def test_a_name_in_another_case_is_found_if_it_is_the_only_one(
    config: BigQueryConfig, warehouse: BigQueryWarehouse, bigquery_server: BigQueryServer
) -> None:
    bigquery_server.execute(f"CREATE TABLE `{config.import_dataset}.Orders` AS SELECT 1 AS n")
    assert warehouse.count(Relation(config.import_dataset, "orders")).rows == 1
    with pytest.raises(Missing) as caught:
        warehouse.count(Relation(config.import_dataset, "nowhere"))
    assert caught.value.hint


def test_a_query_may_end_with_a_semicolon_or_a_comment(warehouse: BigQueryWarehouse) -> None:
    for text in ("SELECT 1 AS n;", "SELECT 1 AS n -- one", "SELECT 1 AS n # one"):
        query = Relation("", text, "query")
        assert warehouse.schema(query).names == ["n"]
        assert warehouse.count(query).rows == 1


def test_a_query_that_is_wrong_is_the_persons_to_mend(config: BigQueryConfig, warehouse: BigQueryWarehouse) -> None:
    for text in ("SELEC 1", f"SELECT nope FROM `{config.dataset}`.people", f"SELECT * FROM `{config.dataset}`.nowhere"):
        with pytest.raises(WarehouseError) as caught:
            list(warehouse.read(Relation("", text, "query")))
        assert not caught.value.retryable
        assert caught.value.vendor

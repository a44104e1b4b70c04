"""The Databricks connector against a warehouse of our own: what of the suite applies, and what only Databricks has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlglot

from isthmus.model.errors import Busy, Denied, InvalidInput, Missing, Rejected, Unreachable, WarehouseError
from isthmus.model.table import Table
from isthmus.secrets import Secret
from isthmus.testing import standins
from isthmus.testing.conformance import ReadingConformance
from isthmus.testing.standins import DatabricksServer
from isthmus.warehouses.databricks import DatabricksConfig, DatabricksWarehouse
from isthmus.warehouses.databricks_sql import identifier
from isthmus.warehouses.kinds import fields
from isthmus.warehouses.protocol import Config, Direction, Relation, Window

IMPORT = "klaviyo_import_from_dwh"
ME = "0b9f-application-id"
GOLDEN = Path(__file__).parent / "golden" / "databricks_import.sql"
TYPES = {
    pa.string(): "STRING",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP",
    pa.float64(): "DOUBLE",
    pa.int64(): "BIGINT",
    pa.bool_(): "BOOLEAN",
}


@pytest.fixture(scope="session")
def server() -> Iterator[DatabricksServer]:
    with standins.databricks() as running:
        yield running


@pytest.fixture
def config(server: DatabricksServer) -> Iterator[DatabricksConfig]:
    """A new catalog in which the set-up script was run twice, and a member of the group that it gave rights to."""
    made = DatabricksConfig(
        hostname=server.hostname,
        http_path=server.http_path,
        catalog=server.fresh_catalog(),
        access_token=Secret(server.principal(ME, ["isthmus"])),
        port=server.port,
        ca_file=server.ca_file,
    )
    for _ in range(2):
        server.run(made.setup_script([]))
    yield made
    server.heal()


class TestDatabricks(ReadingConformance):
    @pytest.fixture
    def config(self, config: DatabricksConfig, server: DatabricksServer) -> DatabricksConfig:
        self.server = server
        return config

    def expose(self, config: Config, table: Table, rows: list[dict[str, Any]], folder: Path) -> Relation:
        """The customer's own table: the administrator makes and fills it."""
        assert isinstance(config, DatabricksConfig)
        name = identifier(config.catalog, IMPORT, table.name)
        columns = ", ".join(f"{identifier(c.name)} {TYPES[c.arrow]}" for c in table.columns)
        self.server.execute(f"CREATE TABLE {name} ({columns})")
        self.server.fill(name, pa.Table.from_pylist(rows, schema=table.schema))
        return Relation(IMPORT, table.name.lower())

    def relation_name(self, name: str) -> str:
        return name.replace(" ", "_").lower()  # as Unity Catalog keeps it; blanks, dots and slashes it refuses

    def target(self, config: Any, table: Table) -> Relation:
        return Relation(IMPORT, table.name)


@pytest.fixture
def warehouse(config: DatabricksConfig) -> Iterator[DatabricksWarehouse]:
    with closing(config.open()) as opened:
        yield opened


def rows_of(warehouse: DatabricksWarehouse, relation: Relation, **options: Any) -> list[dict[str, Any]]:
    return [row for batch in warehouse.read(relation, **options) for row in batch.to_pylist()]


# The script


def test_the_script_is_the_one_that_was_read_and_agreed() -> None:
    path = "/sql/1.0/warehouses/abc123?o=42"
    made = DatabricksConfig("dbc-1.cloud.databricks.com", path, "shop", Secret("dapi-secret"))
    script = made.setup_script([], direction=Direction.IMPORT, egress=("192.0.2.7/32", "2001:db8::/48"))
    assert script == GOLDEN.read_text(), f"if this is right: write it to {GOLDEN}"
    code = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    said = [tree.sql(dialect="databricks").split()[:2] for tree in sqlglot.parse(code, read="databricks") if tree]
    assert [words[0] for words in said] == ["GRANT", "CREATE", "GRANT", "GRANT", "CREATE", "GRANT"]


def test_there_is_no_script_to_export(config: DatabricksConfig) -> None:
    with pytest.raises(InvalidInput, match="read only"):
        config.setup_script([], direction=Direction.EXPORT)


def test_the_user_of_the_script_may_do_no_more_than_read(config: DatabricksConfig, server: DatabricksServer) -> None:
    token, catalog = config.access_token.reveal(), config.catalog
    server.execute(f"CREATE SCHEMA {catalog}.private")
    server.execute(f"CREATE TABLE {catalog}.private.salaries (n INT)")
    server.execute(f"CREATE TABLE {catalog}.{IMPORT}.orders (n INT)")
    for refused in (
        f"SELECT * FROM {catalog}.private.salaries",
        f"INSERT INTO {catalog}.{IMPORT}.orders VALUES (1)",
        f"DELETE FROM {catalog}.{IMPORT}.orders",
        f"DROP TABLE {catalog}.{IMPORT}.orders",
        f"CREATE TABLE {catalog}.{config.temp_schema}.mine (n INT)",
        f"CREATE SCHEMA {catalog}.mine",
        f"GRANT SELECT ON SCHEMA {catalog}.private TO `isthmus`",
    ):
        with pytest.raises(Exception, match="INSUFFICIENT_PERMISSIONS"):
            server.execute(refused, token=token)


# Checks


@pytest.mark.parametrize(
    ("to", "exposes"),
    # What a group may is not told to its members: without a table there is nothing to see it by.
    [("a group", True), ("the principal", True), ("the principal", False)],
    ids=["a group", "the principal", "nothing is there"],
)
@pytest.mark.parametrize(
    "revoked",
    [
        "USE CATALOG ON CATALOG {catalog}",
        "USE SCHEMA ON SCHEMA {catalog}.{import}",
        "SELECT ON SCHEMA {catalog}.{import}",
        "USE SCHEMA ON SCHEMA {catalog}.{temp}",
    ],
)
def test_the_statement_of_a_no_makes_it_a_yes(
    config: DatabricksConfig, server: DatabricksServer, revoked: str, to: str, exposes: bool
) -> None:
    if to == "the principal":
        config = replace(
            config, principal=ME, access_token=Secret(server.principal(ME)), catalog=server.fresh_catalog()
        )
        server.run(config.setup_script([]))
    if exposes:
        server.execute(f"CREATE TABLE {config.catalog}.{IMPORT}.orders (n INT)")
    assert all(c.passed and not c.warns for c in config.check())
    names = {"{catalog}": config.catalog, "{import}": IMPORT, "{temp}": config.temp_schema}
    for written, name in names.items():
        revoked = revoked.replace(written, name)
    server.execute(f"REVOKE {revoked} FROM `{config.principal}`")
    refused = [c for c in config.check() if not c.passed]
    assert refused
    assert refused[0].hint and refused[0].detail
    assert {c.statement for c in refused} == {refused[0].statement}, "one right is missing, and one statement gives it"
    server.run(refused[0].statement)
    assert all(c.passed for c in config.check())


def test_rights_too_many_are_named_with_the_statement_that_takes_them(
    config: DatabricksConfig, server: DatabricksServer
) -> None:
    server.execute(f"GRANT MODIFY ON SCHEMA {config.catalog}.{IMPORT} TO `{ME}`")
    server.execute(f"GRANT ALL PRIVILEGES ON SCHEMA {config.catalog}.{config.temp_schema} TO `{ME}`")  # the original's
    for left in (2, 1):
        answers = list(config.check())
        assert all(a.passed for a in answers)
        (warned,) = [a for a in answers if a.warns]
        assert warned is answers[-1]
        assert warned.detail.count(" on schema ") == left
        server.run(warned.statement)
    assert not any(a.warns for a in config.check())


def test_a_hive_metastore_is_a_clear_no_that_asks_nobody(config: DatabricksConfig, server: DatabricksServer) -> None:
    before = len(server.log())
    hive = replace(config, catalog="hive_metastore")
    (answer,) = hive.check()
    assert not answer.passed and "Hive metastore" in answer.detail and "federation" in answer.hint
    with pytest.raises(Missing, match="Unity Catalog"):
        hive.open()
    assert len(server.log()) == before


def test_a_catalog_that_is_not_there(config: DatabricksConfig) -> None:
    nowhere = replace(config, catalog="nowhere")
    with pytest.raises(Missing) as caught:
        nowhere.open()
    assert caught.value.code == "NO_SUCH_CATALOG_EXCEPTION"
    assert [c.passed for c in nowhere.check()] == [True, True, False]


# Reading


def test_every_type_comes_as_arrow_has_it_or_as_text(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    name = f"{config.catalog}.{IMPORT}.odd"
    server.execute(f"""CREATE TABLE {name} (tiny TINYINT, small SMALLINT, n INT, price DECIMAL(10, 2), f FLOAT,
        at TIMESTAMP, local TIMESTAMP_NTZ, day DATE, raw BINARY, tags ARRAY<STRING>, counts MAP<STRING, INT>,
        deep STRUCT<a: INT, b: ARRAY<STRUCT<at: TIMESTAMP, local: TIMESTAMP_NTZ>>, nothing: STRING>, doc VARIANT,
        wait INTERVAL DAY TO SECOND)""")
    server.execute(f"""INSERT INTO {name} SELECT 1, 2, 3, 12.50, 0.5, TIMESTAMP'2024-02-29 12:30:15.123456Z',
        TIMESTAMP_NTZ'2024-02-29 12:30:15.123456', DATE'2024-02-29', X'00FF', array('x', 'y"z', NULL), map('k', 1),
        named_struct('a', 1, 'b', array(named_struct('at', TIMESTAMP'2024-02-29 12:30:15.123456Z',
        'local', TIMESTAMP_NTZ'2024-02-29 12:30:15.000001')), 'nothing', NULL),
        parse_json('{{"b": [1, null], "a": "é"}}'), INTERVAL '1' DAY + INTERVAL '7384' SECOND""")
    server.execute(f"INSERT INTO {name} (n) VALUES (4)")
    odd = Relation(IMPORT, "odd")
    batches = list(warehouse.read(odd))
    assert all(batch.schema.equals(warehouse.schema(odd)) for batch in batches)
    full, empty = sorted((row for b in batches for row in b.to_pylist()), key=lambda row: row["n"])
    assert full == {
        "tiny": 1, "small": 2, "n": 3, "price": Decimal("12.50"), "f": 0.5,
        "at": datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC), "local": datetime(2024, 2, 29, 12, 30, 15, 123456),
        "day": date(2024, 2, 29), "raw": b"\x00\xff", "tags": '["x","y\\"z",null]', "counts": '{"k":1}',
        "deep": '{"a":1,"b":[{"at":"2024-02-29T12:30:15.123456Z","local":"2024-02-29T12:30:15.000001"}],'
        '"nothing":null}',
        "doc": '{"a":"é","b":[1,null]}', "wait": "INTERVAL '1 02:03:04' DAY TO SECOND",
    }  # fmt: skip
    assert {value for column, value in empty.items() if column != "n"} == {None}


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "TIMESTAMP_NTZ"])
def test_every_kind_of_time_bounds_a_window(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse, kind: str
) -> None:
    values = ", ".join(f"({n}, CAST('2024-01-0{n}' AS {kind}))" for n in range(1, 10))
    name = f"{config.catalog}.{IMPORT}.days"
    server.execute(f"CREATE TABLE {name} (n INT, day {kind})")
    server.execute(f"INSERT INTO {name} VALUES {values}, (10, NULL)")
    days = Relation(IMPORT, "days")
    noon, fourth = datetime(2024, 1, 2, 12, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC)
    ever, never = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 12, tzinfo=UTC)
    for start, end, expected in (
        (noon, fourth, [3, 4]),
        (fourth, None, [4, 5, 6, 7, 8, 9]),
        (None, noon, [1, 2]),
        (ever, never, list(range(1, 10))),
        (never, None, []),
    ):
        window = Window("day", "n", start, end)
        assert [row["n"] for row in rows_of(warehouse, days, window=window)] == expected
        assert warehouse.count(days, window=window).rows == len(expected)
    assert warehouse.count(days, window=Window("day", "n", noon, fourth)).first == datetime(2024, 1, 3, tzinfo=UTC)
    nowhere = Window("day", "n", None, None, nulls=True)
    assert [row["n"] for row in rows_of(warehouse, days, window=nowhere)] == [10]


def test_a_window_is_asked_for_in_the_columns_own_type_so_that_files_can_be_skipped(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    server.execute(f"CREATE TABLE {config.catalog}.{IMPORT}.days (n INT, day DATE)")
    before = len(server.log())
    window = Window("day", "n", datetime(2024, 1, 2, 12, tzinfo=UTC), None)
    rows_of(warehouse, Relation(IMPORT, "days"), window=window)
    assert "q.`day` >= DATE'2024-01-03'" in server.log(before)[-1][1]


def test_a_window_is_ordered_by_the_value_of_its_key_and_not_by_its_text(warehouse: DatabricksWarehouse) -> None:
    text = "SELECT array(id) AS k, TIMESTAMP'2024-01-01 00:00:00Z' AS at FROM range(8, 12) AS r(id) -- ties"
    window = Window("at", "k", datetime(2024, 1, 1, tzinfo=UTC), None)
    found = rows_of(warehouse, Relation("", text, "query"), window=window)
    assert [row["k"] for row in found] == ["[8]", "[9]", "[10]", "[11]"]


def test_tables_views_and_materialized_views_are_listed(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    within = f"{config.catalog}.{IMPORT}"
    server.execute(f"CREATE TABLE {within}.Orders (n INT)")
    server.execute(f"CREATE VIEW {within}.big AS SELECT * FROM {within}.orders WHERE n > 100")
    server.execute(f"CREATE MATERIALIZED VIEW {within}.mv AS SELECT count(*) AS n FROM {within}.orders")
    expected = [Relation(IMPORT, "big", "view"), Relation(IMPORT, "mv", "view"), Relation(IMPORT, "orders")]
    assert list(warehouse.relations()) == expected
    assert [warehouse.count(r).rows for r in expected] == [0, 1, 0]
    assert warehouse.count(Relation("KLAVIYO_IMPORT_FROM_DWH", "ORDERS")).rows == 0, "names are the same in any case"


def test_a_query_may_end_with_a_semicolon_and_has_the_catalog_as_its_own(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    server.execute(f"CREATE TABLE {config.catalog}.{IMPORT}.orders (n INT)")
    query = Relation("", f"SELECT n FROM {IMPORT}.orders;", "query")
    assert warehouse.schema(query).names == ["n"]
    assert warehouse.count(query).rows == 0
    for text in ("SELEC 1", "SELECT nope", "SELECT * FROM nowhere", "SELECT epoch_us(current_timestamp())"):
        with pytest.raises(WarehouseError) as caught:
            rows_of(warehouse, Relation("", text, "query"))
        assert not caught.value.retryable
        assert caught.value.vendor and caught.value.hint


def test_a_view_that_meets_a_bad_value_in_the_middle_is_the_persons_to_mend(warehouse: DatabricksWarehouse) -> None:
    query = Relation("", "SELECT CAST(s AS INT) AS n FROM (VALUES ('1'), ('abc')) AS v(s)", "query")
    with pytest.raises(Rejected) as caught:
        rows_of(warehouse, query)
    assert caught.value.code == "CAST_INVALID_INPUT" and "try_cast" in caught.value.hint


def test_a_large_result_is_fetched_in_parts_that_are_closed_with_the_reading(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    name = f"{config.catalog}.{IMPORT}.big"
    server.execute(f"CREATE TABLE {name} (n BIGINT, s STRING)")
    server.fill(name, pa.table({"n": range(400_000), "s": ["x" * 50] * 400_000}))
    big = Relation(IMPORT, "big")
    before = server.still_open()["operations"]
    batches = warehouse.read(big)
    first = next(batches)
    assert first.num_rows < 100_000
    assert server.still_open()["operations"] == before + 1
    batches.close()  # type: ignore[attr-defined]
    assert server.still_open()["operations"] == before
    assert sum(b.num_rows for b in warehouse.read(big)) == 400_000
    server.fault("results", "status", status=403)
    with pytest.raises(Unreachable):
        list(warehouse.read(big))
    assert sum(b.num_rows for b in warehouse.read(big)) == 400_000


# What goes wrong


def test_a_right_that_is_missing_is_named_with_the_statement_that_gives_it(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    server.execute(f"CREATE TABLE {config.catalog}.{IMPORT}.orders (n INT)")
    server.execute(f"REVOKE SELECT ON SCHEMA {config.catalog}.{IMPORT} FROM `isthmus`")
    with pytest.raises(Denied) as caught:
        warehouse.count(Relation(IMPORT, "orders"))
    server.execute(caught.value.hint.removeprefix("a right is missing: "))
    assert warehouse.count(Relation(IMPORT, "orders")).rows == 0


@pytest.mark.parametrize("status", [429, 503])
def test_told_to_wait_it_says_so_at_once_in_databricks_words(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse, status: int
) -> None:
    server.fault("ExecuteStatement", "status", status=status, said="Please slow down", retry_after=30)
    with pytest.raises(Busy) as caught:
        warehouse.count(Relation("", "SELECT 1 AS n", "query"))
    assert (caught.value.code, caught.value.vendor) == (f"HTTP {status}", "Please slow down")
    assert warehouse.count(Relation("", "SELECT 1 AS n", "query")).rows == 1


@pytest.mark.parametrize("state", ["STOPPED", "STARTING"])
def test_a_warehouse_that_is_stopped_or_starts_is_busy(
    config: DatabricksConfig, server: DatabricksServer, state: str
) -> None:
    server.state(state)
    with pytest.raises(Busy) as caught:
        config.open()
    assert state in caught.value.vendor
    assert [(c.question, c.passed) for c in config.check()][-1] == ("Can we sign in?", False)
    server.heal()
    config.open().close()


@pytest.mark.parametrize("after", [False, True], ids=["before the work", "after it"])
def test_a_cut_connection_is_made_anew_once_and_then_unreachable(
    server: DatabricksServer, warehouse: DatabricksWarehouse, after: bool
) -> None:
    query = Relation("", "SELECT 1 AS n", "query")
    server.fault("ExecuteStatement", "drop", after=after, times=1)
    assert warehouse.count(query).rows == 1
    server.fault("ExecuteStatement", "drop", after=after, times=2)
    with pytest.raises(Unreachable) as caught:
        warehouse.count(query)
    assert caught.value.retryable and caught.value.hint
    assert warehouse.count(query).rows == 1


def test_a_warehouse_that_was_restarted_has_forgotten_the_session(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    server.restart()
    with pytest.raises(Unreachable) as caught:
        warehouse.count(Relation("", "SELECT 1 AS n", "query"))
    assert caught.value.retryable
    config.open().close()


def test_a_result_that_breaks_off_in_the_middle_is_an_error_and_not_an_end(
    config: DatabricksConfig, server: DatabricksServer, warehouse: DatabricksWarehouse
) -> None:
    name = f"{config.catalog}.{IMPORT}.big"
    server.execute(f"CREATE TABLE {name} (n BIGINT)")
    server.fill(name, pa.table({"n": range(1_000_000)}))
    batches = warehouse.read(Relation(IMPORT, "big"))
    next(batches)
    server.restart()
    with pytest.raises(Unreachable):
        list(batches)


def test_a_token_that_ended_is_denied_and_a_new_one_works(config: DatabricksConfig, server: DatabricksServer) -> None:
    new = replace(config, access_token=Secret(server.principal(ME, ["isthmus"])))
    with closing(config.open()) as opened:
        server.end_token(config.access_token.reveal())
        with pytest.raises(Denied) as caught:
            opened.count(Relation("", "SELECT 1 AS n", "query"))
    assert config.access_token.reveal() not in json.dumps(caught.value.as_dict())
    with pytest.raises(Denied):
        config.open()
    with closing(new.open()) as opened:
        assert opened.count(Relation("", "SELECT 1 AS n", "query")).rows == 1


def test_a_warehouse_that_is_not_there_and_a_certificate_nobody_knows(config: DatabricksConfig) -> None:
    with pytest.raises(Missing) as missing:
        replace(config, http_path="/sql/1.0/warehouses/other").open()
    assert missing.value.code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(Unreachable) as untrusted:
        replace(config, ca_file="").open()
    assert untrusted.value.code == "TLS" and "CA file" in untrusted.value.hint
    with pytest.raises(Unreachable) as unknown:
        replace(config, hostname="nobody.invalid").open()
    assert "hostname" in unknown.value.hint


def test_a_host_may_be_given_as_the_browser_shows_it(config: DatabricksConfig) -> None:
    replace(config, hostname=f"https://{config.hostname}/").open().close()


def test_two_connections_at_once_do_not_meet(config: DatabricksConfig, server: DatabricksServer) -> None:
    other = replace(config, catalog=server.fresh_catalog())
    server.run(other.setup_script([]))
    for each, value in ((config, 1), (other, 2)):
        server.execute(f"CREATE VIEW {each.catalog}.{IMPORT}.v AS SELECT {value} AS n")
    with closing(config.open()) as one, closing(other.open()) as two:
        query = Relation("", f"SELECT n FROM {IMPORT}.v", "query")
        assert [rows_of(w, query) for w in (one, two, one)] == [[{"n": 1}], [{"n": 2}], [{"n": 1}]]


# What is said, and to whom


def test_it_reports_to_nobody_and_leaves_nothing_open(config: DatabricksConfig, server: DatabricksServer) -> None:
    before = server.still_open()
    with closing(config.open()) as opened:
        list(opened.relations())
    assert list(config.check())
    assert server.still_open() == before
    assert [line for line in server.seen() if not line.startswith("OpenSession while")] == []


def test_whatever_writes_asks_nobody(warehouse: DatabricksWarehouse, server: DatabricksServer) -> None:
    before = len(server.log())
    for ask in (lambda: warehouse.receipt("x"), lambda: warehouse.create(Table("t", ()))):
        with pytest.raises(WarehouseError, match="read only"):
            ask()
    assert len(server.log()) == before


def test_the_usual_fields_are_all_a_person_is_asked_for() -> None:
    required = [f.name for f in fields("databricks") if f.required]
    assert required == ["hostname", "http_path", "catalog", "access_token"]
    assert all(f.advanced for f in fields("databricks") if not f.required)

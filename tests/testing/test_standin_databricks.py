"""The Databricks stand-in: what a person's driver meets there is what Databricks documents, or a loud no."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from databricks.sql.exc import RequestError, ServerOperationError

from isthmus.testing import standins
from isthmus.testing.standins import DatabricksServer


@pytest.fixture(scope="module")
def server() -> Iterator[DatabricksServer]:
    with standins.databricks() as running:
        yield running


@pytest.fixture
def catalog(server: DatabricksServer) -> Iterator[str]:
    name = server.fresh_catalog()
    server.execute(f"CREATE SCHEMA {name}.s")
    yield name
    server.heal()


def refused(server: DatabricksServer, statement: str, *, token: str = "") -> str:
    """The condition with which a statement is refused."""
    with pytest.raises(ServerOperationError) as caught:
        server.execute(statement, token=token)
    condition, _, rest = str(caught.value).removeprefix("[").partition("]")
    assert "SQLSTATE: " in rest
    return condition


def test_a_token_is_asked_for(server: DatabricksServer) -> None:
    assert server.execute("SELECT current_user()") == [(server.administrator,)]
    with pytest.raises(RequestError, match="Invalid access token"):
        server.execute("SELECT 1", token="dapi-of-somebody-else")


def test_a_person_finds_their_way_among_catalogs(server: DatabricksServer, catalog: str) -> None:
    other = server.fresh_catalog()
    server.execute(f"CREATE TABLE {catalog}.s.T (n INT COMMENT 'a number') USING DELTA COMMENT 'x'")
    server.execute(f"CREATE TABLE IF NOT EXISTS {catalog}.S.t (n INT)")
    with closing(server.connect()) as con, con.cursor() as cursor:
        for statement in (f"USE CATALOG {catalog}", f"USE SCHEMA {catalog}.s", "INSERT INTO t VALUES (1), (2)"):
            cursor.execute(statement)
        cursor.execute("SELECT current_catalog() AS c, current_schema() AS s, sum(n) AS n FROM t")
        assert [tuple(row) for row in cursor.fetchall()] == [(catalog, "s", 3)]
        cursor.execute(f"SELECT * FROM {other}.information_schema.tables")
        assert cursor.fetchall() == []
    assert server.execute(f"SELECT table_schema, table_name, table_type FROM {catalog}.information_schema.tables") == [
        ("s", "t", "MANAGED")
    ]


@pytest.mark.parametrize(
    ("statement", "condition"),
    [
        ("SELECT * FROM {c}.s.nothing", "TABLE_OR_VIEW_NOT_FOUND"),
        ("SELECT * FROM {c}.nothing.t", "SCHEMA_NOT_FOUND"),
        ("SELECT * FROM nothing.s.t", "NO_SUCH_CATALOG_EXCEPTION"),
        ("SELECT * FROM hive_metastore.information_schema.tables", "TABLE_OR_VIEW_NOT_FOUND"),
        ("SELECT nothing FROM {c}.s.t", "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION"),
        ("SELECT CAST('x' AS INT)", "CAST_INVALID_INPUT"),
        ("SELECT CAST(300 AS TINYINT)", "CAST_OVERFLOW"),
        ("CREATE SCHEMA {c}.s", "SCHEMA_ALREADY_EXISTS"),
        ("CREATE TABLE {c}.s.t (n INT)", "TABLE_OR_VIEW_ALREADY_EXISTS"),
        ("CREATE SCHEMA {c}.`two words`", "INVALID_PARAMETER_VALUE"),
        ("GRANT SELECT ON SCHEMA {c}.s TO `nobody`", "PRINCIPAL_DOES_NOT_EXIST"),
        ("GRANT USE CATALOG ON SCHEMA {c}.s TO `account users`", "INVALID_PARAMETER_VALUE"),
        ("DESCRIBE SCHEMA {c}.nothing", "SCHEMA_NOT_FOUND"),
        ("SELEC 1", "PARSE_SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", "PARSE_SYNTAX_ERROR"),
        ("SET TIME ZONE 'Europe/Berlin'", "PARSE_SYNTAX_ERROR"),
        ("OPTIMIZE {c}.s.t", "PARSE_SYNTAX_ERROR"),
        ("COPY INTO {c}.s.t FROM 's3://bucket/x' FILEFORMAT = PARQUET", "PARSE_SYNTAX_ERROR"),
        ("ALTER TABLE {c}.s.t ADD COLUMN m INT", "PARSE_SYNTAX_ERROR"),
        # What DuckDB knows and Databricks does not.
        ("SELECT epoch_us(current_timestamp())", "UNRESOLVED_ROUTINE"),
        ("SELECT * FROM read_csv('/etc/passwd')", "UNRESOLVED_ROUTINE"),
        ("SELECT hash(1)", "UNRESOLVED_ROUTINE"),
    ],
)
def test_what_is_wrong_or_unknown_is_refused_as_databricks_would(
    server: DatabricksServer, catalog: str, statement: str, condition: str
) -> None:
    server.execute(f"CREATE TABLE {catalog}.s.t (n INT)")
    assert refused(server, statement.replace("{c}", catalog)) == condition


def test_values_travel_as_databricks_writes_them(server: DatabricksServer) -> None:
    ((text, json, bare, variant, wait, price, at, local),) = server.execute(
        r"""SELECT 'it\'s \\ ü' AS text,
        to_json(named_struct('at', TIMESTAMP'2024-01-01 00:00:00.123456Z', 'n', NULL),
            map('timestampFormat', 'yyyy-MM-dd\'T\'HH:mm:ss.SSSSSSXXX')) AS json,
        to_json(named_struct('at', TIMESTAMP'2024-01-01 00:00:00.123456Z')) AS bare,
        to_json(parse_json('{"key": 123, "data": [4, 5, "str"]}')) AS variant,
        CAST(q.w AS STRING) AS wait, q.p, q.at, q.local
        FROM (SELECT INTERVAL '-90' MINUTE AS w, CAST(1.5 AS DECIMAL(38, 2)) AS p,
            TIMESTAMP'0001-01-01 00:00:00Z' AS at, TIMESTAMP_NTZ'9999-12-31 23:59:59.999999' AS local) AS q"""
    )
    assert (text, price) == ("it's \\ ü", Decimal("1.50"))
    assert json == '{"at":"2024-01-01T00:00:00.123456Z"}'
    assert bare == '{"at":"2024-01-01T00:00:00.123Z"}', "what Databricks does unasked: the rest is lost"
    assert variant == '{"data":[4,5,"str"],"key":123}'
    assert wait == "INTERVAL '-0 01:30:00' DAY TO SECOND"
    assert at == datetime(1, 1, 1, tzinfo=UTC)
    assert local == datetime(9999, 12, 31, 23, 59, 59, 999999)
    described = server.execute("DESCRIBE QUERY SELECT map('k', array(1.5)) AS m, parse_json('1') AS v, X'00' AS b")
    assert [kind for _, kind, _ in described] == ["map<string,array<decimal(2,1)>>", "variant", "binary"]


@pytest.mark.parametrize("missing", ["USE CATALOG", "USE SCHEMA", "SELECT"])
@pytest.mark.parametrize("through", ["itself", "a group", "everybody"])
def test_every_wall_on_the_way_to_a_table_is_there(
    server: DatabricksServer, catalog: str, missing: str, through: str
) -> None:
    token = server.principal("reader", ["readers"])
    principal = {"itself": "reader", "a group": "readers", "everybody": "account users"}[through]
    server.execute(f"CREATE TABLE {catalog}.s.t (n INT)")
    server.execute(f"CREATE VIEW {catalog}.s.v AS SELECT count(*) AS n FROM {catalog}.s.t")
    on = {"USE CATALOG": f"CATALOG {catalog}", "USE SCHEMA": f"SCHEMA {catalog}.s", "SELECT": f"TABLE {catalog}.s.v"}
    for action, where in on.items():
        server.execute(f"GRANT {action} ON {where} TO `{principal}`")
    assert server.execute(f"SELECT n FROM {catalog}.s.v", token=token) == [(0,)]
    assert refused(server, f"SELECT * FROM {catalog}.s.t", token=token) == "INSUFFICIENT_PERMISSIONS"
    server.execute(f"REVOKE {missing} ON {on[missing]} FROM `{principal}`")
    with pytest.raises(ServerOperationError, match=f"does not have {missing} on"):
        server.execute(f"SELECT n FROM {catalog}.s.v", token=token)


def test_a_right_on_a_schema_holds_for_what_is_made_later_and_is_shown_with_it(
    server: DatabricksServer, catalog: str
) -> None:
    token = server.principal("reader")
    server.execute(f"GRANT USE CATALOG, USE SCHEMA, SELECT ON CATALOG {catalog} TO `reader`")
    server.execute(f"CREATE TABLE {catalog}.s.later (n INT)")
    assert server.execute(f"SELECT * FROM {catalog}.s.later", token=token) == []
    assert server.execute(f"SHOW GRANTS `reader` ON SCHEMA {catalog}.s", token=token) == [
        ("reader", "SELECT", "CATALOG", catalog),
        ("reader", "USE SCHEMA", "CATALOG", catalog),
    ]
    assert refused(server, f"SHOW GRANTS ON SCHEMA {catalog}.s", token=token) == "INSUFFICIENT_PERMISSIONS"
    assert refused(server, f"INSERT INTO {catalog}.s.later VALUES (1)", token=token) == "INSUFFICIENT_PERMISSIONS"
    server.execute(f"GRANT ALL PRIVILEGES ON SCHEMA {catalog}.s TO `reader`")
    server.execute(f"INSERT INTO {catalog}.s.later VALUES (1)", token=token)
    assert refused(server, f"GRANT SELECT ON SCHEMA {catalog}.s TO `reader`", token=token) == "INSUFFICIENT_PERMISSIONS"
    server.execute(f"DROP TABLE {catalog}.s.later")
    server.execute(f"DROP SCHEMA {catalog}.s CASCADE")
    assert server.execute(f"SHOW GRANTS `reader` ON CATALOG {catalog}", token=token) != []


@pytest.mark.parametrize("by_links", [True, False], ids=["by links", "within answers"])
def test_a_million_rows_come_whole_and_in_order(server: DatabricksServer, by_links: bool) -> None:
    with closing(server.connect()) as con:
        con.use_cloud_fetch = by_links
        with con.cursor() as cursor:
            cursor.execute("SELECT id, concat('row ', id) AS text FROM range(1000000) AS r(id) ORDER BY id")
            parts = iter(lambda: cursor.fetchmany_arrow(70_000), pa.table({"id": pa.array([], pa.int64())}))
            taken = 0
            for part in parts:
                if not part.num_rows:
                    break
                assert part.column("id")[0].as_py() == taken
                taken += part.num_rows
        assert taken == 1_000_000
    assert server.still_open() == {"sessions": 0, "operations": 0}


def test_what_is_told_to_go_wrong_does_so_once(server: DatabricksServer) -> None:
    server.fault("ExecuteStatement", "error", said="[OPERATION_CANCELED] Operation has been canceled.", matching="7")
    assert server.execute("SELECT 6") == [(6,)]
    with pytest.raises(ServerOperationError, match="OPERATION_CANCELED"):
        server.execute("SELECT 7")
    server.fault("OpenSession", "status", status=401, said="Token expired")
    with pytest.raises(RequestError, match="Token expired"):
        server.execute("SELECT 7")
    server.state("STARTING")
    with pytest.raises(RequestError):
        server.execute("SELECT 7")
    server.heal()
    before = len(server.log())
    assert server.execute("SELECT 7") == [(7,)]
    assert server.log(before) == [(server.administrator, "SELECT 7")]
    assert server.seen()[-1] == "OpenSession while STARTING"

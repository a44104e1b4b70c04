"""The stand-in for Synapse does what a dedicated SQL pool documents, seen through two independent drivers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytds
import pytest

from isthmus.testing.standins import SynapseServer
from isthmus.warehouses import synapse_session

Say = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def database(synapse_server: SynapseServer) -> Iterator[str]:
    name = synapse_server.fresh_database()
    yield name
    synapse_server.drop_database(name)


def connected(server: SynapseServer, database: str, driver: str, login: str = "", password: str = "") -> Any:
    login, password = login or server.username, password or server.password
    if driver == "pytds":
        return pytds.connect(server.host, database, login, password, port=server.port, autocommit=True)
    where = f"Server=tcp:{server.host},{server.port};Database={database};Encrypt=no"
    return synapse_session.driver().connect(f"{where};UID={login};PWD={{{password}}}", autocommit=True)


@pytest.fixture(params=["mssql_python", "pytds"])
def say(request: pytest.FixtureRequest, synapse_server: SynapseServer, database: str) -> Iterator[Say]:
    """Says a batch as the administrator; the rows of its last result come back as tuples."""
    con = connected(synapse_server, database, request.param)

    def said(batch: str) -> list[tuple[Any, ...]]:
        cursor = con.cursor()
        cursor.execute(batch)
        found = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        while cursor.nextset():
            found = [tuple(row) for row in cursor.fetchall()] if cursor.description else found
        cursor.close()
        return found

    yield said
    con.close()


@pytest.mark.parametrize("driver", ["mssql_python", "pytds"])
def test_a_wrong_password_and_a_pool_that_is_not_there_are_refused(
    synapse_server: SynapseServer, database: str, driver: str
) -> None:
    with pytest.raises(Exception, match="Login failed"):
        connected(synapse_server, database, driver, password="wrong")
    if driver == "mssql_python":  # the other one tries for a quarter of a minute, and keeps to itself what was said
        with pytest.raises(Exception, match="Cannot open database"):
            connected(synapse_server, "nowhere", driver)


def test_a_table_keeps_what_is_put_in_and_names_are_found_in_any_case(say: Say) -> None:
    say("CREATE TABLE dbo.T (n bigint NULL, t nvarchar(max) NULL, b bit NULL) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN)")
    say("INSERT INTO t SELECT 1, N'ä日本😀', 1 UNION ALL SELECT 2, NULL, 0")
    assert say("SELECT N, T, B FROM DBO.t ORDER BY n") == [(1, "ä日本😀", True), (2, None, False)]
    assert say("SELECT COUNT_BIG(*), MAX(LEN(t)), MAX(DATALENGTH(t)) FROM t") == [(2, 5, 10)]


def test_a_transaction_is_taken_back_whole_and_ddl_is_not_in_one(say: Say) -> None:
    say("CREATE TABLE t (n int NULL) WITH (HEAP)")
    say("BEGIN TRANSACTION; INSERT INTO t SELECT 1; ROLLBACK TRANSACTION")
    assert say("SELECT COUNT(*) FROM t") == [(0,)]
    with pytest.raises(Exception, match="transaction"):
        say("BEGIN TRANSACTION; CREATE TABLE u (n int NULL) WITH (HEAP)")


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ("SELEC 1", "syntax"),
        ("SELECT * FROM nowhere", "Invalid object name"),
        ("SELECT nope FROM t", "Invalid column name|nope"),
        ("INSERT INTO t VALUES (1), (2)", "near ','"),
        ("CREATE TABLE c (t nvarchar(max) NULL) WITH (CLUSTERED COLUMNSTORE INDEX)", "columnstore"),
        ("EXEC sp_nobody_knows", ""),
        ("WAITFOR DELAY '0:0:1'", ""),
        ("CREATE TRIGGER x ON t AFTER INSERT AS SELECT 1", ""),
        ("BACKUP DATABASE x TO DISK = 'y'", ""),
    ],
)
def test_what_a_pool_refuses_or_nobody_wrote_fails_loudly(say: Say, batch: str, said: str) -> None:
    say("CREATE TABLE t (n int NULL) WITH (HEAP)")
    with pytest.raises(Exception, match=f"(?i){said}"):
        say(batch)
    assert say("SELECT 1") == [(1,)]  # the session is as good as before


def test_copy_into_takes_parquet_from_blob_storage_all_or_nothing(
    synapse_server: SynapseServer, database: str, say: Say
) -> None:
    blobs = synapse_server.blobs
    container = blobs.fresh_container()

    def put(name: str, rows: pa.Table, codec: str = "snappy") -> str:
        made = io.BytesIO()
        pq.write_table(rows, made, compression=codec)
        blobs.put(container, name, made.getvalue())
        return f"{blobs.endpoint}/{blobs.account}/{container}/{name}"

    def copied(url: str, sas: str) -> list[tuple[Any, ...]]:
        return say(
            f"COPY INTO t FROM '{url}' WITH (FILE_TYPE = 'PARQUET', AUTO_CREATE_TABLE = 'ON', "
            f"CREDENTIAL = (IDENTITY = 'Shared Access Signature', SECRET = '{sas}'))"
        )

    say("CREATE TABLE t (n bigint NULL, t nvarchar(max) NULL) WITH (HEAP)")
    rows = pa.table({"n": pa.array([1, 2], pa.int64()), "t": ["ä", None]})
    good, sas = put("good.parquet", rows), blobs.sas(container, "rl")
    copied(good, sas)
    assert say("SELECT n, t FROM t ORDER BY n") == [(1, "ä"), (2, None)]
    for url, token in (
        (put("packed.parquet", rows, "zstd"), sas),  # no codec of COPY INTO
        (put("wide.parquet", rows.append_column("x", rows["n"])), sas),
        (good, blobs.sas(container, hours=-1)),
        (good.replace("good", "nowhere"), sas),
    ):
        with pytest.raises(Exception, match=r"(?i)copy|bulk|external|parquet|file|column|codec"):
            copied(url, token)
    assert say("SELECT COUNT(*) FROM t") == [(2,)]


def test_rights_are_asked_for_and_what_may_not_be_seen_is_not_shown(
    synapse_server: SynapseServer, database: str, say: Say
) -> None:
    login = f"reader_{database}"
    synapse_server.execute(f"CREATE LOGIN [{login}] WITH PASSWORD = N'Pw-1'")
    say("CREATE TABLE t (n int NULL) WITH (HEAP)")
    say(f"CREATE USER [{login}] FOR LOGIN [{login}]")
    as_reader = {"database": database, "username": login, "password": "Pw-1"}
    assert synapse_server.execute("SELECT name FROM sys.tables", **as_reader) == []
    with pytest.raises(Exception, match="SELECT permission was denied"):
        synapse_server.execute("SELECT n FROM t", **as_reader)
    say(f"GRANT SELECT ON SCHEMA::[dbo] TO [{login}]")
    assert synapse_server.execute("SELECT n FROM t", **as_reader) == []
    assert synapse_server.execute("SELECT name FROM sys.tables", **as_reader) == [("t",)]
    for statement in ("INSERT INTO t SELECT 1", "DROP TABLE t", "CREATE TABLE u (n int NULL) WITH (HEAP)"):
        with pytest.raises(Exception, match=r"(?i)permission|does not exist"):
            synapse_server.execute(statement, **as_reader)


def test_every_batch_is_in_the_log_by_its_login(synapse_server: SynapseServer, database: str, say: Say) -> None:
    say("SELECT 17")
    assert "SELECT 17" in synapse_server.statements(database, synapse_server.username)
    assert synapse_server.statements(database, "nobody") == []


def test_what_was_ordered_to_go_wrong_goes_wrong_once(synapse_server: SynapseServer, database: str, say: Say) -> None:
    refusal = {"database": database, "words": "SELECT 17", "how": "refuse", "number": 1205, "message": "deadlocked"}
    synapse_server.faults(refusal)
    with pytest.raises(Exception, match="deadlocked"):
        say("SELECT 17")
    assert say("SELECT 17") == [(17,)]

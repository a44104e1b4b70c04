"""The stand-in for Snowflake does what Snowflake documents, seen through two generations of its driver.

Version 5 is another program than version 4: in Rust, not in Python. The older one lives in the stand-in's environment.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import snowflake.connector

from isthmus.testing.standins import SnowflakeServer
from isthmus.testing.standins.snowflake import Refusal, statements_of

Say = Callable[[str], list[list[Any]]]

# Says statements, one a line, with the driver of its environment; answers each with its rows or with what was said.
_OLDER = """
import json, sys
import snowflake.connector
con = snowflake.connector.connect(**json.loads(sys.stdin.readline()))
print(snowflake.connector.__version__, flush=True)
for line in sys.stdin:
    try:
        with con.cursor() as cursor:
            print(json.dumps({"rows": cursor.execute(json.loads(line)).fetchall()}, default=str), flush=True)
    except Exception as e:
        print(json.dumps({"error": str(e)}), flush=True)
con.close()
"""


def signing_in(server: SnowflakeServer, database: str) -> dict[str, Any]:
    return {
        "account": server.account, "host": server.host, "port": server.port, "protocol": server.protocol,
        "user": server.username, "password": server.password, "role": "SYSADMIN", "warehouse": server.warehouse,
        "database": database, "schema": "PUBLIC",
    }  # fmt: skip


@pytest.fixture
def database(snowflake_server: SnowflakeServer) -> str:
    name = snowflake_server.fresh_database()
    snowflake_server.execute(f"CREATE SCHEMA IF NOT EXISTS {name}.PUBLIC")
    return name


@pytest.fixture(params=["version 5", "version 4"])
def say(request: pytest.FixtureRequest, snowflake_server: SnowflakeServer, database: str) -> Iterator[Say]:
    """Says a statement as the administrator; its rows come back as lists, an error is raised as RuntimeError."""
    given = signing_in(snowflake_server, database)
    if request.param == "version 5":
        given["enable_server_session_keep_alive_auto_detection"] = False
        with closing(snowflake.connector.connect(**given)) as con:

            def said(statement: str) -> list[list[Any]]:
                try:
                    with con.cursor() as cursor:
                        return [list(row) for row in cursor.execute(statement).fetchall()]
                except snowflake.connector.Error as e:
                    raise RuntimeError(str(e)) from e

            assert snowflake.connector.__version__.startswith("5.")
            yield said
        return
    command = [str(snowflake_server.python), "-c", _OLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as older:
        assert older.stdin is not None and older.stdout is not None
        older.stdin.write(json.dumps(given) + "\n")
        older.stdin.flush()
        assert older.stdout.readline().startswith("4.")

        def asked(statement: str) -> list[list[Any]]:
            assert older.stdin is not None and older.stdout is not None
            older.stdin.write(json.dumps(statement) + "\n")
            older.stdin.flush()
            answer: dict[str, Any] = json.loads(older.stdout.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            rows: list[list[Any]] = answer["rows"]
            return rows

        yield asked
        older.stdin.close()


def test_a_wrong_password_is_refused(snowflake_server: SnowflakeServer, database: str) -> None:
    given = signing_in(snowflake_server, database) | {"password": "wrong"}
    with pytest.raises(snowflake.connector.Error, match="Incorrect username or password"):
        snowflake.connector.connect(**given, enable_server_session_keep_alive_auto_detection=False)


def test_names_are_folded_unless_they_are_quoted(say: Say) -> None:
    say('CREATE TABLE plain (n INTEGER, "Mixed" VARCHAR)')
    say("INSERT INTO Plain VALUES (1, 'ä日本😀')")
    assert say('SELECT N, "Mixed" FROM "PLAIN"') == [[1, "ä日本😀"]]
    with pytest.raises(RuntimeError, match="does not exist or not authorized"):
        say('SELECT * FROM "plain"')
    with pytest.raises(RuntimeError, match=r"(?i)invalid identifier"):
        say("SELECT mixed FROM plain")


def test_a_transaction_is_taken_back_whole(say: Say) -> None:
    say("CREATE TABLE t (n INTEGER)")
    say("BEGIN")
    say("INSERT INTO t VALUES (1)")
    say("ROLLBACK")
    assert say("SELECT COUNT(*) FROM t") == [[0]]


def test_put_and_copy_move_files_all_or_nothing(say: Say, tmp_path: Path) -> None:
    for number in (1, 2):
        rows = pa.table({"n": pa.array([number], pa.int64()), "t": [f"it's {number}"], "other": [True]})
        pq.write_table(rows, tmp_path / f"{number}.parquet")
    say("CREATE TABLE t (N INTEGER, T VARCHAR)")
    say("CREATE TEMPORARY STAGE s")
    for number in (1, 2):
        say(f"PUT 'file://{tmp_path}/{number}.parquet' @s/here AUTO_COMPRESS = FALSE")
    assert len(say("LIST @s")) == 2
    format = "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE)"
    copy = f"COPY INTO t FROM @s/here {format} MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
    assert [row[1] for row in say(copy)] == ["LOADED", "LOADED"]
    assert say("SELECT N, T FROM t ORDER BY N") == [[1, "it's 1"], [2, "it's 2"]]
    say(copy)  # a file a table has had is passed over
    assert say("SELECT COUNT(*) FROM t") == [[2]]
    pq.write_table(pa.table({"n": ["no number"]}), tmp_path / "bad.parquet")
    say(f"PUT 'file://{tmp_path}/bad.parquet' @s/bad AUTO_COMPRESS = FALSE")
    with pytest.raises(RuntimeError):
        say(copy.replace("here", "bad"))
    assert say("SELECT COUNT(*) FROM t") == [[2]]


@pytest.mark.parametrize(
    "statement",
    [
        "SELEC 1",
        "SELECT * FROM nowhere",
        "COPY INTO @s FROM t",
        "COPY INTO t FROM 's3://elsewhere/' FILE_FORMAT = (TYPE = PARQUET)",
        "PUT 'file:///tmp/x' @s NONSENSE = 1",
        "CREATE PIPE p AS SELECT 1",
        "CREATE TASK x SCHEDULE = '1 MINUTE' AS SELECT 1",
        "GRANT EVERYTHING ON TABLE t TO ROLE PUBLIC",
        "ALTER ACCOUNT SET X = 1",
        "SHOW NONSENSE",
        "CALL nobody()",
    ],
)
def test_what_nobody_wrote_fails_loudly(say: Say, statement: str) -> None:
    say("CREATE TABLE t (n INTEGER)")
    say("CREATE TEMPORARY STAGE s")
    with pytest.raises(RuntimeError):
        say(statement)
    assert say("SELECT 1") == [[1]]


def test_rights_are_asked_for(snowflake_server: SnowflakeServer, database: str) -> None:
    role = f"R_{database}"
    table = f"{database}.PUBLIC.T"
    snowflake_server.execute(f"CREATE TABLE {table} (n INTEGER)")
    snowflake_server.execute(
        f"CREATE ROLE {role}", f"GRANT ROLE {role} TO USER {snowflake_server.username}", role="SECURITYADMIN"
    )
    with pytest.raises(Refusal, match="does not exist or not authorized"):
        snowflake_server.execute(f"SELECT * FROM {table}", role=role)
    snowflake_server.execute(
        f"GRANT USAGE ON DATABASE {database} TO ROLE {role}",
        f"GRANT USAGE ON SCHEMA {database}.PUBLIC TO ROLE {role}",
        f"GRANT USAGE ON WAREHOUSE {snowflake_server.warehouse} TO ROLE {role}",
        f"GRANT SELECT ON TABLE {table} TO ROLE {role}",
        role="ACCOUNTADMIN",
    )
    assert snowflake_server.execute(f"SELECT COUNT(*) FROM {table}", role=role) == [[0]]
    for statement in (f"INSERT INTO {table} VALUES (1)", f"DROP TABLE {table}", f"CREATE SCHEMA {database}.MORE"):
        with pytest.raises(Refusal, match=r"(?i)insufficient privileges|not authorized"):
            snowflake_server.execute(statement, role=role)


def test_every_statement_is_in_the_log_with_its_user(snowflake_server: SnowflakeServer, say: Say) -> None:
    say("SELECT 17")
    entry = next(e for e in reversed(snowflake_server.log()) if e["statement"] == "SELECT 17")
    assert entry["user"] == snowflake_server.username and entry["role"] == "SYSADMIN"


def test_a_script_is_taken_apart_at_its_semicolons() -> None:
    script = "-- a comment; with one\nSELECT ';';\nSELECT \"a;b\" FROM t;\n"
    assert statements_of(script) == ["SELECT ';'", 'SELECT "a;b" FROM t']

"""The stand-in for Redshift does what Redshift documents, seen through two independent drivers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import boto3
import psycopg
import pytest
import redshift_connector

from isthmus.testing.standins import REDSHIFT_ROLE, RedshiftServer, S3Server

Say = Callable[[str], Any]


@pytest.fixture
def database(redshift_server: RedshiftServer) -> str:
    return redshift_server.fresh_database()


@pytest.fixture(params=["redshift_connector", "psycopg"])
def say(request: pytest.FixtureRequest, redshift_server: RedshiftServer, database: str) -> Iterator[Say]:
    """Says a statement as the superuser; its rows come back as tuples, an error is raised as its code and text."""
    server = redshift_server
    con: Any
    if request.param == "psycopg":
        con = psycopg.connect(server.url(database), autocommit=True, client_encoding="utf8")
    else:
        con = redshift_connector.connect(
            host=server.host, port=server.port, database=database, user=server.username, password=server.password,
            ssl=False, max_prepared_statements=0,
        )  # fmt: skip
        con.autocommit = True

    def said(statement: str) -> Any:
        cursor = con.cursor()
        try:
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else None
        except psycopg.Error as e:
            raise RuntimeError(f"{e.sqlstate} {e}") from e
        except redshift_connector.error.Error as e:
            raise RuntimeError(f"{e.args[0]['C']} {e.args[0]['M']} {e.args[0].get('D', '')}") from e

    yield said
    con.close()


def test_it_calls_itself_redshift(say: Say) -> None:
    assert "Redshift 1.0" in say("SELECT version()")[0][0]


def test_a_wrong_password_is_refused(redshift_server: RedshiftServer, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(redshift_server.url(database).replace(redshift_server.password, "wrong"))


def test_storage_words_are_understood_and_keys_not_enforced(say: Say) -> None:
    say("""CREATE TABLE IF NOT EXISTS t (id bigint IDENTITY(1,1), k varchar(5) NOT NULL ENCODE zstd PRIMARY KEY,
        v varchar(max), j super, b varbyte(16)) DISTSTYLE KEY DISTKEY(k) COMPOUND SORTKEY(k)""")
    for _ in range(2):
        say("""INSERT INTO t (k, j, b) VALUES ('same', json_parse('{"a": 1}'), to_varbyte('0aff', 'hex'))""")
    assert say("SELECT count(*), max(json_serialize(j)) FROM t") == [(2, '{"a": 1}')]
    assert say(
        "SELECT data_type, character_maximum_length FROM svv_columns WHERE column_name IN ('j', 'v') ORDER BY 1"
    ) == [
        ("character varying", 65535),
        ("super", None),
    ]


def test_a_varchar_counts_bytes(say: Say) -> None:
    say("CREATE TABLE t (v varchar(4))")
    say("INSERT INTO t VALUES ('ää')")
    with pytest.raises(RuntimeError, match=r"22001 value too long for type character varying\(4\)"):
        say("INSERT INTO t VALUES ('äää')")


def test_quoted_names_are_folded_unless_a_session_says_otherwise(say: Say) -> None:
    say('CREATE TABLE "Mixed" ("Col" integer)')
    say("SELECT col FROM mixed")
    say("SET enable_case_sensitive_identifier TO true")
    with pytest.raises(RuntimeError, match="42P01"):
        say('SELECT 1 FROM "Mixed"')


def test_json_is_parsed_strictly(say: Say) -> None:
    for text in ("{oops", '{"a": 1, "a": 2}', f'["{"x" * 70_000}"]'):
        assert say(f"SELECT can_json_parse('{text}')") == [(False,)]
        with pytest.raises(RuntimeError, match="XX000 JSON parsing error"):
            say(f"SELECT json_parse('{text}')")


def test_copy_and_unload_move_objects(say: Say, s3: S3Server) -> None:
    place = f"standin/{uuid4().hex}/"
    role = f"IAM_ROLE '{REDSHIFT_ROLE}'"
    say("CREATE TABLE t (n bigint, s varchar(10), at timestamp)")
    say("INSERT INTO t VALUES (1, 'it''s', '2024-01-01 00:00:00.000001'), (2, NULL, NULL), (3, '', NULL)")
    say(
        f"UNLOAD ('SELECT n, s, at FROM t WHERE s = \\'it''''s\\' OR n > 1') "
        f"TO 's3://{s3.bucket}/{place}' {role} PARQUET MANIFEST"
    )
    with pytest.raises(RuntimeError, match="not empty"):
        say(f"UNLOAD ('SELECT n FROM t') TO 's3://{s3.bucket}/{place}' {role} FORMAT PARQUET")
    say("CREATE TABLE u (n bigint, s varchar(10), at timestamp)")
    say("BEGIN")
    say(f"COPY u FROM 's3://{s3.bucket}/{place}manifest' {role} FORMAT AS PARQUET MANIFEST")
    assert sorted(say("SELECT * FROM u")) == sorted(say("SELECT * FROM t"))
    say("ROLLBACK")
    assert say("SELECT count(*) FROM u") == [(0,)]
    with pytest.raises(RuntimeError, match="has 3 columns"):
        say(f"COPY u (n) FROM 's3://{s3.bucket}/{place}manifest' {role} FORMAT AS PARQUET MANIFEST")
    with pytest.raises(RuntimeError, match="assume IAM Role"):
        say(f"COPY u FROM 's3://{s3.bucket}/{place}' IAM_ROLE 'arn:aws:iam::1:role/other' FORMAT AS PARQUET")
    with pytest.raises(RuntimeError, match="SignatureDoesNotMatch"):
        keys = f"ACCESS_KEY_ID '{s3.access_key_id}' SECRET_ACCESS_KEY 'wrong'"
        say(f"COPY u FROM 's3://{s3.bucket}/{place}' {keys} FORMAT AS PARQUET")


def test_copy_says_which_value_it_refused(say: Say, s3: S3Server) -> None:
    key = f"standin/{uuid4().hex}.csv"
    keys = {"aws_access_key_id": s3.access_key_id, "aws_secret_access_key": s3.secret_access_key}
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name=s3.region, **keys)
    client.put_object(Bucket=s3.bucket, Key=key, Body="1,ää\n2,äää\n".encode())
    manifest = {"entries": [{"url": f"s3://{s3.bucket}/{key}", "meta": {"content_length": 3}}]}
    client.put_object(Bucket=s3.bucket, Key=f"{key}.manifest", Body=json.dumps(manifest).encode())
    client.close()
    say("CREATE TABLE t (n integer, v varchar(5))")
    with pytest.raises(RuntimeError, match="length of the data column v"):
        say(f"COPY t FROM 's3://{s3.bucket}/{key}' IAM_ROLE '{REDSHIFT_ROLE}' FORMAT AS CSV")
    asked = "SELECT column_name, line_number FROM sys_load_error_detail WHERE session_id = pg_backend_pid()"
    assert say(asked) == [("v", 2)]
    with pytest.raises(RuntimeError, match="another size"):
        say(f"COPY t FROM 's3://{s3.bucket}/{key}.manifest' IAM_ROLE '{REDSHIFT_ROLE}' FORMAT AS CSV MANIFEST")


def test_what_it_does_not_know_fails(say: Say) -> None:
    with pytest.raises(RuntimeError, match="42601"):
        say("SHOW DATASHARES LIKE 'x'")
    with pytest.raises(RuntimeError, match="42883"):
        say("SELECT st_h3_center(1)")


def test_statements_are_kept_without_secrets_and_faults_happen_once(
    say: Say, redshift_server: RedshiftServer, database: str
) -> None:
    redshift_server.order_fault(database, "^SELECT 7", code="XX000", message="1023")
    with pytest.raises(RuntimeError, match="XX000 1023"):
        say("SELECT 7")
    assert say("SELECT 7") == [(7,)]
    with pytest.raises(RuntimeError):
        say("COPY x FROM 's3://b/k' CREDENTIALS 'aws_access_key_id=a;aws_secret_access_key=hidden' CSV")
    assert redshift_server.statements(database).count("SELECT 7") == 2
    assert "hidden" not in "".join(redshift_server.statements(database))

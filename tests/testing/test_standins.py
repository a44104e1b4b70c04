"""The launched servers are real ones, ask for their keys, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
import psycopg
import pytest
from botocore.exceptions import ClientError

from isthmus.testing.standins import PostgresServer, S3Server, free_ports


def test_postgres_answers_and_asks_for_the_password(postgres_server: PostgresServer, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as con:
        assert con.execute("SELECT current_setting('server_encoding')").fetchone() == ("UTF8",)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_url.replace(postgres_server.password, "wrong"))


def test_every_test_gets_a_database_of_its_own(postgres_server: PostgresServer) -> None:
    assert postgres_server.fresh_database() != postgres_server.fresh_database()


def client(server: S3Server, *, secret: str) -> object:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=secret,
    )


def test_s3_keeps_objects_and_refuses_wrong_keys(s3: S3Server) -> None:
    right = client(s3, secret=s3.secret_access_key)
    right.put_object(Bucket=s3.bucket, Key="standins/ü", Body=b"1", IfNoneMatch="*")
    assert right.get_object(Bucket=s3.bucket, Key="standins/ü")["Body"].read() == b"1"
    with pytest.raises(ClientError, match="PreconditionFailed"):
        right.put_object(Bucket=s3.bucket, Key="standins/ü", Body=b"2", IfNoneMatch="*")
    wrong = client(s3, secret="wrong")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.list_objects_v2(Bucket=s3.bucket)
    right.close()
    wrong.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_server_ends_when_its_starter_is_killed() -> None:
    code = (
        "import time\nfrom isthmus.testing import standins\n"
        "with standins.postgres() as s:\n    print(s.port, flush=True)\n    time.sleep(60)\n"
    )
    # What a killed starter cannot remove, this removes. The server's own user must be able to reach it.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "TMPDIR": folder}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as starter:
            assert starter.stdout is not None
            port = int(starter.stdout.readline())
            starter.send_signal(signal.SIGKILL)
        _wait_until_silent(port)


def _wait_until_silent(port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and _listens(port):
        time.sleep(0.1)
    assert not _listens(port)


def _listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20

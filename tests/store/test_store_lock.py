"""The writer lock in PostgreSQL: a connection that is cut costs a moment, and a server that is away is said to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.model.errors import StoreAway, StoreBusy, StoreMissing
from isthmus.secrets import Secret
from isthmus.store import lock as locks
from isthmus.store.lake import Lake, Write
from isthmus.store.lock import PostgresLock
from isthmus.store.place import Place, S3Access
from isthmus.testing.standins import PostgresServer, S3Server, free_ports


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.fresh_database()


@pytest.fixture
def lock(postgres_server: PostgresServer, database: str) -> Iterator[PostgresLock]:
    found = PostgresLock(Secret(postgres_server.url(database)), 0.1)
    yield found
    found.close()


def cut(server: PostgresServer, database: str) -> None:
    """As a restart of the server does, all connections to a database."""
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")


def test_a_lock_whose_connection_was_cut_while_nobody_held_it_is_taken_all_the_same(
    lock: PostgresLock, postgres_server: PostgresServer, database: str
) -> None:
    with lock.held():
        pass
    cut(postgres_server, database)
    with lock.held(), pytest.raises(StoreBusy):
        other = PostgresLock(Secret(postgres_server.url(database)), 0.1)
        try:
            with other.held():
                pass
        finally:
            other.close()
    cut(postgres_server, database)
    assert not lock.catalog_exists()


def test_work_that_was_done_while_the_connection_was_cut_is_done(
    lock: PostgresLock, postgres_server: PostgresServer, database: str
) -> None:
    with lock.held():
        cut(postgres_server, database)
    with lock.held():
        pass


def test_a_server_that_is_away_is_no_wrong_setting_and_may_be_tried_again(postgres_server: PostgresServer) -> None:
    away = PostgresLock(Secret(f"postgresql://postgres:secret@127.0.0.1:{free_ports(1)[0]}/isthmus"), 0.1)
    with pytest.raises(StoreAway) as caught, away.held():
        pass
    assert caught.value.retryable
    nowhere = PostgresLock(Secret(postgres_server.url("nowhere")), 0.1)
    with pytest.raises(StoreMissing, match="does not let us in"), nowhere.held():
        pass


def test_a_server_that_has_no_connection_to_spare_will_have_one_later(
    postgres_server: PostgresServer, database: str
) -> None:
    postgres_server.execute(f"CREATE ROLE full_{database} LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0")
    at = f"{postgres_server.host}:{postgres_server.port}/{database}"
    full = PostgresLock(Secret(f"postgresql://full_{database}:hunter2@{at}"), 0.1)
    with pytest.raises(StoreAway), full.held():
        pass


_LANDS = """
import sys
from pathlib import Path
from isthmus.secrets import Secret
from isthmus.store.lake import Lake
from isthmus.store.place import Place, S3Access

root, url, storage, endpoint, region, key, secret = sys.argv[1:]
place = Place(Path(root), Secret(url), storage, S3Access(endpoint, region, key, Secret(secret)), lock_timeout_s=30)

def do(write):
    print("inside", write.seq, flush=True)
    sys.stdin.readline()
    write.con.execute("INSERT INTO lake.numbers VALUES (1, ?)", [write.seq])
    write.touched = True

with Lake.open(place) as lake:
    lake.write(do)
"""


def test_a_process_that_is_frozen_inside_a_landing_stops_no_other_one_and_commits_nothing_wrong_when_it_thaws(
    postgres_server: PostgresServer, database: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, storage = postgres_server.url(database), f"s3://{s3.bucket}/frozen-{database}"
    access = S3Access(s3.endpoint, s3.region, s3.access_key_id, Secret(s3.secret_access_key))
    monkeypatch.setattr(locks, "LOOK_S", 0.5)
    monkeypatch.setattr(locks, "SILENT_S", 3.0)
    with Lake.open(Place(tmp_path / "here", Secret(url), storage, access, lock_timeout_s=1)) as lake:

        def do(write: Write) -> None:
            write.con.execute("INSERT INTO lake.numbers VALUES (2, ?)", [write.seq])
            write.touched = True

        lake.con.execute("CREATE TABLE lake.numbers (n INTEGER, seq BIGINT)")
        there = [str(tmp_path / "there"), url, storage, s3.endpoint, s3.region, s3.access_key_id, s3.secret_access_key]
        frozen = subprocess.Popen(
            [sys.executable, "-c", _LANDS, *there], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert frozen.stdin is not None and frozen.stdout is not None
            inside = int(frozen.stdout.readline().split()[1])
            with pytest.raises(StoreBusy):  # a landing that takes long is left in peace
                lake.write(do)
            os.kill(frozen.pid, signal.SIGSTOP)
            lake._lock._timeout_s = 30  # type: ignore[attr-defined]
            lake.write(do)
            assert lake.query("SELECT n, seq FROM lake.numbers") == [(2, inside)]
            os.kill(frozen.pid, signal.SIGCONT)
            frozen.communicate("\n\n\n\n", timeout=60)
            assert lake.query("SELECT n, seq FROM lake.numbers ORDER BY seq") == [(2, inside), (1, inside + 1)]
        finally:
            frozen.kill()
            frozen.wait()

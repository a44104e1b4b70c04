"""The writer lock in PostgreSQL: a connection that is cut costs a moment, and a server that is away is said to be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from isthmus.model.errors import StoreAway, StoreBusy, StoreMissing
from isthmus.secrets import Secret
from isthmus.store.lock import PostgresLock
from isthmus.testing.standins import PostgresServer, free_ports


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

"""The main situations of an export once more, into a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from exports_cast import IN_DUCKDB, IN_STORE, Office, differing

from isthmus.actions import syncing
from isthmus.testing.standins import PostgresServer


class PostgresOffice(Office):
    """An office whose warehouse is a database of its own."""

    url = ""

    def dwh(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as con:
            cursor = con.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def assert_same(self) -> None:
        for table, here in IN_STORE.items():
            there = IN_DUCKDB[table]
            for column in ("datetime", "ingested", "created", "updated", "last_event_date"):
                there = there.replace(f"epoch_us({column})", f"(extract(epoch FROM {column}) * 1000000)::bigint")
            there = there.replace("event_properties,", "event_properties::text,").replace(
                " properties,", " properties::text,"
            )
            assert sorted(self.dwh(there), key=repr) == sorted(self.app.lake.query(here), key=repr), table
        assert self.verify().equal


@pytest.fixture
def office(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Office]:
    opened = PostgresOffice(tmp_path)
    database = postgres_server.fresh_database()
    opened.url = postgres_server.url(database)
    opened.connection = {
        "name": "dwh",
        "kind": "postgres",
        "host": postgres_server.host,
        "port": postgres_server.port,
        "database": database,
        "username": postgres_server.username,
        "password": postgres_server.password,
    }
    yield opened
    opened.close()


def test_history_changes_merges_and_erasures_reach_postgresql(office: Office) -> None:
    office.profiles({"ext": "ann", "first": "Ann {DATA_PATH}", "lat": 48.1, "note": "ünï\\c0dé"})
    office.events({"ext": "ann", "id": "a1", "worth": 0.1}, {"email": "ann@example.com", "id": "m1", "worth": 1e-7})
    office.apply()
    assert office.run() is not None
    office.assert_same()
    office.events({"ext": "ann", "email": "ann@example.com", "id": "a2"}, {"ext": "ben", "id": "b1"})
    office.run()
    office.assert_same()
    office.erase("ann")
    office.run()
    assert office.ids() == {"b1"}
    office.assert_same()
    assert office.run() is None


def test_a_difference_in_postgresql_is_named_and_mended(office: Office) -> None:
    office.events({"ext": "ann", "id": "a1"}, {"ext": "ann", "id": "a2"})
    office.apply()
    office.run()
    office.events({"ext": "ben", "id": "b1"})
    office.run()
    office.dwh("DELETE FROM klaviyo_event WHERE unique_id = 'a1'")
    office.dwh("UPDATE klaviyo_profile SET first_name = 'x' WHERE external_id = 'ben'")
    assert differing(office.verify()) == [("klaviyo_profile", "(1, 2]", False), ("klaviyo_event", "(0, 1]", False)]
    assert syncing.repair_sync(office.app, "everything")[2].equal
    office.assert_same()

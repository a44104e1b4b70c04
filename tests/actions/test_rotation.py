"""The password of a role of a real PostgreSQL changes in the middle of a run: nothing is lost, nothing is doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from doors_cast import Yard, wait_for

from isthmus.actions import connecting, syncing
from isthmus.model.table import Batch, Receipt
from isthmus.model.work import ConnectionState
from isthmus.secrets import Secret
from isthmus.testing.standins import PostgresServer
from isthmus.warehouses.postgres import PostgresWarehouse

CHUNKS = 8


@dataclass
class Customer:
    """A database, the role that Isthmus signs in as, and a gate before each load."""

    server: PostgresServer
    yard: Yard
    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: threading.Event = field(default_factory=threading.Event)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database, self.role = self.server.fresh_database(), f"isthmus_{uuid4().hex[:12]}"
        self.do(f"CREATE ROLE {self.role} LOGIN PASSWORD 'old'")
        self.do(f"GRANT CREATE ON DATABASE {self.database} TO {self.role}; GRANT ALL ON SCHEMA public TO {self.role}")
        for schema in ("klaviyo_tmp", "klaviyo_import_from_dwh"):
            self.do(f"CREATE SCHEMA {schema} AUTHORIZATION {self.role}")

    def do(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.url(self.database), autocommit=True) as con:
            cursor = con.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def rotate(self) -> None:
        self.do(f"ALTER ROLE {self.role} PASSWORD 'new'")

    def put_out(self) -> None:
        """End its sessions: a session that is signed in outlives its password."""
        self.do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'")

    def described(self, password: str = "old") -> dict[str, Any]:
        where = {"host": self.server.host, "port": self.server.port, "database": self.database}
        return {
            "name": "dwh",
            "kind": "postgres",
            "username": self.role,
            "password": password,
            "concurrency": 2,
            **where,
        }

    def assert_whole(self) -> None:
        found = [unique_id for (unique_id,) in self.do("SELECT unique_id FROM klaviyo_event")]
        assert sorted(found) == sorted(f"e{n}" for n in range(CHUNKS))
        assert self.yard.proven()


@pytest.fixture
def customer(yard: Yard, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Customer]:
    found = Customer(postgres_server, yard)
    load = PostgresWarehouse.load

    def gated(self: PostgresWarehouse, batch: Batch) -> Receipt:
        if len(found.loads) >= 2:  # in the middle
            found.at_gate.set()
            assert found.gate.wait(60)
        receipt = load(self, batch)
        found.loads.append(batch.batch_id)
        return receipt

    monkeypatch.setattr(PostgresWarehouse, "load", gated)
    yard.events(*(f"e{n}" for n in range(CHUNKS)))
    yard.apply(found.described())
    yard.serve()
    wait_for(found.at_gate.is_set)
    yield found
    found.gate.set()


def edit(yard: Yard, password: str = "new") -> list[str]:
    changed = connecting.edit_connection(yard.app, "dwh", fields={}, secrets={"password": Secret(password)})
    assert all(answer.passed for answer in changed.ask())
    return changed.take()[1]


def test_the_new_password_is_entered_before_the_old_one_is_refused(customer: Customer, yard: Yard) -> None:
    customer.rotate()
    edit(yard)
    customer.put_out()
    customer.gate.set()
    wait_for(yard.is_complete)
    assert len(yard.runs()) == 1, "the run itself"
    assert yard.connection().state is ConnectionState.ENABLED
    customer.assert_whole()


def test_the_old_one_is_refused_first_and_the_run_waits_for_the_new_one(customer: Customer, yard: Yard) -> None:
    customer.rotate()
    customer.put_out()
    customer.gate.set()
    wait_for(lambda: yard.connection().is_shut)
    found = yard.connection().finding
    assert found is not None and "password authentication failed" in found.vendor and "old" not in repr(found)
    (run,) = yard.runs()
    assert 0 < run.rows_done < run.rows_total
    assert edit(yard) == ["to dwh"]
    wait_for(yard.is_complete)
    assert [r.run_id for r in yard.runs()] == [run.run_id], "nobody had to start another one"
    customer.assert_whole()


@pytest.mark.long
def test_a_file_with_the_new_password_does_the_same(customer: Customer, yard: Yard) -> None:
    customer.rotate()
    customer.put_out()
    customer.gate.set()
    wait_for(lambda: yard.connection().is_shut)
    yard.apply(customer.described("new"))
    wait_for(yard.is_complete)
    assert len(yard.runs()) == 1
    customer.assert_whole()


@pytest.mark.long
def test_a_session_with_the_old_password_is_closed_at_the_next_chunk(customer: Customer, yard: Yard) -> None:
    def sessions() -> set[int]:
        query = f"SELECT pid FROM pg_stat_activity WHERE usename = '{customer.role}'"
        return {pid for (pid,) in customer.do(query)}

    before = sessions()
    customer.rotate()
    edit(yard)
    customer.gate.set()
    wait_for(yard.is_complete)
    wait_for(lambda: not before & sessions())
    assert not yard.runs()[0].errors
    customer.assert_whole()


def test_a_password_that_postgresql_refuses_is_not_taken(customer: Customer, yard: Yard) -> None:
    changed = connecting.edit_connection(yard.app, "dwh", fields={}, secrets={"password": Secret("mistyped")})
    answers = list(changed.ask())
    assert not answers[-1].passed and changed.refused and "mistyped" not in repr(answers)
    customer.gate.set()
    wait_for(yard.is_complete)
    customer.assert_whole()


@pytest.mark.long
def test_a_connection_is_removed_while_it_loads_and_comes_back_whole(customer: Customer, yard: Yard) -> None:
    connecting.remove_connection(yard.app, "dwh")
    assert yard.app.connection("dwh").sealed == {}
    customer.gate.set()
    time.sleep(2)
    assert len(customer.loads) <= 2 + 2, "each lane finished the chunk it was at"
    yard.apply(customer.described())
    wait_for(yard.is_complete)
    customer.assert_whole()
    assert len(syncing.list_runs(yard.app, sync="to dwh", limit=9)) == 3, "cancelled, complete, and the proof"

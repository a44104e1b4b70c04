"""Any number of connections: one whose warehouse is slow, or says nothing at all, never keeps another one waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from doors_cast import Yard, wait_for

from isthmus.actions import connecting, syncing
from isthmus.actions.applying import apply
from isthmus.ledger import lanes
from isthmus.ledger.database import Change
from isthmus.model.work import RunState

SOON_S = 12.0
"""Far less than any of the hanging ones takes, and enough for a machine with much else to do."""


@contextmanager
def silent_server() -> Iterator[int]:
    """A host that takes every connection and never says a word: the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    kept.append(listening.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in kept:
                one.close()


def silent_postgres(name: str, port: int) -> dict[str, Any]:
    where = {"host": "127.0.0.1", "port": port, "database": name, "username": "u", "password": "p"}
    return {"name": name, "kind": "postgres", "concurrency": 8, **where}


@pytest.mark.long
def test_many_chunks_of_warehouses_that_hang_delay_no_other_connection(yard: Yard) -> None:
    """Three connections with eight lanes each, all hanging, against a worker with room for two lanes."""
    yard.environ = {"ISTHMUS_WORKER_SLOTS": "2"}
    yard.events(*(f"e{n}" for n in range(12)))
    hanging = ["hangs 1", "hangs 2", "hangs 3"]
    for name in hanging:
        yard.guard(name).shut()
    yard.apply(*(yard.described(name, concurrency=8) for name in hanging))
    yard.serve()
    wait_for(lambda: all(yard.guard(name).at_gate.is_set() for name in hanging))
    time.sleep(2)  # so that their lanes are queued too

    def queued() -> int:
        with yard.app.ledger.reading() as tx:
            return len(lanes.waiting(tx))

    assert queued() >= 10, "they want more than there is room for"

    # what is new is begun, and done, as if they were not there; again and again
    yard.apply(*(yard.described(name, concurrency=limit) for name, limit in (("a", 1), ("b", 4), ("c", 8))))
    for name in "abc":
        wait_for(lambda name=name: yard.is_complete(f"to {name}"), patience_s=SOON_S)
    yard.events("new")
    for name in "abc":
        assert syncing.run_sync(yard.app, f"to {name}", wait=True) is not None
    assert all(yard.runs(f"to {name}")[0].state is RunState.RUNNING for name in hanging)

    for name in hanging:
        yard.guard(name).gate.set()
    for name in hanging:
        wait_for(lambda name=name: yard.is_complete(f"to {name}"))
        assert yard.proven(f"to {name}")


def test_a_postgresql_behind_a_socket_that_says_nothing_delays_no_other_connection(yard: Yard) -> None:
    yard.environ = {"ISTHMUS_WORKER_SLOTS": "1"}
    yard.events("e1")
    with silent_server() as port:
        yard.apply(*(silent_postgres(f"silent {n}", port) for n in range(3)), syncs=3)
        yard.serve()
        wait_for(lambda: any(yard.runs(f"to silent {n}") for n in range(3)))
        yard.apply(yard.described("quick", concurrency=8))
        wait_for(lambda: yard.is_complete("to quick"), patience_s=SOON_S)
        assert not any(yard.is_complete(f"to silent {n}") for n in range(3))
        for n in range(3):
            connecting.remove_connection(yard.app, f"silent {n}")


def test_fifty_connections_in_one_file_are_applied_listed_and_served(yard: Yard) -> None:
    yard.events("e1")
    names = [f"shop {n:02}" for n in range(50)]
    document = {
        "connections": [yard.described(name) for name in names],
        "exports": [{"name": f"to {name}", "connection": name, "schedule": "manual"} for name in names],
    }
    file = yard.folder / "fifty.yaml"
    file.write_text(yaml.safe_dump(document))
    began = time.monotonic()
    assert {done.change for done in apply(yard.app, file, plan_only=False, environ={})} == {Change.CREATED}
    applied_s = time.monotonic() - began
    began = time.monotonic()
    assert {done.change for done in apply(yard.app, file, plan_only=False, environ={})} == {Change.UNCHANGED}
    again_s = time.monotonic() - began
    began = time.monotonic()
    assert len(connecting.list_connections(yard.app)) == len(syncing.list_syncs(yard.app)) == 50
    listed_s = time.monotonic() - began
    assert applied_s < 5 and again_s < 5 and listed_s < 1
    yard.guard("shop 07").password = "other"
    assert yard.check("shop 07") == [False] and yard.check("shop 08") == [True, True, True]


@pytest.mark.long
def test_fifty_connections_some_of_which_hang_are_all_brought_up_to_date_by_one_worker(yard: Yard) -> None:
    yard.events(*(f"e{n}" for n in range(3)))
    names = [f"shop {n:02}" for n in range(50)]
    hanging = names[::5]
    for name in hanging:
        yard.guard(name).shut()
    yard.apply(*map(yard.described, names))
    yard.serve()
    for name in set(names) - set(hanging):
        wait_for(lambda name=name: yard.is_complete(f"to {name}"), patience_s=240)
    assert not any(yard.is_complete(f"to {name}") for name in hanging)
    for name in hanging:
        yard.guard(name).gate.set()
    for name in hanging:
        wait_for(lambda name=name: yard.is_complete(f"to {name}"), patience_s=120)
    for name in names[::10]:
        assert yard.proven(f"to {name}")

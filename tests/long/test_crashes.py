"""The servers we depend on crash in the middle of our work, and come back. Nothing is lost, nothing doubled."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest

from isthmus.actions import syncing
from isthmus.app import App
from isthmus.exports import plan
from isthmus.ledger import runs
from isthmus.model.errors import StoreAway, WarehouseError
from isthmus.model.work import RunState
from isthmus.testing import standins
from isthmus.warehouses.postgres import PostgresWarehouse
from long import child, killing, story
from long.servers import Crashing, crashing

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="crashes what it finds in /proc")]


@dataclass
class Fuse:
    """Does something once, when the n-th statement that begins so is about to run, or has run."""

    begin: str
    number: int
    behind: bool
    blow: Callable[[], None]
    blown: bool = False

    def around(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapper(warehouse: Any, *args: Any, **kwargs: Any) -> Any:
            text = name if name != "_execute" else str(args[0])
            self.number -= text.startswith(self.begin)
            due = not self.blown and self.number == 0 and text.startswith(self.begin)
            if due and not self.behind:
                self.blown = True
                self.blow()
            result = call(warehouse, *args, **kwargs)
            if due and self.behind:
                self.blown = True
                self.blow()
            return result

        return wrapper


def postgres_is_up(server: standins.PostgresServer) -> Callable[[], bool]:
    def is_up() -> bool:
        try:
            psycopg.connect(server.url("postgres")).close()
        except psycopg.Error:
            return False
        return True

    return is_up


@contextmanager
def crashing_postgres() -> Iterator[tuple[standins.PostgresServer, Crashing]]:
    with standins.postgres() as server:
        # The stand-in forgets its last commits in a crash; one in earnest does not.
        server.execute(f"ALTER ROLE {server.username} SET synchronous_commit = on")
        with crashing(f"--port={server.port}", postgres_is_up(server)) as found:
            yield server, found


@pytest.mark.parametrize("careful", [False, True], ids=["history", "periodic"])
def test_the_warehouse_crashes_in_the_middle_of_a_load(
    careful: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    for make in (plan.history, plan.changes, plan.replacing):
        monkeypatch.setitem(make.__kwdefaults__, "limit", 5_000)
    writer = story.Writer(tmp_path / "story", 1, story.Scale(people=300))
    writer.step("make")
    if careful:
        writer.events(".csv", rows=2_000)
        writer.step("history")
        writer.people(whole=False)
    writer.events(".parquet", rows=40_000)
    writer.people(whole=True)
    written = writer.finished()
    outcomes = []
    with crashing_postgres() as (server, crash):
        home = killing.embedded(tmp_path)
        killing.export_to_postgres(home, server)
        child.prepare(home)
        with App(home.settings()) as app:
            for step in written.steps:
                child.take(app, home, step)

        def blow() -> None:
            crash.crash(signal.SIGQUIT)  # "immediate shutdown": no order, and recovery at the next start

        def blow_soon() -> None:
            threading.Timer(random.Random(7).random() * 0.3, blow).start()

        fuses = [
            Fuse("_ingest", 2, False, blow_soon),  # somewhere in the middle of the rows
            Fuse("COMMIT", 2, False, blow),
            Fuse("COMMIT", 2, True, blow),
            Fuse("_ingest", 1, True, blow),
            Fuse("INSERT", 2, False, blow),
        ]
        for fuse in fuses:
            with monkeypatch.context() as patched:
                for name in ("_execute", "_ingest"):
                    patched.setattr(PostgresWarehouse, name, fuse.around(getattr(PostgresWarehouse, name), name))
                with App(home.settings()) as app, pytest.raises(WarehouseError) as caught:
                    syncing.run_sync(app, story.EXPORT)
            assert fuse.blown
            assert caught.value.retryable, caught.value.as_dict()
            outcomes.append(type(caught.value).__name__)
            with App(home.settings()) as app, pytest.raises(WarehouseError) as caught:
                syncing.run_sync(app, story.EXPORT)  # while it is down
            assert caught.value.retryable
            with App(home.settings()) as app, app.ledger.reading() as tx:
                (run, *_) = runs.newest(tx)
                assert run.state is RunState.RETRYING
                assert run.errors[-1].retryable and run.errors[-1].hint
            crash.restart()
        with App(home.settings()) as app:
            assert syncing.run_sync(app, story.EXPORT) is not None
            assert syncing.verify_sync(app, story.EXPORT).equal
        assert not killing.found_wrong(home, written)
    told.append(f"crashes of the warehouse in a load: {len(fuses)}, each said to be {', '.join(outcomes)}")


def test_the_bucket_crashes_in_the_middle_of_a_landing(
    tmp_path: Path, postgres_server: standins.PostgresServer, told: list[str]
) -> None:
    writer = story.Writer(tmp_path / "story", 1, story.Scale(people=300))
    writer.step("make")
    for _ in range(4):
        writer.events(".parquet", rows=10_000)
    writer.people(whole=True)
    writer.step("history")
    written = writer.finished()
    chance = random.Random(11)
    outcomes = []
    with standins.s3() as s3:
        port = s3.endpoint.rpartition(":")[2]
        with crashing(f"-s3.port={port}", bucket_is_up(s3)) as crash:
            home = killing.scaled(tmp_path, postgres_server, s3)
            killing.export_to_duckdb(home)
            child.prepare(home)
            for step in written.steps:
                if step.kind == "land":
                    timer = threading.Timer(chance.random() * 1.5, crash.crash, [signal.SIGKILL])
                    timer.start()
                    outcomes.append(outcome_of(home, step))
                    timer.join()
                    crash.restart()
                with App(home.settings()) as app:
                    child.take(app, home, step)
            assert not killing.found_wrong(home, written)
    told.append(f"crashes of the bucket in a landing: {', '.join(outcomes)}")


def outcome_of(home: child.Home, step: story.Step) -> str:
    try:
        with App(home.settings()) as app:
            child.take(app, home, step)
    except StoreAway as e:
        assert "bucket does not answer" in e.summary and e.hint and e.retryable
        return type(e).__name__
    return "landed before"


def bucket_is_up(server: standins.S3Server) -> Callable[[], bool]:
    def is_up() -> bool:
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            region_name=server.region,
            aws_access_key_id=server.access_key_id,
            aws_secret_access_key=server.secret_access_key,
        )
        try:
            client.put_object(Bucket=server.bucket, Key=".ready", Body=b"")
            client.get_object(Bucket=server.bucket, Key=".ready")["Body"].read()
        except Exception:  # it answers in many ways before it is up
            return False
        finally:
            client.close()
        return True

    return is_up

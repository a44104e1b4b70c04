"""The cast of the tests about connections: files behind a guard who asks for a password, and a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from exports.exports_cast import EVENTS
from isthmus.actions import connecting, syncing, working
from isthmus.actions.applying import Applied, apply
from isthmus.app import App
from isthmus.imports.load import load
from isthmus.ledger import incidents
from isthmus.ledger.connections import StoredConnection
from isthmus.model.checks import Check
from isthmus.model.errors import Denied, Unreachable
from isthmus.model.table import Batch, Receipt
from isthmus.model.work import Run, RunState
from isthmus.runs.worker import Worker
from isthmus.secrets import Secret
from isthmus.settings import Settings
from isthmus.testing.builders import file_of, fresh_home
from isthmus.warehouses.duckdb import DuckDBConfig
from isthmus.warehouses.protocol import Traits, setting

PATIENCE_S = 30.0


def wait_for(what: Callable[[], object], *, patience_s: float = PATIENCE_S) -> None:
    """Until it is so; it has to become so in time."""
    until = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.02)


@dataclass
class Guard:
    """Who stands before one file: what he asks for, and what he has seen."""

    password: str = "right"
    away: bool = False
    at_every_load: bool = False  # the password is asked for at each load, and not only at the door
    missing: str = ""  # the right that is not given inside
    surplus: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: threading.Event = field(default_factory=threading.Event)
    sign_ins: list[str] = field(default_factory=list)
    loads: list[tuple[str, str]] = field(default_factory=list)  # batch, and the password it came with
    asked: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def shut(self) -> None:
        self.at_gate.clear()
        self.gate.clear()

    def let_in(self, password: str) -> None:
        self.sign_ins.append(password)
        if self.away:
            raise Unreachable("the guard does not answer", hint="wake him")
        self.require(password)

    def require(self, password: str) -> None:
        if password != self.password:
            raise Denied("the guard refuses the password", code="28P01", vendor="no such password", hint="ask him")


GUARDS: dict[str, Guard] = {}


@dataclass(frozen=True)
class GuardedConfig(DuckDBConfig):
    """A DuckDB file behind a guard."""

    kind: ClassVar[str] = "guarded"
    traits: ClassVar[Traits] = Traits(title="Guarded file", loads=True, reads=True, loads_at_once=8)

    user: str = setting("User", help="Who comes", default="ann", incidental=True)
    password: Secret = setting("Password", help="What the guard asks for", secret=True, default=Secret(""))

    @property
    def guard(self) -> Guard:
        return GUARDS.setdefault(Path(self.path).name, Guard())

    def check(self) -> Iterator[Check]:
        self.guard.asked += 1
        assert self.guard.gate.wait(60)
        try:
            self.guard.let_in(self.password.reveal())
        except (Denied, Unreachable) as e:
            yield Check("Can we sign in?", False, detail=e.vendor or e.summary, hint=e.hint)
            return
        yield Check("Can we sign in?", True)
        missing = self.guard.missing
        yield Check("Can we load?", not missing, hint=missing and "ask him", statement=missing and f"GRANT {missing};")
        yield Check("Are there rights it does not need?", True, warns=self.guard.surplus)

    def open(self) -> Any:
        self.guard.let_in(self.password.reveal())
        return _Guarded(super().open(), self.guard, self.password.reveal())


class _Guarded:
    """The open file. The guard looks at each load."""

    def __init__(self, inside: Any, guard: Guard, password: str) -> None:
        self._inside, self._guard, self._password = inside, guard, password

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    def load(self, batch: Batch) -> Receipt:
        guard = self._guard
        guard.at_gate.set()
        assert guard.gate.wait(60)
        if guard.at_every_load:
            guard.require(self._password)
        if guard.missing:
            raise Denied("the guard lets nobody load", code="42501", vendor="no right", hint="ask him")
        receipt: Receipt = self._inside.load(batch)
        guard.loads.append((batch.batch_id, self._password))
        return receipt


class Yard:
    """A home with exports to files behind guards, and a worker if it is to be served."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None) -> None:
        self.folder, self.home = folder, fresh_home(folder / "home")
        self.environ = environ or {}
        self.app = App(Settings.load(self.environ, self.home))
        self.serving: tuple[App, Worker, threading.Thread] | None = None

    def guard(self, name: str = "dwh") -> Guard:
        return GUARDS.setdefault(f"{name}.duckdb", Guard())

    def described(self, name: str = "dwh", **fields: Any) -> dict[str, Any]:
        path = str(self.folder / f"{name}.duckdb")
        return {"name": name, "kind": "guarded", "path": path, "password": "right", **fields}

    def apply(self, *connections: dict[str, Any], schedule: str = "hourly", syncs: int = 1) -> list[Applied]:
        """These connections, each with `syncs` exports: "to dwh", "to dwh 2" …"""
        exports = []
        for each in connections or (self.described(),):
            for n in range(syncs):
                more = {"name": f"to {each['name']} {n + 1}", "table_prefix": f"t{n + 1}_"} if n else {}
                exports.append({"name": f"to {each['name']}", "connection": each["name"], "schedule": schedule, **more})
        file = self.folder / "isthmus.yaml"
        file.write_text(yaml.safe_dump({"connections": list(connections or (self.described(),)), "exports": exports}))
        return apply(self.app, file, plan_only=False, environ={})

    def events(self, *ids: str) -> None:
        """Events, each in a commit of its own: a chunk for each."""
        for one in ids:
            row = {"at": "2026-01-01T12:00:00Z", "metric": "Order", "id": one, "ext": f"person {one}"}
            load(self.app.lake, file_of(self.folder, [row]), "events", mapping=EVENTS)

    def serve(self) -> None:
        app = App(Settings.load(self.environ, self.home))
        worker = working.worker(app, "serve")
        thread = threading.Thread(target=worker.run, name="worker")
        thread.start()
        self.serving = app, worker, thread
        wait_for(worker.is_ready.is_set)

    def close(self) -> None:
        for guard in GUARDS.values():
            guard.gate.set()
        if self.serving is not None:
            app, worker, thread = self.serving
            worker.stop()
            thread.join(90)
            assert not thread.is_alive()
            app.close()
        self.app.close()

    def connection(self, name: str = "dwh") -> StoredConnection:
        return self.app.connection(name)

    def check(self, name: str = "dwh") -> list[bool]:
        return [answer.passed for answer in connecting.check_connection(self.app, name)]

    def runs(self, sync: str = "to dwh") -> list[Run]:
        """Newest first."""
        return syncing.list_runs(self.app, sync=sync, limit=50)

    def is_complete(self, sync: str = "to dwh") -> bool:
        found = self.runs(sync)
        return bool(found) and found[0].state is RunState.COMPLETED

    def has_failed(self, sync: str = "to dwh") -> bool:
        found = self.runs(sync)
        return bool(found) and found[0].state is RunState.FAILED

    def proven(self, sync: str = "to dwh") -> bool:
        """Whether store and warehouse hold the same rows: nothing is missing, nothing doubled."""
        return syncing.verify_sync(self.app, sync).equal

    def incidents(self) -> list[tuple[str, str]]:
        """What is open: what it is about, and its kind."""
        with self.app.ledger.reading() as tx:
            return sorted((i.about, i.kind.value) for i in incidents.newest(tx, open_only=True))

"""Where runs are measured: homes alone and homes that share servers, and the real commands working in them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import ground

HERE = Path(__file__).parent
PATIENCE_S = 120


@dataclass(frozen=True)
class Home:
    """An Isthmus in a folder of its own. `environ` is what its processes are given beside the machine's."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def is_shared(self) -> bool:
        return "ISTHMUS_DATABASE_URL" in self.environ

    def app(self) -> Any:
        """The app in this process, to be used as a context."""
        return ground.app(self.folder, **self.environ)

    def apply(self, connections: Sequence[dict[str, Any]], exports: Sequence[dict[str, Any]]) -> None:
        from isthmus.actions.applying import apply

        file = self.folder / f"apply-{uuid4().hex}.yaml"
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"connections": list(connections), "exports": list(exports)}))
        with self.app() as app:
            apply(app, file, plan_only=False, environ={})

    def start(self, *arguments: str, **environ: str) -> Process:
        """A command of Isthmus as a process of its own, with the connectors of `bench/command.py` beside the usual."""
        given = {**os.environ, **self.environ, "ISTHMUS_HOME": str(self.folder), **environ}
        log = self.folder / f"log-{uuid4().hex[:6]}"
        with log.open("wb") as output:
            command = [sys.executable, str(HERE / "command.py"), *arguments]
            started = subprocess.Popen(command, env=given, stdout=output, stderr=subprocess.STDOUT)
        return Process(started, log)

    @contextmanager
    def at_work(self, count: int = 1, **environ: str) -> Iterator[list[Process]]:
        """`isthmus serve`, or so many `isthmus worker`s, ready; ended in order at the end."""
        found = [self.start_worker(**environ) for _ in range(count)]
        try:
            for process in found:
                process.wait_until_ready()
            yield found
        finally:
            for process in found:
                process.end()

    def start_worker(self, **environ: str) -> Process:
        return self.start("worker", **environ) if self.is_shared else self.start("serve", "--port", "0", **environ)


@dataclass
class Process:
    """A command that runs."""

    popen: subprocess.Popen[bytes]
    log: Path

    def wait_until_ready(self) -> None:
        wait_until(lambda: "Isthmus is at work" in self.said() or self.popen.poll() is not None)
        if self.popen.poll() is not None:
            raise RuntimeError(f"it ended:\n{self.said()[-4000:]}")

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def cpu_s(self) -> float:
        """What the processors have spent on it and its threads."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_mb(self) -> int:
        lines = Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


class Servers:
    """A PostgreSQL and an S3 server for homes that share them: a database and a prefix for each home."""

    def __init__(self, postgres: Any, s3: Any) -> None:
        self.postgres, self.s3 = postgres, s3

    def home(self, folder: Path) -> Home:
        folder.mkdir(parents=True, exist_ok=True)
        environ = {
            "ISTHMUS_DATABASE_URL": self.postgres.url(self.postgres.fresh_database()),
            "ISTHMUS_STORAGE_URL": f"s3://{self.s3.bucket}/{uuid4().hex}",
            "ISTHMUS_S3_ENDPOINT": self.s3.endpoint,
            "ISTHMUS_S3_ACCESS_KEY_ID": self.s3.access_key_id,
            "ISTHMUS_S3_SECRET_ACCESS_KEY": self.s3.secret_access_key,
        }
        return Home(folder, environ)

    def warehouse(self, **other: Any) -> dict[str, Any]:
        """The fields of a connection to a new database."""
        p = self.postgres
        fields = {"host": p.host, "port": p.port, "username": p.username, "password": p.password}
        return {"kind": "postgres", **fields, "database": p.fresh_database(), **other}


@contextmanager
def servers() -> Iterator[Servers]:
    from isthmus.testing import standins

    with standins.postgres() as postgres, standins.s3() as s3:
        yield Servers(postgres, s3)


@contextmanager
def durable_postgres() -> Iterator[Any]:
    """A PostgreSQL that keeps its promises, on a disk, unlike the one for tests: what a commit costs is measured."""
    from isthmus.testing import standins

    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=ground.ROOT))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for above in (ground.ROOT, ground.ROOT.parent):  # its user has to get there
            assert above.stat().st_mode & 0o005, f"{above} cannot be entered by everybody"
        was = tempfile.tempdir
        tempfile.tempdir = str(folder)
        folder.chmod(0o755)
        running = standins._running

        def durable(arguments: Sequence[str], *rest: Any, **named: Any) -> Any:
            loose = ("--fsync=off", "--synchronous_commit=off", "--full_page_writes=off")
            return running([a for a in arguments if a not in loose], *rest, **named)

        standins._running = durable  # type: ignore[assignment]
        try:
            server = stack.enter_context(standins.postgres())
        finally:
            standins._running, tempfile.tempdir = running, was
        yield server


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """A folder on the disk where everything else of the benchmarks is."""
    ground.ROOT.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=ground.ROOT))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def wait_until(is_so: Callable[[], bool], patience_s: float = PATIENCE_S, pause_s: float = 0.02) -> float:
    """Wait until something is so; how long that took."""
    begun = time.monotonic()
    while not is_so():
        if time.monotonic() - begun > patience_s:
            raise TimeoutError(f"not so after {patience_s:g} s: {is_so}")
        time.sleep(pause_s)
    return time.monotonic() - begun


def load_average() -> float:
    return os.getloadavg()[0]

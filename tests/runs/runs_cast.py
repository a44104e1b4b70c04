"""The cast of the tests of runs: engines that are told what to do, here and in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from isthmus.ledger.database import Ledger
from isthmus.ledger.presence import new_worker_id
from isthmus.model.work import Attempt
from isthmus.runs.engine import Engine

PATIENCE_S = 20.0


def wait_for(what: Callable[[], object], *, patience_s: float = PATIENCE_S) -> None:
    """Until it is so; it has to become so in time."""
    until = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.02)


@dataclass
class Works:
    """An engine of this process. Attempts end at once, but for those that are held until they are let go."""

    where: Path | str
    ledger: Ledger
    begun: list[Attempt] = field(default_factory=list)
    ended: list[Attempt] = field(default_factory=list)
    most: int = 0
    runs: int = 0
    held: dict[str, threading.Event] = field(default_factory=dict)  # by run id

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.launch()

    def launch(self) -> None:
        self.worker_id = new_worker_id()
        self.engine = Engine(self.where, self.worker_id, self._do, slots=8, poll_s=0.1)

    def close(self) -> None:
        for event in self.held.values():
            event.set()
        self.engine.close()

    def hold(self, run_id: str) -> threading.Event:
        self.held[run_id] = threading.Event()
        return self.held[run_id]

    def attempt(self, what: str = "") -> Attempt:
        """The first attempt at a run of its own."""
        self.runs += 1
        return Attempt(f"run_{what or 'x'}_{self.runs}_{time.monotonic_ns()}", 0, 1)

    def enqueue(self, attempt: Attempt, *, partition: str = "", limit: int = 2, delay_s: float = 0.0) -> Attempt:
        with self.ledger.transaction() as tx:
            own = partition or f"connection of {attempt}"
            self.engine.enqueue(tx, attempt, partition=own, limit=limit, delay_s=delay_s)
        return attempt

    def _do(self, attempt: Attempt) -> None:
        with self._lock:
            self.begun.append(attempt)
            self.most = max(self.most, len(self.begun) - len(self.ended))
        try:
            if attempt.run_id.startswith("run_fails"):
                raise ValueError("that went wrong")
            if attempt.run_id in self.held:
                assert self.held[attempt.run_id].wait(60)
        finally:
            with self._lock:
                self.ended.append(attempt)


ANOTHER = """
import sys, threading, time
from pathlib import Path
from isthmus.model.work import Attempt
from isthmus.runs.engine import Engine
from isthmus.ledger.database import open_ledger

where, worker_id, folder, limits, own_code = sys.argv[1:6]
where = where if "://" in where else Path(where)
folder = Path(folder)

def do(attempt):
    (folder / f"{attempt}.begun").write_text(str(time.time()))
    while not (folder / "go").exists():
        time.sleep(0.02)
    (folder / f"{attempt}.ended").write_text(str(time.time()))

if own_code:
    from dbos import DBOS
    @DBOS.workflow(name="something_else")
    def something_else() -> int:
        return 1

engine = Engine(where, worker_id, do, slots=8, poll_s=0.1)
engine.hear({int(n) for n in limits.split(",") if n})
for text in sys.argv[6:]:
    ledger = open_ledger(where)
    with ledger.transaction() as tx:
        engine.enqueue(tx, Attempt.parse(text), partition="p", limit=2)
    ledger.close()
(folder / "ready").write_text("")
sys.stdin.read()
engine.close()
"""


class Another:
    """An engine in a process of its own. It holds what it begins until `go`."""

    def __init__(
        self, where: Path | str, folder: Path, *enqueued: Attempt, limits: str = "2", own_code: bool = False
    ) -> None:
        folder.mkdir()
        self.folder, self.worker_id = folder, new_worker_id()
        arguments = [str(where), self.worker_id, str(folder), limits, "yes" if own_code else "", *map(str, enqueued)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ANOTHER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> Another:
        wait_for(lambda: (self.folder / "ready").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()
        return self

    def begun(self) -> set[str]:
        return {path.stem for path in self.folder.glob("*.begun")}

    def ended(self) -> set[str]:
        return {path.stem for path in self.folder.glob("*.ended")}

    def go(self) -> None:
        (self.folder / "go").write_text("")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> tuple[str, str]:
        """Let it end; what it printed."""
        self.go()
        with suppress(subprocess.TimeoutExpired):
            return self.process.communicate(timeout=20)
        self.process.kill()
        return self.process.communicate()

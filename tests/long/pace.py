"""How fast the machine is while a test runs on it: what it gives a process that has something to do.

Times that are promised are promised on a machine that has a core to spare. Where a test shares it with others, what a
process must compute takes longer by a factor that this measures; what it waits for does not.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROBE = """
import os, sys, time
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
parent = os.getppid()
while os.getppid() == parent:
    begun, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < 0.005:
        pass
    os.write(out, f"{time.time()} {(time.perf_counter() - begun) / 0.005}\\n".encode())
    time.sleep(0.2)
"""


class Pace:
    """Five milliseconds of work are done again and again, and how long they took is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: list[tuple[float, float]] = []

    def late_s(self, start: float, end: float, work_s: float) -> float:
        """How much longer than on a machine with a core to spare `work_s` of computing took in that time."""
        if not self._known:
            self._known = [(float(a), float(b)) for a, b in map(str.split, self._path.read_text().splitlines())]
        found = [factor for at, factor in self._known if start <= at <= end + 1]
        if not found:
            return end - start  # not even that much was done
        return max(0.0, work_s * (sum(found) / len(found) - 1))

    def usual(self) -> float:
        """The factor over all."""
        self.late_s(0, 0, 0)
        return sum(factor for _, factor in self._known) / max(1, len(self._known))


@contextmanager
def measured(folder: Path) -> Iterator[Pace]:
    """Measure beside what is done inside."""
    path = folder / "pace"
    path.touch()
    probe = subprocess.Popen([sys.executable, "-c", _PROBE, str(path)])
    try:
        yield Pace(path)
    finally:
        probe.kill()
        probe.wait()

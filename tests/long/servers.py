"""Servers that crash and come back with what they had on disk. Linux only: they are found by their arguments."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Crashing:
    """A running server of this machine, found by one of its arguments."""

    def __init__(self, argument: str, is_up: Callable[[], bool]) -> None:
        self._process_id = next(p for p in _processes() if argument in arguments(p)[1:])
        self._arguments = arguments(self._process_id)
        proc = Path("/proc") / str(self._process_id)
        self._folder, owner = os.readlink(proc / "cwd"), proc.stat().st_uid
        self._user = pwd.getpwuid(owner).pw_name if owner != os.geteuid() else None
        self._is_up = is_up
        self._again: subprocess.Popen[bytes] | None = None

    def crash(self, how: signal.Signals) -> None:
        """Have it end without any order, its children too."""
        children = _children(self._process_id)
        os.kill(self._process_id, how)
        for process_id in [self._process_id, *children]:
            _wait_until(lambda gone=process_id: not _lives(gone))  # type: ignore[misc]
        if self._again:
            self._again.wait()

    def freeze(self) -> None:
        """Have it answer nothing, until `thaw`."""
        os.kill(self._process_id, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process_id, signal.SIGCONT)

    def restart(self) -> None:
        self._again = subprocess.Popen(
            self._arguments,
            cwd=self._folder,
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"HOME": self._folder, "PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"},
            start_new_session=True,
        )
        self._process_id = self._again.pid
        _wait_until(self._is_up)

    def end(self) -> None:
        if self._again and self._again.poll() is None:
            self._again.send_signal(signal.SIGINT)
            self._again.wait()


@contextmanager
def crashing(argument: str, is_up: Callable[[], bool]) -> Iterator[Crashing]:
    """The server with that argument, ended at the end if it was restarted."""
    server = Crashing(argument, is_up)
    try:
        yield server
    finally:
        server.end()


def arguments(process_id: int) -> list[str]:
    try:
        return (Path("/proc") / str(process_id) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _processes() -> list[int]:
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal()]


def _children(parent: int) -> list[int]:
    found = []
    for process_id in _processes():
        try:
            stat = (Path("/proc") / str(process_id) / "stat").read_text()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            found.append(process_id)
    return found


def _lives(process_id: int) -> bool:
    try:
        return (Path("/proc") / str(process_id) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _wait_until(is_so: Callable[[], bool], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, "a server does not come up, or does not end"
        time.sleep(0.05)

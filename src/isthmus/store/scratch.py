"""Folders for what a process needs only while it lives. What one leaves that was killed is removed by the next."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

_LOCK = ".lock"


class Scratch:
    """An empty folder below `parent` of this process alone; `close` removes it.

    Beside it lies a file that is locked while its owner lives, which the operating system knows best: a process id says
    nothing between containers. Making one first removes those whose owner is gone.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent)
        self.folder = parent / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._descriptor = _own(self.folder)
        self.folder.mkdir()

    def close(self) -> None:
        """Calling twice is safe."""
        if self._descriptor >= 0:
            _remove(self.folder)
            os.close(self._descriptor)
            self._descriptor = -1


def sweep(parent: Path) -> None:
    """Remove the folders below `parent` whose owner is gone."""
    for lock in parent.glob(f"*{_LOCK}"):
        with suppress(OSError):  # another process is as fast, or the owner lives
            descriptor = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(lock.with_name(lock.name.removesuffix(_LOCK)))
            finally:
                os.close(descriptor)


def _own(folder: Path) -> int:
    lock = folder.with_name(folder.name + _LOCK)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        os.close(descriptor)  # swept between the two lines above


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(folder.name + _LOCK).unlink(missing_ok=True)

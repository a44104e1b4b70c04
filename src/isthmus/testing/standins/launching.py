"""How a stand-in is started and ended: on free local ports, in a folder of its own, gone with who wanted it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60
STOP_S = 15

# Gives up root, asks the kernel for a signal when the parent dies (in this order: the first undoes the second), then
# becomes the server. A program of its own, because code run between fork and exec of a process with threads may hang;
# and run as the test's user, because the server's user may not be allowed to read this Python.
_UNTIL_PARENT_ENDS = """
import ctypes, os, sys
signal, user, *arguments = sys.argv[1:]
if user:
    import pwd
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signal))
os.execv(arguments[0], arguments)
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


@contextmanager
def running(
    arguments: Sequence[str],
    is_ready: Callable[[], bool],
    folder: Path,
    *,
    end_signal: signal.Signals,
    user: str | None = None,
) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _UNTIL_PARENT_ENDS, str(int(end_signal)), user or "", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"HOME": str(folder), "PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then end the server in order
        )
    try:
        deadline = time.monotonic() + START_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{arguments[0]} did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(end_signal)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_to_end(arguments: Sequence[str], user: str | None, folder: Path) -> None:
    environment = {"HOME": str(folder), "PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"}
    done = subprocess.run(arguments, user=user, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[0]} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def folder_of_its_own(prefix: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unprivileged(folder: Path) -> str | None:
    """The user a server that refuses to run as root is run as, with `folder` given to it. None if we are not root."""
    if os.geteuid() != 0:
        return None
    shutil.chown(folder, "nobody")
    return "nobody"


def program(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"the program {name} is not installed: install the development dependencies")
    return found

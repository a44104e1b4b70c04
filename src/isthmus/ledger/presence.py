"""Presence: how the others know at once that a worker's process has ended, however it did.

A worker holds a lock in its own name for as long as it lives: on a file of the home, or in the database. The operating
system, or the database, takes it back when the process ends. A process that is frozen keeps its lock; that one is known
by the beat that it no longer gives (`housekeeping`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from isthmus.ledger.database import NOTICED
from isthmus.model.errors import InvalidInput, StoreAway, StoreBusy
from isthmus.secrets import Secret

RESTARTED_S = 10
"""For so long after the database came up a lock that is free says nothing: all were lost, and each worker takes its own
again with one of its next beats. Who died with the database is known by the beat."""

_SERVE = "serve"
"""The one process of a home that takes up runs by itself."""


def new_worker_id() -> str:
    return f"worker_{secrets.token_hex(6)}"


def place() -> str:
    """Where this process is, for a person."""
    return f"{socket.gethostname()}, process {os.getpid()}"


class Presence(Protocol):
    """The lock of one worker, and a view of those of others. Calls may come from several threads."""

    def hold(self, worker_id: str, *, alone: bool = False) -> None:
        """Be present under that id until `close`. With `alone`, as the only one that takes up runs in this home, if
        that is for one process only; raises StoreBusy if another one is there."""
        ...

    def keep(self) -> None:
        """See that the lock is still held, and take it again if it was lost with a connection. Waits for nobody: what
        cannot be had now is asked for again the next time."""
        ...

    def gone(self, worker_ids: Collection[str]) -> set[str]:
        """Those of them that hold no lock: their process has ended or, if `is_certain` is not said, they were cut off
        and have not noticed yet. Nobody, while all have lost their locks for a reason that is known."""
        ...

    @property
    def is_certain(self) -> bool:
        """Whether a lock that is free says for sure that its process has ended."""
        ...

    def close(self) -> None:
        """Be gone. Calling twice is safe."""
        ...


def presence(folder: Path, database_url: Secret | None) -> Presence:
    """Locks on files below `folder`, or in the database that several machines share."""
    return FilePresence(folder) if database_url is None else DatabasePresence(database_url)


class FilePresence:
    """`flock` on a file for each worker of one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[tuple[Path, int]] = []

    def hold(self, worker_id: str, *, alone: bool = False) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if alone:
            path = self._folder / f"{_SERVE}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise StoreBusy(
                    "another `isthmus serve` works on this home",
                    hint="one process is enough for a home; for several, share it: ISTHMUS_DATABASE_URL",
                ) from None
            self._held.append((path, descriptor))
        path = self._folder / f"{worker_id}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._held.append((path, descriptor))

    is_certain = True

    def keep(self) -> None:
        pass  # the operating system does

    def gone(self, worker_ids: Collection[str]) -> set[str]:
        return {worker_id for worker_id in worker_ids if self._is_free(self._folder / f"{worker_id}.lock")}

    def _is_free(self, path: Path) -> bool:
        if any(path == mine for mine, _ in self._held):
            return False
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)  # an id is used once: nobody will want this file again
            return True
        finally:
            os.close(descriptor)

    def close(self) -> None:
        while self._held:
            path, descriptor = self._held.pop()
            if path.name != f"{_SERVE}.lock":
                path.unlink(missing_ok=True)
            os.close(descriptor)


class DatabasePresence:
    """An advisory lock of PostgreSQL for each worker, on a connection of its own."""

    def __init__(self, url: Secret) -> None:
        try:
            import psycopg
        except ImportError as e:
            raise InvalidInput("psycopg is not installed", hint="pip install 'isthmus[scaled]'") from e
        self._psycopg, self._url = psycopg, url
        self._connecting = threading.Lock()  # of two connections only one would have the lock
        self._con: psycopg.Connection[Any] | None = None
        self._worker_id: str | None = None
        self._holder: psycopg.Connection[Any] | None = None  # the connection that has the lock

    def hold(self, worker_id: str, *, alone: bool = False) -> None:
        self._worker_id = worker_id
        self.keep()

    is_certain = False

    def keep(self) -> None:
        # Never waits: the server may keep the lock of a connection that was cut on our side only until it notices.
        con = self._connected()
        is_held = self._holder is con or self._worker_id is None
        try:
            if con.execute(f"SELECT {is_held} OR pg_try_advisory_lock({_key(self._worker_id or '')})").fetchone()[0]:
                self._holder = con
        except self._psycopg.Error as e:
            con.close()
            raise StoreAway("the ledger's database does not answer", hint=_HINT) from e

    def gone(self, worker_ids: Collection[str]) -> set[str]:
        keys = {_key(worker_id): worker_id for worker_id in worker_ids if worker_id != self._worker_id}
        if not keys:
            return set()
        rows = self._query(
            "SELECT clock_timestamp() - pg_postmaster_start_time() < "
            f"make_interval(secs => {RESTARTED_S}), (classid::bigint << 32) | objid::bigint "
            "FROM (SELECT 1) AS always LEFT JOIN pg_locks "
            "ON locktype = 'advisory' AND objsubid = 1 AND granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        if rows[0][0]:
            return set()
        held = {int(key) for _, key in rows if key is not None}
        return {worker_id for key, worker_id in keys.items() if key not in held}

    def close(self) -> None:
        self._worker_id = None
        if self._con is not None:
            self._con.close()
            self._con = self._holder = None

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        for attempt in (1, 2):
            try:
                return self._connected().execute(statement).fetchall()  # type: ignore[no-any-return]
            except self._psycopg.OperationalError as e:
                if attempt == 2:
                    raise StoreAway("the ledger's database does not answer", hint=_HINT) from e
        raise AssertionError("unreachable")

    def _connected(self) -> Any:
        with self._connecting:
            if self._con is None or self._con.closed:
                try:
                    self._con = self._psycopg.connect(
                        self._url.reveal(), autocommit=True, connect_timeout=10, application_name="isthmus", **NOTICED
                    )
                except self._psycopg.Error as e:
                    raise StoreAway("the ledger's database does not answer", hint=_HINT) from e
            return self._con


_HINT = "check ISTHMUS_DATABASE_URL, and that the server runs"


def _key(worker_id: str) -> int:
    """A number of 63 bits, so that PostgreSQL's two halves of it make up the same number again."""
    return int.from_bytes(hashlib.sha256(worker_id.encode()).digest()[:8], "big") >> 1

"""One session: who asks, where, with which parameters, and the transaction it is in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .locks import Locks
from .naming import Name

PARAMETERS = {"LOCK_TIMEOUT": "43200", "TIMEZONE": "America/Los_Angeles", "AUTOCOMMIT": "true", "QUERY_TAG": ""}


class Session:
    """A signed-in session. Its statements run one after the other."""

    def __init__(self, token: str, user: str, role: str, con: Any, locks: Locks) -> None:
        self.token, self.user, self.role, self.con = token, user, role, con
        self.warehouse: str | None = None
        self.parameters = dict(PARAMETERS)
        self.variables: dict[str, str] = {}
        self.temporary: dict[Name, str] = {}  # the temporary tables, and what DuckDB calls them
        self.temporary_columns: dict[Name, tuple[str, ...]] = {}
        self.stages: set[Name] = set()  # the temporary stages
        self.answered: dict[str, Any] = {}  # by request id: a question asked again gets the same answer
        self.transaction: str | None = None  # its id
        self.closed = False
        self._locks = locks
        self._began = False
        self._alone = threading.RLock()
        self._busy = 0
        self._last = time.monotonic()

    @property
    def database(self) -> str | None:
        name: str | None = self.con.database
        return name

    @property
    def schema(self) -> str | None:
        name: str | None = self.con.schema
        return name

    @property
    def autocommits(self) -> bool:
        return self.parameters["AUTOCOMMIT"].lower() == "true"

    @property
    def lock_timeout_s(self) -> float:
        return float(self.parameters["LOCK_TIMEOUT"])

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a statement runs, alone in its session."""
        with self._alone:
            self._busy += 1
            try:
                yield
            finally:
                self._busy -= 1
                self._last = time.monotonic()

    def idle_s(self) -> float | None:
        return None if self._busy else time.monotonic() - self._last

    # Transactions. DuckDB's begin as late as can be: after the lock, so that its snapshot holds what others committed.

    def begin(self) -> None:
        if self.transaction is None:
            self.transaction = str(time.time_ns())

    def take(self, table: Name) -> None:
        """Take a table until the transaction ends, or the statement where there is none."""
        self._locks.take(table, self, self.lock_timeout_s)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a statement that writes rows."""
        if self.transaction is None and not self.autocommits:
            self.begin()
        if self.transaction is not None and not self._began:
            self.duck.execute("BEGIN TRANSACTION")
            self._began = True
        try:
            yield
        finally:
            if self.transaction is None:
                self._locks.release(self)

    def end(self, *, commit: bool) -> None:
        """COMMIT or ROLLBACK. Without a transaction it does nothing, as there."""
        began, self._began, self.transaction = self._began, False, None
        try:
            if began:
                self.duck.execute("COMMIT" if commit else "ROLLBACK")
        finally:
            self._locks.release(self)

    def abort(self) -> None:
        if self._alone.acquire(blocking=False):
            try:
                if not self._busy:
                    self.end(commit=False)
            finally:
                self._alone.release()

    def close(self) -> None:
        """End the session, and what lives no longer than it."""
        with self._alone:
            if not self.closed:
                self.closed = True
                self.end(commit=False)
                for name in self.temporary.values():
                    self.duck.execute(f"DROP TABLE IF EXISTS {name}")
                self.duck.close()

    @property
    def duck(self) -> Any:
        return self.con._duck_conn

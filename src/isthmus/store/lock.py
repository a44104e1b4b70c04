"""The writer lock: one writer at a time, given back by the operating system or the database when its holder dies.

It only saves wasted work; the fence row carries correctness if the lock is ever lost. So in PostgreSQL whoever waits
may put out a holder that gives no sign of life: a process that is frozen, or a machine that is gone without a word.
"""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from isthmus.model.errors import InvalidInput, StoreAway, StoreBusy, StoreError, StoreMissing
from isthmus.secrets import Secret

CATALOG_SCHEMA = "isthmus_lake"
_KEY = 0x1575_6D75_7301  # "isthmus", write
_HINT = "another command is writing; try again when it is done, or raise ISTHMUS_LOCK_TIMEOUT_S"
_AWAY = "see that the server runs and can be reached; check ISTHMUS_DATABASE_URL"
_REFUSED = "check ISTHMUS_DATABASE_URL: host, port, user, password and database"
_BEAT_S = 1.0
SILENT_S = 10.0
"""A holder that has not beaten for so long, by the server's clock, may be put out."""

LOOK_S = 15.0
"""How long one waits before one looks after the holder, and between two looks."""

_NAME = f"isthmus-store-{secrets.token_hex(6)}"
"""What the sessions of this process call themselves: they are put out together, the one that commits too."""

_PUT_OUT = f"""
    SELECT count(pg_terminate_backend(theirs.pid)) FROM pg_locks AS l
    JOIN pg_stat_activity AS holder ON holder.pid = l.pid
    JOIN pg_stat_activity AS theirs USING (application_name, usename)
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.database = holder.datid
    AND holder.datname = current_database() AND (l.classid::bigint << 32) | l.objid::bigint = {_KEY}
    AND usename = session_user AND application_name LIKE 'isthmus-store-%' AND application_name <> '{_NAME}'
    AND clock_timestamp() - holder.state_change > make_interval(secs => {{}})
"""

_NOT_NOW = ("the database system is", "too many clients", "too many connections", "remaining connection slots")


_WE_NOTICE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}
_SERVER_NOTICES = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4 -c tcp_user_timeout=30000"
)


class WriterLock(Protocol):
    """Re-entrant within its owner: holding it twice is holding it once."""

    def held(self) -> Any:
        """A context in which the lock is held. Raises StoreBusy after the time-out."""
        ...

    def catalog_exists(self) -> bool:
        """Whether the store beside the lock was made, or is being made at this moment."""
        ...

    def close(self) -> None: ...


class FileLock:
    """`flock` on a file: for stores in a folder, between processes of one machine."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path, self._timeout_s, self._depth, self._descriptor = path, timeout_s, 0, -1

    @contextmanager
    def held(self) -> Iterator[None]:
        if self._depth == 0:
            self._take()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                os.close(self._descriptor)  # gives the lock back
                self._descriptor = -1

    def _take(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._descriptor = descriptor
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise StoreBusy(f"the store was locked for {self._timeout_s:g} s", hint=_HINT) from None
                time.sleep(0.02)

    def catalog_exists(self) -> bool:
        return self._path.with_name("catalog.sqlite").exists()

    def close(self) -> None:
        pass


class PostgresLock:
    """An advisory lock on a connection of its own: for scaled stores, between machines. Who holds it beats on that
    connection, each second."""

    def __init__(self, url: Secret, timeout_s: float) -> None:
        try:
            import psycopg
        except ImportError as e:
            raise InvalidInput("psycopg is not installed", hint="pip install 'isthmus[scaled]'") from e
        self._timeout_s, self._depth = timeout_s, 0
        self._errors = psycopg
        self._conninfo = conninfo(url)
        self._con: psycopg.Connection[Any] | None = None
        self._over = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        if self._depth == 0:
            self._take()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._give_back()

    def _take(self) -> None:
        looks = max(1, math.ceil(self._timeout_s / LOOK_S))
        while True:
            try:
                self._query(f"SELECT pg_advisory_lock({_KEY})")
                break
            except StoreBusy:
                looks -= 1
                put_out = self._query(_PUT_OUT.format(SILENT_S))
                if not looks and not put_out:
                    raise
                looks = max(looks, 1)
        self._over = threading.Event()
        threading.Thread(target=self._beat, args=(self._con, self._over), name="writer lock", daemon=True).start()

    def _beat(self, con: Any, over: threading.Event) -> None:
        """What tells a landing that takes long from a process that is frozen."""
        while not over.wait(_BEAT_S):
            try:
                con.execute("SELECT 1")
            except self._errors.Error:
                return  # put out, or cut off: the fence sees to the rest

    def catalog_exists(self) -> bool:
        return bool(self._query(f"SELECT to_regclass('{CATALOG_SCHEMA}.ducklake_metadata')"))

    def _query(self, statement: str) -> Any:
        """The one value of a statement. A connection that was lost meanwhile is made anew, once."""
        psycopg = self._errors
        for last in (False, True):
            try:
                return self._connected().execute(statement).fetchone()[0]
            except psycopg.errors.LockNotAvailable as e:
                raise StoreBusy(f"the store was locked for {self._timeout_s:g} s", hint=_HINT) from e
            except psycopg.Error as e:
                self.close()
                if last or not isinstance(e, psycopg.OperationalError):
                    raise _trouble(e) from e
        raise AssertionError("unreachable")

    def _connected(self) -> Any:
        if self._con is None or self._con.closed:
            self._con = self._errors.connect(self._conninfo, autocommit=True, connect_timeout=10)
            self._con.execute(f"SET lock_timeout = {max(1, int(min(self._timeout_s, LOOK_S) * 1000))}")
            self._con.execute(f"CREATE SCHEMA IF NOT EXISTS {CATALOG_SCHEMA}")
        return self._con

    def _give_back(self) -> None:
        """What was done under the lock is done: if the connection is lost, the server has given it back by itself."""
        self._over.set()
        if self._con is None:
            return
        try:
            self._con.execute(f"SELECT pg_advisory_unlock({_KEY})")
        except self._errors.Error:
            self.close()

    def close(self) -> None:
        if self._con is not None:
            self._con.close()
            self._con = None


def _trouble(e: Any) -> StoreError:
    """What PostgreSQL says, which has no code for a connection that could not be made."""
    code, vendor = e.sqlstate or "", str(e)
    not_now = "FATAL" not in vendor or any(words in vendor for words in _NOT_NOW)
    if code[:2] in ("08", "57") or code == "53300" or (not code and not_now):
        return StoreAway("the store's database does not answer", hint=_AWAY, code=code, vendor=vendor)
    return StoreMissing("the store's database does not let us in", hint=_REFUSED, code=code, vendor=vendor)


def conninfo(url: Secret) -> str:
    """The libpq string of a PostgreSQL URL, with messages in English: DuckLake's retries read them. Both ends find out
    within half a minute that the other one is gone without a word, and not after the two hours of most systems."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = conninfo_to_dict(url.reveal())
    except ProgrammingError as e:
        raise InvalidInput("ISTHMUS_DATABASE_URL is not a PostgreSQL URL", hint="postgresql://user:pw@host/db") from e
    parts["options"] = f"{parts.get('options') or ''} -c lc_messages=C {_SERVER_NOTICES}".strip()
    parts |= _WE_NOTICE | {"application_name": _NAME}
    return make_conninfo("", **{name: str(value) for name, value in parts.items() if value is not None})


def parted(url: Secret) -> tuple[str, str]:
    """`conninfo` without the password, and the password."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    parts = conninfo_to_dict(conninfo(url))
    password = str(parts.pop("password", ""))
    return make_conninfo("", **{name: str(value) for name, value in parts.items() if value is not None}), password


def passwords(url: Secret) -> list[str]:
    """What of a database URL must never be shown."""
    from psycopg.conninfo import conninfo_to_dict

    password = str(conninfo_to_dict(url.reveal()).get("password") or "")
    escaped = password.replace("\\", "\\\\").replace("'", "\\'")  # as libpq's own strings spell it
    return [url.reveal(), *(p for p in (escaped, escaped.replace("'", "''"), password) if p)]

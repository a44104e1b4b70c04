"""Table locks as Snowflake's transactions hold them.

UPDATE, DELETE, MERGE and DDL take a table for themselves until their transaction ends; INSERT and COPY only add, and
wait for nobody. Who waits longer than the session's LOCK_TIMEOUT is refused. A transaction in whose way somebody
stands and whose session says nothing for a while is rolled back: at the real one after five minutes, here sooner.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from .naming import Name, Refused, shown


class Holder(Protocol):
    """A session, as the locks see it."""

    def idle_s(self) -> float | None:
        """How long nothing was asked; None while a statement runs."""
        ...

    def abort(self) -> None:
        """Roll back the transaction, unless a statement has begun to run meanwhile."""
        ...


class Locks:
    """Which session holds which table."""

    def __init__(self, idle_abort_s: Callable[[], float]) -> None:
        self._idle_abort_s = idle_abort_s
        self._changed = threading.Condition()
        self._holders: dict[Name, Holder] = {}

    def take(self, table: Name, holder: Holder, timeout_s: float) -> None:
        """Take a table, waiting for who holds it. Raises Refused after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                other = self._holders.setdefault(table, holder)
                if other is holder:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    message = (
                        f"Statement was aborted: it waited {timeout_s:g} s for the lock of table "
                        f"'{shown(table)}', and this lock has not yet been released."
                    )
                    raise Refused(message, 625, "57014")
                self._changed.wait(min(left, 0.05))
            idle = other.idle_s()
            if idle is not None and idle > self._idle_abort_s():
                other.abort()

    def release(self, holder: Holder) -> None:
        """Give back all that a session holds."""
        with self._changed:
            self._holders = {table: other for table, other in self._holders.items() if other is not holder}
            self._changed.notify_all()

    def held(self) -> list[Name]:
        with self._changed:
            return sorted(self._holders)

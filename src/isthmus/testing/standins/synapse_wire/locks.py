"""Who writes to which table. INSERTs of several transactions go together; UPDATE and DELETE wait for all others.

The vendor's control node lets updates of one table run at the same time, and the engine below holds a lock on each row
that was changed. Here it is the table: what waits here waits there too if both change the same row.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from isthmus.testing.standins.synapse_wire.packets import Refused

_DEADLOCK_S = 30
_LOOK_S = 0.02


class Locks:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[str, dict[int, bool]] = {}  # table → session → is exclusive

    def take(self, session: int, table: str, *, exclusive: bool, while_waiting: Callable[[], None]) -> None:
        """Hold a lock until `release`. `while_waiting` is called now and then, and may raise."""
        deadline = time.monotonic() + _DEADLOCK_S
        with self._changed:
            while True:
                holders = self._held.setdefault(table, {})
                others = {other: alone for other, alone in holders.items() if other != session}
                if not others or (not exclusive and not any(others.values())):
                    holders[session] = exclusive or holders.get(session, False)
                    return
                self._changed.wait(_LOOK_S)
                while_waiting()
                if time.monotonic() > deadline:
                    said = "was deadlocked on lock resources with another process and has been chosen as the deadlock "
                    raise Refused(1205, f"Transaction (Process ID {session}) {said}victim. Rerun the transaction.")

    def release(self, session: int) -> None:
        with self._changed:
            for holders in self._held.values():
                holders.pop(session, None)
            self._changed.notify_all()

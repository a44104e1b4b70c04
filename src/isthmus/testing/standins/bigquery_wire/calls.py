"""What was asked of the stand-in, and what is to go wrong with it next."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Call:
    """One call: `what` is the method as Google's documentation names it ("jobs.insert query"), `text` its SQL."""

    account: str
    what: str
    text: str = ""


@dataclass(frozen=True)
class Refusal:
    """Google says no, in its own words, and nothing was done."""

    status: int
    reason: str
    message: str


@dataclass(frozen=True)
class Lost:
    """It is done, but the connection drops before the answer."""


@dataclass(frozen=True)
class Cut:
    """The connection drops before anything is done."""


Fault = Refusal | Lost | Cut

RATE_LIMIT = Refusal(429, "rateLimitExceeded", "Exceeded rate limits: too many api requests per user per method")
BACKEND = Refusal(503, "backendError", "Visibility check was unavailable. Please retry the request")
QUOTA = Refusal(403, "quotaExceeded", "Quota exceeded: Your project exceeded quota for free query bytes scanned.")


@dataclass
class Calls:
    """All calls in order, and the faults that wait for theirs."""

    made: list[Call] = field(default_factory=list)
    _waiting: list[tuple[str, Fault]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, what: str, fault: Fault, *, times: int = 1) -> None:
        """The next calls whose `what` begins so fail."""
        with self._lock:
            self._waiting += [(what, fault)] * times

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._waiting.clear()

    def note(self, call: Call) -> Fault | None:
        """Write the call down. Returns what is to go wrong with it."""
        with self._lock:
            self.made.append(call)
            for waiting in self._waiting:
                if call.what.startswith(waiting[0]):
                    self._waiting.remove(waiting)
                    return waiting[1]
        return None

    def of(self, account: str) -> list[Call]:
        with self._lock:
            return [call for call in self.made if call.account == account]

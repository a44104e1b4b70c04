"""What passed over the wire, and what is to go wrong on it, as values."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote


@dataclass(frozen=True)
class Request:
    """One request as it came, without its signature, and the status of its answer (0: none was given)."""

    method: str
    path: str
    query: str
    status: int
    form: str = ""
    """The body of a request to STS or IAM."""

    @property
    def key(self) -> str:
        """The object it is about: the path without the bucket."""
        return unquote(self.path).lstrip("/").partition("/")[2]


What = Literal["answer", "lose", "cut", "pretend", "hold"]


@dataclass
class Fault:
    """What is to happen to requests of a method whose path (with the query) holds a pattern.

    - `answer`: the wire answers with `status` and `code`, the server hears nothing of it;
    - `lose`: the server does it, and the connection ends before the answer;
    - `cut`: half of the body goes to the server, then both connections end;
    - `pretend`: a refused condition is answered as if it held, as stores do that ignore conditions;
    - `hold`: it waits until `go_on` is set, then passes. `is_held` says that it waits.

    The first `skip` of them pass, then `times` of them are struck.
    """

    what: What
    method: str = ""
    path: str = ""
    status: int = 503
    code: str = "SlowDown"
    times: int = 1
    skip: int = 0
    is_held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is to be struck. Each counts once."""
        if (self.method and self.method != method) or not re.search(self.path, unquote(path)):
            return False
        with self._lock:
            if self.skip > 0:
                self.skip -= 1
                return False
            if self.times <= 0:
                return False
            self.times -= 1
            return True

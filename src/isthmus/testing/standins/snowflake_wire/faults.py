"""What a test can have go wrong: switched on from outside, for the statements whose text fits, so many times."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Any

KINDS = {
    "drop": "the statement runs, then the line is cut without an answer",
    "lose": "the line is cut without an answer, and the statement never runs",
    "http": "an HTTP status instead of an answer: `status`",
    "refuse": "an error of Snowflake's own: `code`, `message`",
    "upload": "an HTTP status for a file that is put into a stage: `status`",
    "truncate": "a file is put into a stage by half, and its upload is confirmed",
}


@dataclass
class Fault:
    kind: str
    pattern: str = ""
    times: int = 1
    after: int = 0  # so many statements that fit pass before
    status: int = 503
    code: int = 608
    message: str = ""


class Faults:
    """The faults that are switched on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def switch_on(self, about: dict[str, Any]) -> None:
        if about["kind"] not in KINDS:
            raise ValueError(f"no such fault: {about['kind']}; there are {', '.join(KINDS)}")
        with self._lock:
            self._faults.append(Fault(**about))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def strike(self, text: str, *kinds: str) -> Fault | None:
        """The fault that hits this statement (or file name), once; its number of times goes down."""
        with self._lock:
            for fault in self._faults:
                if fault.kind in kinds and fault.times > 0 and re.search(fault.pattern, text, re.I | re.S):
                    if fault.after > 0:
                        fault.after -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

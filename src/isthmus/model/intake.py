"""What a landing takes in and gives back: columns of a source, reasons for rejections, counts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_PROPERTIES = 400
MAX_EVENT_BYTES = 5 * 1024 * 1024
MAX_PROFILE_BYTES = 100 * 1024
MAX_STRING_BYTES = 100 * 1024
MAX_LEVELS = 10
MAX_UNIQUE_ID = 255


class Shape(StrEnum):
    """How a column's values reach us."""

    TEXT = "text"  # a CSV cell, or a JSON value as text: types are read from it, best effort
    STRING = "string"  # a text column of a typed source: stays text, but JSON objects and arrays in it are JSON
    NUMBER = "number"  # integers of up to 64 bits, booleans, decimals: JSON can hold them as they are
    EXACT = "exact"  # dates and other things that become texts
    HUGE = "huge"  # integers that may exceed 64 bits
    FLOAT = "float"
    TIMESTAMP = "timestamp"
    NESTED = "nested"  # structs, lists, maps
    BINARY = "binary"


@dataclass(frozen=True)
class IncomingColumn:
    """One column of a source: its own name, the name it has in our batches, and its shape."""

    name: str
    ref: str
    shape: Shape


class Reason(StrEnum):
    """Why a row was not taken. The value is what `isthmus rejections list` shows."""

    BROKEN_ROW = "broken row"  # the file's own grammar: quotes, number of cells, line length
    BAD_ENCODING = "not UTF-8"
    BAD_JSON = "not JSON"
    NO_KEY = "no key"
    KEY_TWICE = "key twice"
    NO_IDENTIFIER = "no identifier"
    BAD_EMAIL = "bad email"
    BAD_PHONE = "bad phone number"
    UNKNOWN_PROFILE = "unknown profile id"
    NO_TIME = "no event time"
    BAD_TIME = "bad time"
    NO_METRIC = "no metric"
    NO_CHANGED_AT = "no changed-at time"
    BAD_CONSENT = "bad consent"
    BAD_NUMBER = "bad number"
    BAD_CURRENCY = "bad currency"
    TOO_LONG = "too long"
    TOO_LARGE = "too large"
    TOO_MANY = "too many properties"
    TOO_DEEP = "too deeply nested"
    NUL = "NUL character"
    BAD_VALUE = "bad value"
    ERASED = "erased"  # from before its person was erased: counted, but nothing of it is kept
    IDENTIFIER_TAKEN = "identifier taken"  # the row landed; one lower identifier belongs to somebody else


NO_KEY, KEY_TWICE = 1, 2
"""What `key_fault` says of a row of a relation that is compared (0: nothing): its place in KEY_FAULTS."""

KEY_FAULTS = (
    (Reason.NO_KEY, "a column of the key is empty"),
    (Reason.KEY_TWICE, "another row with this key was read before it"),
)


@dataclass
class Counts:
    """What became of the rows of a landing. read = landed + repeated + rejected, always."""

    read: int = 0
    landed: int = 0
    repeated: int = 0
    rejected: int = 0
    profiles_created: int = 0
    merged: int = 0
    taken: int = 0  # identifiers that belong to somebody else: those rows landed without them
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        for name in ("read", "landed", "repeated", "rejected", "profiles_created", "merged", "taken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reasons.update(other.reasons)

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "reasons": dict(self.reasons)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Counts:
        return cls(**{**values, "reasons": Counter(values["reasons"])})


class _Refused(ValueError):
    pass


def find_fault(properties: str) -> tuple[Reason, str] | None:
    """What is wrong with a row's properties, decided by a full parse; None if nothing is.

    Only for the few rows that the store's own SQL finds suspicious: it looks at every value.
    """

    def constant(name: str) -> Any:
        raise _Refused(f"{name} is not a number that JSON or a warehouse can hold")

    def integer(text: str) -> int:
        value = int(text) if len(text) < 40 else 1 << 64
        if not -(1 << 63) <= value < 1 << 63:
            raise _Refused(f"the integer {text[:40]} needs more than 64 bits; send it as a text")
        return value

    def decimal(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise _Refused(f"the number {text[:40]} is too large for a 64-bit float")
        return value

    try:
        document = json.loads(properties, parse_constant=constant, parse_int=integer, parse_float=decimal)
    except _Refused as e:
        return Reason.BAD_NUMBER, str(e)
    except RecursionError:
        return Reason.TOO_DEEP, f"more than {MAX_LEVELS} levels of objects and lists"
    except ValueError as e:
        return Reason.BAD_JSON, f"not valid JSON: {e}"
    stack = [document]
    while stack:
        match stack.pop():
            case dict() as members:
                stack += [*members.keys(), *members.values()]
            case list() as items:
                stack += items
            case str() as text:
                if "\x00" in text:
                    return Reason.NUL, "a text holds the NUL character U+0000, which warehouses cannot store"
                if len(text) > MAX_STRING_BYTES // 4 and len(text.encode()) > MAX_STRING_BYTES:
                    return Reason.TOO_LONG, f"a text is longer than {MAX_STRING_BYTES // 1024} KB"
    return None

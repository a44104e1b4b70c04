"""The cast of the store's tests: people with short names, and events of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

from isthmus.imports.load import load
from isthmus.model.intake import Counts
from isthmus.model.mapping import Given, Mapping
from isthmus.store import people
from isthmus.store.lake import Lake
from isthmus.testing.builders import file_of

EVENTS = Mapping(
    data="events",
    identifiers=(("profile_id", "pid"), ("external_id", "ext"), ("email", "email"), ("phone_number", "phone")),
    event_time="at",
    metric=Given(column="metric"),
    integration=Given(column="integration"),
    unique_id="id",
    value="worth",
)
PROFILES = Mapping(
    data="profiles",
    identifiers=EVENTS.identifiers,
    changed_at="changed",
    fields=(("first_name", "first"), ("title", "title"), ("location_city", "city")),
)


class NoLock:
    """A writer lock that is lost: everybody has it."""

    def held(self) -> Any:
        return nullcontext()

    def close(self) -> None:
        pass


class Cast:
    """A store, and short words for what happens in it. `own` makes a text that no other test uses."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake, self.folder, self.tag = lake, folder, uuid4().hex[:8]

    def own(self, name: str) -> str:
        return f"{name}-{self.tag}"

    def mail(self, name: str) -> str:
        return f"{name}.{self.tag}@example.com"

    def events(self, *rows: dict[str, Any], kind: str = "jsonl") -> Counts:
        """Land events; what a row leaves out is filled in."""
        filled = [{"at": "2026-01-01T12:00:00Z", "metric": "Placed Order", "id": uuid4().hex, **row} for row in rows]
        return load(self.lake, file_of(self.folder, filled, kind), "events", mapping=EVENTS)

    def profiles(self, *rows: dict[str, Any], mapping: Mapping = PROFILES) -> Counts:
        return load(self.lake, file_of(self.folder, rows), "profiles", mapping=mapping)

    def who(self, key: str) -> str:
        return people.find(self.lake, key)

    def erase(self, key: str) -> dict[str, int]:
        return people.erase(self.lake, self.who(key))

    def profile(self, key: str) -> dict[str, Any]:
        return people.show(self.lake, self.who(key)).profile

    def ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.lake.query(sql, list(values))

    def events_of(self, key: str) -> list[str]:
        """The unique ids of a person's events, in order."""
        rows = self.ask("SELECT unique_id FROM events WHERE profile_id = ? ORDER BY unique_id", self.who(key))
        return [unique_id for (unique_id,) in rows]

    def fence(self) -> int:
        return self.lake.snapshot().seq


def outcome(counts: Counts) -> tuple[int, int, int, int]:
    """(read, landed, repeated, rejected), after checking that nothing vanished."""
    assert counts.read == counts.landed + counts.repeated + counts.rejected
    assert sum(counts.reasons.values()) == counts.rejected
    return counts.read, counts.landed, counts.repeated, counts.rejected


def partition(cast: Cast, keys: Sequence[str]) -> list[set[str]]:
    """Which of these keys are the same person."""
    groups: dict[str, set[str]] = {}
    for key in keys:
        groups.setdefault(cast.who(key), set()).add(key)
    return sorted(groups.values(), key=sorted)

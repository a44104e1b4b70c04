"""The desk of the landing tests: files go in, rows and rejections come out."""

from __future__ import annotations

import json
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from isthmus.imports.load import load
from isthmus.model.intake import Counts
from isthmus.model.mapping import Data, Given, Mapping
from isthmus.store.lake import Lake
from isthmus.testing.builders import file_of

EVENTS = Mapping(
    data="events",
    identifiers=(("external_id", "who"),),
    event_time="at",
    metric=Given(constant="Placed Order"),
    unique_id="id",
    value="worth",
)
NOON = "2026-01-01T12:00:00Z"

Refusal = tuple[int, str, str]
"""(row, column, reason) of one rejection."""


class Desk:
    """A store, a folder for files, and short words for landing one and looking at what came of it."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake, self.folder, self.tag = lake, folder, uuid4().hex[:8]

    def own(self, name: str) -> str:
        return f"{name}-{self.tag}"

    def row(self, name: str, **other: Any) -> dict[str, Any]:
        return {"who": self.own(name), "at": NOON, "id": name, "worth": "1.5", **other}

    def rows(self, count: int, **other: Any) -> list[dict[str, Any]]:
        return [self.row(f"r{n}", **other) for n in range(count)]

    def file(self, content: str | bytes, name: str = "rows.csv") -> Path:
        path = self.folder / f"{uuid4().hex[:6]}-{name}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def csv(self, *lines: str | bytes, header: str = "who,at,id,worth,note") -> Path:
        """A CSV file of these lines, behind a header."""
        parts = [header.encode(), *(x if isinstance(x, bytes) else x.encode() for x in lines)]
        return self.file(b"\n".join(parts) + b"\n")

    def line(self, name: str, note: str = "", worth: str = "1") -> str:
        return f"{self.own(name)},{NOON},{name},{worth},{note}"

    def land(self, path: Path, mapping: Mapping | None = EVENTS, data: Data = "events", **other: Any) -> Counts:
        counts = load(self.lake, path, data, mapping=mapping, **other)
        assert counts.read == counts.landed + counts.repeated + counts.rejected, "a row vanished"
        assert sum(counts.reasons.values()) == counts.rejected
        kept = self.refusals(path)
        assert len(kept) == counts.rejected - counts.reasons["erased"], "a rejection was not kept, or twice"
        return counts

    def land_rows(self, rows: Sequence[Dict[str, Any]], kind: str, mapping: Mapping = EVENTS) -> tuple[Counts, Path]:
        path = file_of(self.folder, rows, kind)
        return self.land(path, mapping), path

    def refusals(self, path: Path) -> list[Refusal]:
        found = self.lake.query(
            "SELECT row_number, column_name, reason FROM rejections WHERE source = ? AND NOT landed ORDER BY 1, 2",
            [path.name],
        )
        return [(int(n), str(column), str(reason)) for n, column, reason in found]

    def messages(self, path: Path) -> list[str]:
        found = self.lake.query("SELECT message FROM rejections WHERE source = ? ORDER BY row_number", [path.name])
        return [str(message) for (message,) in found]

    def payloads(self, path: Path) -> list[str]:
        found = self.lake.query("SELECT payload FROM rejections WHERE source = ? ORDER BY row_number", [path.name])
        return [str(payload) for (payload,) in found]

    def landed(self) -> dict[str, dict[str, Any]]:
        """The properties of every event of this desk's people, by unique id."""
        found = self.lake.query(
            "SELECT e.unique_id, e.event_properties::VARCHAR FROM events e JOIN identifiers i ON "
            "i.profile_id = e.profile_id WHERE i.kind = 'external_id' AND contains(i.value, ?)",
            [self.tag],
        )
        return {str(unique_id): json.loads(properties) for unique_id, properties in found}

    def column(self, name: str) -> dict[str, Any]:
        """One column of those events, by unique id."""
        found = self.lake.query(
            f"SELECT e.unique_id, e.{name} FROM events e JOIN identifiers i ON i.profile_id = e.profile_id "
            "WHERE i.kind = 'external_id' AND contains(i.value, ?)",
            [self.tag],
        )
        return dict(found)

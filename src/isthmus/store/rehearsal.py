"""A rehearsal: what a landing would make of a batch, by the landing's own code, with nothing kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.model.intake import Counts, Reason
from isthmus.model.mapping import CHANNELS
from isthmus.store import consent, erased, events, identity, news, profiles
from isthmus.store.landing import Landing


@dataclass(frozen=True)
class Rehearsed:
    """What would become of the rows of a batch: the first of those that would land, the first that would not, and the
    counts of all of them.

    A row has `row`, its number, `profile` ("new" or "known"), its identifiers and fields as they would be kept, and its
    `properties`. A rejection has `row`, `column`, `reason`, `message`, `value`, `payload` and `landed` (an identifier
    is left out, the row is not). `found` is how many profiles are known already. Rows that are here already count as
    repeated, apart from what merges in the same batch would change about that.
    """

    rows: list[dict[str, Any]]
    rejections: list[dict[str, Any]]
    counts: Counts
    found: int


class Rehearsal(Landing):
    """Looks at batches as a landing does. The store stays as it is; nobody who is writing to it is waited for."""

    def rehearse(self, batch: pa.Table, *, refused: pa.Table | None = None, limit: int) -> Rehearsed:
        """What `land` would make of the batch, with up to `limit` rows and as many rejections. Raises as it does."""
        self.lake.con.register("incoming", batch)
        try:
            with self.lake.reading() as con:
                self._map(con)
                # What is no news is taken out of `mapped`; a person wants to see it all the same.
                con.execute("CREATE OR REPLACE TEMP TABLE good AS SELECT * FROM mapped WHERE bad IS NULL")
                counts = self._would_take(con, batch.num_rows)
                found = _number(con, "SELECT count(DISTINCT profile_id) FROM who") - counts.profiles_created
                with self._refusals(con, counts) as refusals:
                    rejected = self._rejected(con, refusals, limit)
                return Rehearsed(self._rows(con, limit), *_with(rejected, refused, counts, limit), found)
        finally:
            self.lake.con.unregister("incoming")

    def _would_take(self, con: duckdb.DuckDBPyConnection, size: int) -> Counts:
        """As `Landing._take`, up to the point where it writes."""
        counts = Counts(read=size)
        if gone := erased.sift(con, self.mapping, payload=self.mapped.payload, landed_before=None):
            counts.reasons[Reason.ERASED.value] += gone
        stale = news.sift(con, self.origin, self.mapping) if self.origin else 0
        identity.find(con, self.kinds)
        if self.mapping.data == "events":
            good = _number(con, f"SELECT count(*) FROM {identity.placed(self.kinds)}")
            counts.landed = events.find(con, self.kinds)
        else:
            profiles.find_changes(con, self.mapping, self.mapped.branches, newcomers_only=False, seq=0)
            good = _number(con, "SELECT count(*) FROM placed") + stale
            counts.landed = _number(con, "SELECT count(*) FROM placed SEMI JOIN changed USING (profile_id)")
        counts.repeated = good - counts.landed
        counts.rejected = size - good
        counts.profiles_created = _number(con, "SELECT count(*) FROM newcomers")
        counts.merged = _number(con, "SELECT count(*) FROM merging")
        counts.taken = _number(con, "SELECT count(*) FROM taken")
        return counts

    def _rows(self, con: duckdb.DuckDBPyConnection, limit: int) -> list[dict[str, Any]]:
        same = " AND ".join(f"w.id_{kind} IS NOT DISTINCT FROM g.id_{kind}" for kind in self.kinds)
        newcomer = "w.profile_id IN (SELECT profile_id FROM newcomers)"
        columns = ", ".join(f"{sql} AS {name}" for name, sql in self._shown())
        rows = con.execute(
            f"SELECT g.n AS row, CASE WHEN {newcomer} THEN 'new' ELSE 'known' END AS profile, {columns} "
            f"FROM good g LEFT JOIN who w ON {same} WHERE w.t IS NULL OR w.profile_id IS NOT NULL "
            f"ORDER BY g.n LIMIT {int(limit)}"
        )
        names = [str(each[0]) for each in rows.description or ()]
        return [_read(dict(zip(names, row, strict=True))) for row in rows.fetchall()]

    def _shown(self) -> list[tuple[str, str]]:
        """What is shown of a row: (name, SQL over `good`)."""
        shown = [(kind, f"g.id_{kind}") for kind in self.kinds]
        if self.mapping.data == "events":
            names = ["event_time", "metric", "integration", "unique_id", "value", "value_currency"]
        else:
            names = [name for name, _ in self.mapping.fields]
            if channels := [name for name, _ in self.mapping.consent if name in CHANNELS]:
                shown.append(("subscriptions", consent.updated(channels, before="NULL::JSON", rows="g")))
            if self.mapping.changed_at:
                names.append("changed_at")
        return [*shown, *((name, f"g.{name}") for name in names), ("properties", "g.properties")]

    def _rejected(self, con: duckdb.DuckDBPyConnection, refusals: str, limit: int) -> list[dict[str, Any]]:
        payload = self.mapped.payload
        rows = con.execute(
            f'SELECT p.n, p."column", p.reason, p.message, p.landed, {payload} FROM ({refusals}) p '
            f"JOIN incoming USING (n) ORDER BY p.landed, p.n LIMIT {int(limit)}"
        ).fetchall()
        return [_rejection(*row) for row in rows]


def _with(
    rejected: list[dict[str, Any]], refused: pa.Table | None, counts: Counts, limit: int
) -> tuple[list[dict[str, Any]], Counts]:
    """These rejections, and those rows that did not come as far as a batch, in the order of the rows."""
    if refused is None or not refused.num_rows:
        return rejected, counts
    counts.read += refused.num_rows
    counts.rejected += refused.num_rows
    for each in pc.value_counts(refused["reason"]).to_pylist():
        counts.reasons[each["values"]] += each["counts"]
    others = [
        _rejection(r["row_number"], r["column"], r["reason"], r["message"], False, r["payload"])
        for r in refused.slice(0, limit).to_pylist()
    ]
    return sorted(rejected + others, key=lambda each: (each["landed"], each["row"]))[:limit], counts


def _rejection(n: int, column: str, reason: str, message: str, landed: bool, payload: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(payload)
    except (ValueError, RecursionError):
        row = payload
    value = row.get(column) if isinstance(row, dict) else None
    return {
        **{"row": n, "column": column, "reason": reason, "message": message, "value": value},
        **{"landed": landed, "payload": row},
    }


def _read(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its JSON read."""
    for name in ("properties", "subscriptions"):
        if row.get(name) is not None:
            row[name] = json.loads(row[name])
    return row


def _number(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = con.execute(sql).fetchone()
    return int(row[0]) if row else 0

"""What of the store an export has to send: how much, as Parquet, and as counts and checksums.

Everything here reads one snapshot, so that a chunk is the same rows however often it is made. A row is in a window when
its `seq`, the commit that last changed it, is. Files are written in commit order, so a window finds its files by their
statistics, whatever the size of the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from isthmus import duck
from isthmus.model.table import DELETED, SEQ, SeqRange, Table, Tally, Type
from isthmus.model.tables import EVENT, METRIC, PROFILE, PROFILE_FIELDS
from isthmus.model.work import Scope, Selection
from isthmus.store.lake import Lake

_ID = {PROFILE.name: "profile_id", EVENT.name: "event_id", METRIC.name: "metric_id"}


@dataclass(frozen=True)
class Commit:
    """How many rows in scope one commit left: `older` of them had landed before the window."""

    seq: int
    rows: int
    older: int


class Changes:
    """The rows of one export at one snapshot."""

    def __init__(
        self,
        lake: Lake,
        snapshot_id: int,
        selection: Selection,
        scope: Scope,
        *,
        exclude_origin: str | None = None,
    ) -> None:
        """`exclude_origin` is the id of a connection: events that were read from it are out of scope."""
        self._lake, self._at, self._selection, self._scope = lake, int(snapshot_id), selection, scope
        self._exclude_origin = exclude_origin

    def commits(self, table: Table, seqs: SeqRange) -> list[Commit]:
        """The commits inside the range that have present rows of the table in scope, in order."""
        older = f"count(*) FILTER (landed_seq <= {int(seqs.after or 0)})" if table.name == EVENT.name else "count(*)"
        rows = self._lake.query_past(
            f"SELECT seq, count(*), {older} FROM {self._rows_of(table)} WHERE {self._where(table, seqs)} "
            "GROUP BY seq ORDER BY seq"
        )
        return [Commit(int(s), int(n), int(o)) for s, n, o in rows]

    def deletions(self, table: Table, seqs: SeqRange) -> int:
        """How many rows of the table that were in scope went away inside the range."""
        where = f"kind = '{table.name}' AND {self._where(table, seqs)}"
        return int(self._lake.query_past(f"SELECT count(*) FROM {self._versioned('tombstones')} WHERE {where}")[0][0])

    def extract(self, table: Table, seqs: SeqRange, target: Path, *, deletes: bool) -> int:
        """Write the rows of the range (or the deletions in it) to a Parquet file; how many there were.

        The file has the table's columns and `_deleted`. It appears under its name only when it is whole.
        """
        select = self._deleted_rows(table, seqs) if deletes else self._present_rows(table, seqs)
        target.parent.mkdir(parents=True, exist_ok=True)
        making = target.with_suffix(".making")
        rows = self._lake.query_past(
            f"COPY ({select}) TO {duck.literal(str(making))} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        )
        making.rename(target)
        return int(rows[0][0])

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        """Counts and checksums per commit, as `Warehouse.tally` has them of the other side."""
        rows = self._lake.query_past(
            f"SELECT {SEQ}, count(*), sum({duck.row_digest(table.columns)}) FROM ({self._present_rows(table, seqs)}) "
            f"GROUP BY {SEQ} ORDER BY {SEQ}"
        )
        for seq, count, checksum in rows:
            yield Tally(int(seq), int(count), int(checksum))

    @cached_property
    def _knows_origins(self) -> bool:
        """Whether events had an origin at this moment already: a run may have been planned before they did."""
        columns = self._lake.query_past(f"DESCRIBE SELECT * FROM {self._versioned('events')}")
        return any(name == "origin" for name, *_ in columns)

    def _versioned(self, name: str) -> str:
        return f"lake.{name} AT (VERSION => {self._at})"

    def _rows_of(self, table: Table) -> str:
        return {
            PROFILE.name: self._versioned("profiles"),
            METRIC.name: self._versioned("metrics"),
            EVENT.name: self._versioned("events"),
        }[table.name]

    def _where(self, table: Table, seqs: SeqRange) -> str:
        parts = [_range(seqs)]
        if table.name == EVENT.name:
            if self._scope.events_since is not None:
                since = duck.literal(self._scope.events_since.isoformat())
                parts.append(f"(event_time >= {since}::TIMESTAMPTZ OR landed_seq > {self._scope.connected_seq})")
            if self._selection.metrics is not None or self._selection.exclude_integrations:
                parts.append(f"metric_id IN ({self._selected_metrics()})")
            if self._exclude_origin is not None and self._knows_origins:
                parts.append(f"unguard(origin) IS DISTINCT FROM {duck.literal(self._exclude_origin)}")
        if table.name == METRIC.name:
            parts.append(f"metric_id IN ({self._selected_metrics()})")
        return " AND ".join(parts)

    def _selected_metrics(self) -> str:
        wanted = self._selection.metrics
        parts = ["true"]
        if wanted is not None:
            parts.append(f"unguard(name) IN ({_list(wanted)})" if wanted else "false")
        if self._selection.exclude_integrations:
            parts.append(f"unguard(integration_name) NOT IN ({_list(self._selection.exclude_integrations)})")
        return f"SELECT metric_id FROM {self._versioned('metrics')} WHERE {' AND '.join(parts)}"

    def _present_rows(self, table: Table, seqs: SeqRange) -> str:
        source, where = self._rows_of(table), self._where(table, seqs)
        if table.name == EVENT.name:
            metrics = (
                "(SELECT metric_id AS at, metric_id::VARCHAR AS id, unguard(name) AS name, "
                f"unguard(integration_name) AS integration_name FROM {self._versioned('metrics')})"
            )
            return (
                "SELECT event_id::VARCHAR AS id, m.id AS metric_id, profile_id::VARCHAR AS profile_id, "
                "event_time AS datetime, event_id::VARCHAR AS uuid, properties::VARCHAR AS event_properties, "
                "m.name AS metric_name, m.integration_name AS integration_name, value, value_currency, "
                f"unguard(unique_id) AS unique_id, ingested, seq AS {SEQ}, false AS {DELETED} "
                f"FROM (SELECT * FROM {source} WHERE {where}) e JOIN {metrics} m ON m.at = e.metric_id"
            )
        if table.name == METRIC.name:
            return (
                "SELECT metric_id::VARCHAR AS id, unguard(name) AS name, "
                "unguard(integration_name) AS integration_name, "
                f"created, updated, seq AS {SEQ}, false AS {DELETED} FROM {source} WHERE {where}"
            )
        fields = ", ".join(f"unguard({name}) AS {name}" if kind is Type.TEXT else name for name, kind in PROFILE_FIELDS)
        return (
            f"SELECT profile_id::VARCHAR AS id, {fields}, properties::VARCHAR AS properties, "
            "subscriptions::VARCHAR AS subscriptions, created, updated, last_event_date, "
            f"seq AS {SEQ}, false AS {DELETED} FROM {source} WHERE {where}"
        )

    def _deleted_rows(self, table: Table, seqs: SeqRange) -> str:
        nulls = ", ".join(
            f"NULL::{_DUCK[c.type]} AS {duck.identifier(c.name)}" for c in table.columns if c.name not in ("id", SEQ)
        )
        return (
            f"SELECT id::VARCHAR AS id, {nulls}, seq AS {SEQ}, true AS {DELETED} "
            f"FROM {self._versioned('tombstones')} WHERE kind = '{table.name}' AND {self._where(table, seqs)}"
        )


_DUCK = {
    Type.TEXT: "VARCHAR",
    Type.JSON: "VARCHAR",
    Type.TIMESTAMP: "TIMESTAMPTZ",
    Type.DOUBLE: "DOUBLE",
    Type.BIGINT: "BIGINT",
    Type.BOOLEAN: "BOOLEAN",
}


def _range(seqs: SeqRange) -> str:
    parts = [
        f"seq > {int(seqs.after)}" if seqs.after is not None else "",
        f"seq <= {int(seqs.upto)}" if seqs.upto is not None else "",
    ]
    return " AND ".join(p for p in parts if p) or "true"


def _list(texts: Sequence[str]) -> str:
    return ", ".join(duck.literal(t) for t in texts)

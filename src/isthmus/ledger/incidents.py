"""Incidents: what a person has to know about a sync or a connection, from when until when, and who has been told.

Of one sync or connection and kind there is at most one open incident, whoever looks and however often: a partial unique
index. What each channel has been told is kept in `told`, by the name of the channel:

    {"webhook": {"opened": <when told>},
     "email": {"tries": 2, "retry_at": <when>, "error": "the mail server does not answer", "claimed_until": <when>}}

A channel that is not in there is not told anything of the incident: see `expect`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from isthmus.ledger import syncs as of_syncs
from isthmus.ledger.database import Tx, new_id
from isthmus.ledger.runs import DELIVERING
from isthmus.ledger.schema import connections, incidents, runs, syncs
from isthmus.model.work import RunKind, RunState, Sync

Details = dict[str, Any]
"""JSON-ready facts about an incident. Never holds a secret, nor a warehouse's own words: those may hold rows."""


class IncidentKind(StrEnum):
    FAILURE = "failure"  # a run of the sync needs a person, or the sync paused itself
    SILENCE = "silence"  # its data is further behind than its limit, whatever the reason
    UNABLE = "unable"  # nobody gets in at a connection: its syncs wait
    DRIFT = "drift"  # a check of a connection that was a yes is a no, or warns


OF_CONNECTIONS = (IncidentKind.UNABLE, IncidentKind.DRIFT)
"""The kinds that are about a connection; the others are about a sync."""


class News(StrEnum):
    """What there is to tell of an incident."""

    OPENED = "opened"
    CLEARED = "cleared"


@dataclass(frozen=True)
class Incident:
    """Something about a sync, or a connection, that a person has to know, until it clears by itself.

    `told` is what each channel has been told (see the top of this file), `settled` that nothing is left to be told.
    `complete_up_to` is the freshness of its sync now.
    """

    incident_id: str
    sync_id: str | None
    sync_name: str | None
    connection_name: str | None
    kind: IncidentKind
    summary: str
    details: Details
    opened_at: datetime
    cleared_at: datetime | None
    told: Mapping[str, Mapping[str, Any]]
    settled: bool
    complete_up_to: datetime | None

    @property
    def open(self) -> bool:
        return self.cleared_at is None

    @property
    def about(self) -> str:
        """The name of the sync or connection."""
        return self.sync_name or self.connection_name or ""

    @property
    def hint(self) -> str:
        return str(self.details.get("hint", ""))

    def untold(self, channel: str) -> News | None:
        """What the channel has still to be told. Of one that cleared before it could be told: only that."""
        news = News.OPENED if self.open else News.CLEARED
        return None if channel not in self.told or news in self.told[channel] else news

    def due(self, channel: str, at: datetime) -> News | None:
        """What the channel is to be told now: nobody else is at it, and it is not too soon to try again."""
        note = self.told.get(channel, {})
        waits = any(at < datetime.fromisoformat(note[key]) for key in ("claimed_until", "retry_at") if key in note)
        return None if waits else self.untold(channel)


@dataclass(frozen=True)
class LastRun:
    """What the watch needs of the newest run of a sync."""

    run_id: str
    kind: RunKind
    state: RunState
    planned_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Standing:
    """How a sync stands: its newest run, and its open incidents by kind."""

    sync: Sync
    last: LastRun | None
    incidents: Mapping[IncidentKind, Incident]


def open_(tx: Tx, about_id: str, kind: IncidentKind, summary: str, details: Details, at: datetime) -> bool:
    """Open an incident of a sync or, as its kind says, of a connection. False, and nothing changed, if one of that kind
    is open there already."""
    if _open_id(tx, about_id, kind) is not None:
        return False
    try:
        with tx.begin_nested():
            tx.execute(
                insert(incidents).values(
                    incident_id=new_id("incident"),
                    **{_about(kind).name: about_id},
                    kind=kind,
                    summary=summary,
                    details=details,
                    opened_at=at,
                    told={},
                    settled=False,
                )
            )
    except IntegrityError:
        if _open_id(tx, about_id, kind) is None:
            raise
        return False  # another process was first
    return True


def amend(tx: Tx, about_id: str, kind: IncidentKind, summary: str, details: Details) -> None:
    """Say more of the open incident of that kind. Nobody is told again."""
    incident_id = _open_id(tx, about_id, kind)
    if incident_id is not None:
        _update(tx, incident_id, summary=summary, details=details)


def of_connection(tx: Tx, connection_id: str) -> dict[IncidentKind, Incident]:
    """The open incidents of a connection."""
    query = _QUERY.where(incidents.c.connection_id == connection_id, incidents.c.cleared_at.is_(None))
    return {found.kind: found for found in map(_value, tx.execute(query))}


def clear(tx: Tx, about_id: str, kind: IncidentKind, at: datetime) -> bool:
    """Clear the open incident of that kind. False if there is none. If nobody is to be told, it is settled."""
    row = tx.execute(
        select(incidents.c.incident_id, incidents.c.told)
        .where(_about(kind) == about_id, incidents.c.kind == kind, incidents.c.cleared_at.is_(None))
        .with_for_update()
    ).one_or_none()
    if row is None:
        return False
    _update(tx, row.incident_id, cleared_at=at, settled=not row.told)
    return True


def unsettled(tx: Tx) -> list[Incident]:
    """Incidents of which something is left to be told, now or when they clear; the oldest first."""
    query = _QUERY.where(incidents.c.settled.is_(False)).order_by(incidents.c.opened_at, incidents.c.incident_id)
    return [_value(row) for row in tx.execute(query)]


def expect(tx: Tx, channels: Sequence[str]) -> None:
    """From now on, the open incidents are to be told to these channels, until that has succeeded."""
    for incident in unsettled(tx):
        found = _locked(tx, incident.incident_id)
        if found is not None and found.open:
            _update(tx, found.incident_id, told={**{name: {} for name in channels}, **found.told})


def claim(tx: Tx, incident_id: str, channel: str, *, at: datetime, until: datetime) -> tuple[Incident, News] | None:
    """Take on to tell the channel what is due, so that nobody else does `until` then. None: nothing is due any more."""
    incident = _locked(tx, incident_id)
    if incident is None or (news := incident.due(channel, at)) is None:
        return None
    _note(tx, incident, channel, {**incident.told[channel], "claimed_until": until.isoformat()})
    return incident, news


def mark_told(tx: Tx, incident_id: str, channel: str, what: News, at: datetime, *, remark: str = "") -> None:
    """Keep that the channel has been told. The incident is settled when it is clear and every channel knows."""
    incident = _locked(tx, incident_id)
    if incident is not None:
        known = {news: when for news, when in incident.told.get(channel, {}).items() if news in tuple(News)}
        _note(tx, incident, channel, {**known, what: at.isoformat(), **({"error": remark} if remark else {})})


def mark_untold(tx: Tx, incident_id: str, channel: str, error: str, *, at: datetime, retry_at: datetime) -> None:
    """Keep why the channel could not be told, and when to try again."""
    incident = _locked(tx, incident_id)
    if incident is not None:
        note = {key: value for key, value in incident.told.get(channel, {}).items() if key != "claimed_until"}
        tries = note.get("tries", 0) + 1
        changed = {"tries": tries, "error": error, "error_at": at.isoformat(), "retry_at": retry_at.isoformat()}
        _note(tx, incident, channel, {**note, **changed})


def newest(tx: Tx, limit: int | None = None, *, sync_id: str | None = None, open_only: bool = False) -> list[Incident]:
    """The newest incidents, newest first, of one sync or of all."""
    query = _QUERY.order_by(incidents.c.opened_at.desc(), incidents.c.incident_id.desc()).limit(limit)
    if sync_id is not None:
        query = query.where(incidents.c.sync_id == sync_id)
    if open_only:
        query = query.where(incidents.c.cleared_at.is_(None))
    return [_value(row) for row in tx.execute(query)]


def newest_failure(tx: Tx, sync_id: str) -> Incident | None:
    """The newest incident of a sync that is a failure, open or not."""
    query = _QUERY.where(incidents.c.sync_id == sync_id, incidents.c.kind == IncidentKind.FAILURE)
    row = tx.execute(query.order_by(incidents.c.opened_at.desc(), incidents.c.incident_id.desc()).limit(1)).first()
    return None if row is None else _value(row)


def gc(tx: Tx, before: datetime) -> int:
    """Forget incidents that cleared before then, told or not, and say how many. Open ones are kept."""
    return tx.execute(delete(incidents).where(incidents.c.cleared_at < before)).rowcount


def standings(tx: Tx) -> list[Standing]:
    """How every sync stands, by name; disabled ones too."""
    newest_run = (
        select(runs.c.run_id)
        .where(runs.c.sync_id == syncs.c.sync_id)
        .order_by(runs.c.planned_at.desc(), runs.c.run_id.desc())
        .limit(1)
        .correlate(syncs)
        .scalar_subquery()
    )
    last = {
        row.sync_id: LastRun(row.run_id, RunKind(row.kind), RunState(row.state), row.planned_at, row.finished_at)
        for row in tx.execute(select(runs).select_from(syncs).join(runs, runs.c.run_id == newest_run))
    }
    now_open: dict[str, dict[IncidentKind, Incident]] = {}
    for incident in newest(tx, open_only=True):
        if incident.sync_id is not None:
            now_open.setdefault(incident.sync_id, {})[incident.kind] = incident
    return [Standing(s, last.get(s.sync_id), now_open.get(s.sync_id, {})) for s in of_syncs.every(tx)]


def recovered(tx: Tx, failure: Incident) -> bool:
    """Whether a run has completed since the one that failed: a delivery, or one of the kind that failed.

    A tick that found nothing to deliver leaves no run behind; the freshness it proves counts as well.
    """
    if failure.complete_up_to is not None and failure.complete_up_to > failure.opened_at:
        return True
    failed = failure.details.get("run_id")
    since = tx.scalar(select(runs.c.planned_at).where(runs.c.run_id == failed)) or failure.opened_at
    kinds = {*DELIVERING, failure.details.get("run_kind") or RunKind.PERIODIC}
    query = select(runs.c.run_id).where(
        runs.c.sync_id == failure.sync_id,
        runs.c.state == RunState.COMPLETED,
        runs.c.kind.in_(kinds),
        runs.c.planned_at >= since,
    )
    return tx.scalar(query.limit(1)) is not None


def waiting_since(tx: Tx, sync: Sync) -> datetime:
    """From when on the freshness of a sync is measured: `fresh_at`, and before its first delivery its creation.

    A sync that begins again has no freshness either, and was not made just now: there it is the first run of the new
    generation, or the end of the last one of the old while there is none. Neither moves while nothing succeeds.
    """
    if sync.fresh_at is not None:
        return sync.fresh_at
    own = runs.c.sync_id == sync.sync_id
    first = tx.scalar(select(func.min(runs.c.planned_at)).where(own, runs.c.generation == sync.generation))
    if sync.generation == 1:
        return sync.created_at
    before = select(func.max(func.coalesce(runs.c.finished_at, runs.c.planned_at, type_=runs.c.planned_at.type)))
    begun = first or tx.scalar(before.where(own, runs.c.generation < sync.generation))
    return max(sync.created_at, begun or sync.created_at)


_QUERY = (
    select(
        incidents,
        syncs.c.name.label("sync_name"),
        syncs.c.fresh_at.label("complete_up_to"),
        connections.c.name.label("connection_name"),
    )
    .join_from(incidents, syncs, incidents.c.sync_id == syncs.c.sync_id, isouter=True)
    .join(connections, incidents.c.connection_id == connections.c.connection_id, isouter=True)
)


def _about(kind: IncidentKind) -> Column[Any]:
    return incidents.c.connection_id if kind in OF_CONNECTIONS else incidents.c.sync_id


def _open_id(tx: Tx, about_id: str, kind: IncidentKind) -> str | None:
    query = select(incidents.c.incident_id).where(_about(kind) == about_id, incidents.c.kind == kind)
    return tx.scalar(query.where(incidents.c.cleared_at.is_(None)))


def _locked(tx: Tx, incident_id: str) -> Incident | None:
    row = tx.execute(_QUERY.where(incidents.c.incident_id == incident_id).with_for_update(of=incidents)).one_or_none()
    return None if row is None else _value(row)


def _note(tx: Tx, incident: Incident, channel: str, note: dict[str, Any]) -> None:
    told = {**incident.told, channel: note}
    settled = not incident.open and all(News.CLEARED in each for each in told.values())
    _update(tx, incident.incident_id, told=told, settled=settled)


def _update(tx: Tx, incident_id: str, **values: Any) -> None:
    tx.execute(update(incidents).where(incidents.c.incident_id == incident_id).values(**values))


def _value(row: Row[Any]) -> Incident:
    return Incident(
        incident_id=row.incident_id,
        sync_id=row.sync_id,
        sync_name=row.sync_name,
        connection_name=row.connection_name,
        kind=IncidentKind(row.kind),
        summary=row.summary,
        details=row.details,
        opened_at=row.opened_at,
        cleared_at=row.cleared_at,
        told=row.told,
        settled=row.settled,
        complete_up_to=row.complete_up_to,
    )

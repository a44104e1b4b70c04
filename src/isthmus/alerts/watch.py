"""The watch: looks at every sync and connection and opens or clears its incidents.

It asks the ledger alone, never the scheduler or a run: that nobody looks after a sync any more is what it has to find.
Any number of processes may watch at once.

- **Failure**: the newest run failed, or the sync paused itself. It clears when a later run completes. One failed run
  opens one incident: when a person pauses and resumes the sync, it is not told again.
- **Silence**: the data is further behind than the limit of the sync. It clears when the data has caught up. While a
  failure is open that stops deliveries, silence is not opened too: it would be a second message about the same thing.
- A sync that a person paused, or that is disabled, has neither.
- **Unable**: nobody gets in at a connection, and syncs wait for it. It clears when somebody does. It is told once, for
  the connection: not once more for each of its syncs, neither as a failure nor as a silence.
- **Drift** is opened and cleared by whoever asks a connection's checks; here only when it is removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from isthmus.ledger import connections, incidents, runs
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Ledger, Tx
from isthmus.ledger.incidents import OF_CONNECTIONS, Details, Incident, IncidentKind, Standing
from isthmus.ledger.runs import DELIVERING
from isthmus.model.errors import InvalidInput
from isthmus.model.work import ConnectionState, RunState, Sync, SyncState
from isthmus.runs import schedule


def watch(ledger: Ledger, now: datetime) -> list[Incident]:
    """Look at everything once. Returns the incidents that are open now, the newest first."""
    with ledger.reading() as tx:
        changed = any(True for _ in _changes(tx, now))
    if changed:
        with ledger.transaction() as tx:  # looked at again: much may have happened since
            for change in list(_changes(tx, now)):
                change.make(tx, now)
    with ledger.reading() as tx:
        return incidents.newest(tx, open_only=True)


@dataclass(frozen=True)
class _Change:
    """An incident to be opened with this summary, or to be cleared if there is none."""

    about_id: str
    kind: IncidentKind
    summary: str = ""
    details: Details | None = None

    def make(self, tx: Tx, now: datetime) -> None:
        if self.details is None:
            incidents.clear(tx, self.about_id, self.kind, now)
        else:
            incidents.open_(tx, self.about_id, self.kind, self.summary, self.details, now)


def _changes(tx: Tx, now: datetime) -> Iterator[_Change]:
    known = connections.every(tx)
    shut = {c.connection_id for c in known if c.is_shut}
    waiting: set[str] = set()
    for standing in incidents.standings(tx):
        sync = standing.sync
        if sync.state is SyncState.ENABLED:
            waiting.add(sync.connection_id)
        if sync.state is SyncState.DISABLED or (sync.state is SyncState.PAUSED and not _paused_itself(sync)):
            yield from (_Change(sync.sync_id, kind) for kind in standing.incidents)
        else:
            failure, blocked = _failure(tx, standing)
            silence = _silence(tx, standing, now, blocked or sync.connection_id in shut)
            yield from (change for change in (failure, silence) if change is not None)
    is_open = {(i.connection_name, i.kind) for i in incidents.newest(tx, open_only=True)}
    for connection in known:
        its = {kind for kind in OF_CONNECTIONS if (connection.name, kind) in is_open}
        yield from _of_connection(connection, its, waited_for=connection.connection_id in waiting)


def _of_connection(
    connection: StoredConnection, is_open: Collection[IncidentKind], *, waited_for: bool
) -> Iterator[_Change]:
    about_id, finding = connection.connection_id, connection.finding
    if connection.state is ConnectionState.DISABLED:
        yield from (_Change(about_id, kind) for kind in is_open)
    elif not (connection.is_shut and waited_for and finding):
        if IncidentKind.UNABLE in is_open:
            yield _Change(about_id, IncidentKind.UNABLE)
    elif IncidentKind.UNABLE not in is_open:
        then = f"isthmus connection check {connection.name}, or edit {connection.name} for new credentials"
        details: Details = {"hint": "; ".join(filter(None, (finding.hint, then))), "code": finding.code}
        if finding.run_id:
            details["run_id"] = finding.run_id
        summary = f"unable to connect, and its syncs wait: {finding.summary}"
        yield _Change(about_id, IncidentKind.UNABLE, summary, details)


def _paused_itself(sync: Sync) -> bool:
    return sync.state is SyncState.PAUSED and bool(sync.paused_because)


def _failure(tx: Tx, standing: Standing) -> tuple[_Change | None, bool]:
    """What changes about a failure, and whether one that stops deliveries is open then."""
    sync, last, known = standing.sync, standing.last, standing.incidents.get(IncidentKind.FAILURE)
    if known is not None:
        if not _paused_itself(sync) and incidents.recovered(tx, known):
            return _Change(sync.sync_id, IncidentKind.FAILURE), False
        return None, _stops(known.details)
    failed = last is not None and last.state is RunState.FAILED
    if not _paused_itself(sync) and not failed:
        return None, False
    details: Details = {"complete_up_to": _iso(sync.fresh_at)}
    if last is not None:
        details |= {"run_id": last.run_id, "run_kind": last.kind, "finished_at": _iso(last.finished_at)}
    if _paused_itself(sync):
        details["hint"] = f"mend the cause, then: isthmus sync resume {sync.name}"
        why, itself = sync.paused_because, "paused itself"
        summary = f"the sync {why}" if why.startswith(itself) else f"the sync {itself}: {why}"
        return _Change(sync.sync_id, IncidentKind.FAILURE, summary, details), True
    before = incidents.newest_failure(tx, sync.sync_id)
    if before is not None and all(before.details.get(k) == details[k] for k in ("run_id", "finished_at")):
        return None, False  # told already, and cleared by a person who paused the sync
    log = runs.newest(tx, sync_id=sync.sync_id, limit=1)[0].errors
    if log and log[-1].blame == "door":
        return None, True  # told of the connection
    summary = f"a {details['run_kind']} run failed" + (f": {log[-1].summary}" if log else "")
    details["code"] = log[-1].code if log else ""
    details["hint"] = (log[-1].hint if log else "") or f"isthmus run show {details['run_id']} says more"
    return _Change(sync.sync_id, IncidentKind.FAILURE, summary, details), _stops(details)


def _stops(details: Details) -> bool:
    """Whether it is deliveries that fail, and not the proof of one."""
    return details.get("run_kind", DELIVERING[0]) in DELIVERING


def _silence(tx: Tx, standing: Standing, now: datetime, blocked: bool) -> _Change | None:
    sync, known = standing.sync, standing.incidents.get(IncidentKind.SILENCE)
    limit_s = _limit_s(sync)
    since = incidents.waiting_since(tx, sync)
    late = limit_s is not None and now - since > timedelta(seconds=limit_s)
    if known is not None:
        return None if late else _Change(sync.sync_id, IncidentKind.SILENCE)
    if limit_s is None or not late or blocked:
        return None
    behind = f"{span(now - since)}; the limit is {span(timedelta(seconds=limit_s))}"
    if sync.fresh_at is None:
        summary = f"nothing has been delivered for {behind}"
    else:
        summary = f"the data is complete only up to {sync.fresh_at:%Y-%m-%d %H:%M} UTC: {behind}"
    details: Details = {
        "complete_up_to": _iso(sync.fresh_at),
        "limit_s": limit_s,
        "hint": f"see that `isthmus serve` runs, then: isthmus sync show {sync.name}",
    }
    return _Change(sync.sync_id, IncidentKind.SILENCE, summary, details)


def _limit_s(sync: Sync) -> int | None:
    """How far behind a sync may be. One whose schedule cannot be read must not blind the watch for all others."""
    try:
        return schedule.freshness_limit_s(schedule.read(sync.schedule), sync.freshness_limit_s)
    except InvalidInput:
        return sync.freshness_limit_s


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def span(time: timedelta) -> str:
    """A stretch of time as a person says it, in its two largest units: "2 days 3 h"."""
    seconds = max(0, int(time.total_seconds()))
    units = (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {'day' if unit == 'days' and count == 1 else unit}")
    return " ".join(parts[:2]) or "0 s"

"""Syncs: what is to be kept up to date where, and how far that has got."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, case, insert, select, update

from isthmus.ledger import stopping
from isthmus.ledger.database import Change, Tx, new_id
from isthmus.ledger.names import unknown
from isthmus.ledger.schema import connections, runs, syncs
from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Data, parse
from isthmus.model.work import (
    ACTIVE,
    DELETES_LIMIT,
    LOOK_BACK_S,
    ConnectionState,
    Direction,
    Intake,
    RunState,
    Scope,
    Selection,
    Sync,
    SyncState,
)

Due = Callable[[str], datetime | None]
"""When the next run of the sync with that id is due."""

_BEGINNING = {
    "watermark": 0,
    "snapshot_id": None,
    "fresh_at": None,
    "events_since": None,
    "connected_seq": None,
    "next_due": None,
}


def apply_export(
    tx: Tx,
    *,
    name: str,
    connection_id: str,
    selection: Selection,
    schedule: str,
    at: datetime,
    freshness_limit_s: int | None = None,
    due: Due = lambda sync_id: None,
) -> tuple[Sync, Change]:
    """Make the export `name` be as given. What is the same already is left alone and reported as unchanged.

    Another selection or connection restarts the sync (see `restart`); another schedule or limit does not. A disabled
    sync becomes Enabled, a paused one stays paused. Raises InvalidInput if the connection is unknown or removed, or
    the name is that of an import.

    A sync that is new, restarted or enabled again has no `next_due`: unless it is manual, that means now. After a mere
    change of its schedule the next run is when `due`, asked with the sync's id, says; one that is due now stays so.
    """
    values: dict[str, Any] = {"connection_id": connection_id, "selection": asdict(selection), "intake": None}
    values |= {"schedule": schedule, "freshness_limit_s": freshness_limit_s}

    def compared(was: Sync) -> tuple[bool, bool]:
        again = _meaning(was.selection) != _meaning(selection) or was.connection_id != connection_id
        return again, again

    return _apply(tx, name, Direction.EXPORT, values, compared, at, due)


def apply_import(
    tx: Tx,
    *,
    name: str,
    connection_id: str,
    intake: dict[str, Any],
    schedule: str,
    at: datetime,
    freshness_limit_s: int | None = None,
    due: Due = lambda sync_id: None,
) -> tuple[Sync, Change]:
    """Make the import `name` be as given; see `apply_export` for what is the same for both.

    `intake` is as `intake_of` reads it. Another mapping or relation changes what comes from now on: a table may be
    swapped for a view. Only another connection, kind of data, changed-at column or key begins again from the start,
    for what was read before says nothing then; and where all rows are compared, so does another mapping.
    """
    given = intake_of(intake)
    values: dict[str, Any] = {"connection_id": connection_id, "selection": asdict(Selection()), "intake": intake}
    values |= {"schedule": schedule, "freshness_limit_s": freshness_limit_s}

    def compared(was: Sync) -> tuple[bool, bool]:
        assert was.intake is not None
        again = (
            was.connection_id != connection_id
            or was.intake.data != given.data
            or was.intake.mapping.changed_at != given.mapping.changed_at
            or was.intake.key != given.key
            or (bool(given.key) and was.intake.mapping != given.mapping)
            # What rows of profiles gave is kept only where it is to be taken back.
            or (given.data == "profiles" and was.intake.deletes != given.deletes)
        )
        return again, was.intake != given or again

    return _apply(tx, name, Direction.IMPORT, values, compared, at, due)


def intake_of(document: dict[str, Any]) -> Intake:
    """An import's wish as it is kept: data, relation or query, look_back_s or key and deletes, and the mapping as a
    person wrote it."""
    data: Data = document["data"]
    return Intake(
        data=data,
        relation=document.get("relation", ""),
        query=document.get("query", ""),
        look_back_s=document.get("look_back_s", LOOK_BACK_S),
        key=tuple(document.get("key", ())),
        deletes=document.get("deletes", "ignore"),
        deletes_limit=document.get("deletes_limit", DELETES_LIMIT),
        mapping=parse(document["mapping"], data),
    )


def _apply(
    tx: Tx,
    name: str,
    direction: Direction,
    values: dict[str, Any],
    compared: Callable[[Sync], tuple[bool, bool]],
    at: datetime,
    due: Due,
) -> tuple[Sync, Change]:
    """`compared` says of the sync as it was whether it begins again, and whether anything about it is new."""
    state = tx.scalar(
        select(connections.c.state)
        .where(connections.c.connection_id == values["connection_id"])
        .with_for_update(read=True)
    )
    if state is None or state == ConnectionState.DISABLED:
        raise InvalidInput(f"the connection of the {direction} {name!r} is not there any more", hint="apply it again")
    sync_id = tx.scalar(select(syncs.c.sync_id).where(syncs.c.name == name).with_for_update())
    if sync_id is None:
        sync_id = new_id("sync")
        fixed = {"sync_id": sync_id, "name": name, "state": SyncState.ENABLED, "generation": 1, "created_at": at}
        tx.execute(insert(syncs).values(**fixed, **values, updated_at=at, **_BEGINNING))
        return by_id(tx, sync_id), Change.CREATED
    was = by_id(tx, sync_id)
    if was.direction is not direction:
        raise InvalidInput(f"there is an {was.direction} of the name {name!r}", hint="give this one another name")
    again, new = compared(was)
    back = was.state == SyncState.DISABLED
    same = was.schedule == values["schedule"] and was.freshness_limit_s == values["freshness_limit_s"]
    if same and not new and not back:
        return was, Change.UNCHANGED
    changed: dict[str, Any] = {**values, "updated_at": at}
    if back:
        changed |= {"state": SyncState.ENABLED, "next_due": None, "failures": 0, "paused_because": None}
    elif was.schedule != values["schedule"] and not _due_now(was):
        changed["next_due"] = due(sync_id)
    tx.execute(update(syncs).where(syncs.c.sync_id == sync_id).values(changed))
    if again:
        return restart(tx, sync_id, at=at), Change.RESTARTED
    return by_id(tx, sync_id), Change.CHANGED


def restart(tx: Tx, sync_id: str, *, at: datetime) -> Sync:
    """Begin a new generation: nothing counts as delivered, there is no scope yet, the history will be sent again.

    A run under way is cancelled: it belongs to what the sync was before.
    """
    tx.execute(
        update(syncs)
        .where(syncs.c.sync_id == sync_id)
        .values(generation=syncs.c.generation + 1, updated_at=at, **_BEGINNING)
    )
    _end_run(tx, sync_id, at)
    return by_id(tx, sync_id)


def set_state(tx: Tx, sync_id: str, state: SyncState, *, at: datetime) -> Sync:
    """Enable or pause a sync. Raises InvalidInput if it is disabled: only applying it again brings it back."""
    was = by_id(tx, sync_id, lock=True)
    if was.state == SyncState.DISABLED and state != SyncState.DISABLED:
        raise InvalidInput(
            f"the sync {was.name!r} is disabled: its connection was removed", hint="apply both again to bring it back"
        )
    tx.execute(update(syncs).where(syncs.c.sync_id == sync_id).values(state=state, updated_at=at))
    return by_id(tx, sync_id)


def disable(tx: Tx, sync_id: str, *, at: datetime) -> Sync:
    """Disable a sync because its connection is removed, and cancel its run under way. How far it got is kept."""
    sync = set_state(tx, sync_id, SyncState.DISABLED, at=at)
    _end_run(tx, sync_id, at)
    return sync


def set_scope(tx: Tx, sync_id: str, scope: Scope, *, generation: int, at: datetime) -> Sync:
    """Fix the bounds of a generation. The first to do so wins; what is fixed stays as it is."""
    tx.execute(
        update(syncs)
        .where(
            syncs.c.sync_id == sync_id,
            syncs.c.generation == generation,
            syncs.c.connected_seq.is_(None),
        )
        .values(events_since=scope.events_since, connected_seq=scope.connected_seq, updated_at=at)
    )
    return by_id(tx, sync_id)


def advance(
    tx: Tx, sync_id: str, *, generation: int, watermark: int, snapshot_id: int, fresh_at: datetime, at: datetime
) -> bool:
    """Say that everything up to `watermark` is in the warehouse. False, and nothing changed, if that is no news.

    It is none if the sync has another generation by now, or is further or fresher already: a watermark never goes back.
    """
    result = tx.execute(
        update(syncs)
        .where(
            syncs.c.sync_id == sync_id,
            syncs.c.generation == generation,
            syncs.c.watermark <= watermark,
        )
        .values(
            watermark=watermark,
            snapshot_id=snapshot_id,
            # A clock that was put back must not stop anything: order is the watermark's business. What it said before,
            # if that is yet to come, was never so: nobody may believe for a day that the data is fresher than now.
            fresh_at=case(
                (and_(syncs.c.fresh_at > fresh_at, syncs.c.fresh_at <= at), syncs.c.fresh_at), else_=fresh_at
            ),
            updated_at=at,
        )
    )
    return bool(result.rowcount)


def named(tx: Tx, name: str) -> Sync:
    """The sync of that name. Raises InvalidInput if there is none."""
    row = tx.execute(_QUERY.where(syncs.c.name == name)).one_or_none()
    if row is None:
        raise unknown("sync", name, (sync.name for sync in every(tx)))
    return _value(row)


def by_id(tx: Tx, sync_id: str, *, lock: bool = False) -> Sync:
    """The sync with that id; with `lock`, held against others until the transaction ends."""
    query = _QUERY.where(syncs.c.sync_id == sync_id)
    row = tx.execute(query.with_for_update(of=syncs) if lock else query).one_or_none()
    if row is None:
        raise InvalidInput(f"there is no sync with the id {sync_id}")
    return _value(row)


def every(tx: Tx) -> list[Sync]:
    """All syncs by name, disabled ones too."""
    return [_value(row) for row in tx.execute(_QUERY.order_by(syncs.c.name))]


def of(tx: Tx, connection_id: str) -> list[Sync]:
    """The syncs of a connection by name."""
    return [
        _value(row) for row in tx.execute(_QUERY.where(syncs.c.connection_id == connection_id).order_by(syncs.c.name))
    ]


_QUERY = select(syncs, connections.c.name.label("connection_name")).join(connections)


def _due_now(sync: Sync) -> bool:
    """Whether nothing was begun since it was made or restarted; a manual sync waits for no schedule."""
    return sync.next_due is None and sync.scope is None


def _end_run(tx: Tx, sync_id: str, at: datetime) -> None:
    which = (runs.c.sync_id == sync_id, runs.c.state.in_(ACTIVE))
    stopping.unqueue(tx, tx.scalars(select(runs.c.run_id).where(*which)).all())
    tx.execute(update(runs).where(*which).values(state=RunState.CANCELLED, finished_at=at, retry_at=None))


def _value(row: Row[Any]) -> Sync:
    return Sync(
        sync_id=row.sync_id,
        name=row.name,
        connection_id=row.connection_id,
        connection_name=row.connection_name,
        selection=_selection(row.selection),
        schedule=row.schedule,
        state=SyncState(row.state),
        generation=row.generation,
        watermark=row.watermark,
        snapshot_id=row.snapshot_id,
        fresh_at=row.fresh_at,
        scope=None if row.connected_seq is None else Scope(row.events_since, row.connected_seq),
        created_at=row.created_at,
        next_due=row.next_due,
        failures=row.failures,
        paused_because=row.paused_because or "",
        freshness_limit_s=row.freshness_limit_s,
        intake=None if row.intake is None else intake_of(row.intake),
    )


def _meaning(selection: Selection) -> Selection:
    """The selection without what does not matter: the order in which names are given."""
    return replace(
        selection,
        metrics=None if selection.metrics is None else tuple(sorted(set(selection.metrics))),
        exclude_integrations=tuple(sorted(set(selection.exclude_integrations))),
    )


def _selection(fields: dict[str, Any]) -> Selection:
    metrics = fields["metrics"]
    return Selection(
        profiles=fields["profiles"],
        events=fields["events"],
        metrics=None if metrics is None else tuple(metrics),
        exclude_integrations=tuple(fields["exclude_integrations"]),
        history=fields["history"],
        table_prefix=fields["table_prefix"],
        include_imported=fields.get("include_imported", False),
    )

"""Connections as the ledger keeps them: plain fields readable, secret fields sealed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update

from isthmus.ledger import syncs
from isthmus.ledger.database import Change, Tx, new_id
from isthmus.ledger.names import unknown
from isthmus.ledger.schema import connections
from isthmus.model.errors import InvalidInput
from isthmus.model.work import ConnectionState
from isthmus.secrets import Seal, Secret


@dataclass(frozen=True)
class StoredConnection:
    """A connection without meaning: only its connector knows what `fields` and the unsealed `sealed` make up.

    `concurrency` is how many chunks are loaded there at once (None: what its kind says).
    """

    connection_id: str
    name: str
    kind: str
    fields: dict[str, Any]
    sealed: dict[str, str]
    state: ConnectionState
    checked_at: datetime | None
    concurrency: int | None = None

    def unsealed(self, seal: Seal) -> dict[str, Secret]:
        """The secret fields. Raises InvalidInput if they were sealed with another key."""
        return {name: seal.unseal(text) for name, text in self.sealed.items()}


def put(
    tx: Tx,
    *,
    name: str,
    kind: str,
    fields: Mapping[str, Any],
    secrets: Mapping[str, Secret],
    seal: Seal,
    at: datetime,
    incidental: Collection[str] = (),
    concurrency: int | None = None,
) -> tuple[StoredConnection, Change]:
    """Add the connection `name`, or replace what is known of it; a removed or unable one becomes Enabled.

    A changed kind or plain field means another place: the syncs of the connection restart, for nothing says that what
    was delivered is there too. `incidental` names the fields of which this is not so, such as a user name. Secrets
    and the concurrency never mean another place.
    """
    was = _one(tx, connections.c.name == name, lock=True)
    if was is None:
        connection_id = new_id("con")
        tx.execute(
            insert(connections).values(
                connection_id=connection_id,
                name=name,
                kind=kind,
                fields=dict(fields),
                sealed=_sealed(secrets, seal),
                state=ConnectionState.ENABLED,
                created_at=at,
                updated_at=at,
                concurrency=concurrency,
            )
        )
        return by_id(tx, connection_id), Change.CREATED
    moved = was.kind != kind or _place(was.fields, incidental) != _place(fields, incidental)
    same = was.kind == kind and was.fields == dict(fields) and was.concurrency == concurrency
    if same and _same_secrets(was, secrets, seal) and was.state == ConnectionState.ENABLED:
        return was, Change.UNCHANGED
    tx.execute(
        update(connections)
        .where(connections.c.connection_id == was.connection_id)
        .values(
            kind=kind,
            fields=dict(fields),
            sealed=_sealed(secrets, seal),
            state=ConnectionState.ENABLED,
            updated_at=at,
            concurrency=concurrency,
        )
    )
    restarted = moved and [syncs.restart(tx, sync.sync_id, at=at) for sync in syncs.of(tx, was.connection_id)]
    return by_id(tx, was.connection_id), Change.RESTARTED if restarted else Change.CHANGED


def named(tx: Tx, name: str) -> StoredConnection:
    """The connection of that name, removed ones too. Raises InvalidInput if there is none."""
    found = _one(tx, connections.c.name == name)
    if found is None:
        raise unknown("connection", name, (c.name for c in every(tx)))
    return found


def by_id(tx: Tx, connection_id: str) -> StoredConnection:
    """The connection with that id. Raises InvalidInput if there is none."""
    found = _one(tx, connections.c.connection_id == connection_id)
    if found is None:
        raise InvalidInput(f"there is no connection with the id {connection_id}")
    return found


def every(tx: Tx) -> list[StoredConnection]:
    """All connections by name, removed ones too."""
    return [_value(row) for row in tx.execute(select(connections).order_by(connections.c.name))]


def in_use(tx: Tx) -> list[tuple[str, int | None]]:
    """The kinds of connections that are not removed, each with the concurrency set for it: every pair once."""
    query = select(connections.c.kind, connections.c.concurrency).where(connections.c.state != ConnectionState.DISABLED)
    return [(row.kind, row.concurrency) for row in tx.execute(query.distinct())]


def set_state(tx: Tx, connection_id: str, state: ConnectionState, *, at: datetime) -> StoredConnection:
    """Say how a connection fares after a check at `at`. A removed connection stays Disabled."""
    tx.execute(
        update(connections)
        .where(connections.c.connection_id == connection_id, connections.c.state != ConnectionState.DISABLED)
        .values(state=state, checked_at=at, updated_at=at)
    )
    return by_id(tx, connection_id)


def remove(tx: Tx, name: str, *, at: datetime) -> StoredConnection:
    """Disable the connection and its syncs, end their runs and forget the secrets. History is kept.

    Removing twice changes nothing. `put` brings the connection back, and applying an export brings its sync back.
    """
    found = named(tx, name)
    if found.state == ConnectionState.DISABLED:
        return found
    tx.execute(
        update(connections)
        .where(connections.c.connection_id == found.connection_id)
        .values(state=ConnectionState.DISABLED, sealed={}, updated_at=at)
    )
    for sync in syncs.of(tx, found.connection_id):
        syncs.disable(tx, sync.sync_id, at=at)
    return by_id(tx, found.connection_id)


def _one(tx: Tx, condition: Any, *, lock: bool = False) -> StoredConnection | None:
    query = select(connections).where(condition)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else _value(row)


def _value(row: Row[Any]) -> StoredConnection:
    return StoredConnection(
        connection_id=row.connection_id,
        name=row.name,
        kind=row.kind,
        fields=row.fields,
        sealed=row.sealed,
        state=ConnectionState(row.state),
        checked_at=row.checked_at,
        concurrency=row.concurrency,
    )


def _place(fields: Mapping[str, Any], incidental: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in incidental}


def _sealed(secrets: Mapping[str, Secret], seal: Seal) -> dict[str, str]:
    return {name: seal.seal(secret.reveal()) for name, secret in secrets.items()}


def _same_secrets(was: StoredConnection, secrets: Mapping[str, Secret], seal: Seal) -> bool:
    try:
        return was.unsealed(seal) == dict(secrets)  # sealing the same text twice gives two results
    except InvalidInput:
        return False  # sealed with a key that is gone: what we have now replaces it

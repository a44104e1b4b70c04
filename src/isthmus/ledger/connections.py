"""Connections as the ledger keeps them: plain fields readable, secret fields sealed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update

from isthmus.ledger import syncs
from isthmus.ledger.database import Change, Tx, new_id
from isthmus.ledger.names import unknown
from isthmus.ledger.schema import connections
from isthmus.model.errors import InvalidInput
from isthmus.model.work import ConnectionState, Finding
from isthmus.secrets import Seal, Secret


@dataclass(frozen=True)
class StoredConnection:
    """A connection without meaning: only its connector knows what `fields` and the unsealed `sealed` make up.

    `concurrency` is how many chunks are loaded there at once (None: what its kind says). `state` is what was last found
    out, `since` when, `finding` why it is unable. `checked_at` is when its checks were last asked, `nightly` says if
    that is repeated at night, `nightly_at` when it last was. `version` rises with every change of the way in.

    `next_try_at`: while it is unable and nobody gets in, its syncs wait until then; one of them tries, no more.
    """

    connection_id: str
    name: str
    kind: str
    fields: dict[str, Any]
    sealed: dict[str, str]
    state: ConnectionState
    checked_at: datetime | None
    created_at: datetime
    concurrency: int | None = None
    version: int = 1
    since: datetime | None = None
    finding: Finding | None = None
    next_try_at: datetime | None = None
    tries: int = 0
    nightly: bool = True
    nightly_at: datetime | None = None

    @property
    def is_shut(self) -> bool:
        """Whether nobody gets in, as far as was found out: not only that a right is missing inside."""
        return self.state is ConnectionState.UNABLE and self.next_try_at is not None

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
    nightly: bool = True,
) -> tuple[StoredConnection, Change]:
    """Add the connection `name`, or replace what is known of it.

    A removed one becomes Enabled, and so does an unable one if anything about the way in is new: what was found out
    was about the old one. (If nothing is, it stays unable: saying the same again opens no door.)

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
                nightly=nightly,
            )
        )
        return by_id(tx, connection_id), Change.CREATED
    moved = was.kind != kind or _place(was.fields, incidental) != _place(fields, incidental)
    gone = was.state is ConnectionState.DISABLED
    new_way = gone or was.kind != kind or was.fields != dict(fields) or not _same_secrets(was, secrets, seal)
    if not new_way and (was.concurrency, was.nightly) == (concurrency, nightly):
        return was, Change.UNCHANGED
    values: dict[str, Any] = {"updated_at": at, "concurrency": concurrency, "nightly": nightly}
    if new_way:
        values |= {"kind": kind, "fields": dict(fields), "sealed": _sealed(secrets, seal), "version": was.version + 1}
        if was.state is not ConnectionState.ENABLED:
            values |= {"state": ConnectionState.ENABLED, "state_since": at, **_ABLE}
    tx.execute(update(connections).where(connections.c.connection_id == was.connection_id).values(**values))
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


def held(tx: Tx, connection_id: str) -> StoredConnection:
    """The connection, held against others until the transaction ends. Before its syncs and their runs: everyone takes
    them in this order."""
    found = _one(tx, connections.c.connection_id == connection_id, lock=True)
    assert found is not None
    return found


def set_able(tx: Tx, connection_id: str, *, at: datetime) -> StoredConnection:
    """It was found at `at` that a connection can do its work. A removed one stays Disabled."""
    was = held(tx, connection_id)
    if was.state is ConnectionState.UNABLE:
        values = {"state": ConnectionState.ENABLED, "state_since": at, "updated_at": at, **_ABLE}
        tx.execute(update(connections).where(connections.c.connection_id == connection_id).values(**values))
    return by_id(tx, connection_id)


def set_unable(
    tx: Tx, connection_id: str, finding: Finding, *, next_try_at: datetime | None = None
) -> StoredConnection:
    """It was found that a connection cannot do its work, and why. A removed one stays Disabled.

    With `next_try_at` nobody gets in there: its syncs wait until then.
    """
    was = held(tx, connection_id)
    if was.state is ConnectionState.DISABLED:
        return was
    values: dict[str, Any] = {"finding": {**asdict(finding), "at": finding.at.isoformat()}, "updated_at": finding.at}
    values |= {"next_try_at": next_try_at, "tries": was.tries + 1 if next_try_at else 0}
    if was.state is ConnectionState.ENABLED:
        values |= {"state": ConnectionState.UNABLE, "state_since": finding.at}
    tx.execute(update(connections).where(connections.c.connection_id == connection_id).values(**values))
    return by_id(tx, connection_id)


def set_next_try(tx: Tx, connection_id: str, next_try_at: datetime) -> None:
    """Somebody tries a shut connection now; the next one may at that time."""
    which = (connections.c.connection_id == connection_id, connections.c.next_try_at.is_not(None))
    tx.execute(update(connections).where(*which).values(next_try_at=next_try_at))


def set_checked(tx: Tx, connection_id: str, *, at: datetime) -> None:
    """Its checks were asked."""
    tx.execute(update(connections).where(connections.c.connection_id == connection_id).values(checked_at=at))


def take_nightly(tx: Tx, connection: StoredConnection, *, at: datetime) -> bool:
    """Take on to repeat the checks of a connection as it was read. False if somebody else was faster, or it was removed
    or told not to be asked at night meanwhile."""
    was = held(tx, connection.connection_id)
    if was.nightly_at != connection.nightly_at or not was.nightly or was.state is ConnectionState.DISABLED:
        return False
    tx.execute(update(connections).where(connections.c.connection_id == was.connection_id).values(nightly_at=at))
    return True


def remove(tx: Tx, name: str, *, at: datetime) -> StoredConnection:
    """Disable the connection and its syncs, end their runs and forget the secrets. History is kept.

    Removing twice changes nothing. `put` brings the connection back, and applying an export brings its sync back.
    """
    found = held(tx, named(tx, name).connection_id)
    if found.state == ConnectionState.DISABLED:
        return found
    tx.execute(
        update(connections)
        .where(connections.c.connection_id == found.connection_id)
        .values(
            state=ConnectionState.DISABLED,
            state_since=at,
            sealed={},
            updated_at=at,
            version=found.version + 1,
            **_ABLE,
        )
    )
    for sync in syncs.of(tx, found.connection_id):
        syncs.disable(tx, sync.sync_id, at=at)
    return by_id(tx, found.connection_id)


_ABLE = {"finding": None, "next_try_at": None, "tries": 0}


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
        created_at=row.created_at,
        concurrency=row.concurrency,
        version=row.version,
        since=row.state_since or row.created_at,
        finding=_finding(row.finding),
        next_try_at=row.next_try_at,
        tries=row.tries,
        nightly=row.nightly,
        nightly_at=row.nightly_at,
    )


def _finding(kept: dict[str, Any] | None) -> Finding | None:
    return None if kept is None else Finding(**{**kept, "at": datetime.fromisoformat(kept["at"])})


def _place(fields: Mapping[str, Any], incidental: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in incidental}


def _sealed(secrets: Mapping[str, Secret], seal: Seal) -> dict[str, str]:
    return {name: seal.seal(secret.reveal()) for name, secret in secrets.items()}


def _same_secrets(was: StoredConnection, secrets: Mapping[str, Secret], seal: Seal) -> bool:
    try:
        return was.unsealed(seal) == dict(secrets)  # sealing the same text twice gives two results
    except InvalidInput:
        return False  # sealed with a key that is gone: what we have now replaces it

"""What a person does with a connection: list it, check it, get its set-up script, remove it."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.app import App
from isthmus.exports.deliver import tables_of
from isthmus.ledger import checks, connections, syncs
from isthmus.ledger.connections import StoredConnection
from isthmus.model.checks import Check
from isthmus.model.errors import InvalidInput
from isthmus.model.tables import ALL, named
from isthmus.model.work import ConnectionState
from isthmus.warehouses.protocol import Direction


def list_connections(app: App) -> list[StoredConnection]:
    with app.ledger.reading() as tx:
        return connections.every(tx)


def check_connection(app: App, name: str) -> Iterator[Check]:
    """Ask the connection's questions, giving each answer as it comes; then keep them all, and the state they mean."""
    connection = app.connection(name)
    answers = []
    for check in app.config(connection).check():
        answers.append(check)
        yield check
    state = ConnectionState.ENABLED if all(a.passed for a in answers) else ConnectionState.UNABLE
    with app.ledger.transaction() as tx:
        checks.keep(tx, connection.connection_id, answers, at=app.now())
        connections.set_state(tx, connection.connection_id, state, at=app.now())


def setup_script(app: App, name: str, direction: Direction | None = None) -> str:
    """What the warehouse's administrator runs once for this connection and its exports.

    Without a direction it is for what the kind can do: both, or reading alone.
    """
    connection = app.connection(name)
    with app.ledger.reading() as tx:
        own = [s for s in syncs.of(tx, connection.connection_id) if s.intake is None]
    tables = {t.name: t for s in own for t in (named(t, s.selection.table_prefix) for t in tables_of(s.selection))} or {
        t.name: t for t in (named(t, "klaviyo_") for t in ALL)
    }
    config = app.config(connection)
    if direction is None:
        direction = Direction.BOTH if config.traits.loads else Direction.IMPORT
    elif direction.exports and not config.traits.loads:
        raise InvalidInput(f"{config.traits.title} is read only", hint="ask for the script with --direction import")
    return config.setup_script(list(tables.values()), direction=direction, egress=app.settings.egress_addresses)


def remove_connection(app: App, name: str) -> StoredConnection:
    """Disable a connection and its syncs. Their history stays; nothing in the warehouse is touched."""
    with app.ledger.transaction() as tx:
        return connections.remove(tx, name, at=app.now())

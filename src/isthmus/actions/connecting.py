"""What a person does with a connection: look at it, check it, edit it, get its set-up script, remove it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isthmus.actions import checking
from isthmus.app import App
from isthmus.exports.deliver import tables_of
from isthmus.ledger import checks, connections, doors, runs, syncs
from isthmus.ledger.checks import Answers, Asked
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Change
from isthmus.model.checks import Check
from isthmus.model.errors import InvalidInput, SyncBusy
from isthmus.model.tables import ALL, named
from isthmus.model.work import ConnectionState, Run, Sync
from isthmus.secrets import Secret
from isthmus.warehouses import kinds
from isthmus.warehouses.protocol import Config, Direction, knock


def list_connections(app: App) -> list[StoredConnection]:
    with app.ledger.reading() as tx:
        return connections.every(tx)


@dataclass(frozen=True)
class Shown:
    """A connection, what it answered last, and its syncs, each with its newest run."""

    connection: StoredConnection
    last: Answers | None
    syncs: list[tuple[Sync, Run | None]]


def show_connection(app: App, name: str) -> Shown:
    """All there is to know of a connection but its secrets."""
    with app.ledger.reading() as tx:
        connection = connections.named(tx, name)
        last = next(iter(checks.of(tx, connection.connection_id, limit=1)), None)
        own = []
        for sync in syncs.of(tx, connection.connection_id):
            own.append((sync, next(iter(runs.newest(tx, sync_id=sync.sync_id, limit=1)), None)))
    return Shown(connection, last, own)


def past_checks(app: App, name: str, *, limit: int) -> list[Answers]:
    """What a connection answered, newest first: to a person, and at night."""
    with app.ledger.reading() as tx:
        return checks.of(tx, connections.named(tx, name).connection_id, limit=limit)


def check_connection(app: App, name: str) -> Iterator[Check]:
    """Ask the connection's questions, giving each answer as it comes; then keep them all, and the state they mean.

    When all are a yes, what failed or waited because of the connection goes on at once.
    """
    connection = app.connection(name)
    config = app.config(connection)
    answers = []
    for answer in checking.ask(config):
        answers.append(answer)
        yield answer
    checking.conclude(app, connection, config, answers, Asked.PERSON)


@dataclass
class Edit:
    """New fields or secrets for a connection: first `ask` what the warehouse says to them, then `take` them.

    Nothing is changed before `take`.
    """

    app: App
    was: StoredConnection
    fields: Mapping[str, Any]
    secrets: Mapping[str, Secret]
    config: Config
    answers: list[Check] = field(default_factory=list)
    _is_shut: bool = False

    def ask(self) -> Iterator[Check]:
        """The questions of the connection as it would be."""
        for answer in checking.ask(self.config):
            self.answers.append(answer)
            yield answer
        self._is_shut = not all(a.passed for a in self.answers) and knock(self.config) is not None

    @property
    def moves(self) -> bool:
        """Whether it would be another place: its syncs would deliver their history again."""
        incidental = kinds.incidental(self.was.kind)
        names = {*self.was.fields, *self.fields} - incidental
        return any(self.was.fields.get(name) != self.fields.get(name) for name in names)

    @property
    def refused(self) -> list[Check]:
        """What speaks against it: every no that was not a no before; every no if one does not even get in."""
        if self._is_shut:
            return [a for a in self.answers if not a.passed]
        with self.app.ledger.reading() as tx:
            before = checks.last_answers(tx, self.was.connection_id)
        known = {question for question, answer in before.items() if not answer.passed}
        return [a for a in self.answers if not a.passed and a.question not in known]

    def take(self) -> tuple[Change, list[str]]:
        """Have everyone use them from now on, runs under way too: those sign in anew at the next chunk. What changed,
        and the syncs that go on because of it. Raises SyncBusy if somebody else changed the connection meanwhile."""
        with self.app.ledger.transaction() as tx:
            present = connections.held(tx, self.was.connection_id)
            if present.version != self.was.version:
                raise SyncBusy(
                    f"the connection {self.was.name!r} was changed meanwhile", hint="look at it, and try again"
                )
            taken, change = connections.put(
                tx,
                name=self.was.name,
                kind=self.was.kind,
                fields=self.fields,
                secrets=self.secrets,
                seal=self.app.seal,
                at=self.app.now(),
                incidental=kinds.incidental(self.was.kind),
                concurrency=present.concurrency,
                nightly=present.nightly,
            )
            going = doors.go_on(tx, taken.connection_id, at=self.app.now())
        if self.answers:
            going += checking.conclude(self.app, taken, self.config, self.answers, Asked.PERSON)
        return change, list(dict.fromkeys(going))


def edit_connection(app: App, name: str, *, fields: Mapping[str, Any], secrets: Mapping[str, Secret]) -> Edit:
    """What a connection would be with these fields and secrets in place of what it has; an empty field is left out.

    Raises InvalidInput for a field it has not, a value that cannot be, or a removed connection.
    """
    was = app.connection(name)
    if was.state is ConnectionState.DISABLED:
        raise InvalidInput(f"the connection {name!r} was removed", hint="apply it again to bring it back")
    secret = {f.name for f in kinds.fields(was.kind) if f.secret}
    for given in fields:
        if given in secret:
            raise InvalidInput(
                f"{given} is a secret: it must not stand on a command line",
                hint=f"--secret {given}, with --from-env NAME or --from-file PATH; without, you are asked for it",
            )
    for given in secrets:
        if given not in secret:
            raise InvalidInput(
                f"{given} is no secret field of a {was.kind} connection",
                hint=f"its secrets are: {', '.join(sorted(secret))}" if secret else "it has none",
            )
    given_fields = kinds.with_whole_paths(was.kind, fields, Path.cwd())
    plain = {k: v for k, v in {**was.fields, **given_fields}.items() if v not in (None, "")}
    kept: dict[str, Secret] = {} if set(was.sealed) <= set(secrets) else was.unsealed(app.seal)
    together = {**kept, **secrets}
    config = kinds.build(was.kind, {**plain, **together})
    usual = {f.name: f.default for f in kinds.fields(was.kind)}
    for field_name in set(plain) & set(fields):
        plain[field_name] = getattr(config, field_name)  # "5433" becomes 5433
        if field_name not in was.fields and plain[field_name] == usual[field_name]:
            del plain[field_name]  # said or not, it is the same
    return Edit(app, was, plain, together, config)


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
    """Disable a connection and its syncs, and forget its secrets. Loads under way stop at their next chunk.

    Their history stays; nothing in the warehouse is touched. `apply` brings all back where it was.
    """
    with app.ledger.transaction() as tx:
        return connections.remove(tx, name, at=app.now())

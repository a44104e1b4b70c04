"""Opening the ledger, its transactions, and its migrations.

One SQLite file that several processes may use at once, or a PostgreSQL database. What the database says goes wrong
leaves here as a `StoreError`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from isthmus.ledger.schema import HEAD, VERSION_TABLE
from isthmus.model.errors import InvalidInput, StoreAway, StoreBusy, StoreError, StoreFull, StoreMissing, StoreTooNew

Tx = Connection
"""An open transaction on the ledger, as every function of this package takes it."""

PATIENCE_S = 30
"""How long a transaction waits for another process's before it gives up as `StoreBusy`."""

POSTGRESQL_SCHEMA = "isthmus_ledger"
"""Where the tables are in a PostgreSQL database, which may hold other things too."""

NOTICED: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""How a connection to PostgreSQL finds out within half a minute that nobody is at its other end any more: a firewall
that forgets it, or a machine that is gone, says nothing."""

_ALONE = 1_575_675

_MIGRATION_LOCK = 4_938_201_175  # any number, the same for ever: PostgreSQL's advisory locks are numbered


class Change(StrEnum):
    """What an idempotent request did."""

    CREATED = "created"
    CHANGED = "changed"
    RESTARTED = "changed, from the beginning"  # the history will be delivered again
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Ledger:
    """An open ledger. Threads may share it; processes open their own."""

    _writing: Engine
    _reading: Engine
    place: str
    """Where it lies, as a person may see it: never with a password."""

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """Everything done inside is kept at the end, or nothing is if an error leaves it.

        On SQLite it holds the one write lock from its first moment: keep it short, and do no work in it that waits for
        something else.
        """
        with self._told(), self._writing.begin() as tx:
            yield tx

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """One consistent view, whatever others write meanwhile. Writing in it fails or is undone."""
        with self._told(), self._reading.connect() as tx:
            yield tx

    @contextmanager
    def rehearsal(self) -> Iterator[Tx]:
        """Like `transaction`, but everything is undone at the end: to say what would happen."""
        with self._told(), self._writing.connect() as tx:
            yield tx

    @contextmanager
    def alone(self, what: int) -> Iterator[bool]:
        """Whether no other process is inside with the same number. On one machine there is none that asks."""
        if self._writing.dialect.name != "postgresql":
            yield True
            return
        # For the transaction, not the session: a process that is frozen inside is put out by the server soon.
        with self.transaction() as tx:
            yield bool(tx.scalar(text("SELECT pg_try_advisory_xact_lock(:a, :b)"), {"a": _ALONE, "b": what}))

    def close(self) -> None:
        """Give the connections back. Calling twice is safe."""
        self._writing.dispose()

    def _told(self) -> AbstractContextManager[None]:
        return errors_of(self.place)


def open_ledger(where: Path | str) -> Ledger:
    """Open the ledger in a SQLite file (a path, made if missing) or at a `sqlite:` or `postgresql:` URL.

    Brings it up to date first. Raises StoreTooNew if a newer Isthmus wrote it, StoreMissing if it cannot be reached or
    is no ledger, InvalidInput if the URL is of no kind we know.
    """
    url = database_url(where)
    if url.get_backend_name() == "sqlite":
        writing, reading, place = *_sqlite(url), str(url.database)
    else:
        writing, reading, place = *_postgresql(url), url.render_as_string(hide_password=True)
    ledger = Ledger(writing, reading, place)
    try:
        _migrate(ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def new_id(noun: str) -> str:
    """A fresh id such as `run_5f0c…`. Random from its first digit, so that a short prefix tells two apart."""
    return f"{noun}_{secrets.token_hex(10)}"


def database_url(where: Path | str) -> URL:
    if isinstance(where, Path):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except ArgumentError as e:
        raise InvalidInput("the database URL cannot be read", hint="write postgresql://user:password@host/name") from e
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite")
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise InvalidInput(
        f"a database of the kind {url.drivername!r} cannot hold the ledger",
        hint="write postgresql://user:password@host/name, or a sqlite: file",
    )


def _sqlite(url: URL) -> tuple[Engine, Engine]:
    assert url.database is not None
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StoreMissing(f"the folder of the ledger {url.database} cannot be made: {e.strerror}") from e
    engine = create_engine(url)
    event.listen(engine, "connect", _prepare_sqlite)
    # A deferred transaction that begins with a read is refused at once when it turns to writing while another writes;
    # one that asks for the write lock first waits its turn.
    event.listen(engine, "begin", lambda tx: tx.exec_driver_sql(tx.get_execution_options().get("begin", "BEGIN")))
    return engine.execution_options(begin="BEGIN IMMEDIATE"), engine


def _prepare_sqlite(raw: Any, _record: object) -> None:
    raw.isolation_level = None  # the driver must not begin transactions on its own: the "begin" event does
    raw.execute(f"PRAGMA busy_timeout = {PATIENCE_S * 1000}")
    raw.execute("PRAGMA journal_mode = WAL")
    # FULL, not NORMAL: in WAL mode NORMAL may forget the last commits when the power fails. A forgotten plan would be
    # made again with other batch ids, and its rows, promised to be new in the warehouse, be added a second time.
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA foreign_keys = ON")


def _postgresql(url: URL) -> tuple[Engine, Engine]:
    try:
        engine = create_engine(
            url,
            pool_pre_ping=True,  # a restarted server costs a reconnect, not an error
            connect_args={
                "connect_timeout": 10,
                **NOTICED,
                "application_name": "isthmus",
                # A worker that is frozen inside a transaction must not hold up the others.
                "options": f"-c search_path={POSTGRESQL_SCHEMA} -c lock_timeout={PATIENCE_S}s -c timezone=UTC "
                "-c idle_in_transaction_session_timeout=15s",
            },
        )
    except ImportError as e:
        raise InvalidInput(
            "the PostgreSQL driver is not installed", hint="install it with: pip install 'isthmus[scaled]'"
        ) from e
    return engine, engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _migrate(ledger: Ledger) -> None:
    with ledger.reading() as tx:
        if _revision(tx) == HEAD:
            return
    with ledger.transaction() as tx:  # on SQLite, this is the lock
        if tx.dialect.name == "postgresql":
            tx.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
            tx.execute(text(f"CREATE SCHEMA IF NOT EXISTS {POSTGRESQL_SCHEMA}"))
        revision = _revision(tx)
        if revision != HEAD:  # another process may have been first
            upgrade(tx, revision, place=ledger.place)


def _revision(tx: Tx) -> str | None:
    """The newest migration the ledger has had; None if it has had none."""
    if not inspect(tx).has_table(VERSION_TABLE):
        return None
    found: str | None = tx.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return found


def upgrade(tx: Tx, revision: str | None, *, place: str) -> None:
    """Apply, inside `tx`, every migration after `revision`. Raises StoreTooNew for a revision we do not have."""
    from alembic import command  # here, because an up-to-date ledger opens a fifth of a second faster without it
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["tx"] = tx
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreTooNew(
            f"the ledger {place} was written by a newer Isthmus (revision {revision}, here {HEAD})",
            hint="install that version, or the newest one",
        )
    command.upgrade(config, "head")


@contextmanager
def errors_of(place: str) -> Iterator[None]:
    """What a database says goes wrong inside, as a StoreError; `place` is what a person may see of where it lies."""
    try:
        yield
    except DBAPIError as e:
        raise _mapped(e, place) from e


def _mapped(e: DBAPIError, place: str) -> StoreError:
    """Drivers name causes by number or SQLSTATE; a failed connection to PostgreSQL has neither."""
    original: Any = e.orig
    vendor = str(original).strip()
    sqlite_code: int | None = getattr(original, "sqlite_errorcode", None)
    sqlstate: str | None = getattr(original, "sqlstate", None)
    code = getattr(original, "sqlite_errorname", None) or sqlstate or type(original).__name__
    what = f"the ledger {place}"
    if sqlite_code in (1555, 2067) or sqlstate == "23505":  # a primary key or unique constraint
        return StoreBusy(
            f"another process changed the same thing in {what} at the same moment",
            hint="try again",
            code=code,
            vendor=vendor,
        )
    match sqlite_code & 0xFF if sqlite_code else sqlstate:
        case 5 | 6 | "40001" | "40P01" | "55P03":  # busy, locked · serialization, deadlock, lock timeout
            return StoreBusy(
                f"{what} is busy: another process holds it for more than {PATIENCE_S} s",
                hint="try again; if it stays so, look for a process that hangs",
                code=code,
                vendor=vendor,
            )
        case 13 | "53100":
            return StoreFull(f"no space is left for {what}", hint="free some space", code=code, vendor=vendor)
        case 8 | 10 | 11 | 14 | 26:  # read only, I/O, corrupt, cannot open, not a database
            return StoreMissing(
                f"{what} cannot be used: {vendor}",
                hint="check that the file is a ledger and that you may write to it and its folder",
                code=code,
                vendor=vendor,
            )
        case "57P01" | "57P02" | "57P03" | "53300":  # stopping, crashed, starting · too many connections
            return StoreBusy(f"{what} cannot take work now", hint="try again soon", code=code, vendor=vendor)
    if (
        sqlstate is None and "the database system is" in vendor
    ):  # the same when it refuses a new connection: no SQLSTATE
        return StoreBusy(f"{what} is starting or stopping", hint="try again soon", code=code, vendor=vendor)
    if e.connection_invalidated:
        return StoreBusy(f"{what} went away; nothing was kept", hint="try again soon", code=code, vendor=vendor)
    if (sqlstate or "")[:2] == "08" or (sqlstate is None and sqlite_code is None and "FATAL" not in vendor):
        return StoreAway(
            f"{what} does not answer",
            hint="see that the server runs and can be reached; check ISTHMUS_DATABASE_URL",
            code=code,
            vendor=vendor,
        )
    if (sqlstate is None and sqlite_code is None) or (sqlstate or "")[:2] in ("28", "3D"):
        return StoreMissing(
            f"{what} does not answer or refuses the sign-in",
            hint="check ISTHMUS_DATABASE_URL and that the server runs",
            code=code,
            vendor=vendor,
        )
    return StoreError(f"{what} refused a statement: {vendor}", code=code, vendor=vendor)

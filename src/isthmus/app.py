"""The wiring: settings become the parts that everything else is handed. Read this first.

Settings ─► App ─┬─ ledger    what we were asked, and how far we got       (SQLite file | PostgreSQL)
                 ├─ lake      profiles and events, opened on first use     (folder | PostgreSQL + S3)
                 ├─ seal      for credentials
                 └─ config()  a saved connection as its connector's config
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from isthmus.ledger import connections, syncs
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Ledger, open_ledger
from isthmus.model.errors import InvalidInput, StoreFull, StoreMissing
from isthmus.model.work import ConnectionState, Sync
from isthmus.secrets import Seal, key_file
from isthmus.settings import Settings
from isthmus.store.lake import Lake
from isthmus.store.place import Place, S3Access
from isthmus.warehouses import kinds
from isthmus.warehouses.protocol import Config


class App:
    """Everything that lives as long as a process. Use it as a context: leaving it closes what was opened."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened; it opens again when it is asked for."""
        for part in ("lake", "ledger"):
            if part in self.__dict__:
                self.__dict__.pop(part).close()

    @property
    def home(self) -> Path:
        return self.settings.home

    @cached_property
    def ledger(self) -> Ledger:
        self._make_home()
        return open_ledger(self.ledger_place())

    def ledger_place(self) -> Path | str:
        """What opens the ledger: a file, or a URL with its password."""
        url = self.settings.database_url
        return url.reveal() if url else self.home / "ledger.sqlite"

    @cached_property
    def lake(self) -> Lake:
        self._make_home()
        return Lake.open(self.place())

    @cached_property
    def seal(self) -> Seal:
        self._make_home()
        key = self.settings.secret_key
        return Seal(key.reveal().encode() if key else key_file(self.home / "secret.key"))

    def place(self) -> Place:
        """Where the store lies, as the settings say."""
        s = self.settings
        s3 = None
        if s.scaled:
            if s.s3_access_key_id is None or s.s3_secret_access_key is None:
                raise InvalidInput(
                    "the bucket's credentials are not set",
                    hint="set ISTHMUS_S3_ACCESS_KEY_ID and ISTHMUS_S3_SECRET_ACCESS_KEY",
                )
            s3 = S3Access(s.s3_endpoint or "", s.s3_region or "us-east-1", s.s3_access_key_id, s.s3_secret_access_key)
        return Place(
            root=self.home,
            database_url=s.database_url,
            storage_url=s.storage_url,
            s3=s3,
            memory_mb=s.memory_mb,
            threads=s.threads,
            lock_timeout_s=s.lock_timeout_s,
        )

    def now(self) -> datetime:
        return datetime.now(UTC)

    def connection(self, name: str) -> StoredConnection:
        """The saved connection, or InvalidInput naming those there are."""
        with self.ledger.reading() as tx:
            return connections.named(tx, name)

    def sync(self, name: str) -> Sync:
        """The sync, or InvalidInput naming those there are."""
        with self.ledger.reading() as tx:
            return syncs.named(tx, name)

    def config(self, connection: StoredConnection) -> Config:
        """The connector's config of a saved connection. Raises InvalidInput if the connection was removed."""
        if connection.state is ConnectionState.DISABLED:
            raise InvalidInput(
                f"the connection {connection.name!r} was removed", hint="apply it again to bring it back"
            )
        return kinds.build(connection.kind, {**connection.fields, **connection.unsealed(self.seal)})

    def _make_home(self) -> None:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            if e.errno == 28:
                raise StoreFull(f"no space left for {self.home}", hint="free some space and try again") from e
            raise StoreMissing(
                f"the home folder {self.home} cannot be made: {e.strerror}",
                hint="set ISTHMUS_HOME (or --home) to a folder that you may read and write",
            ) from e

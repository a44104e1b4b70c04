"""The lease of a sync: who runs it now. The operating system or the database takes it back when its holder dies."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.model.errors import InvalidInput, StoreMissing, SyncBusy
from isthmus.secrets import Secret


@contextmanager
def held(sync_id: str, sync_name: str, *, folder: Path, database_url: Secret | None) -> Iterator[None]:
    """Hold the lease of a sync, or raise SyncBusy at once: a lock on a file in `folder`, or in the database."""
    busy = SyncBusy(
        f"a run of {sync_name!r} is under way in another process",
        hint=f"it goes on there; see `isthmus sync show {sync_name}`",
    )
    if database_url is None:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / f"{sync_id}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise busy from None
            yield
        finally:
            os.close(descriptor)
        return
    try:
        import psycopg
    except ImportError as e:
        raise InvalidInput("psycopg is not installed", hint="pip install 'isthmus[scaled]'") from e
    key = int.from_bytes(hashlib.sha256(sync_id.encode()).digest()[:8], "big", signed=True)
    try:
        connection = psycopg.connect(database_url.reveal(), autocommit=True, connect_timeout=10)
    except psycopg.Error as e:
        raise StoreMissing("the ledger's database does not answer", hint="check ISTHMUS_DATABASE_URL") from e
    with connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
        if row is None or not row[0]:
            raise busy
        yield

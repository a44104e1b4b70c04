"""The lake: DuckLake on a folder (SQLite catalog) or on PostgreSQL and S3, one code path for both.

Rules kept here (docs/architecture.md, "The store"): every write runs under the writer lock, moves the fence and carries
its number as `seq`; Parquet files reach the disk before the commit; a whole transaction is tried again, never a part.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from isthmus import duck
from isthmus.model.errors import (
    InvalidInput,
    StoreFull,
    StoreMissing,
)
from isthmus.store import lock, schema
from isthmus.store.place import Place
from isthmus.store.scratch import Scratch
from isthmus.store.trouble import SPACE, translated

T = TypeVar("T")

_ATTEMPTS = 8


@dataclass(frozen=True)
class Snapshot:
    """One moment of the store: everything with `seq` ≤ this one, readable as DuckLake snapshot `snapshot_id`."""

    snapshot_id: int
    seq: int
    at: datetime


@dataclass
class Write:
    """A write transaction under way. Rows written in it carry `seq`; `touched` says that there was something to write:
    without it the transaction is given up, so that what changes nothing leaves no trace."""

    con: duckdb.DuckDBPyConnection
    seq: int
    touched: bool = False


class Lake:
    """An open store. One DuckDB instance; use it from one thread."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        place: Place,
        writer_lock: lock.WriterLock,
        temp: Scratch,
        spool: Scratch,
        beside: Lake | None = None,
    ) -> None:
        self.con = con
        self.place = place
        self._lock = writer_lock
        self._temp, self._spool = temp, spool
        self._is_first = beside is None
        self._past: _Past = beside._past if beside else _Past()

    @property
    def temp(self) -> Path:
        """A folder for what lasts no longer than this opening."""
        return self._temp.folder

    @property
    def spool(self) -> Path:
        """A folder for files on their way to a warehouse, gone with this opening, or after a kill with the next."""
        return self._spool.folder

    @classmethod
    def open(cls, place: Place, *, read_only: bool = False) -> Lake:
        """Attach the store, making or migrating it if need be; with `read_only` it must be there already.

        Raises StoreMissing, StoreTooNew, StoreBusy. Two processes may have one store open at a time, both embedded and
        scaled: readers never wait, writers take turns.
        """
        temp, spool = _make_folders(place)
        scaled = place.database_url is not None
        extensions = ("ducklake", "postgres_scanner", "httpfs") if scaled else ("ducklake", "sqlite_scanner")
        try:
            con = duck.connect(
                memory_mb=place.memory_mb,
                temp_dir=temp.folder / "engine",
                extensions=extensions,
                threads=place.threads,
            )
            con.execute("SET ducklake_max_retry_count=100")
            if not scaled:
                # Several threads would each read their part of a table of the catalog at another moment than the last
                # row was looked up: beside a writer the newest rows, such as what was deleted, would be missed.
                con.execute("SET GLOBAL sqlite_disable_multithreaded_scans=true")
            writer_lock = _writer_lock(place)
            lake = cls(con, place, writer_lock, temp, spool)
            if not _attached_as_it_is(con, place, writer_lock):
                with writer_lock.held():  # two first openings at once must not both make the catalog
                    _attach(con, place)
                    schema.migrate(con)
            if read_only:
                con.execute("DETACH DATABASE lake")
                _attach(con, place, ", READ_ONLY")
            schema.session(con)
            return lake
        except BaseException as e:
            temp.close()
            spool.close()
            if isinstance(e, duckdb.Error):
                raise translated(e, place) from e
            raise

    def beside(self) -> Lake:
        """The same open store for another thread: it shares memory, threads and folders with this one, which has to
        stay open longer."""
        con = self.con.cursor()
        con.execute("SET TimeZone='UTC'")
        return Lake(con, self.place, _writer_lock(self.place), self._temp, self._spool, self)

    def close(self) -> None:
        self.con.close()
        self._lock.close()
        if self._is_first:
            self._temp.close()
            self._spool.close()

    def __enter__(self) -> Lake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, do: Callable[[Write], T]) -> T:
        """Run `do` in a write transaction under the writer lock and commit; all of it is kept or nothing.

        `do` may be called several times, on a fresh transaction each, when a commit loses a race: it must not have
        effects outside the store. Raises StoreBusy when the lock or the commit cannot be had in time.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self._lock.held():  # each time anew: a process that was frozen has lost it
                    return self._write_once(do)
            except duckdb.Error as e:
                error = translated(e, self.place)
                if not error.retryable or attempt == _ATTEMPTS - 1:
                    raise error from e
                time.sleep(random.uniform(0.5, 1.0) * min(2.0, 0.05 * 2**attempt))
        raise AssertionError("unreachable")

    def _write_once(self, do: Callable[[Write], T]) -> T:
        before = self.data_files()
        self.con.execute("BEGIN")
        try:
            self.con.execute("UPDATE lake.fence SET n = n + 1")
            row = self.con.execute("SELECT n FROM lake.fence").fetchone()
            assert row is not None
            write = Write(self.con, int(row[0]))
            result = do(write)
            if write.touched:
                # DuckLake syncs its catalog but never the Parquet files: after a power cut the catalog would name torn
                # files.
                sync_files(self.data_files() - before)
                self.con.execute("COMMIT")
            else:
                self.con.execute("ROLLBACK")
            return result
        except BaseException:
            self._roll_back()
            raise

    def maintain(self, do: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Run upkeep under the writer lock, outside a transaction of ours: its calls commit by themselves."""
        with self._lock.held():
            try:
                return do(self.con)
            except duckdb.Error as e:
                raise translated(e, self.place) from e

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read transaction: everything read inside is of one moment. Nothing waits for it."""
        try:
            self.con.execute("BEGIN")
            yield self.con
        except duckdb.Error as e:
            raise translated(e, self.place) from e
        finally:
            self._roll_back()

    def query(self, sql: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """All rows of one small read."""
        try:
            return self.con.execute(sql, parameters).fetchall()
        except duckdb.Error as e:
            raise translated(e, self.place) from e

    def query_past(self, sql: str) -> list[tuple[Any, ...]]:
        """Like `query`, for reads `AT (VERSION => …)`. DuckLake gives the optimizer the statistics of the *present*
        table: after a rewrite it would take a condition on the past for always false, or always true."""
        with self._past.without_statistics(self.con):
            return self.query(sql)

    def snapshot(self) -> Snapshot:
        """The present moment of the store."""
        with self.reading() as con:
            row = con.execute(
                "SELECT s.snapshot_id, f.n, s.snapshot_time FROM lake.fence f, ducklake_snapshots('lake') s "
                "WHERE s.snapshot_id = (SELECT id FROM ducklake_current_snapshot('lake'))"
            ).fetchone()
        assert row is not None
        return Snapshot(int(row[0]), int(row[1]), row[2])

    def has_snapshot(self, snapshot_id: int) -> bool:
        return bool(self.query("SELECT 1 FROM ducklake_snapshots('lake') WHERE snapshot_id = ?", [snapshot_id]))

    def _roll_back(self) -> None:
        try:
            self.con.execute("ROLLBACK")
        except duckdb.Error:
            pass  # none under way: the engine has already ended it

    def data_files(self) -> frozenset[Path]:
        """The files of an embedded store; nobody else adds any while we hold the writer lock."""
        if self.place.storage_url is not None:
            return frozenset()
        return frozenset((self.place.root / "store" / "data").rglob("*.parquet"))


class _Past:
    """Switches the optimizer's use of statistics off while anybody reads the past: all threads have one switch."""

    def __init__(self) -> None:
        self._guard, self._readers = threading.Lock(), 0

    @contextmanager
    def without_statistics(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        with self._guard:
            self._readers += 1
            if self._readers == 1:
                con.execute("SET disabled_optimizers='statistics_propagation'")
        try:
            yield
        finally:
            with self._guard:
                self._readers -= 1
                if self._readers == 0:
                    con.execute("RESET disabled_optimizers")


def _writer_lock(place: Place) -> lock.WriterLock:
    if place.database_url:
        return lock.PostgresLock(place.database_url, place.lock_timeout_s)
    return lock.FileLock(place.root / "store" / "writer.lock", place.lock_timeout_s)


def sync_files(files: Iterable[Path]) -> None:
    """Have these files, and their names in their folders, reach the disk. Raises StoreFull if the disk refuses."""
    # Not syncfs: it also waits for all that others are writing to the same disk.
    written = sorted(files)
    try:
        for path in [*written, *sorted({file.parent for file in written})]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as e:
        raise StoreFull(f"the store's files could not be written to disk: {e.strerror}", hint=SPACE) from e


def _attach(con: duckdb.DuckDBPyConnection, place: Place, options: str = "") -> None:
    if place.database_url is None:
        catalog = place.root / "store" / "catalog.sqlite"
        data = place.root / "store" / "data"
        con.execute(
            f"ATTACH {duck.literal(f'ducklake:sqlite:{catalog}')} AS lake (DATA_PATH {duck.literal(f'{data}/')}, "
            # The catalog keeps the folder's path of its first day; the home may have been moved since.
            f"OVERRIDE_DATA_PATH true, DATA_INLINING_ROW_LIMIT 0, META_JOURNAL_MODE 'WAL', "
            f"META_BUSY_TIMEOUT 20000{options})"
        )
        return
    if place.storage_url is None or place.s3 is None:
        raise InvalidInput("a store on PostgreSQL needs a bucket", hint="set ISTHMUS_STORAGE_URL=s3://bucket/prefix")
    endpoint = place.s3.endpoint
    bare = endpoint.split("://", 1)[-1].rstrip("/")
    con.execute(
        "CREATE OR REPLACE SECRET isthmus_s3 (TYPE s3, KEY_ID $key, SECRET $secret, REGION $region"
        + (f", ENDPOINT {duck.literal(bare)}, URL_STYLE 'path'" if bare else "")
        + (", USE_SSL false" if endpoint.startswith("http://") else "")
        + ")",
        {
            "key": place.s3.access_key_id,
            "secret": place.s3.secret_access_key.reveal(),
            "region": place.s3.region,
        },
    )
    # The password goes by a secret, which cannot print itself; the rest of the address can be asked for in SQL.
    conninfo, password = lock.parted(place.database_url)
    con.execute("CREATE OR REPLACE SECRET isthmus_catalog (TYPE postgres, PASSWORD $password)", {"password": password})
    con.execute(
        f"ATTACH {duck.literal(f'ducklake:postgres:{conninfo}')} AS lake "
        f"(DATA_PATH {duck.literal(place.storage_url.rstrip('/') + '/data/')}, DATA_INLINING_ROW_LIMIT 0, "
        f"META_SECRET 'isthmus_catalog', METADATA_SCHEMA {duck.literal(lock.CATALOG_SCHEMA)}{options})"
    )


def _attached_as_it_is(con: duckdb.DuckDBPyConnection, place: Place, writer_lock: lock.WriterLock) -> bool:
    """Attach a store that is there and of this version, without waiting for whoever is writing to it."""
    if not writer_lock.catalog_exists():
        return False
    try:
        _attach(con, place)
        if schema.is_current(con):
            return True
    except duckdb.Error:
        pass  # being made at this moment: then it is opened under the lock
    con.execute("DETACH DATABASE IF EXISTS lake")
    return False


def _make_folders(place: Place) -> tuple[Scratch, Scratch]:
    try:
        (place.root / "store" / "data").mkdir(parents=True, exist_ok=True)
        if not os.access(place.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(place.root))
        return Scratch(place.root / "tmp"), Scratch(place.root / "spool")
    except OSError as e:
        if e.errno == 28:
            raise StoreFull(f"no space left for {place.root}", hint=SPACE) from e
        raise StoreMissing(
            f"the home folder {place.root} cannot be used: {e.strerror}",
            hint="set ISTHMUS_HOME (or --home) to a folder that you may read and write",
        ) from e

"""How a batch gets into a table of files: new files are staged, one manifest commits them, then the old ones go.

Files are never changed. A file that holds an older version of one of the batch's rows is written again without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa

from isthmus.duck import identifier, literal
from isthmus.model.errors import Busy, WarehouseError
from isthmus.model.table import DELETED, SEQ, Batch, Receipt, Table
from isthmus.warehouses import s3_bucket, s3_files, s3_manifest, sql
from isthmus.warehouses.s3_bucket import Upload
from isthmus.warehouses.s3_manifest import DataFile, Entry, Manifest
from isthmus.warehouses.s3_table import S3Table

RACES = 20
"""How often a commit may be lost to other processes before a load gives up for now."""
MANY_SMALL = 100
"""So many small files in a table are too many."""

_NEWEST = "_isthmus_newest"
_THERE = "_isthmus_there"

Ask = Callable[[str], duckdb.DuckDBPyConnection]


_turns: dict[str, Lock] = {}


def _turn(place: str) -> Any:
    """The lock of a table, by where it lies. Threads that ask for it first, at once, get the same one."""
    return _turns.setdefault(place, Lock())


@dataclass(frozen=True)
class Local:
    """A file of rows here, to be put into the bucket. `about` says all but its name there."""

    path: Path
    about: DataFile


class Loading:
    """One load of one batch. What was written here or put there is used again when a commit was lost."""

    def __init__(
        self, table: S3Table, batch: Batch, *, place: str, ask: Ask, now: Callable[[], datetime], form: str,
        target_bytes: int, scratch: Path,
    ) -> None:  # fmt: skip
        """`place` says where the table lies, so that no other one in the world has the same."""
        self._place = place
        self._table, self._batch, self._ask, self._now = table, batch, ask, now
        self._form, self._target_bytes, self._scratch = form, target_bytes, scratch
        self._attempt = uuid4().hex[:8]
        self._made: dict[tuple[str, ...], tuple[Local, ...]] = {}
        self._scanned: set[str] = set()
        self._shown: dict[Path, str] = {}
        self._is_ready = False

    def load(self) -> Receipt:
        """See `Warehouse.load`. Loads of this process take turns at a table: each would only make the other plan again
        and copy what it had uploaded. Those of other processes race."""
        with _turn(self._place):
            return self._load()

    def _load(self) -> Receipt:
        for _ in range(RACES):
            base = self._table.required()
            if found := self._table.entry(base, self._batch.batch_id):
                self._table.tidy(base)
                return replace(found.receipt, repeated=found.attempt != self._attempt)
            try:
                kept, fresh = self._plan(base)
            except Busy:
                # A load that was faster may have removed the files this one was reading.
                if self._table.required().number == base.number:
                    raise
                continue
            self._table.settle(base)
            files = self._show(base.number + 1, fresh)
            entry = Entry(self._receipt(), self._attempt)
            after = base.next([*kept, *files], entry)
            # From here on an error may mean that the commit was made: what was shown must stay.
            if self._table.commit(after):
                if self._table.tidy(after):
                    return entry.receipt
                self._table.bucket.delete([self._table.folder + s3_manifest.manifest_name(after.number)])
        hint = "try again; if it happens often, let the connection load fewer chunks at once (concurrency)"
        raise Busy("other loads of the same table were always faster", code="PreconditionFailed", hint=hint)

    def _receipt(self) -> Receipt:
        batch = self._batch
        return Receipt(batch.batch_id, batch.table.name, batch.rows, batch.seqs, self._now(), repeated=False)

    # Into the bucket

    def _show(self, number: int, fresh: Iterable[Local]) -> list[DataFile]:
        """Have files appear in the bucket under names for the commit `number`."""
        files, uploads, before = [], [], []
        for index, local in enumerate(fresh):
            name = s3_manifest.data_name(number, self._batch.batch_id, self._attempt, index, local.about.format)
            files.append(replace(local.about, name=name))
            key, shown = self._table.folder + name, self._shown.get(local.path)
            # Under its old name a file belongs to a commit that was lost, and anybody may remove it: it gets a new one.
            if shown is not None and self._table.bucket.copy(shown, key):
                before.append(shown)
            else:
                uploads.append(Upload(self._table.bucket, local.path, key))
            self._shown[local.path] = key
        s3_bucket.prepare(uploads)
        try:
            s3_bucket.show(uploads)
        except BaseException:
            for upload in uploads:
                upload.give_up()
            raise
        return [replace(f, size_bytes=local.about.size_bytes) for f, local in zip(files, fresh, strict=True)]

    # What is to be there

    def _plan(self, base: Manifest) -> tuple[list[DataFile], list[Local]]:
        """Which files of the table stay, and which new ones there are to be."""
        batch, table = self._batch, base.table
        if not batch.files and batch.replaces is None:
            return list(base.files), []
        if batch.adds_only or not table.key:
            fresh = list(self._added(table))
            victims: set[str] = set()
        else:
            victims = self._find_older(base)
            fresh = list(self._new_rows(base))
        if batch.replaces is not None:
            victims |= {f.name for f in base.files if s3_files.overlaps(f, batch.replaces)}
        victims |= {f.name for f in base.files if f.format != self._form}
        if len([1 for f in base.files if f.name not in victims and self._is_small(f)]) + len(fresh) > MANY_SMALL:
            victims |= self._to_merge(base, victims)
        kept = [f for f in base.files if f.name not in victims]
        # A file of which nothing stays need not be read for that.
        again = [f for f in base.files if f.name in victims and not self._replaces_all(table, f)]
        for bundle in self._bundles(again):
            fresh += self._rewritten(table, bundle)
        return kept, fresh

    def _replaces_all(self, table: Table, file: DataFile) -> bool:
        replaces = self._batch.replaces
        return replaces is not None and s3_files.has_seq(table) and s3_files.lies_in(file, replaces)

    def _is_small(self, file: DataFile) -> bool:
        return file.size_bytes < self._target_bytes // 4

    def _to_merge(self, base: Manifest, victims: set[str]) -> set[str]:
        """The smallest files, as many as a load may take upon itself."""
        chosen, total = set(), 0
        for file in sorted((f for f in base.files if f.name not in victims), key=lambda f: f.size_bytes):
            total += file.size_bytes
            if total > 4 * self._target_bytes or not self._is_small(file):
                break
            chosen.add(file.name)
        return chosen

    def _bundles(self, files: Iterable[DataFile]) -> list[list[DataFile]]:
        """Which files are written again as one: neighbours by key, up to the target size; a large one alone."""
        bundles: list[list[DataFile]] = []
        size = 0
        for file in sorted(files, key=lambda f: (str(f.key_min or ""), f.name)):
            if not self._is_small(file):
                bundles.append([file])
                size = self._target_bytes
                continue
            size += file.size_bytes
            if size > self._target_bytes or not bundles:
                bundles.append([])
                size = file.size_bytes
            bundles[-1].append(file)
        return bundles

    # Without older versions to look for

    def _added(self, table: Table) -> tuple[Local, ...]:
        """The rows of the batch that are no deletions: its files as they are, if they are what is to be there."""
        key = ("added",)
        if key not in self._made:
            if self._form == "parquet" and self._footers_allow():
                self._made[key] = self._as_they_are()
            else:
                present = f"NOT coalesce({identifier(DELETED)}, false)" if table.key else "true"
                self._made[key] = self._written(f"FROM {sql.parquet(self._batch.files)} WHERE {present}")
        return self._made[key]

    def _footers_allow(self) -> bool:
        try:
            return s3_files.none_deleted(self._batch)
        except (OSError, pa.ArrowException) as e:
            raise sql.broken_file(e) from e

    def _as_they_are(self) -> tuple[Local, ...]:
        table = self._batch.table
        found = [self._local(path, f"read_parquet({literal(sql.no_glob(path))})") for path in self._batch.files]
        columns = s3_files.file_columns(table, "parquet")
        return tuple(replace(one, about=replace(one.about, columns=columns)) for one in found if one.about.rows)

    # With them

    def _find_older(self, base: Manifest) -> set[str]:
        """Find the batch's newest rows, look up their keys in the table, and drop the rows it has in a newer version.

        Returns the names of the files that hold older versions. Of the table only files whose range of keys has one of
        the batch's are looked at, of those only the columns of the key and the seq, and each only once.
        """
        table, seq, keys = base.table, identifier(SEQ), sql.names(base.table.key)
        if not self._is_ready:
            origin, place = self._everything()
            self._take(
                f"CREATE OR REPLACE TEMP TABLE {_NEWEST} AS SELECT {keys}, {seq}, coalesce({identifier(DELETED)}, "
                f"false) AS {identifier(DELETED)}, {place} FROM {origin} "
                f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {seq} DESC NULLS LAST, {place}) = 1"
            )
            shape = s3_files.scan(table, [], columns=[*table.key, SEQ])
            self._ask(f"CREATE OR REPLACE TEMP TABLE {_THERE} AS FROM {shape}")
            self._is_ready = True
        unseen = [f for f in base.files if f.name not in self._scanned]
        if unseen:
            names = {row[0] for row in self._ask(s3_files.touched(table, unseen, _NEWEST)).fetchall()}
            files = self._table.addressed(f for f in unseen if f.name in names)
            if files:
                columns = [*table.key, SEQ]
                found = s3_files.scan(table, files, columns=columns)
                self._ask(f"INSERT INTO {_THERE} SELECT * FROM {found} AS t SEMI JOIN {_NEWEST} AS n USING ({keys})")
            self._scanned |= {f.name for f in unseen}
        live = {self._table.path(f): f.name for f in base.files}
        rows = self._ask(f"SELECT DISTINCT {s3_files.FILE} FROM ({self._beaten()})").fetchall()
        return {live[path] for (path,) in rows if path in live}

    def _everything(self) -> tuple[str, str]:
        options = ", filename='_isthmus_origin', file_row_number=true"
        return sql.parquet(self._batch.files, options), "_isthmus_origin, file_row_number"

    def _is_older(self) -> str:
        """The condition that what is there (t) gives way to what comes (n)."""
        if self._batch.replaces is not None:
            return "true"
        seq = identifier(SEQ)
        return f"(t.{seq} IS NULL OR t.{seq} <= n.{seq})"

    def _beaten(self) -> str:
        """The rows of the table that the batch supersedes."""
        keys = sql.names(self._batch.table.key)
        return f"SELECT t.* FROM {_THERE} AS t JOIN {_NEWEST} AS n USING ({keys}) WHERE {self._is_older()}"

    def _new_rows(self, base: Manifest) -> tuple[Local, ...]:
        """The rows of the batch that are to be there."""
        keys = sql.names(self._batch.table.key)
        live = ", ".join(literal(self._table.path(f)) for f in base.files) or "''"
        newer = (
            f"SELECT {sql.names(self._batch.table.key, of='t')} FROM {_THERE} AS t JOIN {_NEWEST} AS n USING ({keys}) "
            f"WHERE NOT {self._is_older()} AND t.{s3_files.FILE} IN ({live})"
        )
        (stale,) = _one(self._ask(f"SELECT count(*) FROM ({newer})"))
        coming = f"FROM {_NEWEST} AS n ANTI JOIN ({newer}) AS s USING ({keys}) WHERE NOT {identifier(DELETED)}"
        (rows,) = _one(self._ask(f"SELECT count(*) {coming}"))
        if rows == self._batch.rows:
            return self._added(base.table)
        key = ("new", *(self._names_of(newer) if stale else ()))
        if key not in self._made:
            origin, place = self._everything()
            self._made[key] = self._written(f"FROM {origin} SEMI JOIN (SELECT {place} {coming}) USING ({place})")
        return self._made[key]

    def _names_of(self, newer: str) -> tuple[str, ...]:
        return tuple(sorted(str(row) for row in self._ask(newer).fetchall()))

    def _rewritten(self, table: Table, files: list[DataFile]) -> tuple[Local, ...]:
        """What stays of files of the table, as new ones."""
        key = ("again", *sorted(f.name for f in files))
        if key not in self._made:
            origin = f"FROM {s3_files.scan(table, self._table.addressed(files))} AS t"
            staying = []
            if self._is_ready:
                same = f"t.{s3_files.FILE} = b.{s3_files.FILE} AND {sql.same(table.key, 't', 'b')}"
                origin += f" ANTI JOIN ({self._beaten()}) AS b ON {same}"
            if self._batch.replaces is not None and s3_files.has_seq(table):
                staying.append(f"(({sql.in_range(self._batch.replaces)}) IS NOT TRUE)")
            if staying:
                origin += f" WHERE {' AND '.join(staying)}"
            self._made[key] = self._written(origin, table)
        return self._made[key]

    # Files here

    def _written(self, origin: str, table: Table | None = None) -> tuple[Local, ...]:
        """Write rows to a file here. None if there are none."""
        table = table or self._batch.table
        path = self._scratch / f"{uuid4().hex}{s3_manifest.SUFFIXES[self._form]}"
        self._take(s3_files.copy(f"SELECT {s3_files.written(table, self._form)} {origin}", path, self._form))
        columns = s3_files.file_columns(table, self._form)
        shape = [c for c in table.columns if c.name in columns]
        local = self._local(path, s3_files.reading(self._form, [sql.no_glob(path)], shape), table)
        if not local.about.rows:
            path.unlink()
            return ()
        return (replace(local, about=replace(local.about, columns=columns)),)

    def _local(self, path: Path, origin: str, table: Table | None = None) -> Local:
        rows, *known = _one(self._take(s3_files.measured(table or self._batch.table, origin)))
        about = DataFile("", self._form, rows, os.path.getsize(path), (), *known)
        return Local(path, about)

    def _take(self, statement: str) -> duckdb.DuckDBPyConnection:
        """A statement that reads the batch's own files: what is wrong with them is not the bucket's fault."""
        try:
            return self._ask(statement)
        except WarehouseError as e:
            first = e.vendor.partition("\n")[0]
            if any(str(path) in first for path in self._batch.files):
                raise sql.broken_file(e.__cause__ if isinstance(e.__cause__, Exception) else e) from e
            raise


def _one(cursor: duckdb.DuckDBPyConnection) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return row

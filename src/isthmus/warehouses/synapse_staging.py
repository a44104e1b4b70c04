"""The way of a batch's rows into a table of the pool: Parquet files as COPY INTO takes them, laid in blob storage.

COPY INTO unpacks no zstd, so the files are written anew, in Arrow and several at once. It takes no row of more than a
megabyte either: those are kept apart, and go through the driver.
"""

from __future__ import annotations

import os
import struct
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.model.errors import Missing, Rejected, WarehouseError
from isthmus.model.table import Batch, Table
from isthmus.secrets import Secret
from isthmus.warehouses import sql, vendor_errors
from isthmus.warehouses.synapse_sql import KEY_CHARACTERS, characters

FOLDER = "isthmus"
"""Where in the container our files lie, all of them."""

LONG_ROW_BYTES = 400_000
"""Rows with more text than this do not go through COPY INTO: its limit is 1,000,000 bytes, two a character."""

_AT_ONCE = 4
_BLOCK_BYTES = 8 * 1024 * 1024
_ROWS_AT_ONCE = 65_536
_OLD_AFTER = timedelta(days=1)


class Written:
    """One file of a batch, written anew in two: the rows for COPY INTO, and those too long for it."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        # Files without a name: gone with the process, however that ends.
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)
        self.long: IO[bytes] = tempfile.TemporaryFile(dir=folder)
        self.rows = self.long_rows = 0
        self._short_rows = pq.ParquetWriter(self.file, schema, compression="snappy", write_statistics=False)
        self._long_rows = pq.ParquetWriter(self.long, schema, compression="none", write_statistics=False)

    def add(self, rows: pa.RecordBatch, *, long: bool = False) -> None:
        if rows.num_rows:
            (self._long_rows if long else self._short_rows).write_batch(rows)
            self.rows += 0 if long else rows.num_rows
            self.long_rows += rows.num_rows if long else 0

    def finish(self) -> None:
        self._short_rows.close()
        self._long_rows.close()

    def values(self) -> Iterator[tuple[object, ...]]:
        """The long rows, one by one."""
        if self.long_rows:
            with pq.ParquetFile(self.long) as file:
                for rows in file.iter_batches(batch_size=1):
                    yield tuple(column[0].as_py() for column in rows.columns)

    def close(self) -> None:
        with suppress(Exception):  # what was not finished is of no use, but its writer has to know that it is over
            self.finish()
        self.file.close()
        self.long.close()


class Container:
    """The container for staging, through a shared access signature."""

    def __init__(self, endpoint: str, name: str, sas: Secret, secrets: tuple[Secret, ...]) -> None:
        try:
            from azure.storage.blob import ContainerClient
        except ImportError as e:
            hint = "install the extra that brings it: pip install 'isthmus[synapse]'"
            raise Missing("the client of Azure Blob storage is not installed", hint=hint) from e
        self._secrets = secrets
        self._endpoint, self._name = endpoint.rstrip("/"), name
        with self._translated():
            self._client: Any = ContainerClient(
                self._endpoint,
                name,
                credential=sas.reveal().lstrip("?"),
                max_block_size=_BLOCK_BYTES,
                max_single_put_size=_BLOCK_BYTES,
                retry_total=0,  # who called us tries again, and knows when
                connection_timeout=20,
                read_timeout=300,
            )

    def url(self, name: str) -> str:
        """Where COPY INTO finds a blob."""
        return f"{self._endpoint}/{self._name}/{urllib.parse.quote(name)}"

    def put(self, name: str, file: IO[bytes]) -> None:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with self._translated():
            self._client.upload_blob(name, file, length=size, overwrite=True, max_concurrency=_AT_ONCE)

    def put_in_blocks(self, name: str, data: bytes) -> None:
        """As large files are put, whatever the size: that asks for the same rights."""
        from azure.storage.blob import BlobBlock

        with self._translated():
            blob = self._client.get_blob_client(name)
            blob.stage_block("0000", data)
            blob.commit_block_list([BlobBlock("0000")])

    def names(self, prefix: str) -> list[str]:
        with self._translated():
            return [str(blob.name) for blob in self._client.list_blobs(name_starts_with=prefix)]

    def remove(self, name: str) -> None:
        with self._translated():
            self._client.delete_blob(name)

    def remove_old(self) -> None:
        """Remove what loads that were killed left behind, if we may."""
        before = datetime.now(UTC) - _OLD_AFTER
        with suppress(WarehouseError), self._translated():
            for blob in self._client.list_blobs(name_starts_with=f"{FOLDER}/"):
                if blob.last_modified < before:
                    self._client.delete_blob(blob.name)

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from azure.core.exceptions import AzureError

        try:
            yield
        except AzureError as e:
            code = getattr(e, "error_code", None) or getattr(e, "status_code", None) or type(e).__name__
            code = str(getattr(code, "value", code))
            # The first line says it; the others are of the request, or tell how a signature is computed.
            said = str(getattr(e, "message", None) or e).strip().partition("\n")[0]
            message = f"{code}: {said}"
            raise vendor_errors.translate(
                "synapse", "Azure Blob storage", code=code, message=message, secrets=self._secrets
            ) from e
        except ValueError as e:  # a name or an endpoint that cannot be one
            hint = "check storage account, container and blob endpoint of the connection"
            raise Missing("the storage of the connection cannot be one", vendor=str(e), hint=hint) from e


def signature(sas: Secret) -> tuple[Secret, ...]:
    """The secret part of a SAS token, as it is and as it is written in a URL."""
    sig = urllib.parse.parse_qs(sas.reveal().lstrip("?")).get("sig", [])
    return tuple(Secret(s) for one in sig for s in (one, urllib.parse.quote(one, safe="")))


def rewrite(batch: Batch, upload: Callable[[int, IO[bytes]], None]) -> list[Written]:
    """Write a batch's files anew, handing each to `upload` with its number as soon as it is done, if it has rows.

    Raises Rejected for a value that cannot be held, and what broke if a file cannot be read.
    """

    made: list[Written] = []

    def one(number: int) -> None:
        written = _written(batch, batch.files[number])
        made.append(written)
        if written.rows:
            upload(number, written.file)

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(one, range(len(batch.files))))
    except BaseException:
        for written in made:
            written.close()
        raise
    return made


def _written(batch: Batch, path: Path) -> Written:
    schema = batch.table.batch_schema
    written = Written(path.parent, schema)
    try:
        with pq.ParquetFile(path, pre_buffer=True) as file:
            for rows in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=schema.names):
                _take(batch.table, rows.select(schema.names).cast(schema), written)
        written.finish()
    except BaseException as e:
        written.close()
        if isinstance(e, (pa.ArrowException, OSError)):
            raise sql.broken_file(e) from e
        raise
    return written


def _take(table: Table, rows: pa.RecordBatch, written: Written) -> None:
    texts = [c.name for c in table.columns if c.arrow == pa.string()]
    longest = {name: pc.max(pc.binary_length(rows.column(name))).as_py() or 0 for name in texts}
    _refuse(table, rows, longest)
    if sum(longest.values()) <= LONG_ROW_BYTES:
        written.add(rows)
        return
    total = pa.array([0] * rows.num_rows, pa.int64())
    for name in texts:
        total = pc.add(total, pc.fill_null(pc.binary_length(rows.column(name)), 0))
    is_long = pc.greater(total, LONG_ROW_BYTES)
    written.add(rows.filter(is_long), long=True)
    written.add(rows.filter(pc.invert(is_long)))


def _refuse(table: Table, rows: pa.RecordBatch, longest: dict[str, int]) -> None:
    """Raise Rejected for what the pool would cut or mistake."""
    for name in longest:
        column = rows.column(name)
        if _has_nul(column):
            where = pc.index(pc.match_substring(column, "\0"), True).as_py()
            raise _rejected(
                table, rows, where, name, "has the character U+0000", "correct the value where it comes from"
            )
    for name in table.key:
        if longest.get(name, 0) <= KEY_CHARACTERS:
            continue
        for where, value in enumerate(rows.column(name).to_pylist()):
            if value is not None and characters(value) > KEY_CHARACTERS:
                what = f"has more than {KEY_CHARACTERS:,} characters"
                raise _rejected(table, rows, where, name, what, "give the row a shorter id")


def _has_nul(column: pa.StringArray) -> bool:
    """Whether U+0000 is in any text: by the bytes of them all, which is ten times as fast as text by text."""
    content = column.buffers()[2]
    if content is None or len(column) == 0:
        return False
    ends = (column.offset, column.offset + len(column))
    first, last = (struct.unpack_from("<i", column.buffers()[1], 4 * end)[0] for end in ends)
    if b"\0" not in content.slice(first, last - first).to_pybytes():
        return False
    return bool(pc.any(pc.match_substring(column, "\0")).as_py())  # what a NULL covers does not count


def _rejected(table: Table, rows: pa.RecordBatch, where: int, column: str, what: str, hint: str) -> Rejected:
    key = " / ".join(str(rows.column(k)[where].as_py()) for k in table.key) or "?"
    summary = f"row {key[:200]} {what} in column {column}, which the warehouse cannot hold"
    return Rejected(summary, row=key, column=column, hint=hint)

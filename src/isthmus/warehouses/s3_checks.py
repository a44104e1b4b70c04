"""The questions a check of a bucket asks, in order, and the one command that mends each no."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.model.checks import Check
from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Rejected, WarehouseError
from isthmus.model.table import SEQ, Batch, Column, SeqRange, Table, Type
from isthmus.warehouses import s3_manifest, s3_setup, sql
from isthmus.warehouses.s3_bucket import Bucket
from isthmus.warehouses.s3_session import CONNECT_TIMEOUT_S

if TYPE_CHECKING:
    from isthmus.warehouses.s3 import S3Config, S3Warehouse

_PROBE = Table("_isthmus_probe", (Column("id", Type.TEXT), Column(SEQ, Type.BIGINT)), key=("id",))
_CONTENT = b"probe"


def questions(config: S3Config, connect: Callable[[S3Config], S3Warehouse]) -> Iterator[Check]:
    """See `Config.check`."""
    reached = _reach(config)
    yield reached
    if not reached.passed:
        return
    question = "Are the credentials accepted?"
    try:
        warehouse = connect(config)
    except WarehouseError as e:
        yield Check(question, False, detail=e.vendor or e.summary, hint=e.hint)
        return
    try:
        yield from _signed_in(config, warehouse, question)
    finally:
        warehouse.close()


def _reach(config: S3Config) -> Check:
    url = urlsplit(config.endpoint_url or f"https://s3.{config.region}.amazonaws.com")
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError) as e:
        hint = "check the region or the endpoint URL, and that a firewall lets this machine through"
        return Check("Can the endpoint be reached?", False, detail=f"{host}:{port}: {e}", hint=hint)
    return Check("Can the endpoint be reached?", True, detail=f"{host}:{port}")


def _signed_in(config: S3Config, warehouse: S3Warehouse, question: str) -> Iterator[Check]:
    there = "Is the bucket there, in this region?"
    try:
        warehouse.greet()
    except Denied as e:
        # A right that is missing is asked for below; the store knew who we are.
        if e.code != "AccessDenied" or "AssumeRole" in e.vendor:
            yield Check(question, False, detail=e.vendor, hint=e.hint)
            return
    except (Missing, Mismatch) as e:
        yield Check(question, True, detail=_who(config))
        statement = s3_setup.make_bucket(config) if e.code == "NoSuchBucket" else ""
        yield Check(there, False, detail=e.vendor or e.summary, hint=e.hint, statement=statement)
        return
    except WarehouseError as e:
        yield Check(question, False, detail=e.vendor or e.summary, hint=e.hint)
        return
    yield Check(question, True, detail=_who(config))
    yield Check(there, True, detail=f"{config.bucket}, {config.region}")
    yield from _rights(config, warehouse)


def _who(config: S3Config) -> str:
    return config.role_arn or config.access_key_id


def _rights(config: S3Config, warehouse: S3Warehouse) -> Iterator[Check]:
    """Right by right, in three places. Where one is missing, those that build on it are not asked for."""
    bucket: Bucket = warehouse._bucket
    token = uuid4().hex[:12]
    temporary, target, importing = (
        s3_manifest.folder(p) for p in (config.temp_prefix, config.prefix, config.import_prefix)
    )
    yield from _in_turn(
        config,
        ("Can the import prefix be listed?", lambda: bucket.list(importing, limit=1), "list-import"),
        ("Can its files be read?", lambda: _read_one(bucket, importing, token), "read-import"),
    )
    at = f"{temporary}{_PROBE.name}-{token}"
    yield from _in_turn(
        config,
        (f"Can {temporary} be listed?", lambda: bucket.list(temporary, limit=1), "list-temp"),
        (f"Can we put an object into {temporary}?", lambda: bucket.put(at, _CONTENT), "put-temp"),
        (f"Can we read what is in {temporary}?", lambda: _read_again(bucket, at), "get-temp"),
        ("Does the store refuse to put an object over another, if told so?", lambda: _conditional(bucket, at), ""),
        (f"Can we give up a file half-way in {temporary}?", lambda: _half_way(bucket, at), "abort-temp"),
        (f"Can we delete what is in {temporary}?", lambda: bucket.delete([at]), "delete-temp"),
    )
    place = target or "the top of the bucket"
    key = f"{target}{_PROBE.name}-{token}"
    yield from _in_turn(
        config,
        (f"Can {place} be listed?", lambda: bucket.list(target, limit=1), "list-target"),
        (f"Can we put an object into {place}?", lambda: bucket.put(key, _CONTENT), "put-target"),
        (f"Can we read what is in {place}?", lambda: _read_again(bucket, key), "get-target"),
        (f"Can we give up a file half-way in {place}?", lambda: _half_way(bucket, key), "abort-target"),
        (f"Can we delete what is in {place}?", lambda: bucket.delete([key]), "delete-target"),
        (f"Can we load a row into {place}?", lambda: _load_a_row(warehouse, f"{_PROBE.name}_{token}"), "put-target"),
    )
    yield _surplus(config, bucket, token)


def _in_turn(config: S3Config, *asked: tuple[str, Callable[[], object], str]) -> Iterator[Check]:
    """Questions that build on one another, up to the first no."""
    for question, attempt, right in asked:
        answer = sql.answer(question, attempt, s3_setup.granting(config, right) if right else "")
        yield answer
        if not answer.passed:
            return


def _read_one(bucket: Bucket, prefix: str, token: str) -> None:
    """Read an object there is, or ask for one that is not there: without the right, both are refused."""
    found = next(iter(bucket.list(prefix, limit=1).sizes), f"{prefix}_isthmus_probe-{token}")
    bucket.get(found)


def _read_again(bucket: Bucket, key: str) -> None:
    if bucket.get(key) != _CONTENT:
        hint = "the store must show an object at once when it has been put: ask whoever runs it"
        raise Missing("an object that was just put is not there", hint=hint)


def _conditional(bucket: Bucket, key: str) -> None:
    """A condition that cannot hold: exactly-once rests on it."""
    if bucket.put_new(key, b"over it"):
        hint = "use a store that honours If-None-Match: Amazon S3 does; MinIO, Ceph and others do in newer versions"
        raise Mismatch(
            "it put the object all the same: two loads at once could undo each other",
            column="",
            ours="refused",
            theirs="put",
            hint=hint,
        )


def _half_way(bucket: Bucket, key: str) -> None:
    started = bucket._send("create_multipart_upload", Key=key)
    bucket._send("abort_multipart_upload", Key=key, UploadId=started["UploadId"])


def _load_a_row(warehouse: S3Warehouse, name: str) -> None:
    """Make a table, load a row into it, read it by its seq, and remove all of it."""
    table = Table(name, _PROBE.columns, _PROBE.key)
    bucket, prefix = warehouse._bucket, warehouse._prefix
    with tempfile.TemporaryDirectory(prefix="isthmus-s3-") as folder:
        path = Path(folder) / "probe.parquet"
        pq.write_table(pa.Table.from_pylist([{"id": "1", SEQ: 1}], schema=table.batch_schema), path)
        try:
            warehouse.create(table)
            for adds_only in (True, False):
                batch = Batch(f"{name} {adds_only}", table, (path,), 1, SeqRange(0, 1), adds_only=adds_only)
                warehouse.load(batch)
            found = sum(t.rows for t in warehouse.tally(table, SeqRange(None, None)))
            if found != 1:
                raise Rejected("a row that was loaded is not there once", row="1", column="id", hint="try again")
        finally:
            keys = list(bucket.list(f"{prefix}{name}/").sizes)
            receipts = [prefix + s3_manifest.receipt_name(f"{name} {adds}") for adds in (True, False)]
            bucket.delete([*keys, *receipts])


def _surplus(config: S3Config, bucket: Bucket, token: str) -> Check:
    """What we may do though we need not. Nothing is written for it: a put on a condition that cannot hold tells."""
    question = "Are there rights it does not need?"
    importing, target = s3_manifest.folder(config.import_prefix), s3_manifest.folder(config.prefix)
    found = []
    if target and _may(lambda: bucket.list("", limit=1)):
        found.append("list the whole bucket")
    outside = f"_isthmus_probe-{token}"
    if target and _may(lambda: bucket.get(outside)):
        found.append("read outside the prefixes")
    for place, name in ((importing, "the import prefix"), *([("", "outside the prefixes")] if target else [])):
        key = place + outside
        if _may(lambda key=key: bucket._send("put_object", Key=key, Body=b"", IfMatch='"0"')):  # type: ignore[misc]
            found.append(f"write into {name}" if place else f"write {name}")
    if not found:
        return Check(question, True)
    hint = "give the key only what the set-up script gives: a key that leaks can then do less"
    statement = s3_setup.only_ours(config)
    return Check(question, True, detail=f"it may {', '.join(found)}", hint=hint, statement=statement, warns=True)


def _may(attempt: Callable[[], object]) -> bool:
    """Whether an attempt is not refused for want of a right, whatever else comes of it."""
    try:
        attempt()
    except Denied:
        return False
    except Busy as e:
        return e.code in ("PreconditionFailed", "ConditionalRequestConflict")
    except WarehouseError as e:
        return e.code in ("NoSuchKey", "PreconditionFailed")
    return True

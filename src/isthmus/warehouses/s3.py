"""Amazon S3, or a store that speaks its protocol, as a warehouse: a table is a folder of Parquet, CSV or JSON lines.

A table's newest manifest says which of its files count; `s3_manifest` has the layout, `s3_load` how it changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa

from isthmus.duck import connect, identifier, row_digest
from isthmus.model.checks import Check
from isthmus.model.errors import Denied, InvalidInput, Mismatch, Missing, Unreachable
from isthmus.model.table import SEQ, Batch, Receipt, SeqRange, Table, Tally
from isthmus.secrets import Secret
from isthmus.warehouses import s3_files, s3_manifest, s3_relations, s3_table, sql
from isthmus.warehouses.protocol import Count, Direction, Relation, Traits, Window, setting
from isthmus.warehouses.s3_bucket import Bucket
from isthmus.warehouses.s3_checks import questions
from isthmus.warehouses.s3_errors import not_installed, translated
from isthmus.warehouses.s3_load import Loading
from isthmus.warehouses.s3_session import S3Session
from isthmus.warehouses.s3_setup import setup_script
from isthmus.warehouses.s3_table import S3Table
from isthmus.warehouses.types import DUCKDB

MEMORY_MB = 500

_TRAITS = Traits("Amazon S3", True, True, 4)


@dataclass(frozen=True)
class S3Config:
    """A connection to one bucket of Amazon S3, or of a store that speaks its protocol."""

    kind: ClassVar[str] = "s3"
    traits: ClassVar[Traits] = _TRAITS

    bucket: str = setting("Bucket", help="The bucket the files lie in", example="example-analytics")
    region: str = setting("Region", help="The region of the bucket", example="eu-central-1", incidental=True)
    access_key_id: str = setting(
        "Access key id",
        help="The id of the access key of the user made by the set-up script",
        example="AKIAIOSFODNN7EXAMPLE",
        incidental=True,
    )
    secret_access_key: Secret = setting("Secret access key", help="The secret of that access key", secret=True)
    prefix: str = setting(
        "Prefix",
        help="The folder in the bucket the exported tables go to; empty for the top of the bucket",
        default="",
        example="isthmus",
    )
    endpoint_url: str = setting(
        "Endpoint URL",
        help="Where the store answers, for an S3-compatible store or a private link; empty for Amazon's own",
        default="",
        example="https://minio.example.com:9000",
    )
    role_arn: str = setting(
        "Role ARN",
        help="A role to take on with the access key; empty to work as the key's own user",
        default="",
        example="arn:aws:iam::123456789012:role/isthmus",
        incidental=True,
    )
    external_id: str = setting(
        "External id",
        help="What the role's trust policy wants to hear, if it asks for an external id",
        default="",
        example="isthmus-7f3a",
        incidental=True,
    )
    file_format: str = setting(
        "File format",
        help="parquet, csv or jsonl (JSON lines); a table in another format is written anew at its next load",
        default="parquet",
        example="parquet",
        incidental=True,
    )
    target_file_mb: int = setting(
        "Target file size",
        help="Up to how many megabytes small files are put together",
        default=128,
        example="128",
        advanced=True,
        incidental=True,
    )
    import_prefix: str = setting(
        "Import prefix",
        help="The folder in the bucket whose folders and files may be imported",
        default=_TRAITS.default_import_schema,
        advanced=True,
        incidental=True,
    )
    temp_prefix: str = setting(
        "Temporary prefix",
        help="A folder in the bucket for our own short-lived objects",
        default=_TRAITS.default_temp_schema,
        advanced=True,
        incidental=True,
    )
    sts_endpoint_url: str = setting(
        "STS endpoint URL",
        help="Where the role is asked for; empty for Amazon's own in the region",
        default="",
        example="https://vpce-0a1b.sts.eu-central-1.vpce.amazonaws.com",
        advanced=True,
        incidental=True,
    )

    def __post_init__(self) -> None:
        if self.file_format not in s3_manifest.SUFFIXES:
            known = ", ".join(s3_manifest.SUFFIXES)
            raise InvalidInput(f"there is no file format {self.file_format}", hint=f"known are: {known}")
        if self.target_file_mb < 1:
            raise InvalidInput("the target file size is at least 1 MB", hint="128 is a good size")
        if not (s3_manifest.folder(self.import_prefix) and s3_manifest.folder(self.temp_prefix)):
            hint = "give each a folder of its own, or leave both out"
            raise InvalidInput("the import prefix and the temporary prefix are folders of the bucket", hint=hint)

    @property
    def import_schema(self) -> str:
        """What a relation's schema is when a person writes only its name."""
        return self.import_prefix

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """To be run with bash and the AWS CLI, by somebody who may make users and policies."""
        return setup_script(self, tables, direction=direction, egress=egress)

    def check(self) -> Iterator[Check]:
        yield from questions(self, S3Warehouse)

    def open(self) -> S3Warehouse:
        """Sign in, and see that the bucket is there. Raises Unreachable, Busy, Denied or Missing."""
        warehouse = S3Warehouse(self)
        try:
            warehouse.greet()
        except BaseException:
            warehouse.close()
            raise
        return warehouse


class S3Warehouse:
    """A signed-in client, and a DuckDB of its own that reads and writes the files."""

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self._prefix = s3_manifest.folder(config.prefix)
        self._session: S3Session | None = S3Session(config)
        # Looked up at each call: whoever counts our requests takes the place of `_execute`.
        self._bucket = Bucket(config.bucket, lambda *a, **k: self._execute(*a, **k))
        self._clock: datetime | None = None
        self._con: duckdb.DuckDBPyConnection | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    # Writing

    def create(self, table: Table) -> None:
        sql.require_distinct(table)
        place = self._table(table.name)
        while True:
            found = place.newest()
            if found is None:
                wanted = s3_manifest.Manifest(1, table)
            else:
                theirs = {c.name: DUCKDB[c.type].name for c in found.table.columns}
                # Names that differ only by case are one column to DuckDB, and to most who read the files.
                sql.require_distinct(_joined(found.table, table))
                missing = sql.missing_columns(table, theirs, DUCKDB)
                if table.key != found.table.key:
                    raise _other_key(table, found.table)
                if not missing:
                    return
                wanted = s3_manifest.wider(found, missing)
            if place.commit(wanted):
                return

    def load(self, batch: Batch) -> Receipt:
        """See the protocol. New files are written beside the batch's own, in a folder that goes with this call."""
        beside = batch.files[0].parent if batch.files else None
        table = self._table(batch.table.name)
        with tempfile.TemporaryDirectory(prefix="isthmus-s3-", dir=beside, ignore_cleanup_errors=True) as scratch:
            return Loading(
                table,
                batch,
                place=f"{self._config.endpoint_url}/{self._config.bucket}/{table.folder}",
                ask=lambda statement: self._query(statement),
                now=self._now,
                form=self._config.file_format,
                target_bytes=self._config.target_file_mb * 1_000_000,
                scratch=Path(scratch),
            ).load()

    def receipt(self, batch_id: str) -> Receipt | None:
        if found := s3_table.settled(self._bucket, self._prefix, batch_id):
            return found.receipt
        for name in s3_table.names(self._bucket, self._prefix):
            manifest = self._table(name).newest()
            if manifest is not None and (entry := manifest.entry(batch_id)):
                return entry.receipt
        # It was the newest one of its table until a moment ago, perhaps.
        found = s3_table.settled(self._bucket, self._prefix, batch_id)
        return None if found is None else found.receipt

    def reached(self, table: Table) -> int | None:
        manifest = self._table(table.name).newest()
        return None if manifest is None else manifest.reached

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        place, seq = self._table(table.name), identifier(SEQ)
        files = [f for f in place.required().files if s3_files.overlaps(f, seqs)]
        cursor = self._cursor(
            f"SELECT {seq}, count(*), sum({row_digest(table.columns)}) FROM "
            f"{s3_files.scan(table, place.addressed(files))} "
            f"WHERE {sql.in_range(seqs)} GROUP BY {seq} ORDER BY {seq} NULLS FIRST"
        )
        try:
            while rows := cursor.fetchmany(10_000):
                yield from (Tally(s, rows=n, checksum=int(total)) for s, n, total in rows)
        finally:
            cursor.close()

    # Reading

    def relations(self) -> Iterator[Relation]:
        yield from s3_relations.listed(self._bucket, self._config.import_prefix)

    def schema(self, relation: Relation) -> pa.Schema:
        """Nested values, and types Arrow has no plain word for, are text: JSON, where they are nested."""
        origin, found = self._described(relation)
        cursor = self._cursor(f"SELECT {s3_files.plain_columns(found)} FROM {origin} AS q LIMIT 0")
        try:
            return cursor.to_arrow_reader().schema
        finally:
            cursor.close()

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        origin, found = self._described(relation)
        statement = f"SELECT {s3_files.plain_columns(found)} FROM {origin} AS q WHERE {_where(relation, window, found)}"
        if window is not None:  # by the value, not by its text
            columns = [window.changed_at, *([window.key] if window.key else [])]
            statement += f" ORDER BY {sql.names(columns, of='q')}"
        cursor = self._cursor(statement + ("" if limit is None else f" LIMIT {int(limit)}"))
        try:
            with translated(self._secrets()):
                yield from cursor.to_arrow_reader(65_536)
        finally:
            cursor.close()

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        origin, found = self._described(relation)
        if window is None:
            (rows,) = self._row(f"SELECT count(*) FROM {origin} AS q")
            return Count(rows)
        moment = identifier(window.changed_at)
        hashed = sql.names([window.changed_at, *([window.key] if window.key else [])])
        rows, first, last, checksum = self._row(
            f"SELECT count(*), {_microseconds(f'min({moment})')}, {_microseconds(f'max({moment})')}, "
            f"coalesce(sum(hash({hashed})::HUGEINT), 0) FROM {origin} AS q WHERE {_where(relation, window, found)}"
        )
        return Count(rows, sql.instant(first), sql.instant(last), int(checksum), self._now())

    def _described(self, relation: Relation) -> tuple[str, dict[str, str]]:
        if relation.kind == "query":
            hint = "import a folder or a file under the import prefix"
            raise Missing("a bucket does not answer queries", hint=hint)
        origin = s3_relations.origin(self._bucket, relation, lambda statement: self._query(statement))
        return origin, {row[0]: row[1] for row in self._query(f"DESCRIBE SELECT * FROM {origin}").fetchall()}

    # Inside

    def greet(self) -> None:
        """See that the bucket answers this key, in this region. Not whether it may do all it must."""
        try:
            answer = self._execute("list_objects_v2", Prefix=self._prefix, MaxKeys=1)
        except Denied as e:
            if e.code != "AccessDenied" or "AssumeRole" in e.vendor:
                raise
            prefix = s3_manifest.folder(self._config.import_prefix)
            answer = self._execute("list_objects_v2", Prefix=prefix, MaxKeys=1)
        region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
        if region and region != self._config.region:
            summary = f"the bucket {self._config.bucket} is in the region {region}, not in {self._config.region}"
            raise Missing(summary, hint=f"set the region of the connection to {region}")

    def close(self) -> None:
        con, self._con = self._con, None
        if con is not None:
            con.close()
        session, self._session = self._session, None
        if session is not None:
            session.close()
        if self._scratch is not None:
            with suppress(OSError):
                self._scratch.cleanup()
            self._scratch = None

    def _execute(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Every request to the bucket that is not DuckDB's goes through here."""
        with translated(self._secrets()):
            answer: dict[str, Any] = getattr(self._open().client, operation)(Bucket=self._config.bucket, **parameters)
            if operation == "get_object":
                answer["Body"] = answer["Body"].read()
        stated = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if stated:
            self._clock = parsedate_to_datetime(stated).astimezone(UTC)
        if refused := answer.get("Errors"):
            raise self._open().refused(refused[0])
        return answer

    def _query(self, statement: str) -> duckdb.DuckDBPyConnection:
        """Every statement to DuckDB but the streamed ones goes through here. Its answer is to be fetched at once."""
        with translated(self._secrets()):
            return self._duck().execute(statement)

    def _cursor(self, statement: str) -> duckdb.DuckDBPyConnection:
        """A result of its own, so that rows can still be read while other questions are asked."""
        with translated(self._secrets()):
            cursor = self._duck().cursor()
            cursor.execute("SET TimeZone='UTC'")
            return cursor.execute(statement)

    def _row(self, statement: str) -> tuple[Any, ...]:
        row = self._query(statement).fetchone()
        assert row is not None
        return row

    def _duck(self) -> duckdb.DuckDBPyConnection:
        session = self._open()
        if self._con is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="isthmus-s3-", ignore_cleanup_errors=True)
            try:
                self._con = connect(memory_mb=MEMORY_MB, temp_dir=Path(self._scratch.name), extensions=["httpfs"])
            except InvalidInput as e:
                raise not_installed(e) from e
        if secret := session.secret():
            self._con.execute(secret)
        return self._con

    def _open(self) -> S3Session:
        if self._session is None:
            raise Unreachable("the connection is closed", hint="open it again")
        return self._session

    def _secrets(self) -> list[Secret]:
        return [self._config.secret_access_key] if self._session is None else self._session.secrets()

    def _now(self) -> datetime:
        """The store's own time, as it was in its last answer."""
        assert self._clock is not None, "nothing was asked yet"
        return self._clock

    def _table(self, name: str) -> S3Table:
        return S3Table(self._bucket, self._prefix, name)


def _where(relation: Relation, window: Window | None, found: dict[str, str]) -> str:
    if window is None:
        return "true"
    return sql.in_window(window, sql.window_type(window, found, relation))


def _microseconds(expression: str) -> str:
    moment = f"({expression})::TIMESTAMP"
    # epoch_us of infinity is NULL, which would read as "no rows with a time".
    return f"CASE WHEN isinf({moment}) THEN if({moment} > 'epoch', 1, -1) * {2**62} ELSE epoch_us({moment}) END"


def _joined(theirs: Table, ours: Table) -> Table:
    """The table with the columns of both: those it has, and those it is to get."""
    names = {c.name for c in theirs.columns}
    return replace(theirs, columns=(*theirs.columns, *(c for c in ours.columns if c.name not in names)))


def _other_key(ours: Table, theirs: Table) -> Mismatch:
    wanted, found = (", ".join(t.key) or "none" for t in (ours, theirs))
    hint = "give the export another table_prefix, or remove the table's folder from the bucket"
    summary = f"the key of table {ours.name} is {found}, we need {wanted}"
    return Mismatch(summary, column=(ours.key or theirs.key)[0], ours=wanted, theirs=found, hint=hint)

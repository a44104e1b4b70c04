"""A dedicated SQL pool of Azure Synapse Analytics as a warehouse, through mssql-python and Azure Blob storage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import IO, Any, ClassVar
from uuid import uuid4

import pyarrow as pa

from isthmus.duck import identifier
from isthmus.model.checks import Check
from isthmus.model.errors import Missing, WarehouseError
from isthmus.model.table import RECEIPTS, Batch, Receipt, SeqRange, Table, Tally
from isthmus.secrets import Secret
from isthmus.warehouses import sql, synapse_reading, synapse_script, synapse_sql
from isthmus.warehouses.protocol import Count, Direction, Relation, Traits, Window, setting
from isthmus.warehouses.synapse_checks import Checking
from isthmus.warehouses.synapse_session import Session, reach
from isthmus.warehouses.synapse_staging import FOLDER, Container, Written, rewrite, signature

_TRAITS = Traits("Azure Synapse Analytics", True, True, 4)
_STAGE_AGE_S = 24 * 3600


@dataclass(frozen=True)
class SynapseConfig:
    """A connection to one dedicated SQL pool, and to the container through which rows get there."""

    kind: ClassVar[str] = "synapse"
    traits: ClassVar[Traits] = _TRAITS

    workspace: str = setting("Workspace", help="The name of the Synapse workspace", example="contoso-analytics")
    database: str = setting("Dedicated SQL pool", help="The name of the pool: a database", example="dwh")
    username: str = setting(
        "User name", help="The SQL login made by the set-up script", example="isthmus", incidental=True
    )
    password: Secret = setting("Password", help="The password of that login", secret=True)
    storage_account: str = setting(
        "Storage account",
        help="The account whose blob storage rows are staged in",
        example="contosostaging",
        incidental=True,
    )
    container: str = setting("Container", help="The container rows are staged in", example="isthmus", incidental=True)
    sas_token: Secret = setting(
        "SAS token",
        help="A shared access signature for the container: read, create, write, delete, list",
        example="sp=rcwdl&st=…&se=…&spr=https&sv=…&sr=c&sig=…",
        secret=True,
    )
    schema: str = setting("Schema", help="The schema the exported tables go to", default="klaviyo", example="klaviyo")
    import_schema: str = setting(
        "Import schema",
        help="The schema whose tables and views may be imported",
        default=_TRAITS.default_import_schema,
        advanced=True,
        incidental=True,
    )
    temp_schema: str = setting(
        "Temporary schema",
        help="A schema for our own short-lived tables",
        default=_TRAITS.default_temp_schema,
        advanced=True,
        incidental=True,
    )
    host: str = setting(
        "Host",
        help="Where the pool answers, if not at <workspace>.sql.azuresynapse.net: a private endpoint, another cloud",
        default="",
        example="contoso-analytics.privatelink.sql.azuresynapse.net",
        advanced=True,
        incidental=True,
    )
    port: int = setting(
        "Port", help="The port of the SQL endpoint", default=1433, example="1433", advanced=True, incidental=True
    )
    blob_endpoint: str = setting(
        "Blob endpoint",
        help="The blob service, if not https://<account>.blob.core.windows.net: another cloud",
        default="",
        example="https://contosostaging.blob.core.chinacloudapi.cn",
        advanced=True,
        incidental=True,
    )
    encrypt: str = setting(
        "Encryption",
        help="strict (TDS 8), yes (TLS from the sign-in on) or no",
        default="yes",
        example="yes",
        advanced=True,
        incidental=True,
    )
    certificate_host: str = setting(
        "Name in the certificate",
        help="The name the server's certificate is made out to, if it is not the host",
        default="",
        example="*.sql.azuresynapse.net",
        advanced=True,
        incidental=True,
    )

    @property
    def address(self) -> str:
        return self.host or f"{self.workspace}.sql.azuresynapse.net"

    @property
    def storage(self) -> str:
        return self.blob_endpoint or f"https://{self.storage_account}.blob.core.windows.net"

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must be in no message: the password, the token, and the signature in it."""
        return (self.password, self.sas_token, *signature(self.sas_token))

    def setup_script(
        self, tables: Sequence[Table], *, direction: Direction = Direction.BOTH, egress: Sequence[str] = ()
    ) -> str:
        """Two parts: one for an administrator in the database master, one for an owner of the pool."""
        return synapse_script.setup_script(
            tables,
            workspace=self.workspace,
            database=self.database,
            username=self.username,
            schema=self.schema,
            import_schema=self.import_schema,
            temp_schema=self.temp_schema,
            storage_account=self.storage_account,
            container=self.container,
            direction=direction,
            egress=egress,
        )

    def check(self) -> Iterator[Check]:
        """Questions about the pool, then about the storage. What they make, they remove."""
        question = "Can the host be reached?"
        try:
            reach(self.address, self.port)
        except WarehouseError as e:
            yield Check(question, False, detail=e.vendor, hint=e.hint)
            return
        yield Check(question, True, detail=f"{self.address}:{self.port}")
        try:
            session = self.session()
        except WarehouseError as e:
            yield Check("Can we sign in?", False, detail=e.vendor or e.summary, hint=e.hint)
            return
        with closing(session):
            yield Check("Can we sign in?", True, detail=self.username)
            yield from Checking(self, session.execute).questions()

    def open(self) -> SynapseWarehouse:
        """Sign in, and see that the storage takes the token. Raises Unreachable, Busy (paused), Denied or Missing."""
        container = self.staging()
        try:
            container.names(f"{FOLDER}/open")
            return SynapseWarehouse(self, self.session(), container)
        except BaseException:
            container.close()
            raise

    def session(self) -> Session:
        reach(self.address, self.port)
        parameters = {
            "Server": f"tcp:{self.address},{self.port}",
            "Database": self.database,
            "UID": self.username,
            "PWD": self.password.reveal(),
            "Encrypt": self.encrypt,
            "ConnectRetryCount": "0",
            "PacketSize": "16000",
        }
        if self.certificate_host:
            parameters["HostNameInCertificate"] = self.certificate_host
        return Session(parameters, self.secrets)

    def staging(self) -> Container:
        return Container(self.storage, self.container, self.sas_token, self.secrets)

    def place(self, name: str) -> str:
        return f"{identifier(self.schema)}.{identifier(name)}"


class SynapseWarehouse:
    """A signed-in session, and the container its rows go through."""

    def __init__(self, config: SynapseConfig, session: Session, container: Container) -> None:
        self._config, self._session, self._container = config, session, container
        self._receipts = config.place(RECEIPTS)
        self._is_tidy = False

    # Writing

    def create(self, table: Table) -> None:
        """See the protocol. There is no DDL in transactions: each statement is safe to repeat, and a race is `Busy`."""
        sql.require_distinct(table)
        self._require(self._config.schema)
        self._tidy()
        if not self._columns(RECEIPTS):
            self._execute(synapse_sql.create_receipts(self._receipts))
        self._execute(synapse_sql.make_turn(self._receipts))
        found = self._columns(table.name)
        if not found:
            self._execute(synapse_sql.create_table(table, self._config.place(table.name)))
            return
        missing = synapse_sql.missing_columns(table, found)
        if missing:
            self._execute(synapse_sql.add_columns(self._config.place(table.name), missing))

    def load(self, batch: Batch) -> Receipt:
        """See the protocol. Files go to blob storage, from there into a table of this load's own, and from that into
        the target, in one transaction with the receipt, which only one load at a time can be in."""
        found = self._receipt(batch.batch_id)
        if found is not None:
            return replace(found, repeated=True)
        if not batch.files:
            return self._take(batch, None)
        attempt = f"{hashlib.md5(batch.batch_id.encode(), usedforsecurity=False).hexdigest()}/{uuid4().hex}"
        stage = f"{identifier(self._config.temp_schema)}.{identifier(_stage_name(attempt))}"
        names: list[str] = []
        self._execute(synapse_sql.create_table(batch.table, stage, batch=True))
        try:
            self._stage(batch, stage, f"{FOLDER}/{attempt}", names)
            return self._take(batch, stage)
        finally:
            # What cannot be removed now is found by a later run, by its age.
            with suppress(WarehouseError):
                self._execute(f"DROP TABLE {stage}")
            for name in names:
                with suppress(WarehouseError):
                    self._container.remove(name)

    def _stage(self, batch: Batch, stage: str, folder: str, names: list[str]) -> None:
        def upload(number: int, file: IO[bytes]) -> None:
            name = f"{folder}/{number:05}.parquet"
            names.append(name)
            self._container.put(name, file)

        written = self._upload(batch, upload)
        try:
            if names:
                urls = [self._container.url(name) for name in sorted(names)]
                self._execute(synapse_sql.copy_into(stage, urls, self._config.sas_token.reveal().lstrip("?")))
            insert = synapse_sql.insert_row(stage, batch.table)
            for file in written:
                for values in file.values():
                    self._insert(insert, values)
        finally:
            for file in written:
                file.close()

    def _upload(self, batch: Batch, upload: Any) -> list[Written]:
        return rewrite(batch, upload)

    def _insert(self, statement: str, values: tuple[object, ...]) -> None:
        self._session.execute(statement, values)

    def _take(self, batch: Batch, stage: str | None) -> Receipt:
        statement = synapse_sql.take(batch, self._config.place(batch.table.name), self._receipts, stage)
        try:
            ((repeated, *row),) = self._execute(statement)
        except BaseException:
            with suppress(WarehouseError):
                self._execute(synapse_sql.ROLLBACK)
            raise
        return replace(sql.receipt(batch.batch_id, row), repeated=bool(repeated))

    def receipt(self, batch_id: str) -> Receipt | None:
        try:
            return self._receipt(batch_id)
        except Missing:
            return None

    def _receipt(self, batch_id: str) -> Receipt | None:
        """The receipt, once nobody is in a transaction that may be writing it."""
        found = {bool(is_receipt): row for is_receipt, *row in self._in_turn(synapse_sql.find_receipt, batch_id)}
        if False not in found:  # somebody made the table by hand: with no row to lock, loads would not take turns
            self._execute(synapse_sql.make_turn(self._receipts))
            return self._receipt(batch_id)
        return sql.receipt(batch_id, found[True]) if True in found else None

    def reached(self, table: Table) -> int | None:
        try:
            ((upto,),) = self._in_turn(synapse_sql.reached, table.name)
        except Missing:
            return None
        return None if upto is None else int(upto)

    def _in_turn(self, question: Any, about: str) -> list[tuple[Any, ...]]:
        try:
            return self._execute(question(self._receipts, about))
        except BaseException:
            with suppress(WarehouseError):
                self._execute(synapse_sql.ROLLBACK)
            raise

    def tally(self, table: Table, seqs: SeqRange) -> Iterator[Tally]:
        for seq, rows, checksum in self._execute(synapse_sql.tally(table, self._config.place(table.name), seqs)):
            yield Tally(seq, rows=int(rows), checksum=int(checksum))

    # Reading

    def relations(self) -> Iterator[Relation]:
        self._require(self._config.import_schema)
        found = self._execute(synapse_reading.relations(self._config.import_schema))
        kinds = ((schema, name, "view" if kind == "VIEW" else "table") for schema, name, kind in found)
        yield from (Relation(*each) for each in sorted(kinds, key=lambda each: each[1]))

    def schema(self, relation: Relation) -> pa.Schema:
        """uniqueidentifier is text, money a decimal; a time has six digits at most."""
        statement = synapse_reading.read(relation, "1 = 1", None, 0)
        with self._session.rows(statement, 1) as reader:
            return synapse_reading.plain_schema(reader.schema)

    def read(
        self, relation: Relation, *, window: Window | None = None, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """See the protocol, and `schema` for the types. Runs in a session of its own, which ends with the iterator."""
        found = self.schema(relation)
        where = _where(relation, window, found)
        with closing(self._config.session()) as session:
            statement = synapse_reading.read(relation, where, window, limit)
            with session.rows(statement, synapse_reading.rows_at_once(found)) as reader:
                for rows in reader:
                    yield from synapse_reading.plain_rows(rows, found)

    def count(self, relation: Relation, *, window: Window | None = None) -> Count:
        if window is None:
            ((rows,),) = self._execute(f"SELECT COUNT_BIG(*) FROM {synapse_reading.origin(relation)}")
            return Count(int(rows))
        found = self.schema(relation)
        statement = synapse_reading.count(relation, _where(relation, window, found), window, found)
        ((rows, first, last, checksum, now),) = self._execute(statement)
        return Count(int(rows), sql.instant(first), sql.instant(last), int(checksum or 0), sql.instant(now))

    # Inside

    def close(self) -> None:
        self._session.close()
        self._container.close()

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Every statement but a long row's and the streamed read goes through here."""
        return self._session.execute(statement)

    def _columns(self, table: str) -> list[tuple[Any, ...]]:
        return self._execute(synapse_sql.columns(self._config.schema, table))

    def _require(self, schema: str) -> None:
        if not self._execute(synapse_sql.has_schema(schema)):
            hint = f"run the set-up script, or: {synapse_sql.create_schema(schema)}"
            raise Missing(f"there is no schema {schema}", hint=hint)

    def _tidy(self) -> None:
        """Once a session, remove what loads left behind that were killed more than a day ago."""
        if self._is_tidy:
            return
        self._is_tidy = True
        schema = self._config.temp_schema
        for name, age_s in self._execute(synapse_sql.old_stages(schema)):
            if name.startswith(synapse_sql.STAGE) and age_s > _STAGE_AGE_S:
                with suppress(WarehouseError):
                    self._execute(f"DROP TABLE {identifier(schema)}.{identifier(name)}")
        self._container.remove_old()


def _stage_name(attempt: str) -> str:
    batch, _, mine = attempt.partition("/")
    return f"{synapse_sql.STAGE}{batch[:16]}_{mine}"


def _where(relation: Relation, window: Window | None, found: pa.Schema) -> str:
    if window is None:
        return "1 = 1"
    theirs = sql.window_type(window, synapse_reading.time_names(found), relation)
    return synapse_reading.in_window(window, theirs)

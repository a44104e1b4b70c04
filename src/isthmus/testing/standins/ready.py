"""Stand-ins that a person could connect to: their set-up script has been run, and there is a user that it made.

What the demo and the benchmarks need of every kind alike. The tests of a connector start its stand-in themselves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from isthmus.model.errors import WarehouseError
from isthmus.model.table import Batch, Column, SeqRange, Table, Type
from isthmus.secrets import Secret
from isthmus.testing.standins.aws_command import aws_command
from isthmus.testing.standins.bigquery import bigquery
from isthmus.testing.standins.databricks import databricks
from isthmus.testing.standins.launching import folder_of_its_own
from isthmus.testing.standins.postgres import postgres
from isthmus.testing.standins.redshift import ROLE as REDSHIFT_ROLE
from isthmus.testing.standins.redshift import redshift
from isthmus.testing.standins.s3 import s3
from isthmus.testing.standins.snowflake import snowflake
from isthmus.testing.standins.synapse import synapse
from isthmus.warehouses import databricks_sql, snowflake_sql
from isthmus.warehouses.bigquery import BigQueryConfig
from isthmus.warehouses.databricks import DatabricksConfig
from isthmus.warehouses.postgres import PostgresConfig
from isthmus.warehouses.protocol import Config
from isthmus.warehouses.redshift import RedshiftConfig
from isthmus.warehouses.s3 import S3Config
from isthmus.warehouses.snowflake import SnowflakeConfig
from isthmus.warehouses.synapse import SynapseConfig

_RIGHTS_S = 10


@dataclass(frozen=True)
class Ready:
    """A stand-in with its config; `what` it is, for a person.

    `customer` is the config with which the customer itself writes where `config` imports from; with None, the stand-in
    fills its tables in its own way, by `fill`. `statements` are those that were sent so far, where the stand-in keeps a
    log of them. `named` is how a customer's plain name for a column is kept, where its case is folded.
    """

    what: str
    config: Config
    customer: Config | None
    statements: Callable[[], Sequence[str]] | None = None
    fill: Callable[[str, Path], None] | None = None
    named: Callable[[str], str] = str

    def connection(self) -> tuple[dict[str, object], dict[str, str]]:
        """The connection as in a file to apply, and the variables with its secrets."""
        given: dict[str, object] = {"kind": self.config.kind}
        environ: dict[str, str] = {}
        for f in fields(self.config):  # type: ignore[arg-type]
            value = getattr(self.config, f.name)
            if isinstance(value, Secret) and value.reveal():
                environ[f"STANDIN_{f.name.upper()}"] = value.reveal()
                value = {"env": f"STANDIN_{f.name.upper()}"}
            if value is not None and not isinstance(value, Secret):
                given[f.name] = value
        return given, environ

    def expose(self, name: str, file: Path) -> None:
        """What a customer does: more rows of a Parquet file into a table that we may read. It is made if need be."""
        if self.fill is not None:
            self.fill(name, file)
            return
        assert self.customer is not None
        found = pq.read_table(file)
        columns = tuple(Column(f.name, _type(f.type)) for f in found.schema)
        table = Table(name, columns)
        fitting = file.with_suffix(f".{uuid4().hex}.parquet")
        pq.write_table(found.cast(table.schema), fitting, compression="zstd")
        try:
            with closing(self.customer.open()) as warehouse:
                warehouse.create(table)
                warehouse.load(Batch(uuid4().hex, table, (fitting,), len(found), SeqRange(None, None), adds_only=True))
        finally:
            fitting.unlink()


@contextmanager
def _postgres(tables: Sequence[Table]) -> Iterator[Ready]:
    with postgres() as server:
        made = PostgresConfig(
            host=server.host,
            port=server.port,
            database=server.fresh_database(),
            username="isthmus",
            password=Secret(uuid4().hex),
        )
        with psycopg.connect(server.url(made.database), autocommit=True) as con:
            con.execute(made.setup_script(tables).encode())
            con.execute(f"ALTER ROLE isthmus PASSWORD '{made.password.reveal()}'".encode())
        owner = replace(made, username=server.username, password=Secret(server.password), schema=made.import_schema)
        yield Ready("a real server, started for this", made, owner)


@contextmanager
def _redshift(tables: Sequence[Table]) -> Iterator[Ready]:
    with s3() as storage, redshift(storage) as server:
        made = RedshiftConfig(
            host=server.host,
            port=server.port,
            database=server.fresh_database(),
            username="isthmus",
            password=Secret(uuid4().hex),
            bucket=storage.bucket,
            region=storage.region,
            iam_role=REDSHIFT_ROLE,
            access_key_id=storage.access_key_id,
            secret_access_key=Secret(storage.secret_access_key),
            sslmode="disable",
            endpoint_url=storage.endpoint,
        )
        server.execute(made.setup_script(tables), database=made.database)
        server.execute(f"ALTER USER isthmus PASSWORD '{made.password.reveal()}'", database=made.database)
        owner = replace(made, username=server.username, password=Secret(server.password), schema=made.import_schema)
        statements = partial(server.statements, made.database)
        yield Ready("our own wire server before a real PostgreSQL and a real S3", made, owner, statements)


@contextmanager
def _databricks(tables: Sequence[Table]) -> Iterator[Ready]:
    with databricks() as server:
        made = DatabricksConfig(
            hostname=server.hostname,
            http_path=server.http_path,
            catalog=server.fresh_catalog(),
            access_token=Secret(server.principal("isthmus-app", ["isthmus"])),
            port=server.port,
            ca_file=server.ca_file,
        )
        server.run(made.setup_script(tables))

        def fill(name: str, file: Path) -> None:
            rows = pq.read_table(file)
            relation = databricks_sql.identifier(made.catalog, made.import_schema, name)
            columns = [f"{databricks_sql.identifier(f.name)} {_DATABRICKS[_type(f.type)]}" for f in rows.schema]
            server.execute(f"CREATE TABLE IF NOT EXISTS {relation} ({', '.join(columns)})")
            server.fill(relation, rows)

        yield Ready("a stand-in of our own", made, None, lambda: [s for _, s in server.log()], fill)


_DATABRICKS = {
    Type.TEXT: "STRING", Type.TIMESTAMP: "TIMESTAMP", Type.DOUBLE: "DOUBLE", Type.BIGINT: "BIGINT",
    Type.BOOLEAN: "BOOLEAN",
}  # fmt: skip


@contextmanager
def _s3(tables: Sequence[Table]) -> Iterator[Ready]:
    with s3() as server, folder_of_its_own("isthmus-aws-") as folder:
        own = {"access_key_id": server.access_key_id, "secret_access_key": server.secret_access_key}
        key_id, secret = server.key_of("isthmus")
        bucket = server.fresh_bucket()
        made = S3Config(bucket, server.region, key_id, Secret(secret), prefix="export", endpoint_url=server.endpoint)
        with aws_command(folder, **own, endpoints={"iam": server.endpoint}) as aws:
            aws.bash(made.setup_script(tables))
        deadline = time.monotonic() + _RIGHTS_S
        while True:  # rights take a moment to be known, as they do at Amazon
            try:
                made.open().close()
                break
            except WarehouseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        admin = replace(made, access_key_id=server.access_key_id, secret_access_key=Secret(server.secret_access_key))
        yield Ready("a real server, started for this", made, replace(admin, prefix=made.import_prefix))


@contextmanager
def _bigquery(tables: Sequence[Table]) -> Iterator[Ready]:
    with bigquery() as server:
        made = BigQueryConfig(
            project_id=server.project,
            dataset="klaviyo",
            service_account_key=Secret(server.fresh_account()),
            endpoint=server.endpoint,
            storage_endpoint=server.storage_endpoint,
        )
        server.run(made.setup_script(tables))
        owner = replace(made, dataset=made.import_dataset, service_account_key=Secret(json.dumps(server.owner)))

        def statements() -> list[str]:
            return [f"{call.what} {call.text}" for call in server.calls.made]

        yield Ready("local-bigquery, and before it a front of our own", made, owner, statements)


@contextmanager
def _synapse(tables: Sequence[Table]) -> Iterator[Ready]:
    with synapse() as server:
        blobs = server.blobs
        container, password = blobs.fresh_container(), f"Pw-{uuid4().hex}"
        made = SynapseConfig(
            workspace="standin",
            database=server.fresh_database(),
            username="isthmus",
            password=Secret(password),
            storage_account=blobs.account,
            container=container,
            sas_token=Secret(blobs.sas(container)),
            host=server.host,
            port=server.port,
            blob_endpoint=f"{blobs.endpoint}/{blobs.account}",
            encrypt="no",
        )
        server.script(made.setup_script(tables).replace("$(ISTHMUS_PASSWORD)", password), made.database)
        server.execute(f"ALTER DATABASE [{made.database}] SET READ_COMMITTED_SNAPSHOT ON")
        owner = replace(made, username=server.username, password=Secret(server.password), schema=made.import_schema)
        statements = partial(server.statements, made.database, made.username)
        yield Ready("our own wire server, and Azurite beside it", made, owner, statements)


@contextmanager
def _snowflake(tables: Sequence[Table]) -> Iterator[Ready]:
    with snowflake() as server:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        unencrypted = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        made = SnowflakeConfig(
            account=server.account,
            username="isthmus",
            warehouse="ISTHMUS_WH",
            schema="KLAVIYO",
            private_key=Secret(key.private_bytes(*unencrypted).decode()),
            database=server.fresh_database(),
            host=server.host,
            port=server.port,
            protocol=server.protocol,
        )
        server.script(made.setup_script(tables))
        owner = replace(
            made,
            username=server.username,
            private_key=Secret(""),
            password=Secret(server.password),
            role="SYSADMIN",
            warehouse=server.warehouse,
            schema=made.import_schema,
        )

        def statements() -> list[str]:
            return [entry["statement"] for entry in server.log() if entry["user"].lower() == made.username]

        yield Ready("fakesnow's SQL in a server of our own", made, owner, statements, named=snowflake_sql.folded)


READY: Mapping[str, Callable[[Sequence[Table]], AbstractContextManager[Ready]]] = {
    "postgres": _postgres,
    "redshift": _redshift,
    "s3": _s3,
    "bigquery": _bigquery,
    "synapse": _synapse,
    "snowflake": _snowflake,
    "databricks": _databricks,
}
"""Every kind that has a stand-in."""


def _type(arrow: pa.DataType) -> Type:
    if pa.types.is_timestamp(arrow) or pa.types.is_date(arrow):
        return Type.TIMESTAMP
    if pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return Type.DOUBLE
    if pa.types.is_integer(arrow):
        return Type.BIGINT
    return Type.BOOLEAN if pa.types.is_boolean(arrow) else Type.TEXT

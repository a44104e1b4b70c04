"""The way of the bare driver: what loading and reading cost with nothing of ours around them, a pair for each kind.

Each takes the connector's config, for its addresses and keys. A load writes Parquet files as they are into a table that
is there already, by the way its vendor recommends, and returns how many rows arrived; a read drains the driver's own
Arrow batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

Load = Callable[[Any, Sequence[Path], str], int]
Read = Callable[[Any, str], int]


def load_postgres(config: Any, files: Sequence[Path], table: str) -> int:
    """ADBC's binary COPY."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    with _postgres(config) as con, con.cursor() as cursor:
        for file in files:
            opened = pq.ParquetFile(file)
            columns = [n for n in opened.schema_arrow.names if n != "_deleted"]
            batches = opened.iter_batches(65_536, columns=columns)
            schema = pa.schema([opened.schema_arrow.field(n) for n in columns])
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            rows += cursor.adbc_ingest(table, reader, mode="append", db_schema_name=config.schema)
        con.commit()
    return rows


def read_postgres(config: Any, table: str) -> int:
    with _postgres(config) as con, con.cursor() as cursor:
        cursor.execute(f'SELECT * FROM "{config.import_schema}"."{table}"')
        return sum(batch.num_rows for batch in cursor.fetch_record_batch())


def _postgres(config: Any) -> Any:
    from adbc_driver_postgresql import dbapi

    c = config
    return dbapi.connect(f"postgresql://{c.username}:{c.password.reveal()}@{c.host}:{c.port}/{c.database}")


def load_s3(config: Any, files: Sequence[Path], table: str) -> int:
    """boto3's managed upload, in parts and several at once."""
    with closing(_boto(config)) as s3:
        for file in files:
            s3.upload_file(str(file), config.bucket, f"{config.prefix}/{table}/{file.name}")
    return rows_of(files)


def rows_of(files: Sequence[Path]) -> int:
    """How many rows are in Parquet files."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in files)


def read_s3(config: Any, table: str) -> int:
    """Arrow's own S3 and Parquet."""
    import pyarrow.dataset as ds

    place = f"{config.bucket}/{config.import_prefix}/{table}"
    found = ds.dataset(place, filesystem=_arrow_s3(config), format="parquet")
    return sum(batch.num_rows for batch in found.to_batches())


def _arrow_s3(config: Any) -> Any:
    import pyarrow.fs as pf

    scheme, _, host = config.endpoint_url.partition("://")
    return pf.S3FileSystem(
        access_key=config.access_key_id,
        secret_key=config.secret_access_key.reveal(),
        endpoint_override=host,
        scheme=scheme,
        region=config.region,
        force_virtual_addressing=False,
    )


def _boto(config: Any) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=config.endpoint_url,
        region_name=config.region,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key.reveal(),
    )


def load_redshift(config: Any, files: Sequence[Path], table: str) -> int:
    """The files into the bucket, several at once, one COPY of their manifest into a stage, and INSERT from there.

    COPY makes no SUPER of a JSON text, nor a time with its zone, and zstd is not among what it says to unpack: a client
    that wants the same table has no shorter way.
    """
    import json
    from concurrent.futures import ThreadPoolExecutor
    from tempfile import TemporaryDirectory
    from uuid import uuid4

    import pyarrow.parquet as pq

    c = config
    place = f"bare/{uuid4().hex}/"
    types = {"double": "double precision", "int64": "bigint", "bool": "boolean", "timestamp[us, tz=UTC]": "timestamp"}
    columns = [(f.name, types.get(str(f.type), "varchar(65535)")) for f in pq.read_schema(files[0])]
    takes = {"event_properties": 'json_parse("event_properties")'}
    takes |= {name: f"\"{name}\" AT TIME ZONE 'UTC'" for name, type_ in columns if type_ == "timestamp"}
    with TemporaryDirectory() as folder, closing(_boto(c)) as s3:
        files = [_unpackable(file, Path(folder)) for file in files]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda f: s3.upload_file(str(f), c.bucket, place + f.name), files))
        sizes = [(f"s3://{c.bucket}/{place}{f.name}", f.stat().st_size) for f in files]
        entries = [{"url": u, "mandatory": True, "meta": {"content_length": n}} for u, n in sizes]
        s3.put_object(Bucket=c.bucket, Key=place + "manifest", Body=json.dumps({"entries": entries}).encode())
    with closing(_redshift(c)) as con, con.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE stage (" + ", ".join(f'"{name}" {type_}' for name, type_ in columns) + ")")
        copied = f"COPY stage FROM 's3://{c.bucket}/{place}manifest' IAM_ROLE '{c.iam_role}'"
        cursor.execute(f"{copied} FORMAT AS PARQUET MANIFEST")
        kept = [name for name, _ in columns if name != "_deleted"]
        names = ", ".join(f'"{name}"' for name in kept)
        taken = ", ".join(takes.get(name, f'"{name}"') for name in kept)
        cursor.execute(f'INSERT INTO "{c.schema}"."{table}" ({names}) SELECT {taken} FROM stage')
        con.commit()
        cursor.execute(f'SELECT count(*) FROM "{c.schema}"."{table}"')
        return int(cursor.fetchone()[0])


def _unpackable(file: Path, folder: Path, *, but: str = "") -> Path:
    """The same rows in the codec that every COPY of Parquet takes."""
    import duckdb

    made = folder / file.name
    with closing(duckdb.connect()) as con:
        con.execute("SET preserve_insertion_order = false")
        chosen = f"SELECT * EXCLUDE ({but}) " if but else ""
        con.execute(f"COPY ({chosen}FROM '{file}') TO '{made}' (FORMAT parquet, COMPRESSION snappy)")
    return made


def read_redshift(config: Any, table: str) -> int:
    """UNLOAD as Parquet, which is how Redshift gives many rows away, and Arrow's own reading of it."""
    from uuid import uuid4

    import pyarrow.dataset as ds

    c = config
    place = f"bare/{uuid4().hex}/"
    with closing(_redshift(c)) as con, con.cursor() as cursor:
        wanted = f'SELECT * FROM "{c.import_schema}"."{table}"'
        cursor.execute(f"UNLOAD ('{wanted}') TO 's3://{c.bucket}/{place}' IAM_ROLE '{c.iam_role}' FORMAT AS PARQUET")
    found = ds.dataset(f"{c.bucket}/{place}", filesystem=_arrow_s3(c), format="parquet")
    return sum(batch.num_rows for batch in found.to_batches())


def _redshift(config: Any) -> Any:
    import redshift_connector

    c = config
    where = {"host": c.host, "port": c.port, "database": c.database, "user": c.username}
    return redshift_connector.connect(**where, password=c.password.reveal(), ssl=False)


def read_databricks(config: Any, table: str) -> int:
    from databricks import sql

    c = config
    token = c.access_token.reveal()
    how = {"_port": c.port, "_tls_trusted_ca_file": c.ca_file, "enable_telemetry": False}
    with closing(sql.connect(c.hostname, c.http_path, token, **how)) as con, con.cursor() as cursor:
        cursor.execute(f"SELECT * FROM `{c.catalog}`.`{c.import_schema}`.`{table}`")
        rows = 0
        while part := cursor.fetchmany_arrow(65_536).num_rows:
            rows += part
        return rows


def load_bigquery(config: Any, files: Sequence[Path], table: str) -> int:
    """A load job for each file, several at once, into one table of the files' own columns."""
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    from google.cloud import bigquery

    from isthmus.model.table import DELETED, Column, Type
    from isthmus.model.tables import EVENT
    from isthmus.warehouses.types import BIGQUERY

    columns = [*EVENT.columns, Column(DELETED, Type.BOOLEAN)]
    schema = [bigquery.SchemaField(c.name, BIGQUERY[c.type].name) for c in columns]
    how = bigquery.LoadJobConfig(source_format="PARQUET", schema=schema, write_disposition="WRITE_APPEND")
    into = f"{config.project_id}.{config.temp_dataset}.{table}"

    def load(client: Any, file: Path) -> int:
        with file.open("rb") as content:
            job = client.load_table_from_file(content, into, size=file.stat().st_size, job_config=how)
            return int(job.result().output_rows)

    with closing(_bigquery(config)) as client:
        client.create_table(bigquery.Table(into, schema))
        with ThreadPoolExecutor(4) as pool:
            return sum(pool.map(partial(load, client), files))


def read_bigquery(config: Any, table: str) -> int:
    """The Storage Read API through Google's own client. Its channel is ours: theirs wants TLS."""
    import grpc
    from google.auth.transport.requests import Request
    from google.cloud.bigquery_storage import BigQueryReadClient, types
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

    from isthmus.warehouses.bigquery_session import credentials

    key = credentials(config.service_account_key)
    key.refresh(Request())
    signed = [("authorization", f"Bearer {key.token}")]
    place = f"projects/{config.project_id}"
    path = f"{place}/datasets/{config.import_dataset}/tables/{table}"
    size = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(config.storage_endpoint.removeprefix("http://"), options=size) as channel:
        client = BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))
        wanted = types.ReadSession(table=path, data_format=types.DataFormat.ARROW)
        opened = client.create_read_session(parent=place, read_session=wanted, metadata=signed)
        streams = [client.read_rows(each.name, metadata=signed).rows(opened) for each in opened.streams]
        return sum(page.to_arrow().num_rows for rows in streams for page in rows.pages)


def _bigquery(config: Any) -> Any:
    from google.cloud import bigquery

    from isthmus.warehouses.bigquery_session import credentials

    how = {"client_options": {"api_endpoint": config.endpoint}}
    return bigquery.Client(config.project_id, credentials(config.service_account_key), **how)


def load_synapse(config: Any, files: Sequence[Path], table: str) -> int:
    """The files into the container, several at once, and one COPY INTO the table; it unpacks no zstd."""
    from concurrent.futures import ThreadPoolExecutor
    from tempfile import TemporaryDirectory
    from uuid import uuid4

    from azure.storage.blob import ContainerClient

    c = config
    place, sas = f"bare/{uuid4().hex}", c.sas_token.reveal().lstrip("?")

    def put(container: Any, file: Path) -> str:
        with file.open("rb") as content:
            container.upload_blob(f"{place}/{file.name}", content, max_concurrency=2)
        return f"{c.storage}/{c.container}/{place}/{file.name}"

    with TemporaryDirectory() as folder, ContainerClient(c.storage, c.container, credential=sas) as container:
        with ThreadPoolExecutor(4) as pool:
            urls = list(pool.map(lambda f: put(container, _unpackable(f, Path(folder), but="_deleted")), files))
    said = ", ".join(f"'{url}'" for url in urls)
    with closing(_synapse(c)) as con, closing(con.cursor()) as cursor:
        cursor.execute(
            f"COPY INTO {c.place(table)} FROM {said} WITH (FILE_TYPE = 'PARQUET', AUTO_CREATE_TABLE = 'ON', "
            f"CREDENTIAL = (IDENTITY = 'Shared Access Signature', SECRET = '{sas}'))"
        )
        cursor.execute(f"SELECT COUNT_BIG(*) FROM {c.place(table)}")
        return int(cursor.fetchone()[0])


def read_synapse(config: Any, table: str) -> int:
    with closing(_synapse(config)) as con, closing(con.cursor()) as cursor:
        cursor.execute(f'SELECT * FROM "{config.import_schema}"."{table}"')
        return sum(batch.num_rows for batch in cursor.arrow_reader())


def _synapse(config: Any) -> Any:
    import mssql_python

    c = config
    where = f"Server=tcp:{c.address},{c.port};Database={c.database};Encrypt={c.encrypt}"
    return mssql_python.connect(f"{where};UID={c.username};PWD={{{c.password.reveal()}}}", autocommit=True)


def load_snowflake(config: Any, files: Sequence[Path], table: str) -> int:
    """A PUT of each file, several at once, and one COPY."""
    from concurrent.futures import ThreadPoolExecutor

    from isthmus.warehouses import snowflake_sql

    c = config

    def put(con: Any, file: Path) -> None:
        with con.cursor() as cursor:
            cursor.execute(f"PUT 'file://{file}' @bare PARALLEL = 8 AUTO_COMPRESS = FALSE")

    with closing(_snowflake(c)) as con, con.cursor() as cursor, ThreadPoolExecutor(8) as pool:
        cursor.execute(f"USE SCHEMA {c.database}.{c.temp_schema}")
        cursor.execute("CREATE TEMPORARY STAGE bare")
        list(pool.map(lambda file: put(con, file), files))
        cursor.execute(
            f"COPY INTO {snowflake_sql.quoted(c.database, c.schema, table)} FROM @bare "
            "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
        )
        rows = sum(int(row[3]) for row in cursor.fetchall())
        con.commit()
    return rows


def read_snowflake(config: Any, table: str) -> int:
    c = config
    with closing(_snowflake(c)) as con, con.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {c.database}.{c.import_schema}.{table}")
        return sum(part.num_rows for part in cursor.fetch_arrow_batches())


def _snowflake(config: Any) -> Any:
    from cryptography.hazmat.primitives import serialization
    from snowflake import connector

    c = config
    key = serialization.load_pem_private_key(c.private_key.reveal().encode(), None)
    where = {"account": c.account, "host": c.host, "port": c.port, "protocol": c.protocol}
    what = {"role": c.role, "warehouse": c.warehouse, "database": c.database}
    what["enable_server_session_keep_alive_auto_detection"] = False  # its default warns
    return connector.connect(user=c.username, private_key=key, authenticator="SNOWFLAKE_JWT", **where, **what)


BARE: dict[str, tuple[Load | None, Read]] = {
    "postgres": (load_postgres, read_postgres),
    "redshift": (load_redshift, read_redshift),
    "s3": (load_s3, read_s3),
    "bigquery": (load_bigquery, read_bigquery),
    "synapse": (load_synapse, read_synapse),
    "snowflake": (load_snowflake, read_snowflake),
    "databricks": (None, read_databricks),
}

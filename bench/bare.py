"""The way of the bare driver: what loading and reading cost with nothing of ours around them, a pair for each kind.

Each takes the connector's config, for its addresses and keys. A load writes Parquet files as they are into a table that
is there already, by the way its vendor recommends; a read drains the driver's own Arrow batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

Load = Callable[[Any, Sequence[Path], str], None]
Read = Callable[[Any, str], int]


def load_postgres(config: Any, files: Sequence[Path], table: str) -> None:
    """ADBC's binary COPY."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _postgres(config) as con, con.cursor() as cursor:
        for file in files:
            opened = pq.ParquetFile(file)
            columns = [n for n in opened.schema_arrow.names if n != "_deleted"]
            batches = opened.iter_batches(65_536, columns=columns)
            schema = pa.schema([opened.schema_arrow.field(n) for n in columns])
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            cursor.adbc_ingest(table, reader, mode="append", db_schema_name=config.schema)
        con.commit()


def read_postgres(config: Any, table: str) -> int:
    with _postgres(config) as con, con.cursor() as cursor:
        cursor.execute(f'SELECT * FROM "{config.import_schema}"."{table}"')
        return sum(batch.num_rows for batch in cursor.fetch_record_batch())


def _postgres(config: Any) -> Any:
    from adbc_driver_postgresql import dbapi

    c = config
    return dbapi.connect(f"postgresql://{c.username}:{c.password.reveal()}@{c.host}:{c.port}/{c.database}")


def load_s3(config: Any, files: Sequence[Path], table: str) -> None:
    """boto3's managed upload, in parts and several at once."""
    import boto3

    with closing(boto3.client("s3", endpoint_url=config.endpoint_url, region_name=config.region, **_s3(config))) as s3:
        for file in files:
            s3.upload_file(str(file), config.bucket, f"{config.prefix}/{table}/{file.name}")


def read_s3(config: Any, table: str) -> int:
    """Arrow's own S3 and Parquet."""
    import pyarrow.dataset as ds
    import pyarrow.fs as pf

    scheme, _, host = config.endpoint_url.partition("://")
    files = pf.S3FileSystem(
        access_key=config.access_key_id,
        secret_key=config.secret_access_key.reveal(),
        endpoint_override=host,
        scheme=scheme,
        region=config.region,
        force_virtual_addressing=False,
    )
    found = ds.dataset(f"{config.bucket}/{config.import_prefix}/{table}", filesystem=files, format="parquet")
    return sum(batch.num_rows for batch in found.to_batches())


def _s3(config: Any) -> dict[str, str]:
    return {
        "aws_access_key_id": config.access_key_id,
        "aws_secret_access_key": config.secret_access_key.reveal(),
    }


BARE: dict[str, tuple[Load | None, Read]] = {
    "postgres": (load_postgres, read_postgres),
    "s3": (load_s3, read_s3),
}

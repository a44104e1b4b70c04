"""The table the tests of S3 load, and how somebody looks at its files who knows nothing of manifests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isthmus.duck import connect, literal
from isthmus.model.errors import WarehouseError
from isthmus.model.table import SEQ, Column, Table, Type
from isthmus.testing.standins import S3Server
from isthmus.warehouses.s3 import S3Config

PEOPLE = Table("people", (Column("id", Type.TEXT), Column("name", Type.TEXT), Column(SEQ, Type.BIGINT)), key=("id",))


def soon(attempt: Callable[[], Any]) -> Any:
    """Try until it holds: rights take a moment to be known."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return attempt()
        except (WarehouseError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Bystander:
    """The customer, with a key of their own and a glob."""

    def __init__(self, server: S3Server, config: S3Config, folder: Path) -> None:
        self.client = server.client()
        self.bucket, self.prefix = config.bucket, config.prefix
        self._con = connect(memory_mb=200, temp_dir=folder, extensions=["httpfs"])
        self._con.execute(
            f"CREATE SECRET s (TYPE s3, KEY_ID {literal(server.access_key_id)}, USE_SSL false, URL_STYLE 'path', "
            f"SECRET {literal(server.secret_access_key)}, ENDPOINT {literal(server.endpoint.removeprefix('http://'))})"
        )

    def keys(self, table: str = "people") -> list[str]:
        """The names of the data files of a table."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}/{table}/", Delimiter="/")
        return [o["Key"].rpartition("/")[2] for o in found.get("Contents", ()) if o["Size"]]

    def globbed(self, ending: str = ".parquet") -> list[tuple[Any, ...]]:
        """id, name and seq of every row in the files of the table of people."""
        reading = {".parquet": "parquet", ".csv.gz": "csv", ".jsonl.gz": "json"}[ending]
        files = literal(f"s3://{self.bucket}/{self.prefix}/people/*{ending}")
        return self._con.execute(f"SELECT id, name, {SEQ} FROM read_{reading}({files}) ORDER BY id").fetchall()

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def close(self) -> None:
        self._con.close()
        self.client.close()

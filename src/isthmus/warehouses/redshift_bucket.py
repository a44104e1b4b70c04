"""The staging bucket: what we put there for COPY, fetch from there after UNLOAD, and clear away again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from isthmus.duck import literal
from isthmus.model.errors import Missing
from isthmus.secrets import Secret
from isthmus.warehouses.redshift_errors import s3_translated

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 15, 120
PIECE_BYTES = 1 << 20


class BucketFields(Protocol):
    """The fields of a connection that say where it is and how we get in."""

    @property
    def bucket(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def iam_role(self) -> str: ...
    @property
    def access_key_id(self) -> str: ...
    @property
    def secret_access_key(self) -> Secret | None: ...
    @property
    def endpoint_url(self) -> str: ...


class StagingBucket:
    """A bucket we may write to. All that goes wrong is raised as ours."""

    def __init__(self, fields: BucketFields) -> None:
        self._fields = fields
        self._secrets = (fields.secret_access_key,)
        self._client: Any = _client(fields)

    @property
    def credentials(self) -> str:
        """What COPY and UNLOAD are told to get in with. It may hold the secret."""
        if self._fields.iam_role:
            return f"IAM_ROLE {literal(self._fields.iam_role)}"
        secret = self._fields.secret_access_key
        assert secret is not None
        keys = f"aws_access_key_id={self._fields.access_key_id};aws_secret_access_key={secret.reveal()}"
        return f"CREDENTIALS {literal(keys)}"

    def url(self, key: str) -> str:
        return f"s3://{self._fields.bucket}/{key}"

    def upload(self, file: Path, key: str) -> None:
        with s3_translated(*self._secrets):
            with file.open("rb") as content:
                self._client.put_object(Bucket=self._fields.bucket, Key=key, Body=content)

    def put(self, key: str, content: bytes) -> None:
        with s3_translated(*self._secrets):
            self._client.put_object(Bucket=self._fields.bucket, Key=key, Body=content)

    def download(self, key: str, file: Path) -> None:
        with s3_translated(*self._secrets):
            answer = self._client.get_object(Bucket=self._fields.bucket, Key=key)
            with closing(answer["Body"]) as content, file.open("wb") as into:
                shutil.copyfileobj(content, into, PIECE_BYTES)

    def keys(self, prefix: str, *, most: int = 1000) -> Iterator[str]:
        """What lies under a prefix, in order of name."""
        with s3_translated(*self._secrets):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._fields.bucket, Prefix=prefix, MaxKeys=most):
                yield from (found["Key"] for found in page.get("Contents", []))

    def reach(self, prefix: str) -> None:
        """Raise Denied, Missing or Unreachable if we do not get in."""
        with s3_translated(*self._secrets):
            self._client.list_objects_v2(Bucket=self._fields.bucket, Prefix=prefix, MaxKeys=1)

    def clear(self, prefix: str) -> None:
        """Remove all that lies under a prefix."""
        found = list(self.keys(prefix))
        with s3_translated(*self._secrets):
            for first in range(0, len(found), 1000):
                objects = [{"Key": key} for key in found[first : first + 1000]]
                self._client.delete_objects(Bucket=self._fields.bucket, Delete={"Objects": objects, "Quiet": True})

    def close(self) -> None:
        self._client.close()


def _client(fields: BucketFields) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as e:
        raise Missing("boto3 is not installed", hint="install the extra: pip install 'isthmus[redshift]'") from e
    secret = fields.secret_access_key
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": 2},
        max_pool_connections=16,
    )
    with s3_translated(secret):
        # Without keys boto3 finds what this machine has: an instance's role, for example.
        return boto3.client(
            "s3",
            region_name=fields.region or None,
            endpoint_url=fields.endpoint_url or None,
            aws_access_key_id=fields.access_key_id or None,
            aws_secret_access_key=secret.reveal() if secret else None,
            config=config,
        )

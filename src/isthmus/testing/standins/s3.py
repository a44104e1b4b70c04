"""SeaweedFS for S3: a real server, in one program."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from isthmus.testing.standins.launching import folder_of_its_own, free_ports, program, running


@dataclass(frozen=True)
class S3Server:
    """A running S3 with one bucket. The keys may do anything in it; wrong keys are refused."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str
    region: str = "us-east-1"

    def client(self, service: str = "s3", *, key: tuple[str, str] | None = None, endpoint: str = "") -> Any:
        """A boto3 client that does not try again. `key` is another one than the administrator's."""
        import boto3
        from botocore.config import Config

        key_id, secret = key or (self.access_key_id, self.secret_access_key)
        return boto3.client(
            service,
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            region_name=self.region,
            config=Config(retries={"total_max_attempts": 1}),
        )

    def fresh_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"test-{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def empty(self, bucket: str) -> None:
        """Remove every object of a bucket, with its older versions, and every upload that was never finished."""
        client = self.client()
        for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            objects = [{"Key": o["Key"], "VersionId": o["VersionId"]} for o in found]
            if objects:
                client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def key_of(self, user: str) -> tuple[str, str]:
        """A new access key of a user, made if need be: its id and its secret. What it may do is up to its policies."""
        iam = self.client("iam")
        with suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_user(UserName=user)
        made = iam.create_access_key(UserName=user)["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]


@contextmanager
def s3() -> Iterator[S3Server]:
    """SeaweedFS in one process, on 127.0.0.1 only, reporting nothing to anybody."""
    import boto3

    parts = ("master", "volume", "filer", "s3", "admin")
    with folder_of_its_own("isthmus-s3-") as folder:
        ports = free_ports(2 * len(parts))
        # Every port is given: the ones left out would be the same for two servers at once.
        port_options = [f"-{part}.port{kind}={ports.pop()}" for part in parts for kind in ("", ".grpc")]
        port = next(o for o in port_options if o.startswith("-s3.port=")).partition("=")[2]
        server = S3Server(f"http://127.0.0.1:{port}", "isthmus", uuid4().hex, uuid4().hex)
        keys = {"accessKey": server.access_key_id, "secretKey": server.secret_access_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = folder / "s3.json"
        administrator = {"name": "administrator", "credentials": [keys], "actions": actions}
        config.write_text(json.dumps({"identities": [administrator]}))
        (folder / "data").mkdir()
        arguments = [
            *(program("weed"), "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(*port_options, "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"),
            *("-s3.iam.readOnly=false", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
        ]
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.access_key_id,
            aws_secret_access_key=server.secret_access_key,
            region_name=server.region,
        )

        def is_ready() -> bool:
            try:
                client.create_bucket(Bucket=server.bucket)
                client.put_object(Bucket=server.bucket, Key=".ready", Body=b"")
                client.delete_object(Bucket=server.bucket, Key=".ready")
            except Exception:  # it answers in many ways before it is up
                return False
            return True

        with running(arguments, is_ready, folder, end_signal=signal.SIGKILL):
            yield server
        client.close()

"""moto for AWS STS: roles are taken on, with an external id; and an S3 that takes the keys it gives.

moto gives everybody any role: it asks neither who comes nor what the trust policy says. What a role's keys may do is
not looked at either.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from isthmus.testing.standins.launching import folder_of_its_own, free_ports, program, running


@dataclass(frozen=True)
class StsServer:
    """A running moto, with one bucket."""

    endpoint: str
    bucket: str = "isthmus"
    region: str = "us-east-1"
    account: str = "123456789012"


@contextmanager
def sts() -> Iterator[StsServer]:
    """moto's server in a process of its own, on 127.0.0.1 only."""
    import boto3

    (port,) = free_ports(1)

    def is_ready() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    with folder_of_its_own("isthmus-sts-") as folder:
        arguments = [program("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
        with running(arguments, is_ready, folder, end_signal=signal.SIGKILL):
            server = StsServer(f"http://127.0.0.1:{port}")
            key = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
            client = boto3.client("s3", endpoint_url=server.endpoint, region_name=server.region, **key)
            client.create_bucket(Bucket=server.bucket)
            client.close()
            yield server

"""Azurite for Azure Blob storage: a real server, whose shared access signatures are really checked."""

from __future__ import annotations

import base64
import datetime
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from isthmus.testing.standins.environments import Unavailable, node_program
from isthmus.testing.standins.launching import folder_of_its_own, free_ports, running

EVERY_RIGHT = "rcwdl"
"""What the connector needs of a container: read, create, write, delete, list."""


@dataclass(frozen=True)
class BlobServer:
    """A running Azurite with one storage account. Make a container of your own in it with `fresh_container()`."""

    endpoint: str
    account: str
    key: str

    def fresh_container(self) -> str:
        from azure.storage.blob import BlobServiceClient

        name = f"test-{uuid4().hex[:12]}"
        with BlobServiceClient(f"{self.endpoint}/{self.account}", credential=self._credential()) as client:
            client.create_container(name)
        return name

    def sas(self, container: str, rights: str = EVERY_RIGHT, *, hours: float = 24 * 365, key: str = "") -> str:
        """A signature for a container. With negative `hours` it has ended; with another `key` it is forged."""
        from azure.storage.blob import generate_container_sas

        now = datetime.datetime.now(datetime.UTC)
        made: str = generate_container_sas(
            self.account,
            container,
            account_key=key or self.key,
            permission=rights,
            start=now - datetime.timedelta(days=2),
            expiry=now + datetime.timedelta(hours=hours),
        )
        return made

    def names(self, container: str) -> list[str]:
        """What lies in a container."""
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient(f"{self.endpoint}/{self.account}", credential=self._credential()) as client:
            return [str(blob.name) for blob in client.get_container_client(container).list_blobs()]

    def put(self, container: str, name: str, data: bytes) -> None:
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient(f"{self.endpoint}/{self.account}", credential=self._credential()) as client:
            client.get_blob_client(container, name).upload_blob(data, overwrite=True)

    def _credential(self) -> dict[str, str]:
        return {"account_name": self.account, "account_key": self.key}


@contextmanager
def azurite() -> Iterator[BlobServer]:
    """Azurite's blob service on 127.0.0.1, reporting nothing to anybody. Raises Unavailable without Node.js."""
    node = shutil.which("node")
    if node is None:
        raise Unavailable("azurite needs Node.js, which is not here")
    command = node_program("azurite", "azurite-blob")
    port = free_ports(1)[0]
    key = base64.b64encode(uuid4().bytes * 4).decode()
    server = BlobServer(f"http://127.0.0.1:{port}", "stageaccount", key)
    with folder_of_its_own("isthmus-azurite-") as folder:
        (folder / "data").mkdir()
        arguments = [
            *("/usr/bin/env", f"AZURITE_ACCOUNTS={server.account}:{key}", node, str(command.resolve())),
            *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "data"), "--silent"),
            # Its clients speak newer versions of the protocol than it knows; what they use of them it understands.
            *("--disableTelemetry", "--skipApiVersionCheck"),
        ]
        with running(arguments, lambda: _answers(port), folder, end_signal=signal.SIGKILL):
            yield server


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

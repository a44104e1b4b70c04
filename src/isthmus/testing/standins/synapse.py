"""A dedicated SQL pool of Azure Synapse Analytics: a wire server of our own, beside Azurite for its staging."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from isthmus.testing.standins import environments
from isthmus.testing.standins.azurite import BlobServer, azurite
from isthmus.testing.standins.launching import folder_of_its_own, free_ports, running


@dataclass(frozen=True)
class SynapseServer:
    """A running server with one administrator. Pools are databases: make one of your own with `fresh_database()`."""

    port: int
    password: str
    blobs: BlobServer
    username: str = "sqladminuser"
    host: str = "127.0.0.1"

    def fresh_database(self) -> str:
        name = f"pool_{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name}")

    def execute(
        self, batch: str, *, database: str = "master", username: str = "", password: str = ""
    ) -> list[tuple[Any, ...]]:
        """Run one batch as the administrator, or as somebody else. Returns its last rows, if it has any."""
        import pytds

        signing_in = {"user": username or self.username, "password": password or self.password}
        with pytds.connect(
            self.host, database, port=self.port, autocommit=True, timeout=60, login_timeout=20, **signing_in
        ) as con:
            with con.cursor() as cursor:
                cursor.execute(batch)
                return cursor.fetchall() if cursor.description else []

    def script(self, text: str, database: str, **signing_in: str) -> None:
        """Run a script whose batches end with GO, as sqlcmd does: what is for `master` there, the rest in the pool."""
        for_master, marker, for_pool = text.partition("-- Part 2")
        for_pool = marker + for_pool
        for part, where in ((for_master, "master"), (for_pool, database)):
            for batch in part.split("\nGO\n"):
                if any(line.strip() and not line.startswith("--") for line in batch.splitlines()):
                    self.execute(batch, database=where, **signing_in)

    def faults(self, *faults: dict[str, Any]) -> None:
        """What is to go wrong from now on, in place of what was before: see `synapse_wire.catalog.Fault`."""
        said = json.dumps(faults).replace("'", "''")
        self.execute(f"EXEC isthmus_fault N'{said}'")

    def statements(self, database: str, login: str = "") -> list[str]:
        """Every batch that was sent to a database since it was made, by one login or all."""
        asked = "SELECT login_name, command FROM sys.dm_pdw_exec_requests"
        found = self.execute(asked, database=database)
        return [str(text) for who, text in found if text != asked and login in ("", who)]


@contextmanager
def synapse(*, certificate: Path | None = None, key: Path | None = None) -> Iterator[SynapseServer]:
    """The pool and its blob storage; TLS with a certificate. Raises Unavailable without Node.js or libltdl."""
    environments.library("libltdl7", "libltdl.so.7")
    with azurite() as blobs, folder_of_its_own("isthmus-synapse-") as folder:
        server = SynapseServer(free_ports(1)[0], f"Pw-{uuid4().hex}", blobs)
        password_file = folder / "password"
        password_file.write_text(server.password)
        arguments = [
            *(sys.executable, "-m", "isthmus.testing.standins.synapse_wire.server", str(server.port)),
            *("--admin", server.username, "--password-file", str(password_file), "--blob-endpoint", blobs.endpoint),
        ]
        if certificate is not None:
            arguments += ["--certificate", str(certificate), "--key", str(key)]
        with running(arguments, lambda: _answers(server.port), folder, end_signal=signal.SIGKILL):
            yield server


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

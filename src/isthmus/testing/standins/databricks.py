"""A Databricks SQL warehouse with Unity Catalog, of our own making: see `databricks_wire` for how true it is."""

from __future__ import annotations

import ipaddress
import json
import signal
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import create_default_context
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.testing.standins.launching import folder_of_its_own, free_ports, running


@dataclass(frozen=True)
class DatabricksServer:
    """A running warehouse. `token` is an administrator's; everybody else has the rights they are granted."""

    hostname: str
    port: int
    http_path: str
    ca_file: str
    token: str
    folder: Path
    administrator: str = "admin@example.org"

    def execute(self, statement: str, *, token: str = "") -> list[tuple[Any, ...]]:
        """Run one statement through the official driver, as the administrator or as who has that token."""
        with closing(self.connect(token)) as con, con.cursor() as cursor:
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]

    def run(self, script: str) -> None:
        """Run a script as the administrator: its statements end at the end of a line."""
        code = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
        for statement in f"{code}\n".split(";\n"):
            if statement.strip():
                self.execute(statement)

    def connect(self, token: str = "") -> Any:
        """A connection of the official driver, which waits for nothing and reports nothing."""
        from databricks import sql

        return sql.connect(
            self.hostname,
            self.http_path,
            token or self.token,
            _port=self.port,
            _tls_trusted_ca_file=self.ca_file,
            _retry_stop_after_attempts_count=1,
            _retry_stop_after_attempts_duration=1,
            enable_telemetry=False,
        )

    def fresh_catalog(self) -> str:
        """Make an empty catalog and return its name."""
        name = f"test_{uuid4().hex[:12]}"
        self.execute(f"CREATE CATALOG {name}")
        return name

    def fill(self, relation: str, rows: pa.Table) -> None:
        """Add rows to a table, by way of a Parquet file, as a customer would."""
        file = self.folder / f"{uuid4().hex}.parquet"
        pq.write_table(rows, file)
        names = ", ".join(f"`{name.replace('`', '``')}`" for name in rows.column_names)
        self.execute(f"INSERT INTO {relation} ({names}) SELECT {names} FROM parquet.`{file}`")
        file.unlink()

    # What no SQL does

    def principal(self, name: str, groups: Sequence[str] = ()) -> str:
        """Make a service principal, or give it other groups. Returns a new token of it."""
        token = f"dapi{uuid4().hex}"
        self._tell("principal", name=name, groups=list(groups), token=token)
        return token

    def end_token(self, token: str) -> None:
        self._tell("token", token=token)

    def fault(self, on: str, do: str, **more: Any) -> None:
        """Have something go wrong: see `databricks_wire.requests.Fault`."""
        self._tell("fault", fault={"on": on, "do": do, **more})

    def state(self, state: str) -> None:
        """The warehouse's state: RUNNING, STOPPED or STARTING; it does no work but in the first."""
        self._tell("state", state=state)

    def heal(self) -> None:
        """No more faults, and the warehouse runs."""
        self._tell("heal")

    def restart(self) -> None:
        """Forget all sessions, as a warehouse does that was stopped and started."""
        self._tell("drop")

    def log(self, after: int = 0) -> list[tuple[str, str]]:
        """Who said which statement since the server started, or after so many of them."""
        return [(user, statement) for user, statement in self._tell("log", after=after)]

    def seen(self) -> list[str]:
        """What was asked of it that is no work for a warehouse: telemetry, say."""
        return list(self._tell("seen"))

    def still_open(self) -> dict[str, int]:
        """How many sessions and operations nobody has closed."""
        return dict(self._tell("open"))

    def _tell(self, what: str, **more: Any) -> Any:
        request = urllib.request.Request(
            f"https://{self.hostname}:{self.port}/test",
            json.dumps({"do": what, **more}).encode(),
            {"Authorization": f"Bearer {self.token}"},
        )
        context = create_default_context(cafile=self.ca_file)
        with urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        ).open(request, timeout=60) as answer:
            return json.loads(answer.read())


@contextmanager
def databricks() -> Iterator[DatabricksServer]:
    """A warehouse in a process of its own, on 127.0.0.1 only, with a certificate that it signed itself."""
    with folder_of_its_own("isthmus-databricks-") as folder:
        port, warehouse = free_ports(1)[0], uuid4().hex[:16]
        ca_file, certificate = _certificate(folder)
        server = DatabricksServer(
            "127.0.0.1", port, f"/sql/1.0/warehouses/{warehouse}", str(ca_file), f"dapi{uuid4().hex}", folder
        )
        given = {
            "port": str(port),
            "folder": str(folder),
            "certificate": str(certificate),
            "administrator": server.administrator,
            "token": server.token,
            "warehouse": warehouse,
        }
        arguments = [sys.executable, "-m", f"{__package__}.databricks_wire", json.dumps(given)]
        with running(arguments, (folder / "ready").exists, folder, end_signal=signal.SIGTERM):
            yield server


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and the file of it with its key that a server loads."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Isthmus stand-in")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = signed.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    ca_file, both = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(public)
    both.write_bytes(secret + public)
    return ca_file, both

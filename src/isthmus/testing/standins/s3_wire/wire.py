"""The wire itself: an HTTP server on a local port that hands everything on to another one."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from isthmus.testing.standins.s3_wire.faults import Fault, Request

_TIMEOUT_S = 60
_OWN_HEADERS = ("connection", "keep-alive", "expect", "transfer-encoding")
"""What concerns one connection only and is not handed on."""
_ERROR = "<Error><Code>{code}</Code><Message>the wire says so</Message><RequestId>1</RequestId></Error>"


@dataclass
class S3Wire:
    """An endpoint that behaves like the one behind it until a fault is given."""

    endpoint: str
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def give(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """As good as new: nothing goes wrong, nothing was asked."""
        for fault in self.faults:
            fault.go_on.set()
        self.faults.clear()
        self.requests.clear()

    def struck(self, method: str, path: str) -> Fault | None:
        return next((f for f in self.faults if f.strikes(method, path)), None)


@contextmanager
def s3_wire(behind: str) -> Iterator[S3Wire]:
    """A wire to the endpoint `behind`."""
    place = urlsplit(behind)
    wire = S3Wire("")

    class Exchange(_Exchange):
        host, port = place.hostname or "", place.port or 80
        over = wire

    with ThreadingHTTPServer(("127.0.0.1", 0), Exchange) as server:
        server.daemon_threads = True
        wire.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield wire
        finally:
            wire.clear()
            server.shutdown()


class _Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S
    host: str
    port: int
    over: S3Wire

    def do_GET(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("the wire hands on bodies of a stated length only")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.over.struck(self.command, self.path)
        status = self._pass(body, fault)
        path, _, query = self.path.partition("?")
        form = body.decode(errors="replace") if "form" in self.headers.get("Content-Type", "") else ""
        self.over.requests.append(Request(self.command, path, query, status, form))

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _pass(self, body: bytes, fault: Fault | None) -> int:
        what = fault.what if fault else None
        if fault and what == "hold":
            fault.is_held.set()
            fault.go_on.wait(_TIMEOUT_S)
        if fault and what == "answer":
            return self._refuse(fault)
        server = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OWN_HEADERS:
                    server.putheader(name, value)
            if what == "cut":
                server.endheaders(body[: len(body) // 2])
                self.close_connection = True
                return 0
            server.endheaders(body)
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        if what == "lose":
            self.close_connection = True
            return 0
        if what == "pretend" and answer.status == 412:
            self._answer(200, [("ETag", '"0"')], b"")
            return 200
        self._answer(answer.status, answer.getheaders(), content)
        return answer.status

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OWN_HEADERS and not (name.lower() == "content-length" and self.command != "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, fault: Fault) -> int:
        text = _ERROR.format(code=fault.code)
        if "form" in self.headers.get("Content-Type", ""):  # STS and IAM wrap it
            text = f"<ErrorResponse>{text}</ErrorResponse>"
        self._answer(fault.status, [("Content-Type", "application/xml")], text.encode())
        return fault.status

    def log_message(self, format: str, *args: object) -> None:
        """The test's own output is not for us."""

"""The HTTP side: tokens for keys, and BigQuery's REST calls, checked and passed on."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from uuid import uuid4

from isthmus.testing.standins.bigquery_wire.access import Access, Refused
from isthmus.testing.standins.bigquery_wire.calls import Call, Calls, Cut, Lost, Refusal
from isthmus.testing.standins.bigquery_wire.statements import Grant, Need, needs, without_grants

_PATH = re.compile(r"/(?:upload/)?bigquery/v2/projects/([^/?]+)/([^?]*)")
_METHODS: tuple[tuple[str, str, str, str], ...] = (
    # HTTP method, path below the project, Google's name, the permission on the dataset in the path
    ("POST", r"queries", "jobs.query", ""),
    ("GET", r"queries/[^/]+", "jobs.getQueryResults", ""),
    ("POST", r"jobs", "jobs.insert", ""),
    ("PUT", r"jobs", "jobs.upload", ""),
    ("GET", r"jobs/[^/]+", "jobs.get", ""),
    ("POST", r"jobs/[^/]+/cancel", "jobs.cancel", ""),
    ("GET", r"datasets", "datasets.list", ""),
    ("GET", r"datasets/([^/]+)", "datasets.get", "bigquery.datasets.get"),
    ("GET", r"datasets/([^/]+)/tables", "tables.list", "bigquery.tables.list"),
    ("POST", r"datasets/([^/]+)/tables", "tables.insert", "bigquery.tables.create"),
    ("GET", r"datasets/([^/]+)/tables/([^/]+)", "tables.get", "bigquery.tables.get"),
    ("DELETE", r"datasets/([^/]+)/tables/([^/]+)", "tables.delete", "bigquery.tables.delete"),
    ("GET", r"datasets/([^/]+)/tables/([^/]+)/data", "tabledata.list", "bigquery.tables.getData"),
)
_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 501: "UNIMPLEMENTED"}
_CONFLICT = re.compile(rb'Failed to commit: Failed to commit DuckLake transaction\.?[^"]*')
_ABORTED = b"Transaction is aborted due to concurrent update against table. Transaction ID: 0. Please retry."
"""How Google says what DuckLake says in its own words: two transactions changed rows of one table."""


class _Denied(Exception):
    """A call that is answered here, with an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class _Asked:
    """A REST call as we understand it."""

    call: Call
    needs: list[Need] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    body: bytes = b""


class Front:
    """Listens on a port of its own while it is open. `behind` is where local-bigquery listens."""

    def __init__(self, access: Access, calls: Calls, behind: tuple[str, int]) -> None:
        self.access, self.calls, self._behind = access, calls, behind
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Answering,), {"front": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        access.token_uri = f"{self.url}/token"
        self.commands: Callable[[bytes], bytes] | None = None
        self.commands_url = f"{self.url}/{uuid4().hex}"
        self._datasets: set[str] = set()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body of the answer to a call. Raises BrokenPipeError where the connection is to drop."""
        try:
            if path == "/token":
                return self._token(body)
            if self.commands is not None and self.commands_url.endswith(path):
                return 200, [("Content-Type", "application/json")], self.commands(body)
            try:
                account = self.access.holder(headers.get("Authorization"))
            except Refused as e:
                raise _Denied(401, "authError", str(e)) from e
            asked = self._understood(account, method, path, headers, body)
            fault = self.calls.note(asked.call)
            if isinstance(fault, Refusal):
                raise _Denied(fault.status, fault.reason, fault.message)
            if isinstance(fault, Cut):
                raise BrokenPipeError
            for need in asked.needs:
                self._require(account, need)
            answer = self._pass_on(method, path, headers, asked.body)
            if answer[0] < 300:
                self._take_over(asked)
                if asked.call.what == "datasets.list":
                    answer = (*answer[:2], self._visible(account, answer[2]))
            if isinstance(fault, Lost):
                raise BrokenPipeError
            return answer
        except _Denied as e:
            return e.status, [("Content-Type", "application/json")], _error(e)

    # Understanding

    def _understood(self, account: str, method: str, path: str, headers: Any, body: bytes) -> _Asked:
        found = _PATH.match(path)
        for verb, pattern, what, permission in _METHODS:
            if found and verb == method and (matched := re.fullmatch(pattern, found[2])):
                if what in ("jobs.query", "jobs.insert"):
                    return self._with_text(account, what, headers, body)
                place = [urllib.parse.unquote(part) for part in (*matched.groups(), "", "")]
                call = Call(account, what, ".".join(part for part in place if part))
                return _Asked(call, [Need(permission, place[0], place[1])] if permission else [], body=body)
        raise _Denied(501, "notImplemented", f"the stand-in knows no {method} {path}")

    def _with_text(self, account: str, what: str, headers: Any, body: bytes) -> _Asked:
        """A call that makes a query run, or a file be loaded."""
        start = Need("bigquery.jobs.create", None)
        if headers.get("Content-Type", "").startswith("multipart/"):
            given, _ = json.JSONDecoder().raw_decode(body[body.index(b"{") :].decode("utf-8", "replace"))
        else:
            given = json.loads(body)
        configuration = {"query": given} if what == "jobs.query" else given["configuration"]
        if "query" not in configuration:
            place = configuration["load"]["destinationTable"]
            loads = [Need(f"bigquery.tables.{verb}", place["datasetId"], place["tableId"]) for verb in _LOADS]
            return _Asked(Call(account, f"{what} load", place["tableId"]), [start, *loads], body=body)
        text = configuration["query"]["query"]
        try:
            rest, grants = without_grants(text)
        except ValueError as e:
            raise _Denied(400, "invalidQuery", f"Syntax error: {e}") from e
        if grants:
            configuration["query"]["query"] = rest or "SELECT 1"
            body = json.dumps(given).encode()
        owns = [Need("bigquery.datasets.update", g.dataset) for g in grants]
        asked = needs(rest)
        if not rest.upper().lstrip().startswith("CREATE SCHEMA"):  # one who makes a dataset owns it
            asked += owns
        kind = " dry run" if (given if what == "jobs.query" else configuration).get("dryRun") else " query"
        return _Asked(Call(account, what + kind, text), [start, *asked], grants, body)

    def _require(self, account: str, need: Need) -> None:
        if self.access.may(account, need.permission, need.dataset):
            return
        project, message = self.access.project, f"Permission {need.permission} denied on "
        if need.dataset is None:
            raise _Denied(
                403,
                "accessDenied",
                f"Access Denied: Project {project}: User does not have {need.permission} permission in project "
                f"{project}.",
            )
        if need.dataset.startswith("_") and need.dataset not in self._datasets:
            return  # where results lie: of whoever asked
        place = f"{project}:{need.dataset}"
        if need.permission.startswith("bigquery.datasets.") or not need.table:
            message = f"Access Denied: Dataset {place}: {message}dataset {place} (or it may not exist)."
        elif not self._is_there(need.dataset):
            return  # no dataset, or no dataset's name at all: what is behind us says so
        elif need.permission == "bigquery.tables.getData":
            message = (
                f"Access Denied: Table {place}.{need.table}: User does not have permission to query table "
                f"{place}.{need.table}, or perhaps it does not exist."
            )
        else:
            message = (
                f"Access Denied: Table {place}.{need.table}: {message}table {place}.{need.table} (or it may not exist)."
            )
        raise _Denied(403, "accessDenied", message)

    def _is_there(self, dataset: str) -> bool:
        if dataset not in self._datasets:
            path = f"/bigquery/v2/projects/{self.access.project}/datasets/{urllib.parse.quote(dataset)}"
            if self._pass_on("GET", path, {}, b"")[0] == 200:
                self._datasets.add(dataset)
        return dataset in self._datasets

    # Doing

    def _token(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        kind = [("Content-Type", "application/json")]
        assertion = urllib.parse.parse_qs(body.decode())["assertion"][0]
        self.calls.note(Call("", "token"))
        try:
            token = self.access.token(assertion)
        except Refused as e:
            return 400, kind, json.dumps({"error": "invalid_grant", "error_description": str(e)}).encode()
        given = {"access_token": token, "expires_in": self.access.seconds, "token_type": "Bearer"}
        return 200, kind, json.dumps(given).encode()

    def _pass_on(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        passed = {k: v for k, v in headers.items() if k.lower() not in _OURS}
        connection = http.client.HTTPConnection(*self._behind, timeout=600)
        try:
            connection.request(method, path, body or None, {**passed, "Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = _CONFLICT.sub(_ABORTED, answer.read())
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("content-length", "transfer-encoding")]
            return answer.status, kept, content
        finally:
            connection.close()

    def _visible(self, account: str, content: bytes) -> bytes:
        """Of a list of datasets those that the account may see."""
        listed = json.loads(content)
        every = listed.get("datasets", [])
        listed["datasets"] = [
            d for d in every if self.access.may(account, "bigquery.datasets.get", d["datasetReference"]["datasetId"])
        ]
        return json.dumps(listed).encode()

    def _take_over(self, asked: _Asked) -> None:
        for grant in asked.grants:
            for role in grant.roles:
                for email in grant.emails:
                    change = self.access.grant if grant.gives else self.access.revoke
                    change(role, grant.dataset, email)
        for need in asked.needs:
            if need.permission == "bigquery.datasets.delete" and need.dataset is not None:
                self.access.forget(need.dataset)


_LOADS = ("updateData", "create")
_OURS = {"authorization", "content-length", "connection", "accept-encoding"}


def _error(e: _Denied) -> bytes:
    inner = {"message": str(e), "domain": "global", "reason": e.reason}
    status = _STATUS.get(e.status, "UNAVAILABLE" if e.status >= 500 else "RESOURCE_EXHAUSTED")
    return json.dumps({"error": {"code": e.status, "message": str(e), "errors": [inner], "status": status}}).encode()


class _Answering(BaseHTTPRequestHandler):
    front: ClassVar[Front]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, headers, content = self.front.answer(self.command, self.path, self.headers, body)
        except BrokenPipeError:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("date", "server", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing goes to the output of the tests: `Calls` keeps it."""

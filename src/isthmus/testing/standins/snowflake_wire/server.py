"""The HTTP side: sign-in, statements, results in parts, uploads; and a back door for tests."""

from __future__ import annotations

import gzip
import json
import secrets
import socket
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from starlette.applications import Starlette  # type: ignore[import-not-found,unused-ignore]
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import answers
from .engine import Engine
from .faults import Fault, Faults
from .naming import Refused, word
from .session import Session
from .signing_in import who

_VERSION = "10.0.0"
_TOKENS_S = 3600


class Server:
    """The routes of one account, with its sessions by token."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.faults = Faults()
        self._sessions: dict[str, Session] = {}
        self._parts: dict[str, pa.Table] = {}
        self._expired: set[str] = set()  # tokens of sessions that were told to sign in again

    def routes(self) -> list[Route]:
        post = ["POST"]
        return [
            Route("/session/v1/login-request", self.sign_in, methods=post),
            Route("/session/token-request", self.renew, methods=post),
            Route("/session", self.end, methods=post),
            Route("/session/heartbeat", self.beat, methods=post),
            Route("/queries/v1/query-request", self.query, methods=post),
            Route("/queries/v1/abort-request", self.nothing, methods=post),
            Route("/telemetry/send", self.nothing, methods=post),
            Route("/parts/{part}", self.part, methods=["GET"]),
            Route("/stages/{path:path}", self.upload, methods=["PUT", "HEAD"]),
            Route("/standin/{what}", self.back_door, methods=post),
        ]

    # Sessions

    async def sign_in(self, request: Request) -> Response:
        data = (await _body(request))["data"]
        if fault := self.faults.strike("sign in", "http", "refuse", "lose"):
            return await self._struck(request, fault)
        query = request.query_params
        try:
            user = who(self.engine.catalog, data)
            role = word(query.get("roleName") or user.properties.get("DEFAULT_ROLE") or "PUBLIC")
            if role not in user.roles and not any(role in self.engine.catalog.all_roles(r) for r in user.roles):
                message = (
                    f"Role '{role}' specified in the connect string is not granted to this user. "
                    "Contact your local system administrator, or attempt to login with another role, e.g. PUBLIC."
                )
                raise Refused(message, 390189, "08001")
            self._let_in(user.properties.get("NETWORK_POLICY"), request)
        except Refused as e:
            return _no(e)
        session = self._open(user.name, role)
        for key, value in (data.get("SESSION_PARAMETERS") or {}).items():
            self.engine.set_parameter(session, key, str(value))
        warehouse = query.get("warehouse") or user.properties.get("DEFAULT_WAREHOUSE")
        await run_in_threadpool(self.engine.use, session, query.get("databaseName"), query.get("schemaName"), warehouse)
        info = {
            "databaseName": session.database,
            "schemaName": session.schema,
            "warehouseName": session.warehouse,
            "roleName": session.role,
        }
        return JSONResponse(
            {
                "success": True,
                "code": None,
                "message": None,
                "data": {
                    "token": session.token,
                    "masterToken": f"m{session.token}",
                    "serverVersion": _VERSION,
                    "sessionInfo": info,
                    "validityInSeconds": _TOKENS_S,
                    "masterValidityInSeconds": 4 * _TOKENS_S,
                    "idToken": None,
                    "sessionId": len(self._sessions),
                    "displayUserName": user.name,
                    "healthCheckInterval": 45,
                    "parameters": [
                        {"name": "AUTOCOMMIT", "value": session.autocommits},
                        {"name": "TIMEZONE", "value": session.parameters["TIMEZONE"]},
                        {"name": "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY", "value": 3600},
                        {"name": "CLIENT_PREFETCH_THREADS", "value": 4},
                    ],
                },
            }
        )

    def _let_in(self, policy: str | None, request: Request) -> None:
        """A user's network policy, taken for addresses in full only: 0.0.0.0/0 lets everybody in."""
        allowed = self.engine.catalog.policies.get(policy or "", ["0.0.0.0/0"])
        address = request.client.host if request.client else ""
        if not {"0.0.0.0/0", address, f"{address}/32"} & set(allowed):
            message = (
                f"Incoming request with IP/Token {address} is not allowed to access Snowflake. Contact your "
                "administrator."
            )
            raise Refused(message, 390422, "08001")

    def _open(self, user: str, role: str) -> Session:
        token = secrets.token_urlsafe(32)
        session = self._sessions[token] = self.engine.open(token, user, role)
        return session

    async def renew(self, request: Request) -> Response:
        token = _token(request).removeprefix("m")
        self._expired.discard(token)
        return JSONResponse(
            {
                "success": True,
                "data": {
                    "sessionToken": token,
                    "validityInSecondsST": _TOKENS_S,
                    "masterToken": f"m{token}",
                    "validityInSecondsMT": 4 * _TOKENS_S,
                    "sessionId": 1,
                },
            }
        )

    async def end(self, request: Request) -> Response:
        session = self._sessions.pop(_token(request), None)
        if session is not None and request.query_params.get("delete"):
            await run_in_threadpool(session.close)
        return await self.nothing(request)

    async def beat(self, request: Request) -> Response:
        return await self.nothing(request)

    async def nothing(self, _: Request) -> Response:
        return JSONResponse({"success": True, "data": None, "code": None, "message": None})

    # Statements

    async def query(self, request: Request) -> Response:
        body = await _body(request)
        session = self._sessions.get(_token(request))
        if session is None:
            return _no(Refused("Session no longer exists.  New login required to access the service.", 390111, "08001"))
        text, request_id = str(body["sqlText"]), request.query_params.get("requestId", "")
        describe_only = bool(body.get("describeOnly"))
        if request_id in session.answered:  # the client asks again because it did not hear the answer
            content = session.answered[request_id]
        else:
            if fault := self.faults.strike(text, "http", "refuse", "lose"):
                return await self._struck(request, fault)
            content = await run_in_threadpool(self._answer, session, text, describe_only)
            session.answered = {request_id: content}  # the last one is enough: a session asks one thing at a time
        if self.faults.strike(text, "drop"):
            return await self._cut(request)
        return JSONResponse(content)

    def _answer(self, session: Session, text: str, describe_only: bool) -> dict[str, Any]:
        try:
            answer = self.engine.run(session, text, describe_only=describe_only)
            data, others = answers.as_data(answer, session.database, session.schema)
        except Refused as e:
            return _refusal(e)
        except Exception as e:  # a statement the stand-in cannot run: said, not tried again and again
            traceback.print_exc()
            return _refusal(Refused(f"the stand-in failed: {type(e).__name__}: {e}", 603, "XX000"))
        if others:
            data["chunks"] = [self._kept(part) for part in others]
            data["chunkHeaders"] = {}
        return {"success": True, "data": data, "code": None, "message": None}

    def _kept(self, part: pa.Table) -> dict[str, Any]:
        name = secrets.token_urlsafe(16)
        self._parts[name] = part
        size = part.nbytes
        return {
            "url": f"{self.engine.url}/parts/{name}",
            "rowCount": part.num_rows,
            "uncompressedSize": size,
            "compressedSize": size,
        }

    async def part(self, request: Request) -> Response:
        part = self._parts.get(request.path_params["part"])
        if part is None:
            return Response(status_code=404)
        return Response(await run_in_threadpool(answers.ipc, part), media_type="application/octet-stream")

    async def upload(self, request: Request) -> Response:
        path, content = request.path_params["path"], await request.body()
        if request.method == "HEAD":
            return Response(status_code=404)
        if fault := self.faults.strike(path, "upload"):
            return Response(status_code=fault.status)
        if self.faults.strike(path, "truncate"):
            content = content[: len(content) // 2]
        kept = await run_in_threadpool(self.engine.stages.keep, path, content)
        return Response(status_code=200 if kept else 400)

    # Faults

    async def _struck(self, request: Request, fault: Fault) -> Response:
        if fault.kind == "http":
            return Response(status_code=fault.status)
        if fault.kind == "lose":
            return await self._cut(request)
        session = self._sessions.get(_token(request)) if "authorization" in request.headers else None
        if fault.code in (390111, 390112, 390114) and session is not None:
            self._expired.add(session.token)
        return _no(Refused(fault.message or "a fault of the stand-in", fault.code, "57P03"))

    async def _cut(self, request: Request) -> Response:
        """Close the line under the client's feet."""
        transport = request.scope.get("isthmus.transport")
        if transport is not None:
            transport.abort()
        return Response(status_code=502)

    # For tests

    async def back_door(self, request: Request) -> Response:
        about = await _body(request)
        match request.path_params["what"]:
            case "execute":
                return await run_in_threadpool(self._execute, about)
            case "log":
                return JSONResponse(self.engine.log[about.get("since", 0) :])
            case "faults":
                self.faults.clear()
                for fault in about["faults"]:
                    self.faults.switch_on(fault)
            case "settings":
                self.engine.idle_abort_s = float(about["idle_abort_s"])
            case "state":
                sessions = [s for s in self._sessions.values() if not s.closed]
                return JSONResponse({"held": self.engine.locks.held(), "sessions": len(sessions)})
        return JSONResponse({})

    def _execute(self, about: dict[str, Any]) -> Response:
        """Run statements as an administrator, in a session of their own."""
        user = self.engine.catalog.users["ADMIN"]
        session = self._open(user.name, about["role"])
        session.parameters["TIMEZONE"] = "UTC"
        try:
            self.engine.use(session, about.get("database"), about.get("schema"), "ADMIN_WH")
            rows: list[list[Any]] = []
            for statement in about["statements"]:
                rows = self.engine.run(session, statement).plain()
            return Response(json.dumps(rows, default=str), media_type="application/json")
        except Refused as e:
            return JSONResponse({"error": str(e), "code": e.code, "statement": statement}, status_code=422)
        finally:
            self._sessions.pop(session.token, None)
            session.close()


def _refusal(e: Refused) -> dict[str, Any]:
    code = f"{e.code:06}"
    return {
        "success": False,
        "code": code,
        "message": str(e),
        "data": {
            "errorCode": code,
            "sqlState": e.state,
            "queryId": secrets.token_hex(8),
            "internalError": False,
            "pos": -1,
            "line": -1,
            "type": "COMPILATION",
        },
    }


def _no(e: Refused) -> Response:
    return JSONResponse(_refusal(e))


def _token(request: Request) -> str:
    return str(request.headers.get("Authorization", ""))[17:-1]


async def _body(request: Request) -> dict[str, Any]:
    content = await request.body()
    if request.headers.get("content-encoding") == "gzip":
        content = gzip.decompress(content)
    found: dict[str, Any] = json.loads(content or b"{}")
    return found


def serve(port: int, folder: Path, admin_password: str, idle_abort_s: float) -> None:
    """Serve on 127.0.0.1 until told to end."""
    import uvicorn

    engine = Engine(folder, idle_abort_s)
    engine.url = f"http://127.0.0.1:{port}"
    make_administrator(engine, admin_password)
    routed = Starlette(routes=Server(engine).routes())

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        # uvicorn's `send` is a method of what holds the connection: a fault can cut the line by it.
        scope["isthmus.transport"] = getattr(getattr(send, "__self__", None), "transport", None)
        await routed(scope, receive, send)

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", http="h11", lifespan="off")
    # Said to be TCP, or asyncio does not switch off Nagle's algorithm, and each answer takes 40 ms.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    uvicorn.Server(config).run(sockets=[sock])


def make_administrator(engine: Engine, password: str) -> None:
    """The one user a new account has, and a warehouse of its own."""
    from .catalog import User

    everything = {"ACCOUNTADMIN", "SYSADMIN", "SECURITYADMIN", "USERADMIN", "PUBLIC"}
    user = User("ADMIN", password=password, roles=everything, properties={"DEFAULT_ROLE": "SYSADMIN"})
    engine.catalog.users["ADMIN"] = user
    engine.catalog.make("WAREHOUSE", ("ADMIN_WH",), "SYSADMIN")

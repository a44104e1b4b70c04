"""A listening server on a thread of its own."""

from __future__ import annotations

import errno
import socket
import threading
import time
from typing import Self

import uvicorn
from starlette.applications import Starlette

from isthmus import logs
from isthmus.model.errors import InvalidInput

LOG = logs.log(__name__)

_STARTS_WITHIN_S = 10.0
_STOPS_WITHIN_S = 2.0


class Server:
    """One that listens. `port` is the real one. Use it as a context, or call `stop`."""

    def __init__(self, application: Starlette, listening: socket.socket) -> None:
        self.host, self.port = listening.getsockname()[:2]
        self._server = uvicorn.Server(
            uvicorn.Config(
                application,
                access_log=False,
                lifespan="off",
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=5,
                ws="none",
            )
        )
        # A daemon: an endpoint that hangs must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="http", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def start(self) -> Self:
        """Answer requests; comes back when it does."""
        self._thread.start()
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the HTTP server did not start")
            time.sleep(0.01)
        LOG.info("listening", url=self.url)
        return self

    def stop(self) -> None:
        """Answer what is being answered, for up to a second, and be gone within two. Calling twice is safe."""
        self._server.should_exit = True
        self._thread.join(_STOPS_WITHIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(application: Starlette, host: str, port: int) -> Server:
    """Listen on `host` and `port` (0: any that is free) and answer from a thread in the background.

    Raises InvalidInput if the port is taken or the host is no address of this machine.
    """
    return Server(application, _listening(host, port)).start()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=128)
    except OSError as e:
        match e.errno:
            case errno.EADDRINUSE:
                what, hint = f"the port {port} is taken", "end what listens there, or set ISTHMUS_HTTP_PORT"
            case errno.EACCES:
                what, hint = f"the port {port} may not be used", "set ISTHMUS_HTTP_PORT to one from 1024"
            case _:
                what, hint = f"{host} is no address of this machine", "set ISTHMUS_HTTP_HOST, for example to 0.0.0.0"
        raise InvalidInput(f"cannot listen: {what}", hint=hint, vendor=str(e)) from e

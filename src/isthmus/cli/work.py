"""`isthmus serve` and `isthmus worker`."""

from __future__ import annotations

import signal
import threading
from typing import Annotated, Any

import typer

from isthmus import logs
from isthmus.actions import working
from isthmus.api import application, server
from isthmus.app import App
from isthmus.cli.common import Home, Json, opened, out, print_json
from isthmus.runs.worker import Worker
from isthmus.settings import Settings

Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Goes before ISTHMUS_HTTP_PORT. 0: any.")]


def serve(port: Port = None, home: Home = None, as_json: Json = False) -> None:
    """Run everything in one process: schedules, runs, alerts, and the endpoints for monitoring. Ends with Ctrl-C."""
    with opened(home, as_json) as app:
        _work(app, "serve", port, as_json)


def worker(
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Also answer /healthz, /readyz and /metrics there.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Be one more worker of an Isthmus that several processes share (ISTHMUS_DATABASE_URL). Ends with Ctrl-C."""
    with opened(home, as_json) as app:
        _work(app, "worker", port, as_json)


def _work(app: App, role: str, port: int | None, as_json: bool) -> None:
    _configure(app.settings)
    own = working.worker(app, role)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: own.stop())
    listens = role == "serve" or port is not None
    with working.watching(app):
        if not listens:
            _told(own, None, as_json)
            own.run()
            return
        wanted = app.settings.http_port if port is None else port
        with server.serve(application.build(app), app.settings.http_host, wanted) as listening:
            _told(own, listening.url, as_json)
            own.run()


def _told(own: Worker, url: str | None, as_json: bool) -> None:
    """Say that it works as soon as it does: who started it may wait for this line."""

    def tell() -> None:
        own.is_ready.wait()
        if as_json:
            print_json({"ready": True, "worker_id": own.worker_id, "url": url})
        else:
            where = f" Health and metrics: {url}/readyz, {url}/metrics." if url else ""
            out.print(f"Isthmus is at work.{where} Ctrl-C ends it.")
        out.file.flush()

    threading.Thread(target=tell, daemon=True).start()


def _configure(s: Settings) -> None:
    hidden: list[Any] = [s.database_url, s.s3_secret_access_key, s.secret_key, s.smtp_url, s.alert_webhook_secret]
    logs.configure(s.log_format == "json", s.log_level, hidden=[secret for secret in hidden if secret])

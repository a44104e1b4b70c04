"""The HTTP application: the probes, the metrics, and whatever else is mounted beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from isthmus import logs
from isthmus.actions import observing
from isthmus.api import metrics
from isthmus.app import App
from isthmus.model.checks import Check

LOG = logs.log(__name__)


def build(app: App, extra: Sequence[BaseRoute] = (), *, store: Callable[[App], Check] | None = None) -> Starlette:
    """The application over `app`, with `extra` routes after our own. `store`: see `observing.readiness`.

    Endpoints are plain functions: they run on threads, and so may `app.ledger`; `app.lake` may not.
    """
    registry = metrics.registry(app)

    def healthz(request: Request) -> Response:
        return answer(observing.health(app))

    def readyz(request: Request) -> Response:
        checks = observing.readiness(app, store=store)
        ready = all(check.passed for check in checks)
        told = [
            {"check": check.question, "passed": check.passed, "detail": check.detail, "hint": check.hint}
            for check in checks
        ]
        return answer({"ready": ready, "checks": told}, status=200 if ready else 503)

    def read_metrics(request: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST, **_FRESH})

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", read_metrics), *extra],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )


def answer(document: Any, *, status: int = 200) -> Response:
    """A JSON document that nobody keeps."""
    text = json.dumps(document, ensure_ascii=False) + "\n"
    return Response(text, status_code=status, media_type="application/json", headers=_FRESH)


_FRESH = {"Cache-Control": "no-store"}


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    summaries = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not possible here"}
    response = answer({"error": summaries.get(error.status_code, error.detail)}, status=error.status_code)
    response.headers.update(error.headers or {})
    return response


def _failed(request: Request, error: Exception) -> Response:
    # Without the exception: Starlette raises it again after the answer, and the server logs its traceback.
    LOG.error("request failed", method=request.method, path=request.url.path)
    return answer({"error": "this could not be answered: the log says why"}, status=500)

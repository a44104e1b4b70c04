"""What a machine asks about this Isthmus: is it up, can it work, how does everything stand. Nothing is changed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlsplit

from isthmus import __version__
from isthmus.app import App
from isthmus.ledger import figures as ledger_figures
from isthmus.ledger import workers
from isthmus.ledger.database import Ledger
from isthmus.ledger.figures import Figures
from isthmus.model.checks import Check
from isthmus.model.errors import IsthmusError, StoreMissing

ALIVE = timedelta(seconds=30)
"""A worker that has not been seen for so long does not count."""

_PATIENCE_S = 2.0

LEDGER = "the ledger answers"
WORKER = "a worker is there"
STORE = "the store is reachable"


def health(app: App) -> dict[str, str]:
    """That this process is up: its answer depends on nothing else."""
    return {"status": "up", "version": __version__}


def readiness(app: App, *, store: Callable[[App], Check] | None = None) -> list[Check]:
    """Whether work can be done here, question by question; `store` asks after the store in place of `reach_store`.

    Never raises for a "no", and no answer holds a secret. A worker that carries out one command of a person does not
    count: it takes up nothing by itself.
    """
    try:
        with _ledger(app).reading() as tx:
            present = workers.every(tx)
    except Exception as e:  # whatever it is: a probe must get its answer
        summary, hint = (e.summary, e.hint) if isinstance(e, IsthmusError) else (type(e).__name__, "see the log")
        unknown = Check(WORKER, False, detail="not known: the ledger does not answer")
        return [Check(LEDGER, False, detail=summary, hint=hint), unknown, (store or reach_store)(app)]
    seen = [worker.seen_at for worker in present if worker.takes_runs]
    alive = sum(at > app.now() - ALIVE for at in seen)
    if alive:
        beating = Check(WORKER, True, detail=f"{alive} alive")
    else:
        last = f"the last one was seen at {max(seen):%Y-%m-%d %H:%M:%S} UTC" if seen else "none has signed on"
        beating = Check(WORKER, False, detail=last, hint="start one: isthmus serve, or isthmus worker")
    return [Check(LEDGER, True), beating, (store or reach_store)(app)]


def reach_store(app: App) -> Check:
    """Whether the store can be reached, without opening it: its folder, or the bucket's host.

    The database of a shared store is the ledger's too, which answers for itself.
    """
    storage_url = app.settings.storage_url
    if storage_url is None:
        return _reach_folder(app)
    endpoint = urlsplit(app.settings.s3_endpoint or f"https://s3.{app.settings.s3_region or 'us-east-1'}.amazonaws.com")
    host, port = endpoint.hostname or "", endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except OSError as e:
        detail = f"{host}:{port} does not answer: {e.strerror or e}"
        return Check(STORE, False, detail=detail, hint="check ISTHMUS_S3_ENDPOINT, and that it runs")
    return Check(STORE, True)


def figures(app: App) -> Figures:
    """How everything stands, at one moment. Raises StoreError if the ledger does not answer."""
    at = app.now()
    with _ledger(app).reading() as tx:
        return ledger_figures.read(tx, at=at, seen_after=at - ALIVE)


def _ledger(app: App) -> Ledger:
    """The ledger, if it is still there: SQLite would go on reading a file that was removed, and nobody else sees it."""
    ledger = app.ledger
    if not app.settings.scaled and not os.path.exists(ledger.place):
        raise StoreMissing(f"the ledger {ledger.place} was removed", hint="bring it back and start this process again")
    return ledger


def _reach_folder(app: App) -> Check:
    folder = app.home / "store"
    if not folder.exists():
        folder = app.home  # nothing has landed yet
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Check(
            STORE,
            False,
            detail=f"the folder {folder} is not there or may not be written to",
            hint="check ISTHMUS_HOME, and who may read and write there",
        )
    return Check(STORE, True)

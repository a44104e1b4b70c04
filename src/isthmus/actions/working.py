"""Working: this process as a worker, until it is asked to end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from isthmus.actions import alerting
from isthmus.actions.checking import Nightly
from isthmus.actions.here import work_of
from isthmus.actions.syncing import tidy_if_free
from isthmus.app import App
from isthmus.ledger import runs, syncs
from isthmus.ledger.presence import presence
from isthmus.logs import bound, log
from isthmus.model.errors import InvalidInput, IsthmusError
from isthmus.model.work import Attempt, Run, RunState
from isthmus.runs.attempt import Ended, Hands, carry_out
from isthmus.runs.worker import Role, Worker
from isthmus.warehouses import kinds

WATCH_S = 30
"""How often a worker looks for incidents. An incident is told within this time and the one it takes to tell."""

UPKEEP_S = 900

CHECKS_S = 20
"""How often a worker looks whether the checks of a connection are to be repeated."""

_log = log("worker")


def worker(app: App, role: str) -> Worker:
    """A worker over this app: "serve", the only one of a home, or one of several "worker"s that share a database.

    `run` it; other threads and signals may `stop` it. Raises InvalidInput for a second worker on a home.
    """
    if role == "worker" and not app.settings.scaled:
        raise InvalidInput(
            "this home cannot be shared between processes",
            hint="use `isthmus serve`; for several workers set ISTHMUS_DATABASE_URL and ISTHMUS_STORAGE_URL",
        )
    app.lake  # noqa: B018 - opened here, once, before threads ask for it
    part = Role(
        name=role,
        alone=not app.settings.scaled,
        slots=app.settings.worker_slots,
        carry=lambda attempt, hands: _carry(app, attempt, hands),
        limit_of=kinds.loads_at_once,
        keep=timedelta(days=app.settings.run_retention_days),
    )
    return Worker(
        app.ledger,
        app.ledger_place(),
        lambda: presence(app.home / "workers", app.settings.database_url),
        part,
        app.now,
    )


@contextmanager
def watching(app: App) -> Iterator[None]:
    """Look for incidents, keep the store's files in order and repeat checks at night, each on a thread of its own:
    whatever becomes of the worker, it is seen and told."""
    over = threading.Event()
    threads = [
        threading.Thread(target=_repeat, args=(over, WATCH_S, "watch", lambda: _watch(app))),
        threading.Thread(target=_repeat, args=(over, UPKEEP_S, "upkeep", lambda: _tidy(app))),
        threading.Thread(target=_repeat, args=(over, CHECKS_S, "checks", Nightly(app).look)),
    ]
    for thread in threads:
        thread.daemon = True
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(5)


def _carry(app: App, attempt: Attempt, hands: Hands) -> Ended:
    with app.ledger.reading() as tx:
        run = runs.get(tx, attempt.run_id)
        sync = syncs.by_id(tx, run.sync_id)
    lake = app.lake.beside()
    try:
        with bound(sync=sync.name):
            _log.info("attempt begins", kind=run.kind.value)
            began = time.monotonic()
            ended = carry_out(app.ledger, lambda: work_of(app, sync, lake), attempt, hands)
            _tell(ended, time.monotonic() - began)
            return ended
    finally:
        lake.close()


def _tell(ended: Ended, seconds: float) -> None:
    run, e = ended.run, ended.error
    fields = {"seconds": round(seconds, 3), "state": run.state.value if run else "over"}
    if run is not None:
        fields |= {"rows_done": run.rows_done, "rows_total": run.rows_total, "bytes_done": run.bytes_done}
    if e is None:
        _log.info("attempt ends", **fields)
    elif isinstance(run, Run) and run.state in (RunState.FAILED, RunState.RETRYING):
        at = run.retry_at.isoformat() if run.retry_at else None
        _log.warning("attempt fails", problem=e.summary, code=e.code, hint=e.hint, retry_at=at, **fields)
    else:
        _log.info("attempt stops", because=e.summary, **fields)


def _watch(app: App) -> None:
    for told in alerting.check_alerts(app)[1]:
        if told.error:
            _log.warning("alert could not be told; trying again later", channel=told.channel, problem=told.error)


def _tidy(app: App) -> None:
    lake = app.lake.beside()
    try:
        tidy_if_free(app, lake=lake)
    finally:
        lake.close()


def _repeat(over: threading.Event, seconds: float, what: str, do: Callable[[], object]) -> None:
    pause = random.uniform(1, 3)  # processes that were started together need not look together
    while not over.wait(pause):
        pause = seconds
        with suppress(Exception), bound(worker_id=what):
            try:
                do()
            except IsthmusError as e:
                _log.warning(f"{what} could not be done; trying again later", problem=e.summary, vendor=e.vendor)
            except Exception as e:
                _log.error(f"{what} failed", problem=type(e).__name__, exc_info=True)

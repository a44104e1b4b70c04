"""This process as one that carries out runs itself, because a person asked for it and no worker is there to do it.

For as long as it does it is a worker among others: known in the ledger, with a presence, and given up when it dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from isthmus.app import App
from isthmus.exports.deliver import Delivery
from isthmus.imports.compare import Comparison
from isthmus.imports.relation import Arrival
from isthmus.ledger import connections, dues, lanes, runs, syncs, workers
from isthmus.ledger.database import Tx
from isthmus.ledger.presence import Presence, new_worker_id, place, presence
from isthmus.model.errors import InvalidInput, IsthmusError, RunStopped, SyncBusy
from isthmus.model.work import ACTIVE, Attempt, Run, RunKind, RunState, Sync
from isthmus.runs import retry
from isthmus.runs.attempt import Ended, Hands, Report, Work, carry_out
from isthmus.runs.housekeeping import CUT_OFF_S
from isthmus.store.lake import Lake
from isthmus.warehouses import kinds

_BEAT_S = 1.0
_LOOK_S = 0.5
_AGAIN = "run it again, or start `isthmus serve`, which does so by itself"


@contextmanager
def present(app: App) -> Iterator[Here]:
    """Be there, as a command, until the end of the context."""
    own = presence(app.home / "workers", app.settings.database_url)
    worker_id = new_worker_id()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_S):
            with suppress(Exception):
                own.keep()
                with app.ledger.transaction() as tx:
                    workers.beat(tx, worker_id, at=app.now())

    own.hold(worker_id)
    try:
        with app.ledger.transaction() as tx:
            workers.join(tx, worker_id, role="command", place=place(), at=app.now())
        beating = threading.Thread(target=beat, name="beat", daemon=True)
        beating.start()
        try:
            yield Here(app, own, worker_id)
        finally:
            over.set()
            beating.join(5)
            with suppress(IsthmusError), app.ledger.transaction() as tx:
                workers.leave(tx, worker_id)
    finally:
        own.close()


def workers_there(app: App) -> bool:
    """Whether a worker is at work, so that what is scheduled starts by itself."""
    own = presence(app.home / "workers", app.settings.database_url)
    try:
        return _is_any_at_work(app, own)
    finally:
        own.close()


def _is_any_at_work(app: App, own: Presence) -> bool:
    with app.ledger.reading() as tx:
        there = {w.worker_id for w in workers.every(tx) if w.takes_runs}
    if there - own.gone(there):
        return True
    return bool(there - _gone(app, own, there))


def _gone(app: App, own: Presence, worker_ids: Collection[str]) -> set[str]:
    """Those of them whose lock is free and, where that may mean a lost connection, who give no beat while one waits."""
    free = own.gone(worker_ids)
    return free & _silent(app) if free and not own.is_certain else free


def _silent(app: App) -> set[str]:
    """Those who give no beat while one waits for it, and those that nobody knows any more."""
    with app.ledger.reading() as tx:
        before = {w.worker_id: w.beat for w in workers.every(tx)}
    time.sleep(CUT_OFF_S)
    with app.ledger.reading() as tx:
        living = {w.worker_id for w in workers.every(tx) if before.get(w.worker_id) != w.beat}
        return (set(before) | set(lanes.going(tx).values())) - living


class Here:
    """What this process can do while it is present."""

    def __init__(self, app: App, own: Presence, worker_id: str) -> None:
        self._app, self._presence, self.worker_id = app, own, worker_id

    def workers(self) -> bool:
        """Whether somebody takes up runs by himself."""
        return _is_any_at_work(self._app, self._presence)

    def forget_the_dead(self) -> None:
        """Take from processes that have ended what they were at. Workers do so all the time."""
        with self._app.ledger.reading() as tx:
            there = [w.worker_id for w in workers.every(tx) if w.worker_id != self.worker_id]
            there += [worker_id for worker_id in lanes.going(tx).values() if worker_id != self.worker_id]
        gone = _gone(self._app, self._presence, there)
        if gone:
            with self._app.ledger.transaction() as tx:
                lanes.lost(tx, gone, deaths=retry.MAX_DEATHS, failures_limit=retry.MAX_FAILURES, at=self._app.now())
                for worker_id in gone:
                    workers.leave(tx, worker_id)

    def run(self, name: str, report: Report) -> Run | None:
        """Carry out the run of a sync that is under way or, if there is none, the next one: the run as it is then.

        Raises what stopped it."""
        self.forget_the_dead()
        now = self._app.now()
        with self._app.ledger.transaction() as tx:
            sync = syncs.named(tx, name)
            active = runs.active(tx, sync.sync_id)
            attempts = dues.start(tx, sync.sync_id, at=now) if active is None else self._taken_up(tx, active, now)
            begun = {a: lanes.begin(tx, a, self.worker_id, at=now) for a in attempts}
            if begun and not workers.is_there(tx, self.worker_id):
                raise RunStopped(
                    "the others took this process for gone: it was frozen or cut off", hint=f"isthmus sync run {name}"
                )
        run: Run | None = None
        for attempt, its in begun.items():
            if its is not None:
                run = self.carry(attempt, its, report)
        return run

    def _taken_up(self, tx: Tx, active: Run, now: datetime) -> list[Attempt]:
        busy = [a for a in lanes.going(tx) if a.run_id == active.run_id]
        if busy:
            raise SyncBusy(
                f"a run of {active.sync_name!r} is under way in another process ({active.run_id})",
                hint=f"it goes on there; see `isthmus sync show {active.sync_name}`",
            )
        return lanes.queue(tx, active.run_id, at=now)

    def carry(self, attempt: Attempt, run: Run, report: Report) -> Run:
        """Carry out one attempt that these hands hold. Raises what stopped it."""
        with self._app.ledger.reading() as tx:
            sync = syncs.by_id(tx, run.sync_id)
        hands = Hands(self.worker_id, self._app.now, report=report, alone=True)
        ended: Ended = carry_out(self._app.ledger, lambda: work_of(self._app, sync), attempt, hands, begun=run)
        if ended.error is not None:
            if ended.run is not None and ended.run.state is RunState.RETRYING:  # and nobody is there to do so
                ended.error.hint = "; ".join(h for h in (ended.error.hint, _AGAIN) if h)
            elif ended.run is not None and ended.run.errors and ended.run.errors[-1].blame:
                mended = f"when that is mended: isthmus connection check {sync.connection_name}"
                ended.error.hint = "; ".join(h for h in (ended.error.hint, mended) if h)
            raise ended.error
        assert ended.run is not None
        return ended.run

    def before(self, name: str) -> set[str]:
        """The runs of a sync whose moment is fixed by now, or about to be: none of them brings what came meanwhile.

        No clock says so: that of another machine, or of a moment ago, may be another one."""
        with self._app.ledger.reading() as tx:
            found = runs.newest(tx, sync_id=syncs.named(tx, name).sync_id, limit=100)
        return {run.run_id for run in found if run.planned or run.state is RunState.RUNNING}

    def hand_over(self, name: str, before: set[str], report: Report, *, wait: bool) -> Run | None:
        """Have the workers bring a sync up to date, by a run that is not among those `before`. See
        `syncing.run_sync`."""
        while True:
            now = self._app.now()
            with self._app.ledger.transaction() as tx:
                sync = syncs.named(tx, name)
                active = runs.active(tx, sync.sync_id)
                if active is None:
                    dues.start(tx, sync.sync_id, at=now)
                    active = runs.active(tx, sync.sync_id)
                elif active.state is RunState.RETRYING:
                    lanes.queue(tx, active.run_id, at=now)
            assert active is not None
            if not wait:
                if active.kind is RunKind.VERIFICATION:
                    raise SyncBusy(f"{name!r} is being verified ({active.run_id})", hint="wait for the end of it")
                return active
            done = self._waited(active.run_id, report)
            if done.state is RunState.COMPLETED and done.run_id not in before:
                return done if done.chunks else None
            if done.state is not RunState.COMPLETED:
                raise _what_stopped(done)

    def _waited(self, run_id: str, report: Report) -> Run:
        while True:
            with self._app.ledger.reading() as tx:
                run = runs.get(tx, run_id)
            report(run, run.rows_done)
            if run.state not in ACTIVE or run.state is RunState.PAUSED:
                return run
            if not self.workers():
                raise RunStopped(
                    f"the run {run_id} waits: no worker is there any more", hint=f"isthmus sync run {run.sync_name}"
                )
            time.sleep(_LOOK_S)


def _what_stopped(run: Run) -> IsthmusError:
    if run.state is RunState.FAILED and run.errors:
        last = run.errors[-1]
        return RunStopped(last.summary, hint=last.hint, code=last.code, vendor=last.vendor)
    return RunStopped(f"the run {run.run_id} is {run.state.value}", hint=f"isthmus run show {run.run_id}")


def work_of(app: App, sync: Sync, lake: Lake | None = None) -> Work:
    """What runs of a sync need, on this store, or on the given view of it for a thread.

    The connection is as it is now. Raises InvalidInput if its credentials cannot be unsealed, or if it was removed.
    """
    if sync.intake is None:
        return delivery_of(app, sync, lake)
    with app.ledger.reading() as tx:
        connection = connections.by_id(tx, sync.connection_id)
    kind = Comparison if sync.intake.key else Arrival
    return kind(lake or app.lake, app.ledger, app.config(connection), app.now, app.settings.phone_region)


def delivery_of(app: App, sync: Sync, lake: Lake | None = None) -> Delivery:
    """What runs of an export need. Raises InvalidInput for an import: only what was delivered can be proven."""
    if sync.intake is not None:
        raise InvalidInput(f"{sync.name!r} is an import", hint="this is for exports")
    with app.ledger.reading() as tx:
        connection = connections.by_id(tx, sync.connection_id)
    at_once = kinds.loads_at_once(connection.kind, connection.concurrency)
    return Delivery(lake or app.lake, app.ledger, app.config(connection), app.now, at_once)

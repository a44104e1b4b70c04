"""The run engine: DBOS behind five calls, on SQLite and PostgreSQL with the same code.

It answers one question: which worker carries out which attempt when. It claims atomically, keeps the limit of every
connection, and delays. What an attempt means, what became of it and who may write is in the ledger alone
(`ledger.lanes`); so nothing here is a checkpoint, and the engine could be another one. What was found out about it:
docs/architecture.md, "Runs", and docs/decisions/0010-dbos.md.

DBOS is one for a process, and so is `Engine`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine as Database
from sqlalchemy import create_engine, event

from isthmus.ledger.database import NOTICED, PATIENCE_S, Tx, database_url, errors_of
from isthmus.model.errors import InvalidInput
from isthmus.model.work import Attempt

LIMITS = (1, 2, 4, 8)
"""How many lanes a connection may have going at once: there is a queue for each, shared by all connections like it."""

_APPLICATION = "isthmus"
_VERSION = "1"
"""Never changes. DBOS leaves attempts of another version alone for ever; ours mean the same in every one of ours."""

_SCHEMA = "isthmus_engine"
_WORKFLOW = "attempt"
_STEP = 500

Do = Callable[[Attempt], None]


class AttemptState(StrEnum):
    """What the engine knows of an attempt."""

    WAITING = "waiting"  # for its time, or for room
    GOING = "going"  # a worker has it
    OVER = "over"  # it came back, however


_STATES = {
    "ENQUEUED": AttemptState.WAITING,
    "DELAYED": AttemptState.WAITING,
    "PENDING": AttemptState.GOING,
}


class Engine:
    """DBOS, launched: it calls `do` with the attempts this process is to carry out, each on a thread of its own.

    `slots` is how many attempts it takes at a time at one connection. At how many connections is not its to limit: one
    where everything hangs must not keep it from the others (see `runs.room`).

    `where` is what `open_ledger` was given: both are in one database, so that an attempt can be queued in the
    transaction that says so. Raises StoreAway or StoreBusy if that does not answer.
    """

    def __init__(self, where: Any, worker_id: str, do: Do, *, slots: int, poll_s: float = 1.0) -> None:
        from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer

        global _do
        self._dbos, self._worker_id = DBOS, worker_id
        self._database = _database(where)
        serializer = DBOSPortableJSONSerializer()  # else pickle
        logging.getLogger("dbos").setLevel(logging.WARNING)
        DBOS(
            config={
                "name": _APPLICATION,
                "system_database_engine": self._database,
                "dbos_system_schema": _SCHEMA,
                "serializer": serializer,
                "executor_id": worker_id,  # never two with the same: they would take each other's attempts
                "application_version": _VERSION,
                "log_level": "WARNING",
                "use_listen_notify": False,
                "notification_listener_polling_interval_sec": 2.0,
                "scheduler_polling_interval_sec": 3600.0,  # ours is `housekeeping.tick`
            }
        )
        _register(DBOS)
        _do = do
        self._slots, self._poll_s = slots, poll_s
        self._heard: set[int] = set()
        try:
            with errors_of(self._database.url.render_as_string(hide_password=True)):
                DBOS.launch()
                self._client = DBOSClient(
                    system_database_engine=self._database,
                    dbos_system_schema=_SCHEMA,
                    serializer=serializer,
                    application_name=_APPLICATION,
                )
        except BaseException:  # the database is away: the next one to try must find no half of this one
            DBOS.destroy()
            self._database.dispose()
            raise

    def hear(self, limits: Iterable[int]) -> None:
        """Take attempts at connections with these limits too. Each limit costs a thread that asks the database."""
        for limit in set(limits) - self._heard:
            self._dbos.register_queue(  # only once it is launched
                _queue(limit),
                partition_concurrency=limit,
                worker_concurrency=None,
                partition_worker_concurrency=min(limit, self._slots),
                polling_interval_sec=self._poll_s,
                on_conflict="always_update",
            )
            self._heard.add(limit)

    def enqueue(self, tx: Tx, attempt: Attempt, *, partition: str, limit: int, delay_s: float = 0.0) -> None:
        """Queue an attempt, in the caller's transaction on the ledger. One that is known already stays as it is.

        At most `limit` (one of LIMITS) attempts with the same `partition` are going at once, on all workers together.
        """
        options: dict[str, Any] = {
            "workflow_name": _WORKFLOW,
            "queue_name": _queue(limit),
            "queue_partition_key": partition,
            "workflow_id": str(attempt),
            "app_version": _VERSION,
        }
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        self._client.enqueue_in_transaction(tx, options, attempt.run_id, attempt.lane, attempt.number)  # type: ignore[arg-type]

    def cancel(self, attempts: Iterable[Attempt]) -> None:
        """Take attempts out of their queue. One that is going comes to its end; its worker learns from the ledger."""
        ids = [str(attempt) for attempt in attempts]
        if ids:
            known = [w.workflow_id for w in self._list(workflow_ids=ids)]
            if known:
                self._client.cancel_workflows(known)

    def states(self, attempts: Iterable[Attempt]) -> dict[Attempt, AttemptState]:
        """What the engine knows of those attempts; those it never heard of are not in the answer."""
        ids = [str(attempt) for attempt in attempts]
        found: dict[Attempt, AttemptState] = {}
        for start in range(0, len(ids), _STEP):
            for w in self._list(workflow_ids=ids[start : start + _STEP]):
                found[Attempt.parse(w.workflow_id)] = _STATES.get(w.status, AttemptState.OVER)
        return found

    def resume_orphans(self, live: Callable[[], Collection[str]]) -> list[Attempt]:
        """Queue again the attempts that went at a worker which is not among the live ones.

        `live` is asked only after the attempts were listed, so that one that has just come is not taken for dead."""
        pending = self._list(status="PENDING")
        if not pending:
            return []
        there = live()
        lost = [w for w in pending if w.executor_id not in there and w.queue_name]
        by_queue: dict[str, list[str]] = {}
        for w in lost:
            by_queue.setdefault(w.queue_name or "", []).append(w.workflow_id)
        for queue, ids in by_queue.items():
            self._client.resume_workflows(ids, queue_name=queue)  # without the name they land in a queue of DBOS's own
        return [Attempt.parse(w.workflow_id) for w in lost]

    def gc(self, before: datetime) -> int:
        """Forget attempts that were over before then: how many."""
        removed = 0
        while found := self._list(completed_before=before.isoformat(), limit=_STEP):
            self._client.delete_workflows([w.workflow_id for w in found])
            removed += len(found)
        return removed

    def close(self, *, patience_s: int = 0) -> None:
        """Take no more attempts, wait up to `patience_s` for those under way, and let go of the database."""
        self._dbos.destroy(workflow_completion_timeout_sec=patience_s)
        with suppress(Exception):
            self._client.destroy()
        self._database.dispose()

    def _list(self, **which: Any) -> list[Any]:
        return self._client.list_workflows(**which, application_name=_APPLICATION, load_input=False, load_output=False)


_do: Do | None = None
_registered = False


def _register(dbos: Any) -> None:
    """Tell DBOS what an attempt is, once in a process: a second time it would take for another function."""
    global _registered
    if _registered:
        return

    # None: not 100 dispatches and then never again. How often is enough is ours to say.
    @dbos.workflow(name=_WORKFLOW, max_recovery_attempts=None)  # type: ignore[untyped-decorator]
    def carry_out(run_id: str, lane: int, number: int) -> None:
        assert _do is not None
        _do(Attempt(run_id, lane, number))

    _registered = True


def _queue(limit: int) -> str:
    if limit not in LIMITS:
        raise InvalidInput(f"a connection takes {', '.join(map(str, LIMITS))} chunks at once, not {limit}")
    return f"runs-{limit}"


def _database(where: Any) -> Database:
    url = database_url(where)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=10,
        connect_args={
            "connect_timeout": 10,
            **NOTICED,
            "application_name": "isthmus engine",
            # A worker that is frozen inside a transaction must not hold up the others.
            "options": f"-c lock_timeout={PATIENCE_S}s -c idle_in_transaction_session_timeout=15s -c timezone=UTC",
        },
    )


def _prepare_sqlite(raw: Any, _record: object) -> None:
    raw.isolation_level = "IMMEDIATE"  # a deferred transaction that turns to writing is refused while another writes
    raw.execute(f"PRAGMA busy_timeout = {PATIENCE_S * 1000}")
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes from the engine, the ledger queues again
    raw.execute("PRAGMA foreign_keys = ON")

"""Asking a connection its questions, and what follows from the answers: by a person, by an edit, and every night."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from isthmus.app import App
from isthmus.ledger import checks, connections, doors, incidents
from isthmus.ledger.checks import Asked
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Tx
from isthmus.ledger.incidents import Details, IncidentKind
from isthmus.logs import log
from isthmus.model.checks import Check
from isthmus.model.errors import IsthmusError
from isthmus.model.work import ConnectionState, Finding
from isthmus.runs import night, retry
from isthmus.warehouses.protocol import Config, knock

DEADLINE_S = 300.0
"""How long the checks of a connection may take at night."""

AT_ONCE = 4
"""How many connections are asked at the same time at night."""

_log = log("checks")


def ask(config: Config) -> Iterator[Check]:
    """The answers, one by one. A connector that breaks down at a question has answered it with a no."""
    try:
        yield from config.check()
    except IsthmusError as e:
        yield Check("Can the checks be asked?", False, detail=e.vendor or e.summary, hint=e.hint)


def conclude(
    app: App, connection: StoredConnection, config: Config | None, answers: Sequence[Check], asked: Asked
) -> list[str]:
    """Keep the answers of a connection as it was read, and what they mean for its state, its syncs and its incidents.

    Where there is a no, it is knocked once more: whether nobody gets in, or only a right is missing inside, makes a
    difference to its syncs. (No `config`: nobody gets in.) Returns the syncs that go on because of it.
    """
    first_no = next((a for a in answers if not a.passed), None)
    said = knock(config) if first_no is not None and config is not None else None
    is_shut = first_no is not None and (config is None or said is not None)
    now = app.now()
    with app.ledger.transaction() as tx:
        was = connections.held(tx, connection.connection_id)
        before = checks.last_answers(tx, was.connection_id)
        checks.keep(tx, was.connection_id, answers, at=now, asked=asked)
        connections.set_checked(tx, was.connection_id, at=now)
        if was.version != connection.version or was.state is ConnectionState.DISABLED:
            return []  # it is another one by now: of that we know nothing
        _note_drift(tx, was, before, answers, is_shut=is_shut, app=app)
        if first_no is None:
            connections.set_able(tx, was.connection_id, at=now)
            return doors.go_on(tx, was.connection_id, at=now) if was.state is ConnectionState.UNABLE else []
        finding = Finding(
            summary=said.summary if said else first_no.detail or first_no.question,
            at=now,
            code=said.code if said else "",
            vendor=said.vendor if said else first_no.detail,
            hint=(said.hint if said else "") or first_no.hint,
            statement=first_no.statement,
            question=first_no.question,
        )
        if is_shut:
            next_try_s = retry.door_delay_s(was.tries + 1, random.random())
            connections.set_unable(tx, was.connection_id, finding, next_try_at=now + timedelta(seconds=next_try_s))
            return []
        connections.set_unable(tx, was.connection_id, finding)
        return doors.go_on(tx, was.connection_id, at=now) if was.is_shut else []


def _note_drift(
    tx: Tx,
    connection: StoredConnection,
    before: dict[str, Check],
    answers: Iterable[Check],
    *,
    is_shut: bool,
    app: App,
) -> None:
    """Open an incident for what has become worse, or clear it when all of that is as it was. Nothing while nobody gets
    in: what is inside is not known then, and that alone is an incident."""
    if is_shut:
        return
    now = {a.question: a for a in answers}
    known = incidents.of_connection(tx, connection.connection_id).get(IncidentKind.DRIFT)
    turned = [q for q, a in now.items() if q in before and a.is_worse_than(before[q])]
    since = known.details.get("questions", []) if known else []
    left = [q for q in dict.fromkeys([*since, *turned]) if q in now and (not now[q].passed or now[q].warns)]
    if not left:
        incidents.clear(tx, connection.connection_id, IncidentKind.DRIFT, app.now())
        return
    said = [f"“{q}” is {'a warning' if now[q].passed else 'a no'}" for q in left]
    summary = f"what it may do has changed: {', '.join(said)}"
    details: Details = {"questions": left, "hint": f"isthmus connection check {connection.name} says how to mend it"}
    if not incidents.open_(tx, connection.connection_id, IncidentKind.DRIFT, summary, details, app.now()):
        incidents.amend(tx, connection.connection_id, IncidentKind.DRIFT, summary, details)


class Nightly:
    """Repeats the checks of every connection once a night. `look` never waits for a warehouse."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._asking: dict[str, _Asking] = {}

    def look(self) -> None:
        """Begin what is due, and give up what takes too long. Of several processes that look, one begins."""
        self._asking = {key: asking for key, asking in self._asking.items() if not asking.is_over}
        for asking in self._asking.values():
            asking.give_up(after_s=DEADLINE_S)
        hour = self._app.settings.nightly_hour
        if hour is None:
            return
        now = self._app.now()
        with self._app.ledger.reading() as tx:
            known = [c for c in connections.every(tx) if c.nightly and c.state is not ConnectionState.DISABLED]
        for connection in known:
            if sum(not asking.is_given_up for asking in self._asking.values()) >= AT_ONCE:
                return
            key, last = connection.connection_id, connection.nightly_at or connection.created_at
            if key in self._asking or not night.is_due(key, hour, last=last, now=now):
                continue
            with self._app.ledger.transaction() as tx:
                if not connections.take_nightly(tx, connection, at=now):
                    continue
            self._asking[key] = _Asking(self._app, connection)


class _Asking:
    """The checks of one connection, on a thread of their own: a driver may hang for ever."""

    def __init__(self, app: App, connection: StoredConnection) -> None:
        self._app, self._connection = app, connection
        self._answers: list[Check] = []
        self._began = time.monotonic()
        self._concluding = threading.Lock()  # taken by whoever concludes, and never given back
        self.is_given_up = False
        self._thread = threading.Thread(target=self._ask, name=f"checks-{connection.name}", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def give_up(self, *, after_s: float) -> None:
        """Take silence for a no. The thread is left alone; while it is there, its connection is not asked again."""
        if time.monotonic() - self._began < after_s or not self._concluding.acquire(blocking=False):
            return
        self.is_given_up = True
        silence = Check(
            "Do the checks come to an end?",
            False,
            detail=f"no answer within {after_s:.0f} s",
            hint="see whether the warehouse, or something between it and us, takes connections and says nothing",
        )
        self._conclude(None, [*self._answers, silence])

    def _ask(self) -> None:
        try:
            config = self._app.config(self._connection)
            for answer in ask(config):
                self._answers.append(answer)
        except IsthmusError as e:  # its credentials cannot be unsealed
            self._answers.append(Check("Can its credentials be read?", False, detail=e.summary, hint=e.hint))
            config = None
        except Exception as e:
            _log.error("checks broke off", connection=self._connection.name, problem=type(e).__name__, exc_info=True)
            return
        if self._concluding.acquire(blocking=False):
            self._conclude(config, self._answers)

    def _conclude(self, config: Config | None, answers: Sequence[Check]) -> None:
        name = self._connection.name
        try:
            going = conclude(self._app, self._connection, config, answers, Asked.NIGHTLY)
        except IsthmusError as e:
            _log.warning("answers could not be kept", connection=name, problem=e.summary)
            return
        missed = [a.question for a in answers if not a.passed]
        _log.info("connection checked", connection=name, questions=len(answers), missed=missed, goes_on=going)

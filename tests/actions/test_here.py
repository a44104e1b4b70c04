"""A command and the workers around it: who is there, and which run answers it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from exports.exports_cast import Office
from isthmus.actions import here, syncing
from isthmus.ledger import workers
from isthmus.model.errors import RunStopped


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    opened = Office(tmp_path)
    yield opened
    opened.close()


class CutOff:
    """A presence in a database that lost everybody's connection for a moment."""

    is_certain = False

    def gone(self, worker_ids: Collection[str]) -> set[str]:
        return set(worker_ids)

    def close(self) -> None:
        pass


class Moment:
    """A moment that somebody waits, and who beats meanwhile."""

    def __init__(self, office: Office, *living: str) -> None:
        self.office, self.living = office, living

    def sleep(self, seconds: float) -> None:
        with self.office.app.ledger.transaction() as tx:
            for worker_id in self.living:
                workers.beat(tx, worker_id, at=self.office.app.now())


def test_a_worker_that_lost_its_lock_and_still_beats_is_there(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "presence", lambda *_: CutOff())
    monkeypatch.setattr(here, "time", Moment(office, "worker_ann"))
    assert not here.workers_there(office.app)
    with office.app.ledger.transaction() as tx:
        workers.join(tx, "worker_ann", role="worker", place="there", at=office.app.now())
        workers.join(tx, "worker_dan", role="command", place="there", at=office.app.now())
    assert here.workers_there(office.app)
    monkeypatch.setattr(here, "time", Moment(office, "worker_dan"))  # who takes up nothing by himself
    assert not here.workers_there(office.app)


def test_a_clock_that_is_put_back_starts_no_run_after_the_other(office: Office) -> None:
    office.events({"ext": "ann", "id": "a1"})
    office.apply()
    moments = iter([datetime.fromisoformat("2026-11-21T12:00:00Z") - timedelta(minutes=n) for n in range(200)])
    office.app.now = lambda: next(moments)  # type: ignore[method-assign]
    assert office.run() is not None
    assert len(syncing.list_runs(office.app, sync="everything", limit=9)) == 1


def test_a_command_that_was_taken_for_gone_says_so_and_not_that_nothing_had_changed(office: Office) -> None:
    office.events({"ext": "ann", "id": "a1"})
    office.apply()
    with here.present(office.app) as command:
        with office.app.ledger.transaction() as tx:
            workers.leave(tx, command.worker_id)
        with pytest.raises(RunStopped, match="took this process for gone"):
            command.run("everything", lambda run, done: None)
    assert office.run() is not None and office.ids() == {"a1"}

"""Two lanes of a run say something at the same moment: whoever locks anything locks the sync first."""

from __future__ import annotations

import threading
from dataclasses import replace

from ledger_cast import NOON, apply_everything, planned

from isthmus.ledger import lanes, runs, workers
from isthmus.ledger.database import Ledger
from isthmus.model.work import RunState


def test_a_chunk_that_is_done_and_a_lane_that_has_no_more_do_not_wait_for_each_other(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
        run = runs.start(tx, replace(planned(sync, parts=3)), generation=1)
        attempts = [lanes.open_lane(tx, run.run_id, "a", at=NOON), *lanes.widen(tx, run.run_id, 2, at=NOON)]
        workers.join(tx, "b", role="worker", place="here", at=NOON)
        lanes.begin(tx, attempts[1], "b", at=NOON)
        runs.finish_chunk(tx, run.run_id, 1, rows=1)  # the only one of lane 1
    is_done, found = threading.Event(), []

    def settle() -> None:
        is_done.wait(5)
        with ledger.transaction() as tx:
            found.append(lanes.settle(tx, attempts[1], "b", at=NOON))

    other = threading.Thread(target=settle)
    other.start()
    with ledger.transaction() as tx:
        runs.finish_chunk(tx, run.run_id, 0, rows=1)
        is_done.set()
        other.join(0.5)  # it waits by now
        assert lanes.goes_on(tx, attempts[0], "a") is RunState.RUNNING
    other.join(20)
    assert found == [None]

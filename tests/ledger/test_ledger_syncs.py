"""A person applies exports; the watermark of a sync only goes forward."""

from __future__ import annotations

from datetime import timedelta

import pytest
from ledger_cast import NOON, apply_everything, deliver, planned, put_dwh

from isthmus.ledger import connections, runs, syncs
from isthmus.ledger.database import Change, Tx
from isthmus.model.errors import InvalidInput
from isthmus.model.work import RunState, Scope, Selection, SyncState

LATER = NOON + timedelta(hours=1)


def test_an_export_comes_back_as_it_was_applied(tx: Tx) -> None:
    selection = Selection(metrics=("Placed Order",), exclude_integrations=("SFTP",), history="90d", table_prefix="k_")
    made = apply_everything(tx, selection=selection)
    assert made == syncs.named(tx, "everything") == syncs.by_id(tx, made.sync_id)
    assert made.selection == selection
    assert (made.connection_name, made.schedule, made.state) == ("dwh", "hourly", SyncState.ENABLED)
    assert (made.generation, made.watermark, made.snapshot_id, made.fresh_at, made.scope) == (1, 0, None, None, None)
    assert made.created_at == NOON


def test_applying_the_same_again_changes_nothing_and_says_so(tx: Tx) -> None:
    made = apply_everything(tx, selection=Selection(metrics=("A", "B")))
    again, change = syncs.apply_export(
        tx,
        name="everything",
        connection_id=made.connection_id,
        selection=Selection(metrics=("B", "A")),
        schedule="hourly",
        at=LATER,
    )
    assert (again, change) == (made, Change.UNCHANGED)


def test_another_schedule_keeps_the_watermark(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    changed = apply_everything(tx, schedule="every 5m")
    assert (changed.schedule, changed.watermark, changed.generation) == ("every 5m", 10, 1)


def test_another_selection_begins_a_new_generation_and_cancels_the_run(tx: Tx) -> None:
    sync = apply_everything(tx)
    syncs.set_scope(tx, sync.sync_id, Scope(NOON, 4), generation=1, at=NOON)
    deliver(tx, sync, upto=10)
    run = runs.start(tx, planned(syncs.by_id(tx, sync.sync_id), after=10, upto=20), generation=1)

    changed, change = syncs.apply_export(
        tx,
        name="everything",
        connection_id=sync.connection_id,
        selection=Selection(history="1y"),
        schedule="hourly",
        at=LATER,
    )

    assert change == Change.RESTARTED
    assert (changed.generation, changed.watermark, changed.snapshot_id) == (2, 0, None)
    assert (changed.fresh_at, changed.scope) == (None, None)
    assert runs.finish_chunk(tx, run.run_id, 0, rows=100) == RunState.CANCELLED


def test_a_selection_changed_there_and_back_still_begins_again(tx: Tx) -> None:
    apply_everything(tx)
    apply_everything(tx, selection=Selection(events=False))
    assert apply_everything(tx).generation == 3


def test_another_connection_begins_a_new_generation(tx: Tx) -> None:
    sync = apply_everything(tx)
    deliver(tx, sync, upto=10)
    other = put_dwh(tx, name="other")
    moved = apply_everything(tx, connection_id=other.connection_id)
    assert (moved.connection_name, moved.generation, moved.watermark) == ("other", 2, 0)


def test_an_export_on_a_removed_connection_is_refused(tx: Tx) -> None:
    gone = put_dwh(tx)
    connections.remove(tx, "dwh", at=NOON)
    for connection_id in (gone.connection_id, "con_never"):
        with pytest.raises(InvalidInput, match="not there any more"):
            syncs.apply_export(
                tx, name="e", connection_id=connection_id, selection=Selection(), schedule="hourly", at=NOON
            )


def test_a_paused_sync_stays_paused_when_applied_again(tx: Tx) -> None:
    sync = apply_everything(tx)
    assert syncs.set_state(tx, sync.sync_id, SyncState.PAUSED, at=LATER).state == SyncState.PAUSED
    assert apply_everything(tx, schedule="manual").state == SyncState.PAUSED


def test_the_scope_of_a_generation_is_fixed_once(tx: Tx) -> None:
    sync = apply_everything(tx)
    first = Scope(NOON, 4)
    assert syncs.set_scope(tx, sync.sync_id, first, generation=1, at=NOON).scope == first
    assert syncs.set_scope(tx, sync.sync_id, Scope(None, 9), generation=1, at=NOON).scope == first
    assert syncs.restart(tx, sync.sync_id, at=NOON).scope is None
    assert syncs.set_scope(tx, sync.sync_id, Scope(None, 9), generation=1, at=NOON).scope is None
    assert syncs.set_scope(tx, sync.sync_id, Scope(None, 9), generation=2, at=NOON).scope == Scope(None, 9)


def test_a_watermark_never_goes_back_and_belongs_to_its_generation(tx: Tx) -> None:
    sync_id = apply_everything(tx).sync_id

    def advance(watermark: int, minutes: int, generation: int = 1) -> bool:
        fresh_at = NOON + timedelta(minutes=minutes)
        return syncs.advance(
            tx,
            sync_id,
            generation=generation,
            watermark=watermark,
            snapshot_id=watermark,
            fresh_at=fresh_at,
            at=LATER,
        )

    assert advance(10, 1)
    assert advance(10, 5)  # nothing new, but fresher
    assert not advance(9, 6)
    assert advance(10, 4)  # by a clock that was put back: no news, and no harm
    assert syncs.by_id(tx, sync_id).fresh_at == NOON + timedelta(minutes=5)
    assert not advance(20, 6, generation=2)
    found = syncs.by_id(tx, sync_id)
    assert (found.watermark, found.snapshot_id, found.fresh_at) == (10, 10, NOON + timedelta(minutes=5))


def test_freshness_that_is_yet_to_come_is_taken_back(tx: Tx) -> None:
    """A clock was a day ahead, and is right again."""
    sync_id = apply_everything(tx).sync_id
    for watermark, now in ((1, NOON + timedelta(days=1)), (2, NOON)):
        syncs.advance(tx, sync_id, generation=1, watermark=watermark, snapshot_id=watermark, fresh_at=now, at=now)
    assert syncs.by_id(tx, sync_id).fresh_at == NOON


def test_syncs_are_listed_by_name_and_by_connection(tx: Tx) -> None:
    b = apply_everything(tx, name="b")
    a = apply_everything(tx, name="a")
    assert [s.name for s in syncs.every(tx)] == ["a", "b"]
    assert syncs.of(tx, a.connection_id) == [a, b]
    assert syncs.of(tx, "con_other") == []
    with pytest.raises(InvalidInput) as caught:
        syncs.named(tx, "zzz")
    assert caught.value.hint == "there are: a, b"

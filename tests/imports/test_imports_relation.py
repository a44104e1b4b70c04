"""Imports from warehouse tables: everything arrives once, whatever the rows' times are like and whenever they come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from shop_cast import MAPPING, NOON, SECOND, TICK, PostgresShop, Shop

from isthmus.actions import people, syncing
from isthmus.actions.applying import apply
from isthmus.actions.here import work_of
from isthmus.imports import relation
from isthmus.ledger import runs
from isthmus.model.errors import InvalidInput, Mismatch, Missing, StoreBusy
from isthmus.model.work import RunKind, RunState
from isthmus.store.landing import Landing


def test_the_first_run_takes_everything_and_later_ones_what_is_new(shop: Shop) -> None:
    ids = shop.orders(20, NOON, apart=SECOND)
    shop.apply()
    run = shop.run()
    assert run is not None
    assert (run.kind, run.rows_done, run.counts["landed"]) == (RunKind.HISTORICAL, 20, 20)
    ids += shop.orders(5, NOON + timedelta(hours=3), apart=SECOND)
    run = shop.run()
    assert run is not None
    assert (run.kind, run.counts["landed"]) == (RunKind.PERIODIC, 5)
    assert shop.here() == sorted(ids)
    (row,) = shop.app.lake.query("SELECT value, metric_name, datetime FROM events WHERE unique_id = 'o3'")
    assert row == (3.0, "Placed Order", datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC))


def test_a_run_without_news_reads_no_row(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(10, NOON, apart=timedelta(minutes=5))
    shop.apply(look_back="1m")
    shop.run()
    rows = shop.reads(monkeypatch)
    assert shop.run() is None
    assert rows == []
    shop.orders(3, NOON + timedelta(hours=2))
    shop.run()
    assert sum(rows) == 4, "the news, and what lies in the look-back before it"
    assert shop.run() is None
    assert sum(rows) == 4


def test_rows_of_one_moment_are_neither_lost_nor_doubled_and_need_no_memory(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relation, "BATCH_ROWS", 700)
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 700)
    ids = shop.orders(3000, NOON)
    shop.apply()
    shop.run()
    for _ in range(2):
        ids += shop.orders(100, NOON)
        shop.run()
        assert shop.run() is None
    assert shop.here() == sorted(ids)
    assert len(shop.cursor()) < 1500


def test_a_row_that_comes_late_is_found_within_the_look_back(shop: Shop) -> None:
    ids = shop.orders(3, NOON)
    shop.apply(look_back="30m")
    shop.run()
    ids += shop.orders(1, NOON - timedelta(minutes=29))
    too_late = shop.orders(1, NOON - timedelta(minutes=31))
    shop.run()
    assert shop.here() == sorted(ids)
    shop.apply(look_back="2h")
    shop.run()
    assert shop.here() == sorted(ids + too_late)


def test_a_row_from_the_future_hides_nothing(shop: Shop) -> None:
    now = datetime.now(UTC)
    ids = shop.orders(1, now + timedelta(days=3650)) + shop.orders(2, now - timedelta(hours=5))
    shop.apply()
    shop.run()
    ids += shop.orders(2, now - timedelta(minutes=1))
    shop.run()
    assert shop.run() is None
    assert shop.here() == sorted(ids)


def test_a_row_without_a_time_is_a_rejection_and_counted(shop: Shop) -> None:
    shop.orders(2, NOON)
    shop.orders(3, None)
    shop.apply()
    run = shop.run()
    assert run is not None
    assert (run.counts["read"], run.counts["landed"], run.counts["rejected"]) == (5, 2, 3)
    found = people.list_rejections(shop.app, source="pos", limit=None)
    assert {(f["column"], f["reason"]) for f in found} == {("loaded_at", "no changed-at time")}
    assert sorted(yaml.safe_load(f["payload"])["order_id"] for f in found) == ["o2", "o3", "o4"]
    assert shop.run() is None


def test_neighbouring_microseconds_are_told_apart(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation, "BATCH_ROWS", 2)
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 2)
    ids = shop.orders(9, NOON, apart=TICK)
    shop.apply(look_back="1m")
    shop.run()
    assert shop.here() == sorted(ids)


def test_an_import_that_is_cut_off_goes_on_behind_its_last_batch(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation, "BATCH_ROWS", 100)
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 100)
    ids = shop.orders(1000, NOON, apart=SECOND)
    shop.apply()
    real = Landing.land

    def breaking(self: Landing, *args: Any, **options: Any) -> Any:
        landed.append(1)
        if len(landed) == 5:
            raise OSError("cut off")
        return real(self, *args, **options)

    landed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Landing, "land", breaking)
        with pytest.raises(Exception, match="files on their way"):
            shop.run()
    some = len(shop.here())
    assert 0 < some < 1000
    late = shop.orders(1, NOON + 10 * SECOND)  # behind what has been read
    rows = shop.reads(monkeypatch)
    shop.run()  # the rest of the run that broke, and then one for what came meanwhile
    assert rows[0] <= 1000 - some + 1, "what had landed is not read again"
    assert shop.here() == sorted(ids + late)


def test_rows_that_come_while_a_run_reads_come_with_the_next(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation, "BATCH_ROWS", 100)
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 100)
    ids = shop.orders(500, NOON, apart=SECOND)
    shop.apply()
    real = Landing.land

    def inserting(self: Landing, *args: Any, **options: Any) -> Any:
        done = real(self, *args, **options)
        if isinstance(shop, PostgresShop) and not more:  # a DuckDB file has one process at a time
            more.extend(shop.orders(2, NOON + 3 * SECOND) + shop.orders(1, NOON + 499 * SECOND))
        return done

    more: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Landing, "land", inserting)
        shop.run()
    shop.run()
    assert shop.here() == sorted(ids + more)


def test_a_view_may_take_the_place_of_the_table(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = shop.orders(5, NOON)
    shop.apply()
    shop.run()
    shop.sql(f"CREATE VIEW {shop.at('all_orders')} AS SELECT * FROM {shop.at('orders')}")
    shop.apply(relation="all_orders")
    rows = shop.reads(monkeypatch)
    assert shop.run() is None
    assert rows == []
    ids += shop.orders(2, NOON + timedelta(hours=2))
    shop.run()
    assert shop.here() == sorted(ids)


def test_a_query_may_be_read_too(shop: Shop) -> None:
    shop.orders(10, NOON)
    shop.apply(relation="", query=f"SELECT * FROM {shop.at('orders')} WHERE amount > 4 -- the dear ones")
    shop.run()
    assert shop.here() == [f"o{i}" for i in range(5, 10)]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ("ALTER TABLE {} DROP COLUMN amount", InvalidInput, "no column 'amount'"),
        ("ALTER TABLE {} RENAME COLUMN order_id TO number", InvalidInput, "no column 'order_id'"),
        ("ALTER TABLE {} ALTER COLUMN loaded_at TYPE TEXT", Mismatch, "not a date or a timestamp"),
        ("DROP TABLE {}", Missing, "orders"),
    ],
)
def test_a_relation_that_changed_is_an_error_and_nothing_moves(
    shop: Shop, change: str, error: type[Exception], says: str
) -> None:
    shop.orders(3, NOON)
    shop.apply()
    shop.run()
    before = shop.cursor()
    shop.sql(change.format(shop.at("orders")))
    with pytest.raises(error, match=says):
        shop.run()
    assert shop.cursor() == before
    run = syncing.list_runs(shop.app, sync="pos", limit=1)[0]
    assert (run.state, run.errors[-1].retryable) == (RunState.FAILED, False)


def test_a_run_whose_rows_are_all_rejected_is_no_success(shop: Shop) -> None:
    shop.orders(3, NOON)
    shop.apply(mapping={**MAPPING, "identifiers": {"email": "customer_id"}})
    with pytest.raises(InvalidInput, match=r"all 3 rows were rejected: bad email"):
        shop.run()
    assert syncing.list_runs(shop.app, sync="pos", limit=1)[0].state is RunState.FAILED


def test_an_import_whose_first_rows_were_all_rejected_goes_on_when_the_mapping_is_mended(shop: Shop) -> None:
    ids = shop.orders(3, NOON)
    shop.apply(mapping={**MAPPING, "identifiers": {"email": "customer_id"}})
    with pytest.raises(InvalidInput, match="all 3 rows were rejected"):
        shop.run()
    shop.apply()
    assert people.replay_import(shop.app, "pos").landed == 3
    ids += shop.orders(2, NOON)
    run = shop.run()
    assert run is not None
    assert run.state is RunState.COMPLETED
    assert shop.here() == sorted(ids)


def test_an_import_cannot_be_verified_and_says_so(shop: Shop) -> None:
    shop.apply()
    with pytest.raises(InvalidInput, match="is an import"):
        syncing.verify_sync(shop.app, "pos")


def test_a_mapping_that_breaks_a_rule_is_refused_before_anything_is_kept(shop: Shop) -> None:
    for mapping, says in (
        ({k: v for k, v in MAPPING.items() if k != "changed_at"}, "changed_at"),
        ({**MAPPING, "changed_at": "bought_at"}, "bought_at"),
        ({k: v for k, v in MAPPING.items() if k != "identifiers"}, "identifier"),
    ):
        with pytest.raises(InvalidInput, match=says):
            shop.apply(mapping=mapping)
    with pytest.raises(InvalidInput, match="relation or a query"):
        shop.apply(relation="")
    assert syncing.list_syncs(shop.app) == []


def test_reading_back_what_an_export_writes_is_a_loop(shop: Shop) -> None:
    document = {
        "connections": [shop.connection],
        "exports": [{"name": "out", "connection": "dwh", "schedule": "manual"}],
        "imports": [
            {"name": "back", "connection": "dwh", "data": "events", "relation": "x.klaviyo_event", "mapping": MAPPING}
        ],
    }
    file = shop.folder / "loop.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(InvalidInput, match=r"would read x\.klaviyo_event"):
        apply(shop.app, file, plan_only=False, environ={})


def test_a_view_of_what_an_export_wrote_is_a_loop_too(shop: Shop) -> None:
    shop.orders(1, NOON)
    shop.sql(f"CREATE VIEW {shop.at('all_of_it')} AS SELECT *, 1 AS _isthmus_seq FROM {shop.at('orders')}")
    shop.apply(relation="all_of_it")
    with pytest.raises(InvalidInput, match=r"all_of_it has the column _isthmus_seq.*an export of Isthmus wrote"):
        shop.run()
    assert shop.here() == []


def test_a_row_without_a_time_is_read_once_however_much_else_comes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(2, NOON)
    shop.orders(3, None)
    shop.apply()
    shop.run()
    rows = shop.reads(monkeypatch)
    shop.orders(1, NOON + timedelta(hours=2))
    run = shop.run()
    assert run is not None
    assert (run.counts["landed"], run.counts["rejected"]) == (1, 0)
    assert sum(rows) == 3, "the news, and what lies in the look-back before it"
    shop.orders(1, None)
    run = shop.run()
    assert run is not None
    assert run.counts["reasons"] == {"no changed-at time": 4}


def test_with_dates_instead_of_times_all_of_the_day_is_within_the_look_back(shop: Shop) -> None:
    shop.sql(
        f"CREATE TABLE {shop.at('daily')} AS SELECT order_id, customer_id, bought_at, loaded_at::DATE AS loaded_at, "
        f"amount FROM {shop.at('orders')}"
    )

    def more(name: str, day: str) -> None:
        shop.sql(f"INSERT INTO {shop.at('daily')} VALUES ('{name}', 'c', '{day} 08:00', '{day}', 1)")

    more("yesterday", "2026-11-19")
    more("today", "2026-11-20")
    shop.apply(relation="daily")
    shop.run()
    more("late", "2026-11-19")
    shop.run()
    assert shop.here() == ["late", "today", "yesterday"]
    assert shop.run() is None


def test_until_rows_have_come_every_run_is_of_the_first_kind_only_once(shop: Shop) -> None:
    shop.apply()
    assert shop.run() is None
    assert shop.run() is None
    kinds = [run.kind for run in syncing.list_runs(shop.app, sync="pos", limit=None)]
    assert kinds == [RunKind.PERIODIC, RunKind.HISTORICAL]


def test_a_landing_that_comes_late_does_not_put_back_how_far_the_import_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker freezes before a landing, others end the pass, and it thaws."""
    ids = shop.orders(4, NOON, apart=SECOND)
    shop.apply()
    real = Landing.land

    def late(self: Landing, *args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Landing, "land", real)
            others()
        return real(self, *args, **options)

    def others() -> None:
        sync = shop.app.sync("pos")
        with shop.app.ledger.reading() as tx:
            run = runs.get(tx, runs.newest(tx, sync_id=sync.sync_id, limit=1)[0].run_id)
        lake = shop.app.lake.beside()
        try:
            with work_of(shop.app, sync, lake).open(run) as do:
                do(run.chunks[0], lambda: None)
        finally:
            lake.close()

    with monkeypatch.context() as patch:
        patch.setattr(Landing, "land", late)
        with pytest.raises(StoreBusy, match="went on in another process"):
            shop.run()
    cursor = shop.cursor()
    shop.run()
    assert shop.cursor() == cursor
    assert shop.here() == sorted(ids)

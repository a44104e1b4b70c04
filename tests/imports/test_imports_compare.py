"""Imports of tables that do not say when a row was changed: all rows are compared, and what differs arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from shop_cast import PostgresShop, Shop

from isthmus.actions import people, syncing
from isthmus.actions.applying import apply
from isthmus.actions.here import work_of
from isthmus.imports import compare
from isthmus.ledger import runs
from isthmus.model.errors import InvalidInput, StoreBusy
from isthmus.model.work import Run, RunKind, RunState
from isthmus.store.landing import Landing

ORDERS: dict[str, Any] = {
    "event_time": "bought_at",
    "metric": {"constant": "Placed Order"},
    "identifiers": {"external_id": "customer_id"},
    "unique_id": "order_id",
    "value": "amount",
}
CUSTOMERS: dict[str, Any] = {
    "identifiers": {"external_id": "customer_id", "email": "mail"},
    "fields": {"first_name": "name"},
    "properties": {"tier": "tier", "address___city": "city"},
}


class Comparing:
    """A shop whose tables have no time of change."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.app = shop, shop.app
        self.orders, self.customers = shop.at("plain_orders"), shop.at("customers")
        shop.sql(
            f"CREATE TABLE {self.orders} (order_id TEXT, customer_id TEXT, bought_at TIMESTAMPTZ, "
            "amount DOUBLE PRECISION, note TEXT)"
        )
        shop.sql(f"CREATE TABLE {self.customers} (customer_id TEXT, mail TEXT, name TEXT, tier TEXT, city TEXT)")

    def events(self, **wanted: Any) -> None:
        self.shop.apply(**{"relation": "plain_orders", "mapping": ORDERS, "key": ["order_id"], **wanted})

    def profiles(self, **wanted: Any) -> None:
        given = {"data": "profiles", "relation": "customers", "mapping": CUSTOMERS, "key": ["customer_id"]}
        self.shop.apply(**{**given, **wanted})

    def order(self, order_id: str | None, amount: float, customer: str = "c1", at: str = "2026-01-01") -> None:
        named = "NULL" if order_id is None else f"'{order_id}'"
        values = f"{named}, '{customer}', TIMESTAMPTZ '{at} 00:00:00+00', {amount}, 'n{amount}'"
        self.shop.sql(f"INSERT INTO {self.orders} VALUES ({values})")

    def many(self, first: int, last: int) -> None:
        self.shop.sql(
            f"INSERT INTO {self.orders} SELECT 'o' || i, 'c' || (i % 7), TIMESTAMPTZ '2026-01-01 00:00:00+00', i, 'x' "
            f"FROM generate_series({first}, {last}) AS t(i)"
        )

    def customer(self, customer_id: str, name: str | None, tier: str | None = None, city: str | None = None) -> None:
        values = ", ".join("NULL" if v is None else f"'{v}'" for v in (name, tier, city))
        self.shop.sql(f"INSERT INTO {self.customers} VALUES ('{customer_id}', NULL, {values})")

    def sql(self, text: str) -> None:
        self.shop.sql(text.format(orders=self.orders, customers=self.customers))

    def run(self) -> Run:
        run = self.shop.run()
        assert run is not None
        return run

    def found(self) -> tuple[int, ...]:
        """Run it: inserted, updated, deleted, removed, unchanged."""
        counts = self.run().counts
        assert counts["read"] == counts["landed"] + counts["repeated"] + counts["rejected"]
        return tuple(counts[n] for n in ("inserted", "updated", "deleted", "removed", "unchanged"))

    def here(self) -> dict[str, float]:
        """The orders in the store and their values."""
        found = self.app.lake.query("SELECT unique_id, value FROM events")
        assert len(found) == len(dict(found)), "an event is here twice"
        return dict(found)

    def profile(self, customer_id: str) -> dict[str, Any]:
        return people.show_person(self.app, customer_id)[0].profile

    def rejections(self) -> list[tuple[str, str]]:
        return sorted((r["column"], r["reason"]) for r in people.list_rejections(self.app, source="pos", limit=None))

    def seq(self) -> int:
        return self.app.lake.snapshot().seq


@pytest.fixture(params=["duckdb", pytest.param("postgres", marks=pytest.mark.long)])
def its(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Comparing]:
    if request.param == "duckdb":
        shop = Shop(tmp_path)
    else:
        shop = PostgresShop(tmp_path, request.getfixturevalue("postgres_server"))
    yield Comparing(shop)
    shop.close()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "BATCH_ROWS", 3)
    monkeypatch.setattr("isthmus.imports.relation.BATCH_ROWS", 3)
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 3)


def test_new_changed_and_unchanged_rows_are_told_apart(its: Comparing) -> None:
    for order_id, amount in (("a", 1), ("b", 2), ("c", 3)):
        its.order(order_id, amount)
    its.events()
    run = its.run()
    assert (run.kind, run.rows_done, run.counts["inserted"], run.counts["landed"]) == (RunKind.HISTORICAL, 3, 3, 3)
    its.order("d", 4)
    its.sql("UPDATE {orders} SET amount = 20 WHERE order_id = 'b'")
    run = its.run()
    assert (run.kind, run.counts["landed"], run.counts["repeated"]) == (RunKind.PERIODIC, 2, 2)
    assert [run.counts[n] for n in ("inserted", "updated", "deleted", "unchanged")] == [1, 1, 0, 2]
    assert its.here() == {"a": 1, "b": 20, "c": 3, "d": 4}


def test_a_table_that_did_not_change_lands_nothing_and_says_so(its: Comparing) -> None:
    its.many(1, 20)
    its.events()
    its.run()
    assert its.found() == (0, 0, 0, 0, 20)
    before = its.seq()
    assert its.found() == (0, 0, 0, 0, 20)
    assert its.seq() == before, "nothing is written about nothing"


def test_a_changed_event_stays_the_same_event(its: Comparing) -> None:
    its.order("a", 1)
    its.events()
    its.run()
    ((first, landed),) = its.app.lake.query("SELECT id, landed_seq FROM events")
    its.sql("UPDATE {orders} SET amount = 5, bought_at = '2026-02-01 00:00:00+00', note = 'other'")
    its.run()
    ((second, landed_then, value, properties),) = its.app.lake.query(
        "SELECT id, landed_seq, value, event_properties::VARCHAR FROM events"
    )
    assert (second, landed_then, value) == (first, landed, 5)
    assert '"note":"other"' in properties
    assert str(its.profile("c1")["last_event_date"]).startswith("2026-02-01")
    assert its.app.lake.query("SELECT count(*) FROM lake.tombstones") == [(0,)]


def test_an_event_that_becomes_another_leaves_no_second_one(its: Comparing) -> None:
    its.order("a", 1, customer="c1")
    its.order("b", 2, customer="c1", at="2025-01-01")
    its.events()
    its.run()
    its.sql("UPDATE {orders} SET customer_id = 'c2' WHERE order_id = 'a'")
    assert its.found() == (0, 1, 0, 0, 1)
    assert its.here() == {"a": 1, "b": 2}
    assert its.app.lake.query("SELECT kind, reason FROM lake.tombstones") == [("event", "withdrawn")]
    assert str(its.profile("c1")["last_event_date"]).startswith("2025-01-01"), "its last event is another one now"


def test_two_rows_that_change_places_keep_their_events(its: Comparing, small_batches: None) -> None:
    its.events(key=["note"])
    for order_id, amount in (("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)):
        its.order(order_id, amount)
    its.run()
    its.sql("UPDATE {orders} SET order_id = CASE order_id WHEN 'a' THEN 'e' WHEN 'e' THEN 'a' ELSE order_id END")
    its.run()
    assert its.here() == {"e": 1, "b": 2, "c": 3, "d": 4, "a": 5}
    assert its.app.lake.query("SELECT count(*) FROM lake.tombstones") == [(0,)]


def test_rows_that_are_gone_are_counted_and_ignored_unless_asked(its: Comparing) -> None:
    its.many(1, 5)
    its.events()
    its.run()
    its.sql("DELETE FROM {orders} WHERE order_id = 'o2'")
    assert its.found() == (0, 0, 1, 0, 4)
    assert len(its.here()) == 5
    assert its.found() == (0, 0, 0, 0, 4), "a row is gone once"


def test_rows_that_are_gone_take_their_events_along_if_asked(its: Comparing) -> None:
    its.many(1, 5)
    its.events(deletes="remove")
    its.run()
    its.sql("DELETE FROM {orders} WHERE order_id IN ('o2', 'o3')")
    assert its.found() == (0, 0, 2, 2, 3)
    assert sorted(its.here()) == ["o1", "o4", "o5"]
    assert its.app.lake.query("SELECT count(*) FROM lake.tombstones WHERE reason = 'withdrawn'") == [(2,)]
    its.order("o2", 7, customer="c2")
    assert its.found() == (1, 0, 0, 0, 3)
    assert its.here() == {"o1": 1, "o2": 7, "o4": 4, "o5": 5}
    assert its.app.lake.query("SELECT count(*) FROM lake.tombstones") == [(1,)], "it is here again"


def test_a_table_that_is_empty_by_now_is_noticed(its: Comparing) -> None:
    its.many(1, 5)
    its.events(deletes="remove")
    its.run()
    its.sql("DELETE FROM {orders}")
    assert its.found() == (0, 0, 5, 5, 0)
    assert its.here() == {}
    assert its.shop.run() is None, "nothing there and nothing known"


def test_an_event_that_another_row_stands_for_stays(its: Comparing) -> None:
    its.sql("INSERT INTO {orders} VALUES ('a', 'c1', '2026-01-01 00:00:00+00', 1, 'one')")
    its.sql("INSERT INTO {orders} VALUES ('a', 'c1', '2026-01-01 00:00:00+00', 1, 'two')")
    its.events(key=["note"], deletes="remove")
    its.run()
    its.sql("DELETE FROM {orders} WHERE note = 'one'")
    assert its.found() == (0, 0, 1, 0, 1)
    assert its.here() == {"a": 1}
    its.sql("DELETE FROM {orders}")
    its.found()
    assert its.here() == {}


def test_an_event_that_came_from_elsewhere_first_is_left_alone(its: Comparing, tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    file.write_text("order_id,customer_id,bought_at,amount\na,c1,2026-01-01T00:00:00Z,9\n")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "{event_time: bought_at, metric: {constant: Placed Order}, identifiers: {external_id: customer_id}, "
        "unique_id: order_id, value: amount}"
    )
    people.load_file(its.app, file, "events", mapping_file=mapping)
    its.order("a", 1)
    its.events(deletes="remove")
    its.run()
    assert its.here() == {"a": 9}
    its.sql("UPDATE {orders} SET amount = 2")
    its.run()
    its.sql("DELETE FROM {orders}")
    its.run()
    assert its.here() == {"a": 9}


def test_a_table_that_is_just_being_filled_anew_removes_nothing(its: Comparing) -> None:
    its.many(1, 300)
    its.events(deletes="remove")
    its.run()
    its.sql("DELETE FROM {orders} WHERE amount > 100")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="200 of 300 rows of plain_orders are gone, more than 50 %"):
            its.run()
        newest = syncing.list_runs(its.app, sync="pos", limit=1)[0]
        assert (newest.state, newest.errors[-1].retryable) == (RunState.FAILED, False)
        assert len(its.here()) == 300
    its.many(101, 299)
    assert its.found()[2:] == (1, 1, 299)
    its.sql("DELETE FROM {orders} WHERE amount > 100")
    its.events(deletes="remove", deletes_limit=100)
    assert its.found() == (0, 0, 199, 199, 100)


def test_rows_that_all_have_new_keys_do_not_hide_that_the_others_are_gone(its: Comparing) -> None:
    its.many(1, 150)
    its.events(deletes="remove")
    its.run()
    its.sql("UPDATE {orders} SET order_id = 'x' || order_id")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="150 of 150 rows"):
            its.run()
    assert len(its.here()) == 300


def test_rows_that_cannot_be_told_apart_are_rejections_kept_once(its: Comparing, small_batches: None) -> None:
    for order_id, amount in (("a", 1), (None, 2), ("b", 3), ("c", 4), ("a", 5), ("a", 5)):
        its.order(order_id, amount)
    its.events()
    for inserted, unchanged in ((3, 3), (0, 6)):
        counts = its.run().counts
        assert (counts["read"], counts["inserted"], counts["rejected"]) == (6, inserted, 3)
        assert counts["unchanged"] == unchanged
        assert its.rejections() == [("order_id", "key twice"), ("order_id", "no key")]
    assert its.here() == {"a": 1, "b": 3, "c": 4}
    its.sql("DELETE FROM {orders} WHERE amount = 5")
    its.sql("UPDATE {orders} SET order_id = 'd' WHERE order_id IS NULL")
    its.run()
    assert its.rejections() == [], "the rows are not so any more"
    assert its.here() == {"a": 1, "b": 3, "c": 4, "d": 2}


def test_a_rejection_is_kept_once_and_gone_when_its_row_is_mended(its: Comparing) -> None:
    its.events()
    its.order("a", 1)
    its.sql("INSERT INTO {orders} VALUES ('b', 'c1', NULL, 2, '')")
    for _ in range(2):
        counts = its.run().counts
        assert (counts["rejected"], counts["read"]) == (1, 2)
        assert its.rejections() == [("bought_at", "no event time")]
    its.sql("UPDATE {orders} SET bought_at = '2026-01-01 00:00:00+00'")
    assert its.found() == (0, 1, 0, 0, 1)
    assert its.rejections() == []
    assert its.here() == {"a": 1, "b": 2}


def test_a_row_that_is_bad_for_a_while_keeps_its_event(its: Comparing) -> None:
    its.events(deletes="remove")
    its.order("a", 1)
    its.order("b", 1)
    its.run()
    its.sql("UPDATE {orders} SET bought_at = NULL WHERE order_id = 'a'")
    its.run()
    assert its.here() == {"a": 1, "b": 1}
    its.sql("UPDATE {orders} SET bought_at = '2026-03-01 00:00:00+00', amount = 2 WHERE order_id = 'a'")
    its.run()
    assert its.here() == {"a": 2, "b": 1}
    its.sql("UPDATE {orders} SET bought_at = NULL WHERE order_id = 'a'")
    its.run()
    its.sql("DELETE FROM {orders} WHERE order_id = 'a'")
    its.run()
    assert (its.here(), its.rejections()) == ({"b": 1}, [])


def test_a_run_whose_rows_are_all_rejected_is_no_success_not_even_the_second_time(its: Comparing) -> None:
    its.order("a", 1)
    its.events(mapping={**ORDERS, "identifiers": {"email": "customer_id"}})
    for words in ("bad email", "as before"):
        with pytest.raises(InvalidInput, match=f"all 1 rows were rejected: {words}"):
            its.run()


def test_a_mended_mapping_takes_the_rejected_rows_and_only_changes_what_differs(its: Comparing) -> None:
    its.order("a", 1, customer="a@example.com")
    its.order("b", 1, customer="nobody")
    its.events(mapping={**ORDERS, "identifiers": {"email": "customer_id"}}, deletes="remove")
    its.run()
    its.events(deletes="remove")
    assert people.replay_import(its.app, "pos").landed == 1
    assert sorted(its.here()) == ["a", "b"]
    before = its.app.lake.query("SELECT seq FROM events WHERE unique_id = 'b'")
    its.run()
    assert its.app.lake.query("SELECT seq FROM events WHERE unique_id = 'b'") == before
    its.sql("DELETE FROM {orders} WHERE order_id = 'b'")
    its.run()
    assert sorted(its.here()) == ["a"], "what was replayed belongs to its row"


def test_a_column_that_the_mapping_ignores_is_no_change(its: Comparing) -> None:
    its.order("a", 1)
    its.events(mapping={**ORDERS, "ignore": ["note"]})
    its.run()
    its.sql("UPDATE {orders} SET note = 'seen again'")
    assert its.found() == (0, 0, 0, 0, 1)


def test_a_warehouse_that_events_are_exported_to_follows(its: Comparing, tmp_path: Path) -> None:
    document = {
        "connections": [{"name": "other", "kind": "duckdb", "path": str(tmp_path / "other.duckdb")}],
        "exports": [{"name": "out", "connection": "other", "schedule": "manual"}],
    }
    file = tmp_path / "out.yaml"
    file.write_text(yaml.safe_dump(document))
    apply(its.app, file, plan_only=False, environ={})

    def there() -> list[tuple[str, float]]:
        syncing.run_sync(its.app, "out")
        assert syncing.verify_sync(its.app, "out").equal
        with closing(duckdb.connect(str(tmp_path / "other.duckdb"))) as con:
            return con.execute("SELECT unique_id, value FROM klaviyo_event ORDER BY 1").fetchall()

    its.order("a", 1)
    its.order("b", 2)
    its.events(deletes="remove")
    its.run()
    assert there() == [("a", 1), ("b", 2)]
    its.sql("UPDATE {orders} SET amount = 3 WHERE order_id = 'a'")
    its.run()
    assert there() == [("a", 3), ("b", 2)]
    for between in (False, True):  # gone and back between two exports, and with one in between
        its.sql("DELETE FROM {orders} WHERE order_id = 'a'")
        its.run()
        if between:
            assert there() == [("b", 2)]
        its.order("a", 4)
        its.run()
        assert there() == [("a", 4), ("b", 2)]


def test_profiles_are_patched_by_rows_that_changed(its: Comparing) -> None:
    its.customer("c1", "Ada", "gold", "London")
    its.customer("c2", "Bob")
    its.profiles()
    assert its.found() == (2, 0, 0, 0, 0)
    its.sql("UPDATE {customers} SET name = NULL, tier = 'silver' WHERE customer_id = 'c1'")
    its.customer("c3", "Cy")
    assert its.found() == (1, 1, 0, 0, 1)
    found = its.profile("c1")
    assert (found["first_name"], found["properties"]) == ("Ada", '{"address":{"city":"London"},"tier":"silver"}')
    assert its.profile("c3")["first_name"] == "Cy"
    its.sql("DELETE FROM {customers} WHERE customer_id = 'c2'")
    assert its.found() == (0, 0, 1, 0, 2)
    assert its.profile("c2")["first_name"] == "Bob"


def test_rows_of_profiles_that_are_gone_take_back_what_they_gave(its: Comparing, tmp_path: Path) -> None:
    its.customer("c1", "Ada {DATA_PATH}", "gold", "London")
    its.customer("c2", "Bob", "gold", "Rome")
    its.customer("c3", "Cy", "gold", "Oslo")
    its.profiles(deletes="remove")
    its.run()
    its.sql("UPDATE {customers} SET name = NULL, city = 'Paris' WHERE customer_id = 'c1'")
    its.run()
    file = tmp_path / "people.csv"
    file.write_text("id,tier,address___street\nc2,silver,Via 1\n")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("{identifiers: {external_id: id}}")
    people.load_file(its.app, file, "profiles", mapping_file=mapping)
    its.sql("DELETE FROM {customers} WHERE customer_id <> 'c3'")
    assert its.found() == (0, 0, 2, 2, 1)
    shown = {c: (its.profile(c)["first_name"], json.loads(its.profile(c)["properties"])) for c in ("c1", "c2", "c3")}
    assert shown == {
        "c1": (None, {}),
        "c2": (None, {"tier": "silver", "address": {"street": "Via 1"}}),
        "c3": ("Cy", {"tier": "gold", "address": {"city": "Oslo"}}),
    }, "what others said since stays, and so does the person"


def test_a_person_of_whom_another_row_speaks_keeps_what_is_known(its: Comparing) -> None:
    its.customer("c1", "Ada", "gold")
    its.customer("c1", "Ada", "silver")
    its.profiles(key=["tier"])
    its.run()
    its.profiles(key=["tier"], deletes="remove")
    its.run()
    its.sql("DELETE FROM {customers} WHERE tier = 'silver'")
    assert its.found() == (0, 0, 1, 0, 1)
    assert its.profile("c1")["first_name"] == "Ada"
    its.sql("DELETE FROM {customers}")
    assert its.found() == (0, 0, 1, 1, 0)
    assert (its.profile("c1")["first_name"], its.profile("c1")["external_id"]) == (None, "c1")


def test_a_row_that_did_not_change_does_not_put_its_value_back(its: Comparing, tmp_path: Path) -> None:
    its.customer("c1", "Ada")
    its.profiles()
    its.run()
    file = tmp_path / "people.csv"
    file.write_text("customer_id,mail,name,tier,city\nc1,,Augusta,,\n")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("{identifiers: {external_id: customer_id}, fields: {first_name: name}, properties: {}}")
    people.load_file(its.app, file, "profiles", mapping_file=mapping)
    its.run()
    assert its.profile("c1")["first_name"] == "Augusta"


def test_an_erased_person_does_not_come_back_with_a_row_that_did_not_change(its: Comparing) -> None:
    its.order("a", 1, customer="c1")
    its.order("b", 1, customer="c2")
    its.events(deletes="remove")
    its.run()
    people.erase_person(its.app, "c1")
    its.run()
    assert its.here() == {"b": 1}
    its.sql("DELETE FROM {orders} WHERE order_id = 'a'")
    assert its.found() == (0, 0, 1, 0, 1)


def test_an_event_that_two_rows_stand_for_since_their_people_merged_stays_with_the_other(its: Comparing) -> None:
    by_mail = {**ORDERS, "identifiers": {"external_id": "customer_id", "email": "note"}}
    values = "'a', {who}, TIMESTAMPTZ '2026-01-01 00:00:00+00', {amount}, {mail}"
    for who, amount, mail in (("'c1'", 1, "NULL"), ("NULL", 2, "'c1@example.com'")):
        its.sql("INSERT INTO {orders} VALUES (" + values.format(who=who, amount=amount, mail=mail) + ")")
    its.events(key=["amount"], mapping=by_mail, deletes="remove")
    its.run()
    assert its.app.lake.query("SELECT count(*) FROM events") == [(2,)]
    its.sql("INSERT INTO {orders} VALUES ('b', 'c1', TIMESTAMPTZ '2026-01-01 00:00:00+00', 3, 'c1@example.com')")
    its.run()
    assert sorted(its.here()) == ["a", "b"], "two people are one, and so are their events"
    its.sql("DELETE FROM {orders} WHERE amount = 1")
    its.run()
    assert sorted(its.here()) == ["a", "b"], "the other row still says so"
    its.sql("DELETE FROM {orders} WHERE amount = 2")
    its.run()
    assert sorted(its.here()) == ["b"]


def test_another_key_begins_again_and_takes_nothing_away(its: Comparing) -> None:
    its.many(1, 5)
    its.events(deletes="remove")
    its.run()
    its.events(key=["order_id", "customer_id"], deletes="remove")
    assert its.found() == (5, 0, 0, 0, 0)
    assert len(its.here()) == 5
    assert its.app.lake.query("SELECT count(*) FROM lake.known_rows") == [(5,)]
    its.sql("DELETE FROM {orders} WHERE order_id = 'o1'")
    its.run()
    assert len(its.here()) == 4, "what was here already belongs to its row"


def test_a_reading_that_is_cut_off_removes_nothing_and_loses_nothing(
    its: Comparing, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    its.many(1, 20)
    its.events(deletes="remove")
    real = Landing.land

    def breaking(self: Landing, *args: Any, **options: Any) -> Any:
        landed.append(1)
        if len(landed) == 4:
            raise OSError("cut off")
        return real(self, *args, **options)

    landed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Landing, "land", breaking)
        with suppress(Exception):
            its.run()
    assert len(its.here()) == 9
    its.run()
    going_on = syncing.list_runs(its.app, sync="pos", limit=2)[1]
    assert (going_on.state, going_on.counts["inserted"], going_on.counts["unchanged"]) == (RunState.COMPLETED, 20, 0)
    assert len(its.here()) == 20


def test_a_reading_that_ends_late_removes_nothing_and_puts_nothing_back(
    its: Comparing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker freezes before it says what is gone, others end the reading, and it thaws."""
    its.many(1, 5)
    its.events(deletes="remove")
    its.run()
    its.shop.sql(f"DELETE FROM {its.orders} WHERE order_id = (SELECT min(order_id) FROM {its.orders})")
    real = compare._Reading._finish

    def late(self: compare._Reading) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(compare._Reading, "_finish", real)
            others()
        real(self)

    def others() -> None:
        sync = its.app.sync("pos")
        with its.app.ledger.reading() as tx:
            run = runs.get(tx, runs.newest(tx, sync_id=sync.sync_id, limit=1)[0].run_id)
        with closing(its.app.lake.beside()) as lake, work_of(its.app, sync, lake).open(run) as do:
            do(run.chunks[0], lambda: None)

    with monkeypatch.context() as patch:
        patch.setattr(compare._Reading, "_finish", late)
        with pytest.raises(StoreBusy, match="went on in another process"):
            its.run()
    cursor = its.shop.cursor()
    assert len(its.here()) == 4
    its.run()
    assert json.loads(its.shop.cursor())["cursor"]["known"] == json.loads(cursor)["cursor"]["known"] == 4


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"key": ["order_id", "order_id"]}, "'order_id' twice"),
        ({"mapping": {**ORDERS, "changed_at": "note"}}, r"two ways .* changed_at \(note\) and key \(order_id\)"),
        ({"key": []}, "no changed_at"),
        ({"look_back": "2h"}, "key and a look_back"),
        ({"key": [], "mapping": {**ORDERS, "changed_at": "note"}, "deletes": "remove"}, "has deletes, but"),
    ],
)
def test_what_does_not_go_together_is_refused(its: Comparing, wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        its.events(**wanted)


def test_a_key_that_the_table_does_not_have_is_an_error(its: Comparing) -> None:
    its.events(key=["number"])
    with pytest.raises(InvalidInput, match="no column 'number', which the import names as its key"):
        its.run()

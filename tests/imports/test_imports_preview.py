"""Somebody looks before anything is saved: what a preview says is what a run does, and nothing changes by looking."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from imports_cast import Desk
from shop_cast import MAPPING, NOON, SECOND, Shop

from isthmus.actions import previewing, syncing
from isthmus.actions.applying import apply
from isthmus.imports.preview import Preview, of_file
from isthmus.model.errors import InvalidInput, Mismatch, Missing
from isthmus.model.mapping import Given, Mapping, parse
from isthmus.model.usage import uses
from isthmus.testing.builders import file_of


def file_with(shop: Shop, *imports: dict[str, Any], connections: bool = True) -> Path:
    given = {"connection": "dwh", "data": "events", "schedule": "manual"}
    document: dict[str, Any] = {"imports": [{**given, **each} for each in imports]}
    if connections:
        document["connections"] = [shop.connection]
    file = shop.folder / "wanted.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def look(shop: Shop, *imports: dict[str, Any], **options: Any) -> list[Preview]:
    return previewing.preview_file(shop.app, file_with(shop, *imports), environ={}, **options)


def kept(shop: Shop) -> list[Any]:
    """All that a preview could have changed: the store, the ledger, and what lies in the home."""
    lake = shop.app.lake
    tables = ("events", "profiles", "identifiers", "rejections", "import_state", "profile_news", "metrics", "fence")
    counts = [lake.query(f"SELECT count(*) FROM lake.{table}") for table in tables]
    return [lake.snapshot(), counts, lake.data_files(), syncing.list_syncs(shop.app), (shop.folder / "home").exists()]


def test_a_preview_says_what_the_run_then_does(shop: Shop) -> None:
    shop.orders(20, NOON, apart=SECOND)
    shop.orders(3, None)
    shop.sql(f"UPDATE {shop.at('orders')} SET customer_id = NULL WHERE order_id = 'o4'")
    shop.sql(f"UPDATE {shop.at('orders')} SET bought_at = NULL WHERE order_id = 'o5'")
    shop.apply()
    seen = previewing.preview_import(shop.app, "pos").rehearsed
    run = shop.run()
    assert run is not None
    would = seen.counts.as_dict()
    assert {name: would[name] for name in run.counts if name != "reasons"} == {
        name: count for name, count in run.counts.items() if name != "reasons"
    }
    assert would["reasons"] == run.counts["reasons"]
    landed = shop.app.lake.query(
        "SELECT e.unique_id, i.value, e.datetime, e.metric_name, e.value FROM events e JOIN identifiers i "
        "ON i.profile_id = e.profile_id AND i.kind = 'external_id'"
    )
    previewed = {(r["unique_id"], r["external_id"], r["event_time"], r["metric"], r["value"]) for r in seen.rows}
    assert previewed == set(landed)
    refused = shop.app.lake.query("SELECT column_name, reason FROM rejections ORDER BY ALL")
    assert sorted((r["column"], r["reason"]) for r in seen.rejections) == refused


def test_looking_changes_nothing(shop: Shop) -> None:
    shop.orders(5, NOON)
    shop.orders(1, None)
    shop.apply()
    before = kept(shop)
    there = shop.sql(f"SELECT * FROM {shop.at('orders')} ORDER BY order_id")
    previewing.preview_import(shop.app, "pos")
    look(shop, {"name": "pos", "relation": "orders"}, {"name": "b", "relation": "orders"}, metric="Order")
    assert kept(shop) == before
    assert shop.sql(f"SELECT * FROM {shop.at('orders')} ORDER BY order_id") == there


def test_rows_that_are_here_are_shown_and_counted_as_changing_nothing(shop: Shop) -> None:
    shop.orders(5, NOON)
    shop.apply()
    shop.run()
    shop.orders(2, NOON + timedelta(hours=1))
    seen = previewing.preview_import(shop.app, "pos").rehearsed
    assert (seen.counts.landed, seen.counts.repeated, len(seen.rows)) == (2, 5, 7)
    assert (seen.counts.profiles_created, seen.found) == (2, 5)
    assert [r["profile"] for r in seen.rows].count("new") == 2


def test_only_so_many_rows_are_read_and_shown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(200, NOON)
    shop.apply()
    read = shop.reads(monkeypatch)
    seen = previewing.preview_import(shop.app, "pos", rows=50, limit=3)
    assert sum(read) == 51, "one more tells whether there is more"
    assert (seen.rehearsed.counts.read, len(seen.rehearsed.rows), seen.whole) == (50, 3, False)
    assert previewing.preview_import(shop.app, "pos", rows=200).whole


def test_every_column_has_its_use_and_type(shop: Shop) -> None:
    shop.sql(f"ALTER TABLE {shop.at('orders')} ADD COLUMN address___city TEXT")
    shop.sql(f"ALTER TABLE {shop.at('orders')} ADD COLUMN note TEXT")
    (seen,) = look(shop, {"name": "pos", "relation": "orders", "mapping": {**MAPPING, "ignore": ["note"]}})
    assert {c.name: (c.type, [str(u) for u in c.uses]) for c in seen.columns} == {
        "order_id": ("text", ["unique_id"]),
        "customer_id": ("text", ["identifier external_id"]),
        "bought_at": ("timestamp", ["event_time"]),
        "loaded_at": ("timestamp", ["changed_at"]),
        "amount": ("float", ["value"]),
        "address___city": ("text", ["nested property address.city"]),
        "note": ("text", ["ignored"]),
    }


def test_an_empty_relation_is_no_error(shop: Shop) -> None:
    (seen,) = look(shop, {"name": "pos", "relation": "orders", "mapping": MAPPING})
    assert (seen.rehearsed.rows, seen.rehearsed.rejections, seen.rehearsed.counts.read) == ([], [], 0)


def test_without_a_mapping_one_is_guessed_and_can_be_applied(shop: Shop) -> None:
    shop.orders(3, NOON)
    wanted = {"name": "pos", "relation": "orders"}
    (seen,) = look(shop, wanted, metric="Placed Order")
    assert seen.guessed
    assert (seen.mapping.event_time, seen.mapping.changed_at, seen.mapping.value) == (
        "bought_at",
        "loaded_at",
        "amount",
    )
    file = file_with(shop, {**wanted, **yaml.safe_load(previewing.as_yaml(seen.mapping))})
    apply(shop.app, file, plan_only=False, environ={})
    run = shop.run()
    assert run is not None and run.counts["landed"] == seen.rehearsed.counts.landed == 3


def test_a_guess_that_cannot_be_made_says_what_is_missing_and_lists_the_columns(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match=r"'pos'.*metric") as e:
        look(shop, {"name": "pos", "relation": "orders"})
    assert "bought_at (timestamp), loaded_at (timestamp), amount (float)" in e.value.hint
    shop.sql(f"ALTER TABLE {shop.at('orders')} RENAME COLUMN customer_id TO who")
    with pytest.raises(InvalidInput, match="identifier"):
        look(shop, {"name": "pos", "relation": "orders"}, metric="Order")


def test_a_relation_that_is_not_there_is_looked_for_among_those_that_are(shop: Shop) -> None:
    shop.sql(f"CREATE VIEW {shop.at('all_orders')} AS SELECT * FROM {shop.at('orders')}")
    with pytest.raises(Missing, match=r"'pos' reads order,") as e:
        look(shop, {"name": "pos", "relation": "order", "mapping": MAPPING})
    assert "did you mean orders" in e.value.hint and "all_orders, orders" in e.value.hint
    with pytest.raises(Missing, match="'pos' names no relation") as e:
        look(shop, {"name": "pos"})
    assert f"{shop.schema} has: all_orders, orders" in e.value.hint


def test_a_mapping_that_does_not_fit_names_field_and_column(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match=r"orders has no column 'nix', which the mapping names for value"):
        look(shop, {"name": "pos", "relation": "orders", "mapping": {**MAPPING, "value": "nix"}})
    with pytest.raises(Mismatch, match=r"changed_at is the column 'amount' of orders, and that is float"):
        look(shop, {"name": "pos", "relation": "orders", "mapping": {**MAPPING, "changed_at": "amount", "value": None}})
    with pytest.raises(InvalidInput, match=r"the import 'pos': .*event_time are both 'bought_at'"):
        look(shop, {"name": "pos", "relation": "orders", "mapping": {**MAPPING, "changed_at": "bought_at"}})


def test_one_import_of_a_file_may_be_chosen_and_connections_may_be_saved_ones(shop: Shop) -> None:
    shop.orders(1, NOON)
    shop.apply()
    wanted = (
        {"name": "a", "relation": "nix", "mapping": MAPPING},
        {"name": "b", "relation": "orders", "mapping": MAPPING},
    )
    file = file_with(shop, *wanted, connections=False)
    (seen,) = previewing.preview_file(shop.app, file, environ={}, only="b")
    assert (seen.name, seen.rehearsed.counts.landed) == ("b", 1)
    with pytest.raises(InvalidInput, match="has no import 'c'") as e:
        previewing.preview_file(shop.app, file, environ={}, only="c")
    assert "a, b" in e.value.hint


def test_a_query_may_be_looked_at_too(shop: Shop) -> None:
    shop.orders(10, NOON)
    query = f"SELECT * FROM {shop.at('orders')} WHERE amount > 4 -- the dear ones"
    (seen,) = look(shop, {"name": "pos", "query": query}, metric="Order")
    assert (seen.what, seen.rehearsed.counts.landed) == ("a query", 5)


def test_a_warehouse_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.connection = {**shop.connection, "path": str(tmp_path / "other.duckdb")}
    with pytest.raises(Missing, match="no database file"):
        look(shop, {"name": "pos", "relation": "orders", "mapping": MAPPING})
    assert not (tmp_path / "other.duckdb").exists()
    shop.close()


def test_a_household_is_seen_before_it_lands(shop: Shop) -> None:
    shop.sql(f"CREATE TABLE {shop.at('people')} (id TEXT, mail TEXT, tier TEXT, updated_at TIMESTAMPTZ)")
    shop.sql(
        f"INSERT INTO {shop.at('people')} SELECT 'p' || i, 'home@example.com', 'gold', "
        f"TIMESTAMPTZ '{NOON.isoformat()}' FROM generate_series(1, 2) AS t(i)"
    )
    (seen,) = look(shop, {"name": "crm", "data": "profiles", "relation": "people"})
    assert (seen.rehearsed.counts.landed, seen.rehearsed.counts.profiles_created, seen.rehearsed.counts.taken) == (
        2,
        2,
        1,
    )
    (told,) = seen.rehearsed.rejections
    assert (told["reason"], told["column"], told["value"], told["landed"]) == (
        *("identifier taken", "mail", "home@example.com"),
        True,
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_is_previewed_as_it_is_loaded(desk: Desk, kind: str) -> None:
    rows = [*desk.rows(5), desk.row("bad", worth="much"), {**desk.row("nobody"), "who": None}]
    path = file_of(desk.folder, rows, kind)
    mapping = Mapping(
        *("events", (("external_id", "who"),), "at", Given(constant="Order")), unique_id="id", value="worth"
    )
    before = desk.lake.snapshot()
    seen = of_file(desk.lake, path, "events", mapping=mapping).rehearsed
    assert desk.lake.snapshot() == before
    counts = desk.land(path, mapping)
    assert seen.counts.as_dict() == counts.as_dict()
    assert [(r["row"], r["column"], r["reason"]) for r in seen.rejections] == desk.refusals(path)
    assert [r["value"] for r in seen.rejections] == ["much", None]


def test_broken_rows_of_a_file_are_among_its_rejections(desk: Desk) -> None:
    path = desk.csv(desk.line("a"), "too,few", desk.line("b"), *(desk.line(f"x{n}") for n in range(20)), "too,few")
    mapping = parse({"identifiers": {"external_id": "who"}, "event_time": "at", "metric": {"constant": "M"}}, "events")
    seen = of_file(desk.lake, path, "events", mapping=mapping, rows=5).rehearsed
    assert [(r["row"], r["reason"], r["payload"]) for r in seen.rejections] == [(3, "broken row", "too,few")]
    assert (seen.counts.read, seen.counts.landed, seen.counts.rejected) == (6, 5, 1)


def test_a_file_without_what_is_needed_lists_its_columns(desk: Desk) -> None:
    with pytest.raises(InvalidInput, match="identifier") as e:
        of_file(desk.lake, desk.csv("1,2", header="a,b"), "events")
    assert e.value.hint.endswith("the columns are: a (text), b (text)")


AWKWARD = [
    "a\x85b",
    "naïve",
    "日本",
    "x: y",
    "- z",
    "true",
    "1",
    "",
    " lead",
    "tab\t",
    "[red]",
    ":smile:",
    "a\u2028b",
    "'",
    '"',
]


@pytest.mark.parametrize("name", [each for each in AWKWARD if each])
def test_a_printed_mapping_reads_back_the_same_whatever_its_columns_are_called(name: str) -> None:
    mapping = Mapping(
        data="profiles",
        identifiers=(("external_id", "id"),),
        changed_at="at",
        properties=((name, name), (name * 60, "x")),
        ignore=(name + "!",),
    )
    text = previewing.as_yaml(mapping)
    assert parse(yaml.safe_load(text)["mapping"], "profiles") == mapping
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    assert parse(yaml.safe_load(indented)["mapping"], "profiles") == mapping
    assert all(line.isprintable() for line in text.split("\n"))
    assert ("日" in text) == ("日" in name), "what a terminal can show stays readable"


def test_usage_says_what_is_left_out_and_what_is_cleared() -> None:
    mapping = parse(
        {"identifiers": {"email": "mail"}, "fields": {"first_name": "given"}, "properties": {"tier": "class"}}
        | {"clear": ["first_name", "tier"], "consent": {"sms_marketing": "sms"}},
        "profiles",
    )
    found = uses(mapping, ["mail", "given", "class", "sms", "other"])
    assert {column: [str(u) for u in its] for column, its in found.items()} == {
        "mail": ["identifier email"],
        "given": ["first_name, cleared if empty"],
        "class": ["property tier, cleared if empty"],
        "sms": ["consent sms_marketing"],
        "other": ["not used"],
    }


def test_a_column_that_is_called_like_an_events_own_property_is_not_used() -> None:
    mapping = parse({**MAPPING, "value": "amount"}, "events")
    found = uses(mapping, ["amount", "$value"])
    assert [str(u) for u in found["$value"]] == ["not used"]


def test_a_property_that_two_imports_bring_under_its_columns_name_is_refused_where_the_columns_are_known(
    shop: Shop,
) -> None:
    for name in ("people", "loyalty"):
        shop.sql(f"CREATE TABLE {shop.at(name)} (id TEXT, tier TEXT, updated_at TIMESTAMPTZ)")
        shop.sql(f"INSERT INTO {shop.at(name)} VALUES ('a', 'gold', TIMESTAMPTZ '{NOON.isoformat()}')")
    mapping: dict[str, Any] = {"identifiers": {"external_id": "id"}, "changed_at": "updated_at"}
    one, two = (
        {"name": name, "data": "profiles", "relation": relation, "mapping": mapping}
        for name, relation in (("pos", "people"), ("second", "loyalty"))
    )
    says = r"property 'tier' comes from the column 'tier' of the import 'pos' .* the import 'second'"
    with pytest.raises(InvalidInput, match=says):
        look(shop, one, two)
    shop.apply(**one)
    with pytest.raises(InvalidInput, match=says):
        look(shop, two)
    apply(shop.app, file_with(shop, two), plan_only=False, environ={})  # which asks no warehouse
    assert shop.run() is not None, "the first one goes on"
    with pytest.raises(InvalidInput, match=says):
        syncing.run_sync(shop.app, "second")
    two["mapping"] = {**mapping, "ignore": ["tier"]}
    apply(shop.app, file_with(shop, two), plan_only=False, environ={})
    syncing.run_sync(shop.app, "second")
    assert previewing.preview_import(shop.app, "second").rehearsed.counts.rejected == 0

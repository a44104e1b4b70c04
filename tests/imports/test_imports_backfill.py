"""Events of history are marked: by the mapping, by their row, or because the first run of an import brought them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from imports_cast import EVENTS, Desk
from shop_cast import MAPPING, Shop

from isthmus.imports.replay import replay
from isthmus.model.errors import InvalidInput
from isthmus.model.guess import guess
from isthmus.model.mapping import Given, as_document, parse
from isthmus.store import people

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BY_ROW = replace(EVENTS, backfill=Given(column="old"))


def marked(shop: Shop) -> list[str]:
    return [u for (u,) in shop.app.lake.query("SELECT unique_id FROM events WHERE backfill ORDER BY unique_id")]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def test_what_the_first_run_brings_is_history_and_what_comes_later_is_not(shop: Shop) -> None:
    old = shop.orders(3, NOON)
    shop.apply()
    shop.run()
    new = shop.orders(2, NOON + timedelta(hours=3))
    shop.run()
    assert marked(shop) == old and shop.here() == sorted(old + new)
    (person,) = shop.app.lake.query("SELECT profile_id::VARCHAR FROM identifiers WHERE value = 'c1'")
    shown = people.show(shop.app.lake, person[0])
    assert [each["backfill"] for each in shown.latest] == [True]
    assert [each["backfill"] for each in shown.metrics] == [1]


def test_a_mapping_may_say_otherwise(shop: Shop) -> None:
    shop.orders(3, NOON)
    shop.apply(mapping={**MAPPING, "backfill": {"constant": False}})
    shop.run()
    assert marked(shop) == []
    shop.apply(mapping={**MAPPING, "backfill": {"constant": "true"}})
    late = shop.orders(2, NOON + timedelta(hours=3))
    shop.run()
    assert marked(shop) == late


def test_a_first_run_that_is_cut_off_stays_the_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from isthmus.imports import relation
    from isthmus.store.landing import Landing

    monkeypatch.setattr(relation, "BATCH_ROWS", 3)
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 3)
    ids = shop.orders(12, NOON, apart=timedelta(seconds=1))
    shop.apply()
    real, landed = Landing.land, []

    def breaking(self: Landing, *args: Any, **options: Any) -> Any:
        landed.append(1)
        if len(landed) == 3:
            raise OSError("cut off")
        return real(self, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(Exception, match="files on their way"):
        patch.setattr(Landing, "land", breaking)
        shop.run()
    shop.run()
    assert marked(shop) == sorted(ids)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_row_says_so_in_any_way_of_writing_it(desk: Desk, kind: str) -> None:
    written = {"y1": "true", "y2": "T", "y3": " Yes ", "y4": "1", "n1": "FALSE", "n2": "no", "n3": "0", "n4": "f"}
    rows = [desk.row(name, old=value) for name, value in written.items()]
    rows += [desk.row("empty", old=None), desk.row("bad", old="perhaps")]
    counts, path = desk.land_rows(rows, kind, BY_ROW)
    assert (counts.landed, dict(counts.reasons)) == (9, {"bad value": 1})
    assert [column for _, column, _ in desk.refusals(path)] == ["old"]
    expected = {name: name.startswith("y") for name in written} | {"empty": True}
    assert desk.column("backfill") == expected, "without a word of its own a row is what its file is: history"
    assert all("old" not in properties for properties in desk.landed().values())


def test_a_typed_column_says_so_too(desk: Desk) -> None:
    for name, yes, no in (("flag", True, False), ("number", 1, 0), ("float", 1.0, 0.0)):
        rows = [desk.row(f"{name} yes", old=yes), desk.row(f"{name} no", old=no)]
        desk.land_rows(rows, "parquet", BY_ROW)
    assert {name: mark for name, mark in desk.column("backfill").items() if mark != name.endswith("yes")} == {}


def test_a_file_is_history_unless_its_mapping_says_otherwise(desk: Desk) -> None:
    desk.land_rows([desk.row("a")], "csv")
    desk.land_rows([desk.row("b")], "csv", replace(EVENTS, backfill=Given(constant="false")))
    assert desk.column("backfill") == {"a": True, "b": False}


def test_a_rejection_tried_again_is_history(desk: Desk) -> None:
    path = desk.land_rows([desk.row("a", worth="much", good=1)], "csv")[1]
    replay(desk.lake, replace(EVENTS, value="good"), label=path.name)
    assert desk.column("backfill") == {"a": True}


def test_an_event_that_moves_with_a_merge_stays_what_it_is(desk: Desk) -> None:
    mail = f"{desk.own('m')}@example.com"
    both = replace(EVENTS, identifiers=(("external_id", "who"), ("email", "mail")))
    now = replace(both, backfill=Given(constant="false"))
    desk.land_rows([desk.row("a") | {"who": None, "mail": mail}], "jsonl", both)
    desk.land_rows([desk.row("b") | {"who": None, "mail": mail}], "jsonl", now)
    desk.land_rows([desk.row("c") | {"mail": mail}], "jsonl", now)
    assert desk.column("backfill") == {"a": True, "b": False, "c": False}


def test_the_mapping_takes_a_constant_or_a_column_and_a_guess_finds_it() -> None:
    document = {"identifiers": {"email": "m"}, "event_time": "t", "metric": {"constant": "M"}}
    for given, found in (
        ({"constant": True}, Given(constant="true")),
        ({"constant": "False"}, Given(constant="false")),
        ("old", Given(column="old")),
        ({"column": "old"}, Given(column="old")),
    ):
        mapping = parse({**document, "backfill": given}, "events")
        assert mapping.backfill == found
        assert parse(as_document(mapping), "events") == mapping
    with pytest.raises(InvalidInput, match="backfill"):
        parse({**document, "backfill": {"constant": "perhaps"}}, "events")
    with pytest.raises(InvalidInput, match="backfill"):
        parse({"identifiers": {"email": "m"}, "backfill": "old"}, "profiles")
    assert guess(["email", "timestamp", "metric", "Backfill"], "events", where="f").backfill == Given(column="Backfill")

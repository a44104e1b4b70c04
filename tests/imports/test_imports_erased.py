"""People who were erased stay erased: their old rows bring nobody back however they come again, new ones do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from imports_cast import EVENTS, Desk
from shop_cast import MAPPING, Shop

from isthmus.actions import people as persons
from isthmus.imports.replay import replay
from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Mapping
from isthmus.model.work import RunState
from isthmus.store import people

BEFORE = datetime.now(UTC) - timedelta(hours=2)
AFTER = datetime.now(UTC) + timedelta(hours=2)
OLD, NEW = BEFORE.isoformat(), AFTER.isoformat()

PROFILES = Mapping(
    data="profiles",
    identifiers=(("external_id", "who"), ("email", "mail")),
    changed_at="changed",
    fields=(("title", "title"),),
)
TIMELESS = replace(PROFILES, changed_at=None, ignore=("changed",))
BOTH = replace(EVENTS, identifiers=(("external_id", "who"), ("email", "mail")))


def profile(desk: Desk, name: str, mail: str = "", changed: str = OLD, title: str = "x") -> dict[str, str]:
    return {"who": name and desk.own(name), "mail": mail, "changed": changed, "title": title}


def event(desk: Desk, name: str, mail: str = "", at: str = OLD, number: str = "1") -> dict[str, Any]:
    return {"who": name and desk.own(name), "mail": mail, "at": at, "id": number, "worth": 1}


def mail(desk: Desk, name: str) -> str:
    return f"{desk.own(name)}@example.com"


def erase(desk: Desk, key: str) -> None:
    people.erase(desk.lake, people.find(desk.lake, key))


def is_known(desk: Desk, key: str) -> bool:
    try:
        return bool(people.find(desk.lake, key))
    except InvalidInput:
        return False


def kept(desk: Desk) -> str:
    """All that rejections hold, and all that is remembered of the erased."""
    return str(desk.lake.query("SELECT * FROM rejections")) + str(desk.lake.query("SELECT * FROM lake.erased"))


def profiles(desk: Desk, *rows: dict[str, str], mapping: Mapping = PROFILES) -> Any:
    return desk.land_rows(rows, "csv", mapping)[0]


def events(desk: Desk, *rows: dict[str, Any], mapping: Mapping = BOTH) -> Any:
    return desk.land_rows(rows, "jsonl", mapping)[0]


def test_the_same_file_again_brings_nobody_back(desk: Desk) -> None:
    for mapping in (PROFILES, TIMELESS):
        name = f"a{mapping.changed_at}"
        rows = [profile(desk, name, mail(desk, name)), profile(desk, "b")]
        counts, path = desk.land_rows(rows, "csv", mapping)
        assert counts.landed >= 1
        erase(desk, desk.own(name))
        counts = desk.land(path, mapping)
        assert (counts.landed, counts.repeated, dict(counts.reasons)) == (0, 1, {"erased": 1})
        assert not is_known(desk, desk.own(name)) and not is_known(desk, mail(desk, name))
        assert desk.own(name) not in kept(desk)
    counts, path = desk.land_rows([event(desk, "c"), event(desk, "b")], "jsonl")
    erase(desk, desk.own("c"))
    counts = desk.land(path)
    assert (counts.landed, counts.repeated, dict(counts.reasons)) == (0, 1, {"erased": 1})
    assert not is_known(desk, desk.own("c"))


def test_old_rows_in_another_file_bring_nobody_back_and_new_ones_do(desk: Desk) -> None:
    events(desk, event(desk, "a", mail(desk, "a")))
    first = people.find(desk.lake, desk.own("a"))
    erase(desk, desk.own("a"))
    assert events(desk, event(desk, "a", number="2"), event(desk, "", mail(desk, "a"), number="3")).reasons == {
        "erased": 2
    }
    assert profiles(desk, profile(desk, "a", title="another")).reasons == {"erased": 1}
    assert not is_known(desk, desk.own("a"))
    counts = events(desk, event(desk, "a", at=NEW, number="4"), event(desk, "a", number="5"))
    assert (counts.landed, counts.profiles_created, dict(counts.reasons)) == (1, 1, {"erased": 1})
    assert people.find(desk.lake, desk.own("a")) != first
    assert list(desk.landed()) == ["4"]
    assert profiles(desk, profile(desk, "a", title="of before")).reasons == {"erased": 1}
    assert profiles(desk, profile(desk, "a", mail(desk, "a"), NEW, "of now")).landed == 1
    assert people.show(desk.lake, people.find(desk.lake, mail(desk, "a"))).profile["title"] == "of now"


def test_a_new_file_without_times_is_of_now(desk: Desk) -> None:
    profiles(desk, profile(desk, "a"), mapping=TIMELESS)
    erase(desk, desk.own("a"))
    counts = profiles(desk, profile(desk, "a", title="signed up again"), mapping=TIMELESS)
    assert (counts.landed, counts.profiles_created) == (1, 1)


def test_a_row_that_is_only_stamped_anew_is_not_new(desk: Desk) -> None:
    """As by a loader that writes its table anew each night."""
    profiles(desk, profile(desk, "a", mail(desk, "a")))
    erase(desk, desk.own("a"))
    assert profiles(desk, profile(desk, "a", mail(desk, "a"), NEW)).reasons == {"erased": 1}
    assert profiles(desk, profile(desk, "a", mail(desk, "a"), NEW, "changed since")).profiles_created == 1


def test_every_identifier_of_a_merged_person_is_erased(desk: Desk) -> None:
    profiles(desk, profile(desk, "", mail(desk, "old")), profile(desk, "", mail(desk, "mid")))
    merged = people.find(desk.lake, mail(desk, "old"))
    profiles(desk, profile(desk, "a", mail(desk, "old")), profile(desk, "a", mail(desk, "mid")))
    profiles(desk, profile(desk, "a", mail(desk, "new"), title="later"))
    stays = people.find(desk.lake, mail(desk, "new"))
    erase(desk, mail(desk, "mid"))
    names = [desk.own("a"), mail(desk, "old"), mail(desk, "mid"), mail(desk, "new"), merged, stays]
    for name in names:
        kind = "email" if "@" in name else "profile_id" if name in (merged, stays) else "external_id"
        mapping = replace(EVENTS, identifiers=((kind, "who"),))
        assert events(desk, {**event(desk, ""), "who": name}, mapping=mapping).reasons == {"erased": 1}, name
    assert not any(name in kept(desk) for name in names if name != stays)


def test_a_row_of_somebody_who_is_here_is_theirs_whatever_else_it_names(desk: Desk) -> None:
    profiles(desk, profile(desk, "a", mail(desk, "shared")), profile(desk, "b"))
    erase(desk, desk.own("a"))
    assert events(desk, event(desk, "b", mail(desk, "shared"))).landed == 1
    assert events(desk, event(desk, "nobody", mail(desk, "shared"))).reasons == {"erased": 1}
    assert people.find(desk.lake, mail(desk, "shared")) == people.find(desk.lake, desk.own("b"))


def test_a_row_of_an_erased_address_and_an_unknown_id_is_the_erased_persons(desk: Desk) -> None:
    profiles(desk, profile(desk, "", mail(desk, "a")))
    erase(desk, mail(desk, "a"))
    assert events(desk, event(desk, "a", mail(desk, "a"))).reasons == {"erased": 1}
    assert not is_known(desk, desk.own("a"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_broken_rows_that_name_an_erased_person_are_not_kept_again(desk: Desk, kind: str) -> None:
    events(desk, event(desk, "a", mail(desk, "a")))
    rows = [
        event(desk, "a", number="bad time", at="yesterday"),
        event(desk, "a", number="bad value") | {"worth": "much"},
        event(desk, "", f"Ann <{mail(desk, 'a')}>", number="bad mail"),
        event(desk, "b", number="not theirs", at="yesterday"),
    ]
    counts, path = desk.land_rows(rows, kind, BOTH)
    if kind == "csv":
        text = path.read_text() + f"{desk.own('a')},too,few\n"
        path = desk.file(text)
        counts = desk.land(path, BOTH)
    assert counts.rejected == len(rows) + (kind == "csv")
    erase(desk, desk.own("a"))
    again = desk.land(path, BOTH)
    assert (again.landed, again.reasons["erased"], again.rejected) == (0, counts.rejected - 1, counts.rejected)
    assert desk.own("a") not in kept(desk)
    newer = desk.land_rows([event(desk, "a", at=NEW) | {"worth": "much"}], kind, BOTH)[0]
    assert newer.reasons == {"bad number": 1}


def test_a_rejection_tried_again_brings_nobody_back(desk: Desk) -> None:
    """One in which the erasure did not find the person: the number is written in wide digits."""
    number = f"+1415{int(desk.tag, 16) % 10**7:07}"
    wide = "+" + "".join(chr(0xFF10 + int(digit)) for digit in number[1:])
    mapping = replace(EVENTS, identifiers=(("phone_number", "who"),))
    rows = [{**event(desk, ""), "who": wide, "worth": "much", "at": NEW, "better": 1}]
    path = desk.land_rows(rows, "csv", mapping)[1]
    assert len(desk.refusals(path)) == 1
    events(desk, {**event(desk, ""), "who": number, "at": OLD}, mapping=mapping)
    erase(desk, number)
    assert len(desk.refusals(path)) == 1
    counts = replay(desk.lake, replace(mapping, value="better"), label=path.name)
    assert (counts.read, counts.landed, dict(counts.reasons)) == (1, 0, {"erased": 1})
    assert not desk.refusals(path)
    assert not is_known(desk, number)


def test_a_load_that_was_cut_off_before_goes_on_without_them(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.imports.files.BATCH_ROWS", 2)
    names = [f"p{n}" for n in range(6)]
    path = desk.csv(*(f"{desk.own(name)},,,x" for name in names), header="who,mail,changed,title")

    def cut(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.land(path, TIMELESS, report=cut)
    profiles(desk, profile(desk, "p5"))
    erase(desk, desk.own("p5"))
    assert desk.land(path, TIMELESS).reasons == {"erased": 1}
    assert [name for name in names if not is_known(desk, desk.own(name))] == ["p5"]


def test_what_is_remembered_is_other_in_every_store(desk: Desk, alone: Desk) -> None:
    for each in (desk, alone):
        profiles(each, {**profile(each, ""), "who": "the same everywhere"})
        erase(each, "the same everywhere")
    ours, theirs = (
        each.lake.query("SELECT digest FROM lake.erased WHERE what = 'external_id'") for each in (desk, alone)
    )
    assert len(theirs) == 1 and theirs[0] not in ours
    assert alone.lake.query("SELECT count(*) FROM lake.erasure_key WHERE length(key) = 64") == [(1,)]
    assert "everywhere" not in kept(alone)


# Relations


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


def gone(shop: Shop, key: str = "c1") -> bool:
    return shop.app.lake.query("SELECT count(*) FROM identifiers WHERE value = ?", [key]) == [(0,)]


def test_a_look_back_brings_nobody_back(shop: Shop) -> None:
    ids = shop.orders(14, BEFORE, apart=timedelta(seconds=1))
    shop.apply()
    shop.run()
    persons.erase_person(shop.app, "c1")
    shop.orders(1, BEFORE)  # c0: the end looks different, and is read again
    run = shop.run()
    assert run is not None
    assert (run.counts["read"], run.counts["landed"], run.counts["reasons"]) == (15, 1, {"erased": 2})
    assert gone(shop) and set(ids) - set(shop.here()) == {"o1", "o8"}
    assert persons.list_rejections(shop.app, source=None, limit=None) == []


def test_an_import_made_anew_brings_nobody_back(shop: Shop) -> None:
    shop.orders(14, BEFORE)
    shop.apply()
    shop.run()
    persons.erase_person(shop.app, "c1")
    shop.apply(name="pos again")
    from isthmus.actions import syncing

    run = syncing.run_sync(shop.app, "pos again")
    assert run is not None and run.counts["reasons"] == {"erased": 2}
    assert gone(shop)


def test_only_rows_of_the_erased_are_no_failure(shop: Shop) -> None:
    shop.orders(2, BEFORE)
    shop.apply(look_back="1m")
    shop.run()
    persons.erase_person(shop.app, "c1")
    shop.sql(f"DELETE FROM {shop.at('orders')} WHERE customer_id <> 'c1'")
    run = shop.run()
    assert run is not None and run.state is RunState.COMPLETED
    assert (run.counts["read"], run.counts["reasons"]) == (1, {"erased": 1})


def test_a_new_row_of_a_relation_makes_somebody_new(shop: Shop) -> None:
    shop.orders(7, BEFORE)
    shop.apply()
    shop.run()
    persons.erase_person(shop.app, "c1")
    shop.sql(
        f"INSERT INTO {shop.at('orders')} VALUES "
        f"('again', 'c1', '{NEW}', '{NEW}', 1), ('stamped anew', 'c1', '{OLD}', '{NEW}', 1), "
        f"('known before', 'c1', '{NEW}', '{OLD}', 1)"
    )
    run = shop.run()
    assert run is not None
    assert run.counts["landed"] == 1 and not gone(shop)
    assert {"again"} == {"again", "stamped anew", "known before"} & set(shop.here())


def test_a_clock_over_there_that_is_ahead_makes_no_old_row_new(shop: Shop) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    shop.orders(2, ahead)
    shop.sql(f"UPDATE {shop.at('orders')} SET bought_at = loaded_at - INTERVAL 1 MINUTE")
    shop.apply()
    shop.run()
    persons.erase_person(shop.app, "c1")
    shop.orders(1, ahead)
    shop.run()
    assert gone(shop)


def test_rejections_of_an_import_that_name_an_erased_person_do_not_come_again(shop: Shop) -> None:
    shop.orders(2, BEFORE)
    shop.sql(f"UPDATE {shop.at('orders')} SET amount = 'nan'")
    shop.sql(f"INSERT INTO {shop.at('orders')} VALUES ('fine', 'c1', '{OLD}', '{OLD}', 1)")
    shop.apply(mapping=MAPPING)
    shop.run()
    found = persons.list_rejections(shop.app, source="pos", limit=None)
    assert sorted(json.loads(each["payload"])["customer_id"] for each in found) == ["c0", "c1"]
    persons.erase_person(shop.app, "c1")
    shop.sql(f"INSERT INTO {shop.at('orders')} VALUES ('more', 'c2', '{OLD}', '{OLD}', 1)")
    run = shop.run()
    assert run is not None and run.counts["reasons"] == {"bad number": 1, "erased": 2}
    found = persons.list_rejections(shop.app, source="pos", limit=None)
    assert [json.loads(each["payload"])["customer_id"] for each in found] == ["c0"]

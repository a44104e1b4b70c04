"""`parent___child` columns become objects; a value and parts under one name are refused; what is cleared goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports_cast import EVENTS, NOON, Desk

from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Mapping
from isthmus.store import people

PROFILES = Mapping(data="profiles", identifiers=(("external_id", "who"),), fields=(("title", "title"),))


def own(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if not k.startswith("$")}


def parquet(desk: Desk, rows: list[dict[str, Any]]) -> Path:
    path = desk.folder / f"{uuid4().hex[:6]}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def profile(desk: Desk, name: str) -> dict[str, Any]:
    found = people.show(desk.lake, people.find(desk.lake, desk.own(name))).profile
    return {**found, "properties": json.loads(found["properties"])}


def land(desk: Desk, *rows: dict[str, Any], mapping: Mapping = PROFILES) -> Any:
    return desk.land(parquet(desk, [{"title": None, **row} for row in rows]), mapping, "profiles")


def test_columns_build_objects_with_their_types_in_the_order_of_the_columns(desk: Desk) -> None:
    rows = [
        desk.row(
            "full", address___city="Ulm", n=1, address___geo___lat=1.5, address___zip="007", address___geo___on=True
        ),
        desk.row(
            "gaps", address___city=None, n=2, address___geo___lat=None, address___zip="1", address___geo___on=False
        ),
        desk.row(
            "none", address___city=None, n=3, address___geo___lat=None, address___zip=None, address___geo___on=None
        ),
    ]
    desk.land(parquet(desk, rows))
    found = desk.landed()
    full = {"address": {"city": "Ulm", "geo": {"lat": 1.5, "on": True}, "zip": "007"}, "n": 1}
    assert json.dumps(own(found["full"])) == json.dumps(full)
    assert own(found["gaps"]) == {"n": 2, "address": {"geo": {"on": False}, "zip": "1"}}
    assert own(found["none"]) == {"n": 3}


def test_csv_cells_nest_too_and_odd_names_stay_one_name(desk: Desk) -> None:
    header = "who,at,id,worth,a___b,a___c,___x,y___,p______q,a____d"
    desk.land(desk.csv(f"{desk.own('r')},{NOON},odd,1,1,,2,3,4,5", header=header))
    assert own(desk.landed()["odd"]) == {"a": {"b": 1, "_d": 5}, "___x": 2, "y___": 3, "p______q": 4}


def test_a_value_and_parts_under_one_name_are_refused_where_a_row_has_both(desk: Desk) -> None:
    path = desk.csv(
        f"{desk.own('r')},{NOON},both,1,Ulm,Main Street",
        f"{desk.own('r')},{NOON},value,1,,Main Street",
        f"{desk.own('r')},{NOON},parts,1,Ulm,",
        header="who,at,id,worth,address___city,address",
    )
    counts = desk.land(path)
    assert (counts.landed, counts.rejected) == (2, 1)
    assert desk.refusals(path) == [(2, "address", "bad value")]
    assert "'address___city'" in desk.messages(path)[0]
    found = desk.landed()
    assert (own(found["value"]), own(found["parts"])) == ({"address": "Main Street"}, {"address": {"city": "Ulm"}})


def test_names_nest_to_the_limit_and_one_more_names_the_column(desk: Desk) -> None:
    most, more = "___".join("abcdefghij"), "___".join("abcdefghijk")
    desk.land(desk.csv(f"{desk.own('r')},{NOON},deep,1,x", header=f"who,at,id,worth,{most}"))
    expected: Any = "x"
    for key in reversed("abcdefghij"):
        expected = {key: expected}
    assert own(desk.landed()["deep"]) == expected
    with pytest.raises(InvalidInput, match=more):
        desk.land(desk.csv(f"{desk.own('r')},{NOON},deeper,1,x", header=f"who,at,id,worth,{more}"))


def test_the_names_of_a_mapping_nest_and_keys_of_json_lines_only_then(desk: Desk) -> None:
    counts, _ = desk.land_rows([desk.row("plain", a___b=1, c=2)], "jsonl")
    assert counts.landed == 1 and own(desk.landed()["plain"]) == {"a___b": 1, "c": 2}
    mapping = replace(EVENTS, properties=(("x___y", "a"), ("x___z", "b"), ("w", "c")))
    desk.land_rows([desk.row("named", a=1, b={"k": None}, c=None)], "jsonl", mapping)
    assert own(desk.landed()["named"]) == {"x": {"y": 1, "z": {"k": None}}}


def test_a_profile_keeps_the_parts_that_a_row_leaves_out(desk: Desk) -> None:
    land(
        desk,
        {"who": desk.own("ann"), "at___city": "Ulm", "at___geo___lat": 1.5, "at___geo___lon": 2.5, "prefs": '{"a":1}'},
    )
    land(
        desk,
        {"who": desk.own("ann"), "at___city": None, "at___geo___lat": 9.5, "at___geo___lon": None, "prefs": '{"b":2}'},
    )
    expected = {"at": {"city": "Ulm", "geo": {"lat": 9.5, "lon": 2.5}}, "prefs": {"b": 2}}
    assert profile(desk, "ann")["properties"] == expected


def test_several_rows_of_one_profile_are_joined_part_by_part(desk: Desk) -> None:
    rows = [{"a___b": 1, "a___c": None, "a___d___e": 1}, {"a___b": None, "a___c": 2, "a___d___e": 2}]
    land(desk, *({"who": desk.own("bea"), **row} for row in rows))
    assert profile(desk, "bea")["properties"] == {"a": {"b": 1, "c": 2, "d": {"e": 2}}}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_what_is_cleared_goes_and_everything_else_stays(desk: Desk, kind: str) -> None:
    mapping = replace(PROFILES, clear=("title", "tier"), fields=(("first_name", "first"), ("title", "title")))
    first = {"who": desk.own("cleo"), "first": "Cleo", "title": "Dr", "tier": "gold", "note": "old"}
    second = {"who": desk.own("cleo"), "first": None, "title": None, "tier": None, "note": None}

    def file(row: dict[str, Any]) -> Path:
        if kind == "parquet":
            return parquet(desk, [row])
        if kind == "jsonl":
            return desk.file(json.dumps(row) + "\n", "rows.jsonl")
        return desk.file(",".join(row) + "\n" + ",".join(str(v or "") for v in row.values()) + "\n")

    desk.land(file(first), mapping, "profiles")
    before = profile(desk, "cleo")
    assert (before["title"], before["properties"]) == ("Dr", {"tier": "gold", "note": "old"})
    desk.land(file(second), mapping, "profiles")
    after = profile(desk, "cleo")
    assert (after["first_name"], after["title"], after["properties"]) == ("Cleo", None, {"note": "old"})


def test_a_part_that_is_cleared_takes_its_object_along_when_nothing_is_left(desk: Desk) -> None:
    mapping = replace(PROFILES, clear=("at___city", "at___zip"))
    land(desk, {"who": desk.own("dan"), "at___city": "Ulm", "at___zip": "1", "x": 1}, mapping=mapping)
    land(desk, {"who": desk.own("dan"), "at___city": None, "at___zip": "2", "x": None}, mapping=mapping)
    assert profile(desk, "dan")["properties"] == {"at": {"zip": "2"}, "x": 1}
    land(desk, {"who": desk.own("dan"), "at___city": None, "at___zip": None, "x": None}, mapping=mapping)
    assert profile(desk, "dan")["properties"] == {"x": 1}


def test_of_several_rows_the_last_one_decides_whether_a_value_is_cleared(desk: Desk) -> None:
    mapping = replace(PROFILES, clear=("title", "tier"))
    rows = [{"title": "A", "tier": "x"}, {"title": None, "tier": None}, {"title": "B", "tier": "y"}]
    land(desk, *({"who": desk.own("eve"), **row} for row in rows), mapping=mapping)
    assert (profile(desk, "eve")["title"], profile(desk, "eve")["properties"]) == ("B", {"tier": "y"})
    land(desk, *({"who": desk.own("eve"), **row} for row in rows[::-1][:2]), mapping=mapping)
    assert (profile(desk, "eve")["title"], profile(desk, "eve")["properties"]) == (None, {})


KEYS = st.sampled_from(["a", "b", "A", "ü", "{X}", '"', "$value", "x y"])
NAMES = st.lists(KEYS, min_size=1, max_size=4).map("___".join)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(NAMES, min_size=1, max_size=7, unique=True), data=st.data())
def test_any_columns_build_what_a_plain_loop_would(desk: Desk, names: list[str], data: st.DataObject) -> None:
    """Or are refused, where a name would have to be a value and an object."""
    names = [name for name in names if name.split("___")[0] != "$value"]
    rows = data.draw(
        st.lists(
            st.lists(st.none() | st.integers(-5, 5), min_size=len(names), max_size=len(names)), min_size=1, max_size=4
        )
    )
    filled = [desk.row(uuid4().hex, **dict(zip(names, row, strict=True))) for row in rows]
    table = {key: pa.array([row[key] for row in filled], pa.int64() if key in names else None) for key in filled[0]}
    path = desk.folder / f"{uuid4().hex[:6]}.parquet"
    pq.write_table(pa.table(table), path)
    desk.land(path)
    found = desk.landed()
    for row in filled:
        expected: dict[str, Any] | None = {}
        for name in names:
            if row[name] is None or expected is None:
                continue
            *outer, last = name.split("___")
            at: Any = expected
            for key in outer:
                at = at.setdefault(key, {}) if isinstance(at, dict) else None
            if not isinstance(at, dict) or last in at:
                expected = None
            else:
                at[last] = row[name]
        assert (own(found[row["id"]]) if row["id"] in found else None) == expected

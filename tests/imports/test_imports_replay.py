"""Rejections tried again: the same row becomes the same event, what fails again is kept once, and again is harmless."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports_cast import EVENTS, NOON, Desk

from isthmus.imports.replay import replay
from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Mapping
from isthmus.store import people, rejections

BAD = replace(EVENTS, value="bad")
"""The mapping before it is mended: it takes the wrong column for the value."""


def test_a_mended_mapping_lands_what_was_rejected_and_nothing_twice(desk: Desk) -> None:
    path = desk.csv(
        f"{desk.own('r')},{NOON},one,1.5,x",
        f"{desk.own('r')},{NOON},two,2.5,3",
        f"{desk.own('r')},,three,2.5,y",
        "too,few",
        header="who,at,id,worth,bad",
    )
    assert desk.land(path, BAD).rejected == 3
    counts = replay(desk.lake, EVENTS, label=path.name)
    assert (counts.read, counts.landed, counts.rejected) == (3, 1, 2)
    assert desk.refusals(path) == [(4, "at", "no event time"), (5, "at", "broken row")]
    assert desk.column("value") == {"one": 1.5, "two": 3.0}
    before = desk.lake.snapshot()
    again = replay(desk.lake, EVENTS, label=path.name)
    assert (again.landed, again.rejected) == (0, 2)
    assert desk.lake.snapshot().seq == before.seq
    assert desk.land(path).repeated == 2


def test_a_row_that_fails_for_another_reason_is_kept_once_with_that(desk: Desk) -> None:
    path = desk.csv(f"{desk.own('r')},{NOON},one,much,x", header="who,at,id,worth,bad")
    desk.land(path, BAD)
    assert desk.refusals(path) == [(2, "bad", "bad number")]
    for _ in range(2):
        assert replay(desk.lake, EVENTS, label=path.name).rejected == 1
        assert desk.refusals(path) == [(2, "worth", "bad number")]


def test_json_lines_and_profiles_are_tried_again_too(desk: Desk) -> None:
    path = desk.file(json.dumps({"who": desk.own("p"), "lat": "far", "a": {"b": None}}) + "\nnot json\n", "p.jsonl")
    bad = Mapping(data="profiles", identifiers=(("external_id", "who"),), fields=(("location_latitude", "lat"),))
    assert desk.land(path, bad, "profiles").rejected == 2
    counts = replay(desk.lake, replace(bad, fields=(("title", "lat"),)), label=path.name)
    assert (counts.landed, counts.rejected, counts.profiles_created) == (1, 1, 1)
    found = people.show(desk.lake, people.find(desk.lake, desk.own("p"))).profile
    assert (found["title"], json.loads(found["properties"])) == ("far", {"a": {"b": None}})


def test_a_mapping_that_fits_no_row_is_an_error_and_takes_nothing_away(desk: Desk) -> None:
    path = desk.csv(f"{desk.own('r')},{NOON},one,much,x")
    desk.land(path)
    with pytest.raises(InvalidInput, match="'amount'"):
        replay(desk.lake, replace(EVENTS, value="amount"), label=path.name)
    assert len(desk.refusals(path)) == 1


def test_many_are_taken_in_batches_and_a_kill_between_them_loses_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = desk.csv(*(f"{desk.own('r')},{NOON},r{n},{n},x" for n in range(25)), header="who,at,id,worth,bad")
    desk.land(path, BAD)
    monkeypatch.setattr(rejections, "BATCH_ROWS", 10)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(desk.lake, EVENTS, label=path.name, report=stop)
    assert (len(desk.refusals(path)), len(desk.landed())) == (15, 10)
    told: list[int] = []
    assert replay(desk.lake, EVENTS, label=path.name, report=told.append).landed == 15
    assert told == [10, 15] and not desk.refusals(path) and len(desk.landed()) == 25


def written(desk: Desk, rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> Path:
    path = desk.folder / f"{uuid4().hex[:6]}.parquet"
    columns = {k: pa.array([row[k] for row in rows], types.get(k)) for k in rows[0]}
    pq.write_table(pa.table(columns), path)
    return path


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "unsigned": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "flag": (pa.bool_(), st.booleans()),
    "float": (pa.float64(), st.floats()),
    "small float": (pa.float32(), st.floats(width=32)),
    "decimal": (pa.decimal128(38, 12), st.decimals(-(10**25), 10**25, places=12)),
    "whole": (pa.decimal128(38, 0), st.integers(-(10**37), 10**37).map(Decimal)),
    "text": (pa.string(), TEXTS),
    "json": (pa.string(), st.sampled_from(['{"a": [1, null]}', "[]", "{broken", "007", "null", ""])),
    "zoned": (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(UTC))),
    "naive": (pa.timestamp("us"), st.datetimes()),
    "nanos": (pa.timestamp("ns"), st.integers(-(2**62), 2**62)),
    "seconds": (pa.timestamp("s"), st.integers(-(10**10), 10**10)),
    "day": (pa.date32(), st.dates(date(1, 1, 1))),
    "clock": (pa.time64("us"), st.times()),
    "bytes": (pa.binary(), st.binary(max_size=8)),
    "list": (pa.list_(pa.string()), st.lists(st.none() | TEXTS, max_size=3)),
    "numbers": (pa.list_(pa.float64()), st.lists(st.none() | st.floats(), max_size=3)),
    "struct": (
        pa.struct([("a", pa.string()), ("b", pa.timestamp("us")), ("c", pa.binary())]),
        st.fixed_dictionaries(
            {"a": st.none() | TEXTS, "b": st.none() | st.datetimes(), "c": st.none() | st.binary(max_size=4)}
        ),
    ),
    "map": (pa.map_(pa.string(), pa.int64()), st.dictionaries(TEXTS, st.none() | st.integers(-9, 9), max_size=2)),
    "in___side": (pa.decimal128(10, 2), st.decimals(-(10**6), 10**6, places=2)),
    "a/b~c": (pa.string(), TEXTS),
}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_row_of_any_types_becomes_what_it_would_have_been_at_once(desk: Desk, data: st.DataObject) -> None:
    """Without an id of its own an event is known by its content: tried again and then read again it is still one."""
    names = data.draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4, unique=True))
    who = uuid4().hex[:8]
    row: dict[str, Any] = {"who": desk.own(who), "at": datetime(2026, 1, 1, tzinfo=UTC), "good": 1.5, "bad": "much"}
    for name in names:
        value = data.draw(st.none() | TYPES[name][1])
        row[name] = list(value.items()) if name == "map" and value is not None else value
    types = {name: TYPES[name][0] for name in names}
    path = written(desk, [row], types)
    good = replace(EVENTS, unique_id=None, value="good", ignore=("bad",))
    desk.land(path, replace(good, value="bad", ignore=("good",)))
    kept = rejections.listed(desk.lake, source=path.name, limit=None)
    assert [each["reason"] for each in kept] == ["bad number"]
    tried = replay(desk.lake, good, label=path.name)
    at_once = desk.land(written(desk, [row], types), good)
    assert (at_once.landed, at_once.repeated, at_once.rejected) == (0, tried.landed, tried.rejected)
    after = rejections.listed(desk.lake, source=path.name, limit=None)
    assert len(after) == tried.rejected and all(each["payload"] == kept[0]["payload"] for each in after)
    assert isinstance(json.loads(kept[0]["payload"]), dict)

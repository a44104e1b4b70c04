"""JSON lines, whole and poisoned: what is wrong is named by line, and the rest of the file lands."""

from __future__ import annotations

import gzip
import json

import pytest
from imports_cast import EVENTS, NOON, Desk

from isthmus.imports import files
from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Given, Mapping


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def test_values_keep_their_types_and_nulls_are_left_out(desk: Desk) -> None:
    values = {
        "integer": 9_223_372_036_854_775_807,
        "float": 1.5,
        "yes": True,
        "none": None,
        "list": [1, "two", None, {"three": 3}],
        "object": {"deep": {"er": None}},
        "number as text": "007",
        "ünïcödé": "☃ \u2028 \U0001f600",
        "a/b~c": 1,
        "": "no name",
    }
    counts, _ = desk.land_rows([desk.row("x", **values), desk.row("y")], "jsonl")
    assert counts.landed == 2
    found = desk.landed()["x"]
    assert {k: v for k, v in found.items() if not k.startswith("$")} == {k: v for k, v in values.items() if k != "none"}


POISON = [
    ('"worth":"much"', "worth", "bad number"),
    ('"worth":NaN', "worth", "bad number"),
    ('"worth":1e999', "worth", "bad number"),
    ('"at":null', "at", "no event time"),
    ('"at":"soon"', "at", "bad time"),
    ('"at":"0000-01-01"', "at", "bad time"),
    ('"at":"10000-01-01T00:00:00Z"', "at", "bad time"),
    (f'"at":{2**63}', "at", "bad time"),
    ('"who":null', "who", "no identifier"),
    ('"who":""', "who", "no identifier"),
    ('"who":"nul\\u0000"', "who", "NUL character"),
    ('"id":"nul\\u0000"', "id", "NUL character"),
    ('"note":"nul\\u0000"', "", "NUL character"),
    ('"nul\\u0000":1', "", "NUL character"),
    ('"note":NaN', "", "bad number"),
    ('"note":-Infinity', "", "bad number"),
    ('"note":1e999', "", "bad number"),
    (f'"note":{2**63}', "", "bad number"),
    (f'"note":[1,{{"a":-{2**63 + 1}}}]', "", "bad number"),
    ('"note":"' + "x" * 102_401 + '"', "", "too long"),
    ('"note":' + nested(10), "", "too deeply nested"),
    ('"note":' + "[" * 10 + "]" * 10, "", "too deeply nested"),
    ('"note":' + "[" * 20_000 + "]" * 20_000, "", "too deeply nested"),
    ('"note":"\\ud800"', "", "not JSON"),
    ('"note":"\\udc00\\ud800"', "", "not JSON"),
    ('"note":1,"note":2', "", "not JSON"),
    ("'note':1", "", "not JSON"),
    ('"note":01', "", "not JSON"),
    ('"note":"tab\tinside"', "", "not JSON"),
    (",".join(f'"p{n}":1' for n in range(401)), "", "too many properties"),
]


def test_every_poisoned_line_is_named_and_its_neighbours_land(desk: Desk) -> None:
    lines = []
    for n, (value, _, _) in enumerate(POISON):
        bad = {k: v for k, v in desk.row(f"bad {n}").items() if not value.startswith(f'"{k}"')}
        lines += [json.dumps(desk.row(f"good {n}")), json.dumps(bad)[:-1] + "," + value + "}", ""]
    path = desk.file("\n".join(lines), "rows.jsonl")
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (2 * len(POISON), len(POISON), len(POISON))
    assert desk.refusals(path) == [(3 * n + 2, column, reason) for n, (_, column, reason) in enumerate(POISON)]
    assert sorted(desk.landed()) == sorted(f"good {n}" for n in range(len(POISON)))
    assert desk.payloads(path) == lines[1::3]


def test_a_line_that_is_no_object_does_not_vanish(desk: Desk) -> None:
    lines = ["x", "5", "null", "[]", '"text"', "{", "}", "{}}", '{"who": }', " ", "nonsense"]
    path = desk.file("\n".join([json.dumps(desk.row("good")), *lines, json.dumps(desk.row("other"))]), "rows.jsonl")
    counts = desk.land(path)
    assert counts.landed == 2
    assert desk.refusals(path) == [(n, "", "not JSON") for n in range(2, len(lines) + 2)]


def test_blank_lines_and_windows_line_ends_are_passed_over(desk: Desk) -> None:
    a, b = (json.dumps(desk.row(name)) for name in "ab")
    path = desk.file(f"\ufeff\r\n{a}\r\n\r\n\n{b}\r\n\r\n", "rows.jsonl")
    assert desk.land(path).read == 2
    assert sorted(desk.landed()) == ["a", "b"]


def test_lines_that_are_not_utf_8_are_refused_alone(desk: Desk) -> None:
    good = json.dumps(desk.row("good")).encode()
    latin = json.dumps(desk.row("bad"))[:-1].encode() + ', "note": "Köln"}'.encode("latin-1")
    surrogate = json.dumps(desk.row("bad"))[:-1].encode() + b', "note": "\xed\xa0\x80"}'
    path = desk.file(b"\n".join([good, latin, surrogate, good]), "rows.jsonl")
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.repeated) == (4, 1, 1)
    assert desk.refusals(path) == [(2, "", "not UTF-8"), (3, "", "not UTF-8")]


def test_nine_levels_inside_an_event_land(desk: Desk) -> None:
    line = json.dumps(desk.row("x"))[:-1] + f',"note":{nested(9)}}}'
    assert desk.land(desk.file(line, "rows.jsonl")).landed == 1
    assert desk.landed()["x"]["note"] == json.loads(nested(9))


def test_braces_and_quotes_inside_texts_are_no_levels(desk: Desk) -> None:
    text = '\\"' * 5 + "{[" * 30 + '\\\\"'
    counts, _ = desk.land_rows([desk.row("x", note=text, list=['}"]', "\\"])], "jsonl")
    assert counts.landed == 1
    assert (desk.landed()["x"]["note"], desk.landed()["x"]["list"]) == (text, ['}"]', "\\"])


def test_a_line_over_5_mb_is_refused_alone(desk: Desk) -> None:
    rows = [desk.row("a"), desk.row("big", note=["x" * 90_000] * 60), desk.row("b", note=["x" * 90_000] * 50)]
    counts, path = desk.land_rows(rows, "jsonl")
    assert (counts.landed, counts.reasons) == (2, {"too large": 1})
    assert desk.refusals(path) == [(2, "", "too large")]


def test_a_file_cut_in_the_middle_of_a_line_lands_the_rest(desk: Desk) -> None:
    text = "\n".join(json.dumps(desk.row(f"r{n}", note="quoted")) for n in range(20))
    path = desk.file(text[:-10], "rows.jsonl")
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (20, 19, 1)
    assert desk.refusals(path) == [(20, "", "not JSON")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \r\n", "no lines"),
        ('{"who":1}'.encode("utf-16"), "UTF-16"),
        (b'[{"who":1},\n{"who":2}]', "one JSON list"),
    ],
)
def test_a_file_that_cannot_be_used_at_all_is_named(desk: Desk, content: bytes, said: str) -> None:
    path = desk.file(content, "rows.jsonl")
    with pytest.raises(InvalidInput, match=said) as told:
        desk.land(path)
    assert path.name in str(told.value)


@pytest.mark.parametrize("cut", [40, 5])
def test_a_truncated_gzip_is_named(desk: Desk, cut: int) -> None:
    text = "\n".join(json.dumps(desk.row(f"r{n}", note=f"{n * 7919}")) for n in range(500)).encode()
    whole = gzip.compress(text)
    assert desk.land(desk.file(whole, "rows.jsonl.gz")).landed == 500
    for torn in (whole[:-cut], whole[: len(whole) // 2], b"not gzip" + whole):
        path = desk.file(torn, "torn.jsonl.gz")
        with pytest.raises(InvalidInput, match=path.name):
            desk.land(path)


def test_a_load_that_was_cut_off_goes_on_behind_its_last_batch(alone: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 10)
    monkeypatch.setattr(files, "_BLOCK", 700)
    rows = [alone.row(f"r{n:02}", worth="much" if n % 7 == 0 else 1) for n in range(45)]
    path = alone.file("\n".join(map(json.dumps, rows)), "rows.jsonl")
    seen = []

    def cut(done: int, _total: int | None) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alone.land(path, report=cut)
    assert 0 < len(alone.landed()) < 38
    counts = alone.land(path)
    assert (counts.read, counts.landed, counts.repeated, counts.rejected) == (45, 38, 0, 7)
    assert alone.refusals(path) == [(n + 1, "worth", "bad number") for n in range(0, 45, 7)]
    before = alone.lake.snapshot()
    assert alone.land(path).landed == 0
    assert alone.lake.snapshot().snapshot_id == before.snapshot_id


def test_only_the_properties_that_are_named_are_taken(desk: Desk) -> None:
    mapping = Mapping(
        data="events",
        identifiers=(("external_id", "who"),),
        event_time="at",
        metric=Given(column="what"),
        unique_id="id",
        properties=(("Tier", "tier"), ("deep", "a/b")),
    )
    path = desk.file(
        json.dumps({"who": desk.own("x"), "at": NOON, "what": "Visit", "id": "x", "tier": "gold", "a/b": [1], "c": 2}),
        "rows.jsonl",
    )
    desk.land(path, mapping)
    assert desk.landed()["x"] == {"$event_id": "x", "Tier": "gold", "deep": [1]}


def test_phone_numbers_written_for_people_are_understood(desk: Desk) -> None:
    mapping = Mapping(
        data="events", identifiers=(("phone_number", "who"),), event_time="at", metric=Given(constant="Call")
    )
    path = desk.file('{"who":"030 901820","at":"2026-01-01"}\n{"who":"hello","at":"2026-01-01"}', "rows.jsonl")
    counts = desk.land(path, mapping, phone_region="DE")
    assert (counts.landed, counts.reasons) == (1, {"bad phone number": 1})
    assert desk.lake.query("SELECT count(*) FROM identifiers WHERE value = '+4930901820'") == [(1,)]


def test_the_mapping_may_name_a_key_that_the_first_lines_lack(desk: Desk) -> None:
    rows = [desk.row("x"), desk.row("y")]
    del rows[0]["worth"]
    counts, _ = desk.land_rows(rows, "jsonl", EVENTS)
    assert counts.landed == 2
    assert desk.column("value") == {"x": None, "y": 1.5}

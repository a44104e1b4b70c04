"""CSV files, whole and poisoned: what is wrong is named by row and column, and the rest of the file lands."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from imports_cast import EVENTS, NOON, Desk

from isthmus.imports import files
from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Given, Mapping


def test_a_clean_file_lands_with_its_cells_read_best_effort(desk: Desk) -> None:
    path = desk.csv(
        desk.line("int", "42"),
        desk.line("zip", "00501"),
        desk.line("yes", "TRUE"),
        desk.line("list", '"[1,{""a"":null}]"'),
        desk.line("text", '"a ""quoted"", text"'),
        desk.line("long", "12345678901234567890"),
        desk.line("empty"),
        desk.line("break", '"two\nlines"'),
    )
    counts = desk.land(path)
    assert (counts.read, counts.landed) == (8, 8)
    found = {key: value.get("note") for key, value in desk.landed().items()}
    assert found == {
        "int": 42,
        "zip": "00501",
        "yes": True,
        "list": [1, {"a": None}],
        "text": 'a "quoted", text',
        "long": "12345678901234567890",
        "empty": None,
        "break": "two\nlines",
    }
    assert "note" not in desk.landed()["empty"]


def test_a_file_again_changes_nothing_and_its_rejections_are_not_doubled(desk: Desk) -> None:
    path = desk.csv(desk.line("a"), desk.line("b", worth="much"), "too,few", desk.line("c"))
    first = desk.land(path)
    assert (first.read, first.landed, first.rejected) == (4, 2, 2)
    before, snapshot = desk.refusals(path), desk.lake.snapshot()
    again = desk.land(path)
    assert (again.read, again.landed, again.repeated, again.rejected) == (4, 0, 2, 2)
    assert desk.refusals(path) == before == [(3, "worth", "bad number"), (4, "at", "broken row")]
    assert desk.lake.snapshot().snapshot_id == snapshot.snapshot_id


def test_the_same_content_under_another_name_changes_nothing(desk: Desk) -> None:
    path = desk.csv(desk.line("a"), desk.line("b"))
    desk.land(path)
    other = path.rename(path.with_name("other " + path.name))
    before = desk.lake.snapshot()
    assert desk.land(other).repeated == 2
    assert desk.lake.snapshot().snapshot_id == before.snapshot_id


POISON: list[tuple[dict[str, str], str, str]] = [
    ({"worth": "much"}, "worth", "bad number"),
    ({"worth": "NaN"}, "worth", "bad number"),
    ({"worth": "Infinity"}, "worth", "bad number"),
    ({"worth": "1e999"}, "worth", "bad number"),
    ({"worth": "0x10"}, "worth", "bad number"),
    ({"at": ""}, "at", "no event time"),
    ({"at": "yesterday"}, "at", "bad time"),
    ({"at": "31/12/2025"}, "at", "bad time"),
    ({"at": "2025-02-30"}, "at", "bad time"),
    ({"at": "0000-01-01"}, "at", "bad time"),
    ({"at": "10000-01-01"}, "at", "bad time"),
    ({"at": "-0001-01-01"}, "at", "bad time"),
    ({"at": "infinity"}, "at", "bad time"),
    ({"at": "99999999999999999999"}, "at", "bad time"),
    ({"at": str(2**63)}, "at", "bad time"),
    ({"who": ""}, "who", "no identifier"),
    ({"who": "   "}, "who", "no identifier"),
    ({"who": "x" * 256}, "who", "too long"),
    ({"id": "x" * 256}, "id", "too long"),
    ({"note": "x" * 102_401}, "note", "too long"),
    ({"note": "ü" * 51_201}, "note", "too long"),
    ({"note": "nul\0here"}, "note", "NUL character"),
    ({"who": "nul\0here"}, "who", "NUL character"),
    ({"id": "nul\0here"}, "id", "NUL character"),
    ({"note": "[" * 11 + "]" * 11}, "", "too deeply nested"),
    ({"note": '{"a": NaN}'}, "", "bad number"),
    ({"note": "[1, Infinity]"}, "", "bad number"),
    ({"note": f'{{"a": {2**63}}}'}, "", "bad number"),
    ({"note": '["\\u0000"]'}, "", "NUL character"),
]


def test_every_poisoned_cell_is_named_and_its_neighbours_land(desk: Desk) -> None:
    rows = []
    for n, (cells, _, _) in enumerate(POISON):
        rows += [desk.row(f"good {n}", note="n"), desk.row(f"bad {n}", note="n") | cells]
    lines = [list(rows[0]), *(row.values() for row in rows)]
    path = desk.file("\n".join(",".join('"' + str(cell).replace('"', '""') + '"' for cell in line) for line in lines))
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (len(rows), len(POISON), len(POISON))
    assert desk.refusals(path) == [(2 * n + 3, column, reason) for n, (_, column, reason) in enumerate(POISON)]
    assert sorted(desk.landed()) == sorted(f"good {n}" for n in range(len(POISON)))


TIMES = {
    "2026-01-02": "2026-01-02 00:00:00+00",
    "2026-01-02T03:04:05Z": "2026-01-02 03:04:05+00",
    "2026-01-02 03:04:05.123456+02:00": "2026-01-02 01:04:05.123456+00",
    "2026-01-02T03:04:05-0330": "2026-01-02 06:34:05+00",
    "01/02/2026": "2026-01-02 00:00:00+00",
    "01/02/2026 03:04:05": "2026-01-02 03:04:05+00",
    "1767323045": "2026-01-02 03:04:05+00",
    "1767323045.5": "2026-01-02 03:04:05.5+00",
    "-100000000": "1966-10-31 14:13:20+00",
    "0001-01-01": "0001-01-01 00:00:00+00",
    "9999-12-31T23:59:59.999999Z": "9999-12-31 23:59:59.999999+00",
}


def test_times_are_read_as_they_are_meant(desk: Desk) -> None:
    path = desk.csv(*(f"{desk.own('x')},{time},{n},1," for n, time in enumerate(TIMES)))
    assert desk.land(path).landed == len(TIMES)
    found = desk.column("datetime::VARCHAR")
    assert {time: found[str(n)] for n, time in enumerate(TIMES)} == TIMES


def test_broken_rows_are_numbered_as_records_whatever_stands_between(desk: Desk) -> None:
    path = desk.csv(
        desk.line("a", '"two\nlines"'),  # record 2, on lines 2 and 3
        "too,few",  # record 3
        desk.line("b") + ",too,many",  # record 4
        desk.line("c", '"two\n\nmore"'),  # record 5
        desk.line("d", worth="much"),  # record 6
        desk.line("e"),
    )
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (6, 3, 3)
    assert [(row, reason) for row, _, reason in desk.refusals(path)] == [
        (3, "broken row"),
        (4, "broken row"),
        (6, "bad number"),
    ]
    assert sorted(desk.landed()) == ["a", "c", "e"]


def test_a_blank_line_does_not_shift_the_rows_behind_it(desk: Desk) -> None:
    path = desk.csv(desk.line("a"), "", desk.line("b", worth="much"), "too,few", desk.line("c"))
    counts = desk.land(path)
    assert counts.landed == 2
    assert [(row, reason) for row, _, reason in desk.refusals(path)] == [(4, "bad number"), (5, "broken row")]


@pytest.mark.parametrize(
    ("ends", "bom", "last"), [("\n", "\ufeff", True), ("\r\n", "", True), ("\r\n", "\ufeff", False)]
)
def test_line_ends_and_byte_order_marks_are_no_part_of_the_cells(desk: Desk, ends: str, bom: str, last: bool) -> None:
    lines = ["who,at,id,worth,note", desk.line("a", "x"), desk.line("b", "y")]
    path = desk.file((bom + ends.join(lines) + (ends if last else "")).encode())
    assert desk.land(path).landed == 2
    assert {key: value["note"] for key, value in desk.landed().items()} == {"a": "x", "b": "y"}


def test_rows_that_are_not_utf_8_are_refused_alone(desk: Desk) -> None:
    bad = desk.line("latin").encode() + "Köln".encode("latin-1")
    surrogate = desk.line("half").encode() + b"\xed\xa0\x80"
    path = desk.csv(desk.line("a"), bad, desk.line("b"), surrogate, desk.line("c"))
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (5, 3, 2)
    assert desk.refusals(path) == [(3, "note", "not UTF-8"), (5, "note", "not UTF-8")]
    assert sorted(desk.landed()) == ["a", "b", "c"]


def test_a_quote_that_stays_open_is_refused_and_one_inside_a_bare_cell_is_text(desk: Desk) -> None:
    path = desk.csv(desk.line("a"), desk.line("b", '5" pipe'), desk.line("c"), desk.line("d", '"never closed'))
    counts = desk.land(path)
    assert counts.landed == 3
    assert [row for row, _, _ in desk.refusals(path)] == [5]
    assert desk.landed()["b"]["note"] == '5" pipe'


def test_a_quote_closed_too_early_is_refused_by_row(desk: Desk) -> None:
    path = desk.csv(desk.line("a"), desk.line("b", '"early" end'), desk.line("c"))
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (3, 2, 1)
    assert [row for row, _, _ in desk.refusals(path)] == [3]


def test_a_file_cut_in_the_middle_of_a_row_lands_the_rest(desk: Desk) -> None:
    path = desk.csv(*(desk.line(f"r{n}", '"quoted note"') for n in range(20)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (20, 19, 1)
    assert desk.refusals(path)[0][0] == 21
    cut = desk.file(whole[: whole.rindex(b"2026")])
    counts = desk.land(cut)
    assert (counts.read, counts.landed, counts.repeated, counts.rejected) == (20, 0, 19, 1)


def test_a_row_over_5_mb_and_one_over_10_mb_are_refused_alone(desk: Desk) -> None:
    five, eleven = '"{""a"":[' + '""x"",' * 1_500_000 + '1]}"', "y" * 11_000_000
    path = desk.csv(
        desk.line("a"), desk.line("five", five), desk.line("b"), desk.line("eleven", eleven), desk.line("c")
    )
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (5, 3, 2)
    assert [(row, reason) for row, _, reason in desk.refusals(path)] == [(3, "too large"), (5, "too large")]
    assert sorted(desk.landed()) == ["a", "b", "c"]


def test_400_properties_land_and_401_are_refused(desk: Desk) -> None:
    names = [f"p{n}" for n in range(401)]
    header = ",".join(["who", "at", *names])
    mapping = Mapping(
        data="events", identifiers=(("external_id", "who"),), event_time="at", metric=Given(constant="Wide")
    )
    most, all_ = ",".join(["1"] * 400) + ",", ",".join(["1"] * 401)
    path = desk.csv(f"{desk.own('w')},{NOON},{most}", f"{desk.own('w')},{NOON},{all_}", header=header)
    counts = desk.land(path, mapping)
    assert (counts.landed, counts.reasons) == (1, {"too many properties": 1})
    assert desk.refusals(path)[0][0] == 3


def test_columns_that_differ_only_by_case_are_two(desk: Desk) -> None:
    path = desk.csv(f"{desk.own('x')},{NOON},x,1,lower,upper", header="who,at,id,worth,tier,Tier")
    assert desk.land(path).landed == 1
    assert desk.landed()["x"]["tier"] == "lower"
    assert desk.landed()["x"]["Tier"] == "upper"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"who,at,id,worth\n", "no rows"),
        (b"\n", "header"),
        (b"\xef\xbb\xbf", "header"),
        (b"who,at,,worth\na,b,c,d\n", "column 3"),
        (b"who,at,id,worth,who\na,b,c,d,e\n", "'who' twice"),
        (b"who,at,id,worth, who\na,b,c,d,e\n", "'who' twice"),
        (b"who;at;id;worth\na;b;c;d\n", "'who;at;id;worth'"),
        (b"when,at,id,worth\na,b,c,d\n", "no column 'who'"),
        ("who,at,id,worth\na,b,c,d\n".encode("utf-16"), "UTF-16"),
        ("wh\xf6,at,id,worth\na,b,c,d\n".encode("latin-1"), "line 1: the header is not UTF-8"),
        (b"\0\0\0\0\0\0", "NUL"),
        (b'"who,at,id,worth\n' + b"a,b,c,d\n" * 3, "line 1"),
    ],
)
def test_a_file_that_cannot_be_used_at_all_is_named(desk: Desk, content: bytes, said: str) -> None:
    path = desk.file(content)
    before = desk.lake.snapshot()
    with pytest.raises(InvalidInput) as told:
        desk.land(path)
    assert path.name in str(told.value)
    assert said in str(told.value)
    assert desk.lake.snapshot().snapshot_id == before.snapshot_id


def test_another_delimiter_is_hinted_at_and_then_taken(desk: Desk) -> None:
    path = desk.file(f"who;at;id;worth\n{desk.own('x')};{NOON};x;1,5\n")
    with pytest.raises(InvalidInput) as told:
        desk.land(path)
    assert "--delimiter ';'" in told.value.hint
    assert desk.land(path, delimiter=";").reasons == {"bad number": 1}


@pytest.mark.parametrize("name", ["with [1] brackets*.csv", "{DATA_PATH}.csv", 'it\'s "quoted".csv', "größe ☃.csv"])
def test_a_file_may_have_any_name(desk: Desk, name: str) -> None:
    path = desk.folder / name
    path.write_text(f"who,at,id,worth\n{desk.own('x')},{NOON},x,1\n{desk.own('y')},{NOON},y,much\n")
    counts = desk.land(path)
    assert (counts.landed, counts.rejected) == (1, 1)


def test_a_gzipped_file_lands_like_a_plain_one_and_a_truncated_one_is_named(desk: Desk) -> None:
    text = desk.csv(*(desk.line(f"r{n}", f"note {n}") for n in range(3000))).read_bytes()
    whole = desk.file(gzip.compress(text), "rows.csv.gz")
    assert desk.land(whole).landed == 3000
    torn = desk.file(gzip.compress(text)[:-2000], "rows.csv.gz")
    with pytest.raises(InvalidInput, match=torn.name):
        desk.land(torn)
    with pytest.raises(InvalidInput, match="not_gzip"):
        desk.land(desk.file(text, "not_gzip.csv.gz"))


def test_what_is_not_there_or_of_no_known_kind_is_named(desk: Desk, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.csv", tmp_path, desk.file("x", "rows.xlsx")):
        with pytest.raises(InvalidInput, match=path.name):
            desk.land(path)


def test_a_load_that_was_cut_off_goes_on_behind_its_last_batch(alone: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 10)
    monkeypatch.setattr("isthmus.store.csv_scan.CsvScan.rows", _small(10))
    lines = [alone.line(f"r{n:02}", worth="much" if n % 7 == 0 else "1") for n in range(45)]
    lines.insert(20, "too,few")
    path = alone.csv(*lines)
    seen = []

    def cut(done: int, _total: int | None) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alone.land(path, report=cut)
    assert 0 < len(alone.landed()) < 38
    counts = alone.land(path)
    assert (counts.read, counts.landed, counts.repeated, counts.rejected) == (46, 38, 0, 8)
    assert sorted(alone.landed()) == [f"r{n:02}" for n in range(45) if n % 7]
    numbers = [row for row, _, _ in alone.refusals(path)]
    assert numbers == sorted([22, *(n + 2 + (n >= 20) for n in range(0, 45, 7))])


def _small(size: int):
    from isthmus.store.csv_scan import CsvScan

    whole = CsvScan.rows

    def rows(self: CsvScan, batch_rows: int = 0):
        for batch in whole(self):
            for at in range(0, batch.num_rows, size):
                yield batch.slice(at, size)

    return rows


def test_without_a_unique_id_the_same_row_is_the_same_event(desk: Desk) -> None:
    mapping = Mapping(
        data="events",
        identifiers=(("external_id", "who"),),
        event_time="at",
        metric=Given(constant="Visit"),
        value="worth",
    )
    row, other = f"{desk.own('x')},{NOON},1,a", f"{desk.own('x')},{NOON},1,b"
    counts = desk.land(desk.csv(row, other, row, header="who,at,worth,note"), mapping)
    assert (counts.landed, counts.repeated) == (2, 1)
    # In another file.
    counts = desk.land(desk.csv(other, row, header="who,at,worth,note"), mapping)
    assert (counts.landed, counts.repeated) == (0, 2)


def test_an_own_property_and_a_column_of_that_name_are_one(desk: Desk) -> None:
    path = desk.csv(f"{desk.own('x')},{NOON},x,7,8", header="who,at,id,worth,$value")
    assert desk.land(path, EVENTS).landed == 1
    [(text,)] = desk.lake.query(
        "SELECT event_properties::VARCHAR FROM events WHERE profile_id = "
        "(SELECT profile_id FROM identifiers WHERE value = ?)",
        [desk.own("x")],
    )
    assert text.count('"$value"') == 1

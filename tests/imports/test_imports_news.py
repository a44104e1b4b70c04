"""Profile news: what was heard before, or is older, changes nothing, however often and in whatever order it is read."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports_cast import Desk

from isthmus.model.mapping import Mapping
from isthmus.store import people

MAPPING = Mapping(
    data="profiles",
    identifiers=(("external_id", "who"), ("email", "mail")),
    changed_at="changed",
    fields=(("title", "title"),),
    ignore=("reading",),
)


def land(desk: Desk, *rows: tuple[str, str, str], mail: str = "") -> Any:
    """Rows of (name, changed at, title), in a file of its own: the same rows in another file are read again."""
    lines = [f"{desk.own(name)},{mail},{changed},{title},{uuid4().hex}" for name, changed, title in rows]
    return desk.land(desk.csv(*lines, header="who,mail,changed,title,reading"), MAPPING, "profiles")


def title(desk: Desk, name: str) -> Any:
    return people.show(desk.lake, people.find(desk.lake, desk.own(name))).profile["title"]


def test_an_older_row_in_another_file_does_not_come_back_over_a_newer_one(desk: Desk) -> None:
    assert land(desk, ("a", "2026-01-02", "new")).landed == 1
    counts = land(desk, ("a", "2026-01-01", "old"))
    assert (counts.landed, counts.repeated, title(desk, "a")) == (0, 1, "new")
    assert land(desk, ("a", "2026-01-03", "newest")).landed == 1
    assert title(desk, "a") == "newest"


def test_rows_read_again_change_nothing_and_count_as_repeated(desk: Desk) -> None:
    rows = [("a", "2026-01-01", "x"), ("b", "2026-01-01", "y"), ("b", "2026-01-02", "z")]
    land(desk, *rows)
    before = desk.lake.snapshot()
    counts = land(desk, *rows[2:], ("a", "2026-01-01", "x"))
    assert (counts.landed, counts.repeated) == (0, 2)
    assert desk.lake.query("SELECT max(seq) FROM lake.profiles") <= [(before.seq,)]
    assert (title(desk, "a"), title(desk, "b")) == ("x", "z")


def test_other_content_at_the_same_time_is_news(desk: Desk) -> None:
    land(desk, ("a", "2026-01-01", "x"))
    assert land(desk, ("a", "2026-01-01", "y")).landed == 1
    assert title(desk, "a") == "y"


def test_an_old_row_does_not_bring_an_old_address_back(desk: Desk) -> None:
    old, new = f"{desk.own('old')}@example.com", f"{desk.own('new')}@example.com"
    land(desk, ("a", "2026-01-01", "x"), mail=old)
    land(desk, ("a", "2026-01-02", "x"), mail=new)
    land(desk, ("a", "2026-01-01", "x"), mail=old)
    found = people.show(desk.lake, people.find(desk.lake, desk.own("a")))
    assert found.profile["email"] == new


def test_a_row_without_a_time_counts_as_the_oldest(desk: Desk) -> None:
    land(desk, ("a", "", "x"))
    assert title(desk, "a") == "x"
    land(desk, ("a", "2026-01-01", "y"))
    land(desk, ("a", "", "z"))
    assert title(desk, "a") == "y"


def test_an_erasure_leaves_nothing_there_and_the_person_may_come_again(desk: Desk) -> None:
    land(desk, ("a", "2026-01-02", "x"))
    profile_id = people.find(desk.lake, desk.own("a"))
    count = "SELECT count(*) FROM lake.profile_news WHERE profile_id = ?"
    assert desk.lake.query(count, [profile_id]) == [(1,)]
    people.erase(desk.lake, profile_id)
    assert desk.lake.query(count, [profile_id]) == [(0,)]
    assert land(desk, ("a", "2026-01-03", "y")).reasons == {"erased": 1}
    assert land(desk, ("a", "2126-01-01", "y")).profiles_created == 1


ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=8)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, data=st.data())
def test_reading_again_in_any_pieces_ends_with_the_newest(
    desk: Desk, rows: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """Each time says one thing here: with equal times the last row read counts, whichever that is."""
    tag = uuid4().hex[:6]
    once = {(name, day): (f"{name}{tag}", f"2026-01-{day:02}", f"t{value}") for name, day, value in rows}
    for _ in range(data.draw(st.integers(1, 3))):
        some = data.draw(st.lists(st.sampled_from(sorted(once.values())), max_size=6))
        if some:
            land(desk, *some)
    land(desk, *data.draw(st.permutations(sorted(once.values()))))
    for name in {name for name, _ in once}:
        newest = max(day for other, day in once if other == name)
        assert title(desk, f"{name}{tag}") == once[name, newest][2]

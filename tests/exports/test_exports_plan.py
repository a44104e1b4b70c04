"""Plans: chunks lie end to end, none is missing, none overlaps; and what a history means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.exports.plan import Pending, changes, events_since, history, pack, replacing
from isthmus.model.errors import InvalidInput

COMMITS = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 50)), max_size=20, unique_by=lambda c: c[0]).map(
    lambda found: [(seq, rows, rows // 2) for seq, rows in sorted(found)]
)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@given(commits=COMMITS, limit=st.integers(1, 60))
def test_packed_commits_lie_end_to_end_and_lose_no_row(commits: list[tuple[int, int, int]], limit: int) -> None:
    packed = list(pack(commits, 0, limit))
    assert sum(rows for _, _, rows, _ in packed) == sum(rows for _, rows, _ in commits)
    assert [after for after, _, _, _ in packed] == [0, *(upto for _, upto, _, _ in packed)][: len(packed)]
    assert not packed or packed[-1][1] == commits[-1][0]
    for after, upto, rows, _ in packed:
        inside = [count for seq, count, _ in commits if after < seq <= upto]
        assert rows == sum(inside) and (rows <= limit or len(inside) == 1)


@given(commits=COMMITS, limit=st.integers(1, 60), upto=st.integers(200, 300))
def test_what_replaces_a_table_covers_every_commit_there_can_be(
    commits: list[tuple[int, int, int]], limit: int, upto: int
) -> None:
    chunks = replacing("event", commits, None, None, "s", first=0, top=upto, limit=limit)
    assert chunks and chunks[0].replaces_after is None and chunks[-1].replaces_upto is None
    for one, next_ in pairwise(chunks):
        assert one.replaces_upto == next_.replaces_after is not None
    assert len({c.batch_id for c in chunks}) == len(chunks)
    assert sum(c.rows for c in chunks) == sum(rows for _, rows, _ in commits)


def test_only_rows_that_were_never_sent_promise_to_be_new() -> None:
    pending = [Pending("event", [(5, 10, 0), (6, 3, 1)], 2, False)]
    new, mixed = (
        changes([Pending("event", [(5, 10, 0)], 0, False)], after=4, upto=6, stem="s", careful=False),
        changes(pending, after=4, upto=6, stem="s", careful=False),
    )
    assert [c.adds_only for c in new] == [True]
    assert [(c.part, c.adds_only) for c in mixed] == [("rows", False), ("deletes", False)]
    assert not any(c.adds_only for c in changes(pending, after=4, upto=6, stem="s", careful=True))


def test_a_first_run_adds_to_an_empty_table_and_replaces_another() -> None:
    commits = [(1, 5, 5)]
    [added] = history([Pending("event", commits, 0, True)], upto=9, stem="s")
    [replaced] = history([Pending("event", commits, 0, False)], upto=9, stem="s")
    assert added.adds_only and not added.replaces
    assert replaced.replaces and not replaced.adds_only
    assert history([Pending("event", [], 0, True)], upto=9, stem="s") == []


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("all", None),
        ("ALL", None),
        ("30d", NOW - timedelta(days=30)),
        ("90 d", NOW - timedelta(days=90)),
        ("1y", NOW - timedelta(days=365)),
        ("2025-01-31", datetime(2025, 1, 31, tzinfo=UTC)),
        ("2025-01-31T10:00:00+02:00", datetime(2025, 1, 31, 8, tzinfo=UTC)),
        ("2025-01-31T10:00:00", datetime(2025, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_history_is_understood(text: str, since: datetime | None) -> None:
    assert events_since(text, NOW) == since


@pytest.mark.parametrize(
    "text", ["", "d", "30", "1m", "-1d", "2025-02-30", "9999999d", "9999y", "0001-01-01T00:00:00+05:00"]
)
def test_a_history_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        events_since(text, NOW)

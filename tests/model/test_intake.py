"""The full parse of suspicious properties, and the counts of a landing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.model.intake import Counts, Reason, find_fault

KEYS = st.text(st.characters(exclude_characters="\0"), max_size=3)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_whatever_json_can_hold_is_faultless(value: object) -> None:
    assert find_fault(json.dumps({"a": value})) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", Reason.BAD_NUMBER),
        ("-Infinity", Reason.BAD_NUMBER),
        ("1e400", Reason.BAD_NUMBER),
        (str(2**63), Reason.BAD_NUMBER),
        (str(-(2**63) - 1), Reason.BAD_NUMBER),
        ("9" * 5000, Reason.BAD_NUMBER),
        ('"\\u0000"', Reason.NUL),
        ('{"\\u0000": 1}', Reason.NUL),
        (json.dumps("x" * 102_401), Reason.TOO_LONG),
        (json.dumps("ü" * 51_201, ensure_ascii=False), Reason.TOO_LONG),
        ("[" * 100_000 + "]" * 100_000, Reason.TOO_DEEP),
        ("[1,]", Reason.BAD_JSON),
    ],
)
def test_what_no_warehouse_could_hold_is_found_at_any_depth(text: str, reason: Reason) -> None:
    for wrapped in (text, f'{{"a": [0, {{"b": {text}}}]}}'):
        found = find_fault(wrapped)
        assert found is not None and found[0] is reason


def test_the_longest_text_is_100_kb() -> None:
    assert find_fault(json.dumps("x" * 102_400)) is None
    assert find_fault(json.dumps("ü" * 51_200, ensure_ascii=False)) is None


def test_counts_add_up_and_survive_being_written_down() -> None:
    one = Counts(read=3, landed=1, repeated=1, rejected=1)
    one.reasons["bad time"] = 1
    two = Counts(read=1, rejected=1)
    two.reasons["bad time"] = 1
    one.add(two)
    assert (one.read, one.rejected, one.reasons) == (4, 2, {"bad time": 2})
    assert Counts.from_dict(json.loads(json.dumps(one.as_dict()))) == one

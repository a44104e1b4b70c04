"""Consent columns: what counts is what was said last, an opt-out at one moment before an opt-in, and never in bulk."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports_cast import Desk

from isthmus.model.mapping import Mapping, parse
from isthmus.store import people

MAPPING = parse(
    {
        "identifiers": {"external_id": "who"},
        "changed_at": "changed",
        "consent": {"email_marketing": "mail", "email_marketing_at": "mail_at", "sms_marketing": "sms"},
    },
    "profiles",
)


def row(desk: Desk, name: str, mail: str = "", day: int | None = None, sms: str = "", changed: int = 1) -> str:
    at = f"2026-01-{day:02}" if day else ""
    return f"{desk.own(name)},2026-02-{changed:02},{mail},{at},{sms},{uuid4().hex}"


def land(desk: Desk, *lines: str, mapping: Mapping | None = MAPPING) -> Any:
    path = desk.csv(*lines, header="who,changed,mail,mail_at,sms,note")
    return desk.land(path, mapping, "profiles"), path


def consent(desk: Desk, name: str) -> Any:
    found = people.show(desk.lake, people.find(desk.lake, desk.own(name))).profile["subscriptions"]
    return json.loads(found) if found else None


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Subscribe", "subscribed"),
        (" SUBSCRIBED ", "subscribed"),
        ("unsubscribed", "unsubscribed"),
        ("never subscribed", "never_subscribed"),
    ],
)
def test_a_consent_is_kept_with_its_time(desk: Desk, text: str, status: str) -> None:
    land(desk, row(desk, status, text, 3, sms=text, changed=5))
    assert consent(desk, status) == {
        "email_marketing": {"status": status, "at": "2026-01-03T00:00:00.000000Z"},
        "sms_marketing": {"status": status, "at": "2026-02-05T00:00:00.000000Z"},
    }


@pytest.mark.parametrize("text", ["yes", "true", "1", "Unsubscribe", "opted in"])
def test_anything_else_is_refused_and_says_which_column(desk: Desk, text: str) -> None:
    counts, path = land(desk, row(desk, "bad", text), row(desk, "good", " "))
    assert (counts.landed, counts.rejected) == (1, 1)
    assert desk.refusals(path) == [(2, "mail", "bad consent")]
    assert consent(desk, "good") is None


def test_a_bad_time_of_a_consent_is_refused(desk: Desk) -> None:
    counts, path = land(desk, row(desk, "late", "Subscribe").replace(",Subscribe,,", ",Subscribe,31/12/2025,"))
    assert counts.rejected == 1 and desk.refusals(path) == [(2, "mail_at", "bad time")]


@pytest.mark.parametrize(
    ("steps", "status", "day"),
    [
        ([("Unsubscribed", 5), ("Subscribe", 3)], "unsubscribed", 5),
        ([("Unsubscribed", 5), ("Subscribe", 5)], "unsubscribed", 5),
        ([("Unsubscribed", 5), ("Subscribe", 7)], "subscribed", 7),
        ([("Subscribe", 5), ("Unsubscribed", 5)], "unsubscribed", 5),
        ([("Subscribe", 7), ("Unsubscribed", 5)], "subscribed", 7),
        ([("Subscribe", 3), ("Never Subscribed", 9)], "subscribed", 3),
        ([("Unsubscribed", 3), ("Never Subscribed", 9)], "unsubscribed", 3),
        ([("Never Subscribed", 9), ("Subscribe", 3)], "subscribed", 3),
        ([("Subscribe", 3), ("", 9)], "subscribed", 3),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_which_of_two_statements_counts(
    desk: Desk, steps: list[tuple[str, int]], status: str, day: int, apart: bool
) -> None:
    name = uuid4().hex[:6]
    lines = [row(desk, name, mail, at, changed=n + 1) for n, (mail, at) in enumerate(steps)]
    for batch in [[line] for line in lines] if apart else [lines]:
        land(desk, *batch)
    assert consent(desk, name)["email_marketing"] == {"status": status, "at": f"2026-01-{day:02}T00:00:00.000000Z"}


def test_nobody_is_reset_in_bulk(desk: Desk) -> None:
    land(desk, row(desk, "a", "Subscribe", 1), row(desk, "b", "Unsubscribed", 1), row(desk, "c"))
    land(desk, *(row(desk, name, "Never Subscribed", 20, changed=9) for name in "abc"))
    found = [consent(desk, name)["email_marketing"]["status"] for name in "abc"]
    assert found == ["subscribed", "unsubscribed", "never_subscribed"]


def test_a_file_with_the_headers_of_the_original_needs_no_mapping(desk: Desk) -> None:
    email = "Email Marketing Consent,Email Marketing Consent Timestamp"
    header = f"ExternalID,{email},SMS Marketing Consent,SMS Marketing Timestamp"
    path = desk.csv(f"{desk.own('h')},Subscribed,01/02/2026,Unsubscribed,1767312000", header=header)
    desk.land(path, None, "profiles")
    assert consent(desk, "h") == {
        "email_marketing": {"status": "subscribed", "at": "2026-01-02T00:00:00.000000Z"},
        "sms_marketing": {"status": "unsubscribed", "at": "2026-01-02T00:00:00.000000Z"},
    }


def test_two_people_who_turn_out_to_be_one_keep_the_later_consent(desk: Desk) -> None:
    mapping = parse(
        {
            "identifiers": {"external_id": "x", "email": "e", "phone_number": "p"},
            "consent": {
                "email_marketing": "m",
                "email_marketing_at": "m_at",
                "sms_marketing": "s",
                "sms_marketing_at": "s_at",
            },
        },
        "profiles",
    )
    mail, ext, digits = f"{desk.own('m')}@example.com", desk.own("x"), str(uuid4().int)[:7]

    def say(line: str) -> None:
        desk.land(desk.csv(line, header="x,e,p,m,m_at,s,s_at"), mapping, "profiles")

    say(f"{ext},,+4930{digits},Subscribe,2026-01-01,Subscribe,2026-01-01")
    say(f",{mail},+4940{digits},Unsubscribed,2026-01-05,Subscribe,2026-01-09")
    say(f"{ext},{mail},,,,,")
    found = consent(desk, "x")
    assert found["email_marketing"]["status"] == "unsubscribed"
    assert found["sms_marketing"]["at"].startswith("2026-01-01"), "an opt-in went over to another number"


STATEMENTS = st.tuples(st.sampled_from(["Subscribe", "Unsubscribed", "Never Subscribed", ""]), st.integers(1, 4))


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.lists(STATEMENTS, min_size=1, max_size=4), data=st.data())
def test_the_order_in_which_statements_arrive_makes_no_difference(
    desk: Desk, said: list[tuple[str, int]], data: st.DataObject
) -> None:
    other = data.draw(st.permutations(said))
    again = data.draw(st.lists(st.sampled_from(said), max_size=2))
    one, two = uuid4().hex[:6], uuid4().hex[:6]
    land(desk, *(row(desk, one, *each) for each in said))
    for each in [*other, *again]:
        land(desk, row(desk, two, *each))
    assert consent(desk, one) == consent(desk, two)

"""Mappings: their rules, bound to columns, and guessed from names."""

from __future__ import annotations

from typing import Any

import pytest

from isthmus.model.errors import InvalidInput
from isthmus.model.guess import guess
from isthmus.model.mapping import Given, bind, parse

GOOD: dict[str, Any] = {"identifiers": {"email": "mail"}, "event_time": "at", "metric": {"constant": "Order"}}


def test_a_mapping_is_read_with_its_identifiers_highest_first() -> None:
    mapping = parse({**GOOD, "identifiers": {"email": "mail", "profile_id": "p", "external_id": "e"}}, "events")
    assert mapping.identifiers == (("profile_id", "p"), ("external_id", "e"), ("email", "mail"))
    assert (mapping.metric, mapping.integration) == (Given(constant="Order"), Given(constant="File"))
    assert mapping.property_columns(["mail", "at", "tier", "Tier"]) == [("tier", "tier"), ("Tier", "Tier")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"identifiers": {}}, "no identifier"),
        ({"identifiers": {"e-mail": "x"}}, "'e-mail'"),
        ({"identifiers": "mail"}, "identifiers"),
        ({"event_time": None}, "event_time"),
        ({"metric": None}, "metric"),
        ({"metric": {"constant": " "}}, "1 to 127"),
        ({"metric": {"constant": "x" * 128}}, "1 to 127"),
        ({"metric": {"constant": "x", "column": "y"}}, "metric"),
        ({"changed_at": "at"}, "changed_at and event_time"),
        ({"fields": {"first_name": "x"}}, "profiles"),
        ({"unique_ids": "x"}, "'unique_ids'"),
        ({"event_time": ["at"]}, "event_time"),
        ({"properties": ["x"]}, "properties"),
    ],
)
def test_a_mapping_that_breaks_a_rule_is_refused_with_the_rule(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as told:
        parse({**GOOD, **change}, "events")
    assert said in str(told.value) + told.value.hint


@pytest.mark.parametrize("document", [None, [], "text", 1])
def test_what_is_no_mapping_is_refused(document: object) -> None:
    with pytest.raises(InvalidInput):
        parse(document, "events")


@pytest.mark.parametrize("field", ["event_time", "metric", "unique_id", "value", "value_currency"])
def test_a_mapping_of_profiles_has_no_field_of_events(field: str) -> None:
    with pytest.raises(InvalidInput, match="events"):
        parse({"identifiers": {"email": "mail"}, field: "x"}, "profiles")


def test_a_column_that_is_not_there_is_named_with_the_nearest_one() -> None:
    with pytest.raises(InvalidInput) as told:
        bind(parse({**GOOD, "value": "amuont"}, "events"), ["mail", "at", "amount"], where="orders.csv")
    assert "orders.csv" in str(told.value) and "'amuont'" in str(told.value)
    assert "'amount'" in told.value.hint


def test_names_are_guessed_without_case_spaces_and_punctuation() -> None:
    columns = ["External ID", "E-Mail", "PhoneNumber", "Timestamp", "Metric", "$event_id", "$value", "Colour"]
    mapping = guess(columns, "events", where="x.csv")
    assert dict(mapping.identifiers) == {
        "external_id": "External ID",
        "email": "E-Mail",
        "phone_number": "PhoneNumber",
    }
    assert (mapping.event_time, mapping.unique_id, mapping.value) == ("Timestamp", "$event_id", "$value")
    assert mapping.property_columns(columns) == [("Colour", "Colour")]
    profiles = guess(["email", "First Name", "city", "tier"], "profiles", where="x.csv")
    assert dict(profiles.fields) == {"first_name": "First Name", "location_city": "city"}


@pytest.mark.parametrize(
    ("columns", "said"),
    [(["colour", "at"], "identifier"), (["email", "metric"], "time"), (["email", "timestamp"], "metric")],
)
def test_what_cannot_be_guessed_is_asked_for(columns: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        guess(columns, "events", where="x.csv")
    if said == "metric":
        assert guess(columns, "events", where="x.csv", metric="Order").metric == Given(constant="Order")

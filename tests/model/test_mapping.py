"""Mappings: their rules, bound to columns, and guessed from names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.actions.previewing import as_yaml
from isthmus.model.errors import InvalidInput
from isthmus.model.guess import guess
from isthmus.model.import_rules import check_import, check_together
from isthmus.model.intake import IncomingColumn, Shape
from isthmus.model.mapping import (
    CHANNELS,
    FIELD_NAMES,
    IDENTIFIER_KINDS,
    Data,
    Given,
    Mapping,
    as_document,
    bind,
    check,
    fingerprint,
    parse,
    renamed,
)

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
        ({"metric": {"constant": " "}}, "metric is the constant ' '"),
        ({"metric": {"constant": "x" * 128}}, "metric is the constant 'xxx"),
        ({"integration": {"constant": "a\0"}}, "integration is the constant"),
        ({"value_currency": {"constant": "euro"}}, "value_currency is the constant 'euro'"),
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


PROFILES: dict[str, Any] = {"identifiers": {"email": "mail"}, "fields": {"title": "t"}, "properties": {"tier": "tier"}}


@pytest.mark.parametrize(
    ("data", "change", "said"),
    [
        ("events", {"value": "mail"}, "'mail' is mapped to email and to value"),
        ("events", {"unique_id": "v", "value": "v"}, "'v' is mapped to unique_id and to value"),
        ("events", {"identifiers": {"email": "x", "external_id": "x"}}, "'x' is mapped to external_id and to email"),
        ("events", {"changed_at": "c", "unique_id": "c"}, "'c' is mapped to unique_id and to changed_at"),
        ("events", {"value": "v", "ignore": ["v"]}, "'v' is mapped to value and ignored"),
        ("events", {"properties": {"p": "v"}, "ignore": ["v"]}, "'v' is mapped to the property 'p' and ignored"),
        ("events", {"clear": ["p"], "properties": {"p": "v"}}, "clear"),
        ("events", {"consent": {"email_marketing": "c"}}, "consent"),
        ("events", {"ignore": "v"}, "ignore takes a list"),
        ("events", {"ignore": ["v", "v"]}, "'v' twice"),
        ("events", {"value": ""}, "value"),
        ("events", {"properties": {"___".join("abcdefghijk"): "v"}}, "'v' would lie 11 levels deep"),
        ("profiles", {"fields": {"title": "mail"}}, "'mail' is mapped to email and to title"),
        ("profiles", {"clear": ["email"]}, "'email'"),
        ("profiles", {"clear": ["first_name"]}, "'first_name'"),
        ("profiles", {"consent": {"fax": "c"}}, "'fax'"),
        ("profiles", {"consent": {"sms_marketing_at": "c"}}, "sms_marketing_at without sms_marketing"),
        ("profiles", {"consent": {"sms_marketing": "c", "email_marketing": "c"}}, "'c' is mapped to email_marketing"),
    ],
)
def test_a_column_fills_one_field_and_what_is_named_is_mapped(data: Data, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as told:
        parse({**(GOOD if data == "events" else PROFILES), **change}, data)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("data", "change"),
    [
        ("events", {"unique_id": "mail"}),
        ("events", {"unique_id": "at"}),
        ("events", {"properties": {"address": "mail", "again": "mail"}}),
        ("profiles", {"clear": ["title", "tier"]}),
        ("profiles", {"changed_at": "c", "consent": {"email_marketing": "m", "email_marketing_at": "c"}}),
    ],
)
def test_what_is_harmless_is_allowed(data: Data, change: dict[str, Any]) -> None:
    parse({**(GOOD if data == "events" else PROFILES), **change}, data)


def test_two_columns_of_one_field_are_named() -> None:
    with pytest.raises(InvalidInput, match="email is mapped from two columns, 'a' and 'b'"):
        check(Mapping(data="profiles", identifiers=(("email", "a"), ("email", "b"))))


def test_an_import_needs_a_time_of_change() -> None:
    for data, document in (("events", GOOD), ("profiles", PROFILES)):
        with pytest.raises(InvalidInput, match="changed_at"):
            check_import(parse(document, cast("Data", data)))
        check_import(parse({**document, "changed_at": "c"}, cast("Data", data)))


def test_a_property_of_profiles_has_one_import_as_its_source() -> None:
    one, two = (
        parse(PROFILES, "profiles"),
        parse({**PROFILES, "fields": {}, "properties": {"tier": "class"}}, "profiles"),
    )
    with pytest.raises(InvalidInput, match=r"'tier'.*'tier'.*'crm'.*'class'.*'shop'"):
        check_together({"crm": one, "shop": two})
    check_together({"crm": one, "events": parse({**GOOD, "properties": {"tier": "x"}}, "events")})


def test_a_property_under_its_columns_name_has_one_import_as_its_source_too() -> None:
    one, two = (parse({"identifiers": {"external_id": "id"}, "ignore": ["at"]}, "profiles") for _ in range(2))
    check_together({"crm": one, "shop": two}, {"crm": ["id", "at", "tier"], "shop": ["id", "at", "points"]})
    check_together({"crm": one, "shop": two}, {"crm": ["id", "tier"]})
    with pytest.raises(InvalidInput, match=r"property 'tier'.*'crm'.*'shop'"):
        check_together({"crm": one, "shop": two}, {"crm": ["id", "at", "tier"], "shop": ["id", "tier"]})


def test_columns_too_deep_or_to_clear_are_looked_for_when_bound() -> None:
    deep = "___".join("abcdefghijk")
    with pytest.raises(InvalidInput, match=deep):
        bind(parse(GOOD, "events"), ["mail", "at", deep], where="x")
    with pytest.raises(InvalidInput, match="'tier'"):
        bind(parse({"identifiers": {"email": "mail"}, "clear": ["tier"]}, "profiles"), ["mail"], where="x")


def typed(**shapes: Shape) -> list[IncomingColumn]:
    return [IncomingColumn(name, f"c{i}", shape) for i, (name, shape) in enumerate(shapes.items())]


def test_types_help_to_guess_and_the_time_of_change_is_never_that_of_the_event() -> None:
    at, text, number = Shape.TIMESTAMP, Shape.STRING, Shape.NUMBER
    columns = typed(id=number, customer_id=number, bought_at=at, loaded_at=at, amount=number, event_name=text)
    mapping = guess(columns, "events", where="x")
    assert (mapping.event_time, mapping.changed_at) == ("bought_at", "loaded_at")
    assert (mapping.unique_id, mapping.value, mapping.metric) == ("id", "amount", Given(column="event_name"))
    people = guess(typed(id=number, mail=text, updated_at=at, tags=Shape.NESTED), "profiles", where="x")
    assert (dict(people.identifiers), people.changed_at) == ({"external_id": "id", "email": "mail"}, "updated_at")
    assert guess(typed(email=text, updated_at=text), "profiles", where="x").changed_at is None
    with pytest.raises(InvalidInput, match="time"):
        guess(typed(email=text, updated_at=at, event=text), "events", where="x")


NAMES = st.text(min_size=1, max_size=6)


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    """Mappings that keep the rules: every column has one use."""
    columns = iter(draw(st.lists(NAMES, min_size=40, max_size=40, unique=True)))
    data: Data = draw(st.sampled_from(["events", "profiles"]))

    def some(names: Sequence[str], least: int = 0) -> tuple[tuple[str, str], ...]:
        chosen = draw(st.sets(st.sampled_from(names), min_size=least, max_size=4))
        return tuple((name, next(columns)) for name in names if name in chosen)

    def given_(pattern: str = r"(?s)[^\0]{1,9}") -> Given:
        constant = st.from_regex(pattern, fullmatch=True).filter(lambda t: t.strip() != "")
        return draw(st.one_of(constant.map(lambda t: Given(constant=t)), st.just(Given(column=next(columns)))))

    named = draw(st.none() | st.lists(NAMES, max_size=3, unique=True))
    properties = None if named is None else tuple((name, next(columns)) for name in named)
    maybe = draw(st.lists(st.booleans(), min_size=6, max_size=6))
    common: dict[str, Any] = {
        "identifiers": some(IDENTIFIER_KINDS, 1),
        "changed_at": next(columns) if maybe[0] else None,
        "properties": properties,
        "ignore": tuple(next(columns) for _ in range(2)) if maybe[1] else (),
    }
    if data == "events":
        return Mapping(
            data=data,
            **common,
            event_time=next(columns),
            metric=given_(),
            integration=given_(),
            unique_id=next(columns) if maybe[2] else None,
            value=next(columns) if maybe[3] else None,
            value_currency=given_("[A-Z]{3}") if maybe[4] else None,
        )
    fields = some(FIELD_NAMES)
    clear = tuple(dict.fromkeys([*(n for n, _ in fields[:1]), *(named or ())[:1]])) if maybe[2] else ()
    channels = some(CHANNELS)
    consent = tuple(pair for name, column in channels for pair in [(name, column), (f"{name}_at", next(columns))])
    return Mapping(data=data, **common, fields=fields, clear=clear, consent=consent)


@given(mapping=mappings())
def test_a_mapping_written_down_is_read_back_as_it_was(mapping: Mapping) -> None:
    check(mapping)
    written = yaml.safe_load(as_yaml(mapping))["mapping"]
    assert written == as_document(mapping)
    assert parse(written, mapping.data) == mapping
    assert fingerprint(parse(written, mapping.data)) == fingerprint(mapping)


def test_a_column_that_differs_in_case_is_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidInput) as caught:
        bind(parse(GOOD, "events"), ["AT", "E_MAIL", "MAIL"], where="orders")
    assert "did you mean 'MAIL'?" in caught.value.hint


def test_a_mapping_for_other_names_of_the_columns_maps_the_same() -> None:
    document = {**GOOD, "properties": {"tier": "level"}, "ignore": ["x"], "value": "paid"}
    upper = as_document(renamed(parse(document, "events"), str.upper))
    assert upper == {
        **{**document, "identifiers": {"email": "MAIL"}, "event_time": "AT", "properties": {"tier": "LEVEL"}},
        **{"ignore": ["X"], "value": "PAID"},
    }

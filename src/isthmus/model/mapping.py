"""A mapping: which incoming column becomes which field, and how. Its rules live here and nowhere else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from isthmus.model.errors import InvalidInput
from isthmus.model.tables import PROFILE_FIELDS

Data = Literal["events", "profiles"]

IDENTIFIER_KINDS = ("profile_id", "external_id", "email", "phone_number", "anonymous_id")
"""Highest first: where two disagree, the earlier one decides."""

FIELD_NAMES = tuple(name for name, _ in PROFILE_FIELDS if name not in IDENTIFIER_KINDS)


@dataclass(frozen=True)
class Given:
    """A value that comes from a column, or is the same for every row."""

    column: str | None = None
    constant: str | None = None


@dataclass(frozen=True)
class Mapping:
    """How rows become events or profiles.

    `identifiers` and `fields` are pairs (kind or field, column). `properties` are pairs (property, column); None means
    every column that is not used otherwise, under its own name, less those in `ignore`.
    """

    data: Data
    identifiers: tuple[tuple[str, str], ...]
    event_time: str | None = None
    metric: Given | None = None
    integration: Given = Given(constant="File")
    unique_id: str | None = None
    value: str | None = None
    value_currency: Given | None = None
    changed_at: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    properties: tuple[tuple[str, str], ...] | None = None
    ignore: tuple[str, ...] = ()

    def used(self) -> list[tuple[str, str]]:
        """Every (field, column) pair that names a column, properties aside."""
        pairs = [(kind, column) for kind, column in self.identifiers]
        for name in ("event_time", "unique_id", "value", "changed_at"):
            if column := getattr(self, name):
                pairs.append((name, column))
        for name in ("metric", "integration", "value_currency"):
            given: Given | None = getattr(self, name)
            if given and given.column:
                pairs.append((name, given.column))
        return pairs + list(self.fields)

    def property_columns(self, columns: Sequence[str]) -> list[tuple[str, str]]:
        """The (property, column) pairs for a source with these columns."""
        if self.properties is not None:
            return list(self.properties)
        taken = {column for _, column in self.used()} | set(self.ignore)
        return [(column, column) for column in columns if column not in taken]


def parse(document: Any, data: Data) -> Mapping:
    """A mapping as written in YAML or JSON. Raises InvalidInput naming the field and what it takes."""
    if not isinstance(document, Dict):
        raise InvalidInput("a mapping is a set of `field: column` lines", hint="see docs/reference/mapping.md")
    known = [f.name for f in fields(Mapping) if f.name != "data"]
    for key in document:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            raise InvalidInput(
                f"the mapping has no field {key!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known)}",
            )
    mapping = Mapping(
        data=data,
        identifiers=_pairs(document, "identifiers", IDENTIFIER_KINDS),
        event_time=_column(document, "event_time"),
        metric=_given(document, "metric"),
        integration=_given(document, "integration") or Given(constant="File"),
        unique_id=_column(document, "unique_id"),
        value=_column(document, "value"),
        value_currency=_given(document, "value_currency"),
        changed_at=_column(document, "changed_at"),
        fields=_pairs(document, "fields", FIELD_NAMES),
        properties=_pairs(document, "properties", None) if document.get("properties") is not None else None,
        ignore=tuple(str(c) for c in document.get("ignore") or ()),
    )
    check(mapping)
    return mapping


def check(mapping: Mapping) -> None:
    """The rules every mapping keeps, whatever the source. Raises InvalidInput for the first that it breaks."""
    if not mapping.identifiers:
        raise InvalidInput(
            "the mapping names no identifier",
            hint=f"map at least one of {', '.join(IDENTIFIER_KINDS)} under `identifiers`",
        )
    if mapping.data == "events":
        if mapping.event_time is None:
            raise InvalidInput("the mapping has no event_time", hint="name the column with the time of the event")
        if mapping.metric is None:
            raise InvalidInput(
                "the mapping has no metric", hint="give `metric: {constant: NAME}` or `metric: {column: COLUMN}`"
            )
        if mapping.fields:
            raise InvalidInput("`fields` belongs to a mapping of profiles", hint="use `properties` for events")
        if mapping.changed_at is not None and mapping.changed_at == mapping.event_time:
            raise InvalidInput(
                f"changed_at and event_time are both {mapping.event_time!r}",
                hint="an event's own time says nothing of when its row changed; name another column",
            )
    elif mapping.event_time or mapping.metric or mapping.unique_id or mapping.value or mapping.value_currency:
        raise InvalidInput(
            "event_time, metric, unique_id, value and value_currency belong to a mapping of events",
            hint="use `fields` and `properties` for profiles",
        )
    for constant in (mapping.metric, mapping.integration):
        if constant and constant.constant is not None and not 0 < len(constant.constant.strip()) < 128:
            raise InvalidInput("a metric's or integration's name has 1 to 127 characters")
    names = [name for name, _ in mapping.properties or ()]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"the property {name!r} is mapped twice", hint="a property has one source")


def bind(mapping: Mapping, columns: Sequence[str], *, where: str) -> Mapping:
    """The mapping, after checking that the source has every column it names. Raises InvalidInput otherwise."""
    for name, column in [*mapping.used(), *(mapping.properties or ())]:
        if column not in columns:
            close = difflib.get_close_matches(column, columns, 1, 0.6)
            have = ", ".join(repr(c) for c in columns[:20]) + (" …" if len(columns) > 20 else "")
            raise InvalidInput(
                f"{where} has no column {column!r}, which the mapping names for {name}",
                hint=(f"did you mean {close[0]!r}? " if close else "") + f"its columns are: {have}",
            )
    return mapping


_GUESSES: dict[str, tuple[str, ...]] = {
    "profile_id": ("profileid", "klaviyoid"),
    "external_id": ("externalid", "customerid", "userid"),
    "email": ("email", "emailaddress", "mail"),
    "phone_number": ("phonenumber", "phone", "mobile"),
    "anonymous_id": ("anonymousid",),
    "event_time": ("eventtime", "timestamp", "datetime", "occurredat", "time", "date"),
    "metric": ("metric", "metricname", "eventname", "event"),
    "integration": ("integration", "integrationname"),
    "unique_id": ("uniqueid", "eventid"),
    "value": ("value",),
    "value_currency": ("valuecurrency", "currencycode", "currency"),
}


def guess(columns: Sequence[str], data: Data, *, where: str, metric: str | None = None) -> Mapping:
    """A mapping offered from the columns' names alone. Raises InvalidInput when something required is not among them.

    Names are compared without case, spaces and punctuation, so `ExternalID`, `external_id` and `$event_id` are known.
    """
    plain: dict[str, str] = {}
    for given in columns:
        plain.setdefault(re.sub(r"[^a-z0-9]", "", given.lower()), given)

    def find(field: str) -> str | None:
        for spelling in _GUESSES[field]:
            if spelling in plain:
                return plain[spelling]
        return None

    identifiers = tuple((kind, column) for kind in IDENTIFIER_KINDS if (column := find(kind)))
    if not identifiers:
        raise InvalidInput(
            f"{where} has no column that looks like an identifier",
            hint="name one Email, PhoneNumber or ExternalID, or give --mapping",
        )
    if data == "profiles":
        by_plain = {re.sub(r"[^a-z0-9]", "", name): name for name in FIELD_NAMES}
        by_plain |= {n.removeprefix("location"): v for n, v in by_plain.items() if n not in ("locationip",)}
        taken = {column for _, column in identifiers}
        found: dict[str, str] = {}
        for spelling, named in plain.items():
            if spelling in by_plain and named not in taken:
                found.setdefault(by_plain[spelling], named)
        return Mapping(data="profiles", identifiers=identifiers, fields=tuple(found.items()))
    event_time, metric_column = find("event_time"), find("metric")
    if event_time is None:
        raise InvalidInput(
            f"{where} has no column that looks like the time of an event", hint="name one Timestamp, or give --mapping"
        )
    if metric_column is None and metric is None:
        raise InvalidInput(
            f"{where} has no column that looks like a metric", hint="name one Metric, or give --metric or --mapping"
        )
    currency, integration = find("value_currency"), find("integration")
    return Mapping(
        data="events",
        identifiers=identifiers,
        event_time=event_time,
        metric=Given(constant=metric) if metric else Given(column=metric_column),
        integration=Given(column=integration) if integration else Given(constant="File"),
        unique_id=find("unique_id"),
        value=find("value"),
        value_currency=Given(column=currency) if currency else None,
    )


def _column(document: Dict[str, Any], name: str) -> str | None:
    match document.get(name):
        case None:
            return None
        case str(column):
            return column
        case {"column": str(column)}:
            return column
    raise InvalidInput(f"{name} takes the name of a column")


def _given(document: Dict[str, Any], name: str) -> Given | None:
    match document.get(name):
        case None:
            return None
        case str(column):
            return Given(column=column)
        case {"column": str(column), **rest} if not rest:
            return Given(column=column)
        case {"constant": constant, **rest} if not rest and constant is not None:
            return Given(constant=str(constant))
    raise InvalidInput(f"{name} takes {{constant: TEXT}} or {{column: COLUMN}}")


def _pairs(document: Dict[str, Any], name: str, known: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    given = document.get(name)
    if given is None:
        return ()
    if not isinstance(given, Dict) or not all(isinstance(c, str) for c in given.values()):
        raise InvalidInput(f"{name} takes a set of `name: column` lines")
    for key in given:
        if known is not None and key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            raise InvalidInput(
                f"{name} has no {key!r}", hint=f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known)}"
            )
    pairs = tuple((str(key), column) for key, column in given.items())
    if known is not None:
        return tuple(sorted(pairs, key=lambda pair: known.index(pair[0])))
    return pairs

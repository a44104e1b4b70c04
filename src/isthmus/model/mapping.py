"""A mapping: which incoming column becomes which field, and how. Its rules live here and nowhere else."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, fields
from typing import Any, Literal

from isthmus.model.errors import InvalidInput
from isthmus.model.intake import MAX_LEVELS
from isthmus.model.tables import PROFILE_FIELDS

Data = Literal["events", "profiles"]

IDENTIFIER_KINDS = ("profile_id", "external_id", "email", "phone_number", "anonymous_id")
"""Highest first: where two disagree, the earlier one decides."""

FIELD_NAMES = tuple(name for name, _ in PROFILE_FIELDS if name not in IDENTIFIER_KINDS)

CHANNELS = ("email_marketing", "sms_marketing", "sms_transactional")
"""What a person consents to. In a mapping each is a column, and with `_at` behind it the column of its time."""

CONSENT_FIELDS = tuple(name for channel in CHANNELS for name in (channel, f"{channel}_at"))

NESTING = "___"
"""Between the parts of a property's name: `address___city` is the `city` of the object `address`."""


@dataclass(frozen=True)
class Given:
    """A value that comes from a column, or is the same for every row."""

    column: str | None = None
    constant: str | None = None


@dataclass(frozen=True)
class Mapping:
    """How rows become events or profiles.

    `identifiers`, `fields` and `consent` are pairs (kind or field, column). `properties` are pairs (property, column);
    None means every column that is not used otherwise, under its own name, less those in `ignore`. `clear` are fields
    and properties of which a row without a value takes away what is there, instead of leaving it. `backfill` says
    whether events are history, which sets nothing off; None: that depends on how they come.
    """

    data: Data
    identifiers: tuple[tuple[str, str], ...]
    event_time: str | None = None
    metric: Given | None = None
    integration: Given = Given(constant="File")
    unique_id: str | None = None
    value: str | None = None
    value_currency: Given | None = None
    backfill: Given | None = None
    changed_at: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    properties: tuple[tuple[str, str], ...] | None = None
    ignore: tuple[str, ...] = ()
    clear: tuple[str, ...] = ()
    consent: tuple[tuple[str, str], ...] = ()

    def used(self) -> list[tuple[str, str]]:
        """Every (field, column) pair that names a column, properties aside."""
        pairs = [(kind, column) for kind, column in self.identifiers]
        for name in ("event_time", "unique_id", "value", "changed_at"):
            if column := getattr(self, name):
                pairs.append((name, column))
        for name in ("metric", "integration", "value_currency", "backfill"):
            given: Given | None = getattr(self, name)
            if given and given.column:
                pairs.append((name, given.column))
        return [*pairs, *self.fields, *self.consent]

    def property_columns(self, columns: Sequence[str]) -> list[tuple[str, str]]:
        """The (property, column) pairs for a source with these columns."""
        if self.properties is not None:
            return list(self.properties)
        taken = {column for _, column in self.used()} | set(self.ignore)
        return [(column, column) for column in columns if column not in taken]

    def own_properties(self) -> tuple[str, ...]:
        """The properties of an event that hold its fields, as in the original. A column of that name is left out."""
        if self.data != "events":
            return ()
        held = (("$event_id", self.unique_id), ("$value", self.value), ("$currency_code", self.value_currency))
        return tuple(name for name, given in held if given is not None)

    def cleared_properties(self) -> tuple[str, ...]:
        """What of `clear` are properties: a name that is a mapped field is that field."""
        named = {name for name, _ in self.fields}
        return tuple(name for name in self.clear if name not in named)


def levels(name: str) -> tuple[str, ...]:
    """The parts of a property's name, outermost first. A name with an empty part, such as `___x`, is one part."""
    parts = tuple(name.split(NESTING))
    return parts if all(parts) else (name,)


def fingerprint(mapping: Mapping) -> str:
    """A short text that is the same for the same mapping, and other for another."""
    text = json.dumps([mapping.data, as_document(mapping)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
        backfill=_flag(document, "backfill"),
        changed_at=_column(document, "changed_at"),
        fields=_pairs(document, "fields", FIELD_NAMES),
        properties=_pairs(document, "properties", None) if document.get("properties") is not None else None,
        ignore=_names(document, "ignore", "columns"),
        clear=_names(document, "clear", "fields or properties"),
        consent=_pairs(document, "consent", CONSENT_FIELDS),
    )
    check(mapping)
    return mapping


def as_document(mapping: Mapping) -> dict[str, Any]:
    """The mapping as it is written: `parse` makes the same mapping of it."""

    def given(value: Given) -> dict[str, str]:
        return {"column": value.column} if value.column is not None else {"constant": value.constant or ""}

    document: dict[str, Any] = {}
    for each in fields(mapping):
        value = getattr(mapping, each.name)
        if each.name == "data" or value == each.default:
            continue
        match value:
            case Given():
                document[each.name] = given(value)
            case str():
                document[each.name] = value
            case tuple() if each.name in ("ignore", "clear"):
                document[each.name] = list(value)
            case tuple():
                document[each.name] = dict(value)
    return document


def renamed(mapping: Mapping, name: Callable[[str], str]) -> Mapping:
    """The same mapping of a relation whose columns have other names. Properties keep theirs."""

    def spelt(value: Any) -> Any:
        match value:
            case str():
                return name(value)
            case list():
                return [name(each) for each in value]
            case {"constant": _}:
                return value
        return {key: name(column) for key, column in value.items()}

    return parse(
        {key: value if key == "clear" else spelt(value) for key, value in as_document(mapping).items()}, mapping.data
    )


def check(mapping: Mapping) -> None:
    """The rules every mapping keeps, whatever the source. Raises InvalidInput for the first that it breaks."""
    if not mapping.identifiers:
        raise InvalidInput(
            "the mapping names no identifier",
            hint=f"map at least one of {', '.join(IDENTIFIER_KINDS)} under `identifiers`",
        )
    if mapping.data == "events":
        _check_events(mapping)
    elif any(getattr(mapping, name) for name in _OF_EVENTS):
        raise InvalidInput(
            f"{', '.join(_OF_EVENTS[:-1])} and {_OF_EVENTS[-1]} belong to a mapping of events",
            hint="use `fields` and `properties` for profiles",
        )
    _check_constants(mapping)
    _check_columns(mapping)
    _check_properties(mapping)


_OF_EVENTS = ("event_time", "metric", "unique_id", "value", "value_currency", "backfill")


def _check_constants(mapping: Mapping) -> None:
    """That what every row gets is not something every row would be rejected for."""
    for name, given in (("metric", mapping.metric), ("integration", mapping.integration)):
        constant = given.constant if given else None
        if constant is not None and ("\0" in constant or not 0 < len(constant.strip()) < 128):
            raise InvalidInput(
                f"{name} is the constant {constant[:150]!r}", hint=f"the name of {_A[name]} has 1 to 127 characters"
            )
    currency = mapping.value_currency.constant if mapping.value_currency else None
    if currency is not None and not re.fullmatch("[A-Z]{3}", currency.strip()):
        raise InvalidInput(
            f"value_currency is the constant {currency[:150]!r}",
            hint="a currency code is three capital letters, such as USD; for a column give {column: COLUMN}",
        )


_A = {"metric": "a metric", "integration": "an integration"}


def _check_events(mapping: Mapping) -> None:
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


def _check_columns(mapping: Mapping) -> None:
    """No field has two columns, and no column fills two fields where the second could only be a mistake."""
    columns: dict[str, str] = {}
    fills: dict[str, list[str]] = {}
    for name, column in mapping.used():
        if name in columns:
            raise InvalidInput(
                f"{name} is mapped from two columns, {columns[name]!r} and {column!r}", hint="a field has one column"
            )
        columns[name] = column
        fills.setdefault(column, []).append(name)
    for column, names in fills.items():
        first, *others = [name for name in names if name not in _may_share(mapping, names)] or names[:1]
        if others:
            raise InvalidInput(
                f"the column {column!r} is mapped to {first} and to {others[0]}",
                hint="a column fills one field; `properties` may carry it as well",
            )
        if column in mapping.ignore:
            raise InvalidInput(
                f"the column {column!r} is mapped to {first} and ignored", hint="take it out of one of the two"
            )


def _may_share(mapping: Mapping, names: Sequence[str]) -> set[str]:
    """What may come from the column of another field: an event's id may be a person's id (once for each person) or its
    time, and several consents may have one time, that of the row too."""
    kinds = {kind for kind, _ in mapping.identifiers}
    others = set(names) - {"unique_id"}
    harmless = {"unique_id"} if "unique_id" in names and others <= {*kinds, "event_time"} else set()
    times = {f"{channel}_at" for channel in CHANNELS}
    if set(names) <= times | {"changed_at"}:
        harmless |= set(names)
    return harmless


def _check_properties(mapping: Mapping) -> None:
    names = [name for name, _ in mapping.properties or ()]
    for name, column in mapping.properties or ():
        if names.count(name) > 1:
            raise InvalidInput(f"the property {name!r} is mapped twice", hint="a property has one source")
        if column in mapping.ignore:
            raise InvalidInput(
                f"the column {column!r} is mapped to the property {name!r} and ignored",
                hint="take it out of one of the two",
            )
    check_levels(mapping.properties or ())
    for at, _ in mapping.consent:
        if at not in CHANNELS and at.removesuffix("_at") not in dict(mapping.consent):
            raise InvalidInput(
                f"consent has {at} without {at.removesuffix('_at')}",
                hint="a time alone does not say what was agreed to",
            )
    if mapping.data == "events" and (mapping.clear or mapping.consent):
        raise InvalidInput("`clear` and `consent` belong to a mapping of profiles", hint="an event does not change")
    for name in mapping.cleared_properties():
        if mapping.properties is not None and name not in names:
            raise InvalidInput(
                f"clear names {name!r}, which the mapping neither has as a field nor as a property",
                hint="only what is mapped can be cleared; identifiers never are",
            )


def check_levels(properties: Sequence[tuple[str, str]]) -> None:
    """That no (property, column) lies deeper than an object may be. Raises InvalidInput."""
    for name, column in properties:
        if len(levels(name)) > MAX_LEVELS:
            raise InvalidInput(
                f"the column {column!r} would lie {len(levels(name))} levels deep, as the property {name!r}",
                hint=f"objects have up to {MAX_LEVELS} levels; map the column to a property with a shorter name",
            )


def bind(mapping: Mapping, columns: Sequence[str], *, where: str) -> Mapping:
    """The mapping, after checking that the source has every column it names. Raises InvalidInput otherwise."""
    for name, column in [*mapping.used(), *(mapping.properties or ())]:
        if column not in columns:
            folded = {c.casefold(): c for c in columns}
            close = [folded[c] for c in difflib.get_close_matches(column.casefold(), folded, 1, 0.6)]
            have = ", ".join(repr(c) for c in columns[:20]) + (" …" if len(columns) > 20 else "")
            raise InvalidInput(
                f"{where} has no column {column!r}, which the mapping names for {name}",
                hint=(f"did you mean {close[0]!r}? " if close else "") + f"its columns are: {have}",
            )
    properties = mapping.property_columns(columns)
    check_levels(properties)
    for name in mapping.cleared_properties():
        if name not in dict(properties):
            raise InvalidInput(
                f"{where} has no column {name!r}, which the mapping names under clear",
                hint="only a field or property that is mapped can be cleared; identifiers never are",
            )
    return mapping


def _column(document: Dict[str, Any], name: str) -> str | None:
    match document.get(name):
        case None:
            return None
        case str(column) if column:
            return column
        case {"column": str(column), **rest} if column and not rest:
            return column
    raise InvalidInput(f"{name} takes the name of a column")


def _given(document: Dict[str, Any], name: str) -> Given | None:
    match document.get(name):
        case None:
            return None
        case str(column) if column:
            return Given(column=column)
        case {"column": str(column), **rest} if column and not rest:
            return Given(column=column)
        case {"constant": constant, **rest} if not rest and constant is not None:
            return Given(constant=str(constant))
    raise InvalidInput(f"{name} takes {{constant: TEXT}} or {{column: COLUMN}}")


def _flag(document: Dict[str, Any], name: str) -> Given | None:
    given = _given(document, name)
    if given is None or given.constant is None:
        return given
    if given.constant.lower() not in ("true", "false"):
        raise InvalidInput(f"{name} takes {{constant: true}}, {{constant: false}} or {{column: COLUMN}}")
    return Given(constant=given.constant.lower())


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


def _names(document: Dict[str, Any], name: str, what: str) -> tuple[str, ...]:
    given = document.get(name)
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise InvalidInput(f"{name} takes a list of {what}")
    if twice := next((each for each in given if given.count(each) > 1), None):
        raise InvalidInput(f"{name} names {twice!r} twice")
    return tuple(given)

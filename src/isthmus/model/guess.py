"""A mapping offered from the columns of a file or relation: from their names and, where they have types, from those.

Names are compared without case, spaces and punctuation, so `ExternalID`, `external_id` and `$event_id` are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from isthmus.model.errors import InvalidInput
from isthmus.model.intake import IncomingColumn, Shape
from isthmus.model.mapping import FIELD_NAMES, IDENTIFIER_KINDS, Data, Given, Mapping, check_levels

_NAMES: dict[str, tuple[str, ...]] = {
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
    "backfill": ("backfill", "isbackfill"),
    "email_marketing": ("emailmarketingconsent",),
    "email_marketing_at": ("emailmarketingconsenttimestamp", "emailmarketingtimestamp"),
    "sms_marketing": ("smsmarketingconsent",),
    "sms_marketing_at": ("smsmarketingconsenttimestamp", "smsmarketingtimestamp"),
    "sms_transactional": ("smstransactionalconsent",),
    "sms_transactional_at": ("smstransactionalconsenttimestamp", "smstransactionaltimestamp"),
}
"""What a column of any file or relation is taken for by its name."""

_TYPED_NAMES: dict[str, tuple[str, ...]] = {
    "changed_at": (
        *("changedat", "updatedat", "modifiedat", "loadedat", "insertedat", "ingestedat", "lastmodified"),
        *("lastmodifiedat", "lastupdated", "lastupdatedat", "updatedon", "modifiedon", "loadtime", "loadtimestamp"),
    ),
    "event_time": ("happenedat", "orderedat", "purchasedat", "createdat", "ts"),
    "value": ("amount", "total", "revenue"),
    "unique_id": ("id",),
}
"""And these only where the column has a type, and that fits."""

_TIMES = (Shape.TIMESTAMP,)
_FITS: dict[str, tuple[Shape, ...]] = {
    "changed_at": _TIMES,
    "event_time": (Shape.TIMESTAMP, Shape.EXACT, Shape.STRING, Shape.TEXT, Shape.NUMBER),
    "value": (Shape.NUMBER, Shape.HUGE, Shape.FLOAT, Shape.TEXT),
}
_NEVER = (Shape.NESTED, Shape.BINARY)
"""What no field can be read from."""

_TEXTS = tuple(shape for shape in Shape if shape not in (*_NEVER, Shape.TIMESTAMP))


class _Columns:
    """The columns by their plain names; each is taken once."""

    def __init__(self, columns: Sequence[str | IncomingColumn]) -> None:
        self.shapes = {c.name: c.shape for c in columns if isinstance(c, IncomingColumn) and c.shape is not Shape.TEXT}
        self.names = [c if isinstance(c, str) else c.name for c in columns]
        self.taken: set[str] = set()
        self.plain: dict[str, str] = {}
        for name in self.names:
            self.plain.setdefault(plain(name), name)

    def find(self, field: str) -> str | None:
        for spelling in (*_NAMES.get(field, ()), *_TYPED_NAMES.get(field, ())):
            name = self.plain.get(spelling)
            if name is None or name in self.taken:
                continue
            shape = self.shapes.get(name)
            if shape is None and spelling in _TYPED_NAMES.get(field, ()):
                continue
            if shape is None or shape in _FITS.get(field, _TEXTS if not field.endswith("_at") else (*_TEXTS, *_TIMES)):
                self.taken.add(name)
                return name
        return None

    def only_time(self) -> str | None:
        """The one column with times that nothing else has taken, if it is the only one."""
        left = [name for name, shape in self.shapes.items() if shape in _TIMES and name not in self.taken]
        if len(left) != 1:
            return None
        self.taken.add(left[0])
        return left[0]


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def guess(columns: Sequence[str | IncomingColumn], data: Data, *, where: str, metric: str | None = None) -> Mapping:
    """A mapping offered for these columns. Raises InvalidInput when something required is not among them.

    `changed_at` is offered only for a column with times: a relation's. `import_rules` say when one is missing.
    """
    found = _Columns(columns)
    identifiers = tuple((kind, column) for kind in IDENTIFIER_KINDS if (column := found.find(kind)))
    changed_at = found.find("changed_at")
    if data == "profiles" and "external_id" not in dict(identifiers) and found.shapes.get(found.plain.get("id", "")):
        found.taken.add(found.plain["id"])
        identifiers = tuple(
            sorted([*identifiers, ("external_id", found.plain["id"])], key=lambda pair: IDENTIFIER_KINDS.index(pair[0]))
        )
    if not identifiers:
        raise InvalidInput(
            f"{where} has no column that looks like an identifier",
            hint="name one Email, PhoneNumber or ExternalID, or give a mapping",
        )
    if data == "profiles":
        mapping = _profiles(found, identifiers, changed_at)
    else:
        mapping = _events(found, identifiers, changed_at, where, metric)
    check_levels(mapping.property_columns(found.names))
    return mapping


def _profiles(found: _Columns, identifiers: tuple[tuple[str, str], ...], changed_at: str | None) -> Mapping:
    consent: list[tuple[str, str]] = []
    for channel in ("email_marketing", "sms_marketing", "sms_transactional"):
        if column := found.find(channel):
            consent.append((channel, column))
            if at := found.find(f"{channel}_at"):
                consent.append((f"{channel}_at", at))
    by_plain = {plain(name): name for name in FIELD_NAMES}
    by_plain |= {n.removeprefix("location"): v for n, v in by_plain.items() if n not in ("locationip",)}
    named: dict[str, str] = {}
    for spelling, name in found.plain.items():
        if spelling in by_plain and name not in found.taken and found.shapes.get(name) not in _NEVER:
            named.setdefault(by_plain[spelling], name)
    fields = tuple(sorted(named.items(), key=lambda pair: FIELD_NAMES.index(pair[0])))
    return Mapping(
        data="profiles", identifiers=identifiers, changed_at=changed_at, fields=fields, consent=tuple(consent)
    )


def _events(
    found: _Columns,
    identifiers: tuple[tuple[str, str], ...],
    changed_at: str | None,
    where: str,
    metric: str | None,
) -> Mapping:
    event_time = found.find("event_time") or found.only_time()
    metric_column = found.find("metric") if metric is None else None
    if event_time is None:
        raise InvalidInput(
            f"{where} has no column that looks like the time of an event", hint="name one Timestamp, or give a mapping"
        )
    if metric_column is None and metric is None:
        raise InvalidInput(
            f"{where} has no column that looks like a metric", hint="name one Metric, or give --metric or a mapping"
        )
    currency, integration = found.find("value_currency"), found.find("integration")
    backfill = found.find("backfill")
    return Mapping(
        data="events",
        identifiers=identifiers,
        event_time=event_time,
        metric=Given(constant=metric) if metric else Given(column=metric_column),
        integration=Given(column=integration) if integration else Given(constant="File"),
        unique_id=found.find("unique_id"),
        value=found.find("value"),
        value_currency=Given(column=currency) if currency else None,
        backfill=Given(column=backfill) if backfill else None,
        changed_at=changed_at,
    )

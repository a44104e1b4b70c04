"""The three tables of an export, with the columns of the original first and ours after them.

Source of the original's columns: its public help pages and published queries over its export; ours are described in
docs/reference/tables.md.
"""

from __future__ import annotations

from isthmus.model.table import SEQ, Column, Table, Type

_T, _J, _AT, _D, _N = Type.TEXT, Type.JSON, Type.TIMESTAMP, Type.DOUBLE, Type.BIGINT

PROFILE_FIELDS: tuple[tuple[str, Type], ...] = (
    ("external_id", _T),
    ("email", _T),
    ("phone_number", _T),
    ("first_name", _T),
    ("last_name", _T),
    ("title", _T),
    ("organization", _T),
    ("image", _T),
    ("locale", _T),
    ("location_address1", _T),
    ("location_address2", _T),
    ("location_city", _T),
    ("location_region", _T),
    ("location_country", _T),
    ("location_zip", _T),
    ("location_latitude", _D),
    ("location_longitude", _D),
    ("location_timezone", _T),
    ("location_ip", _T),
)
"""The fields a profile can be given, in the order of the exported table."""


def _columns(*pairs: tuple[str, Type]) -> tuple[Column, ...]:
    return tuple(Column(name, type_) for name, type_ in (*pairs, (SEQ, _N)))


PROFILE = Table(
    "profile",
    _columns(
        ("id", _T),
        *PROFILE_FIELDS,
        ("properties", _J),
        ("subscriptions", _J),
        ("created", _AT),
        ("updated", _AT),
        ("last_event_date", _AT),
    ),
    key=("id",),
)

EVENT = Table(
    "event",
    _columns(
        ("id", _T),
        ("metric_id", _T),
        ("profile_id", _T),
        ("datetime", _AT),
        ("uuid", _T),
        ("event_properties", _J),
        ("metric_name", _T),
        ("integration_name", _T),
        ("value", _D),
        ("value_currency", _T),
        ("unique_id", _T),
        ("ingested", _AT),
    ),
    key=("id",),
)

METRIC = Table(
    "metric",
    _columns(("id", _T), ("name", _T), ("integration_name", _T), ("created", _AT), ("updated", _AT)),
    key=("id",),
)

ALL = (METRIC, PROFILE, EVENT)
"""In the order in which they are delivered: an event's metric and profile are there before it."""


def named(table: Table, prefix: str) -> Table:
    """The table under the name it has in a warehouse, e.g. `klaviyo_event` for the prefix `klaviyo_`."""
    return Table(prefix + table.name, table.columns, table.key)

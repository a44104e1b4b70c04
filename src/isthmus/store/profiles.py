"""Profiles in the store: creating, updating, merging. Every function works inside a write transaction."""

from __future__ import annotations

import duckdb

from isthmus.model.mapping import CHANNELS, Mapping
from isthmus.model.table import Type
from isthmus.model.tables import PROFILE_FIELDS
from isthmus.store import consent, identity, properties
from isthmus.store.lake import Write
from isthmus.store.properties import Branches

IDENTITY = ("external_id", "email", "phone_number")
_FIELDS = [name for name, _ in PROFILE_FIELDS]
_OTHERS = [name for name in _FIELDS if name not in IDENTITY]


def patch_from_events(write: Write) -> None:
    """Bring the profiles of `who` up to date with the events just landed (`fresh`): make the new ones, fill gaps in
    their identifiers, and move their last event date on."""
    write.con.execute(
        "CREATE OR REPLACE TEMP TABLE patch AS SELECT coalesce(a.profile_id, b.profile_id) AS profile_id, "
        "a.external_id, a.email, a.phone_number, NULL::JSON AS properties, b.last_event_date "
        f"FROM ({_named()}) a FULL JOIN (SELECT f.profile_id, max(m.event_time) AS last_event_date "
        "FROM fresh f JOIN mapped m USING (n) GROUP BY f.profile_id) b ON a.profile_id = b.profile_id"
    )
    _compare(write.con, write.seq)
    replace_with_changed(write)


def patch_from_rows(write: Write, mapping: Mapping, branches: Branches, *, newcomers_only: bool) -> None:
    """Bring profiles up to date with the rows of `mapped`. See `find_changes`."""
    find_changes(write.con, mapping, branches, newcomers_only=newcomers_only, seq=write.seq)
    replace_with_changed(write)


def find_changes(
    con: duckdb.DuckDBPyConnection, mapping: Mapping, branches: Branches, *, newcomers_only: bool, seq: int
) -> None:
    """What the rows of `mapped` make of profiles: per profile and field the last value that is not NULL wins, or, of
    what is to be cleared, the last one; in the order of changed_at, then of the rows. Properties are joined key by key
    in the same order. Leaves `placed(n, profile_id)` and `changed` behind, and changes nothing."""
    kinds = [kind for kind, _ in mapping.identifiers]
    fields = [name for name, _ in mapping.fields]
    channels = [name for name, _ in mapping.consent if name in CHANNELS]
    order = "(coalesce(m.changed_at, TIMESTAMPTZ '0001-01-01 00:00:00+00'), m.n)"
    last = "".join(
        f", arg_max_null({_guarded(f, f'm.{f}')}, {order}) AS {f}"
        if f in mapping.clear
        else f", arg_max({_guarded(f, f'm.{f}')}, {order}) FILTER (m.{f} IS NOT NULL) AS {f}"
        for f in fields
    ) + "".join(f", max(m.consent_{channel}) AS consent_{channel}" for channel in channels)
    con.execute(f"CREATE OR REPLACE TEMP TABLE placed AS SELECT m.n, w.profile_id FROM {identity.placed(kinds)}")
    only = "SEMI JOIN newcomers USING (profile_id)" if newcomers_only else ""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE patch AS SELECT b.*, a.external_id, a.email, a.phone_number, "
        "NULL::TIMESTAMPTZ AS last_event_date "
        f"FROM (SELECT r.profile_id{last}, CASE WHEN count(*) = 1 THEN any_value(m.properties)::JSON "
        f"ELSE list_reduce(list(m.properties::JSON ORDER BY {order}), "
        f"lambda a, b: {properties.joined('a', 'b', branches)}) END "
        f"AS properties FROM placed r JOIN mapped m USING (n) {only} GROUP BY r.profile_id) b "
        f"LEFT JOIN ({_named()}) a USING (profile_id)"
    )
    _compare(con, seq, mapping=mapping, branches=branches)


def _guarded(field: str, sql: str) -> str:
    return f"guard({sql})" if dict(PROFILE_FIELDS)[field] is Type.TEXT else sql


def _named() -> str:
    picks = ", ".join(f"arg_max(value, last_n) FILTER (kind = '{kind}') AS {kind}" for kind in IDENTITY)
    return f"SELECT profile_id, {picks} FROM named GROUP BY profile_id"


def _compare(
    con: duckdb.DuckDBPyConnection, seq: int, *, mapping: Mapping | None = None, branches: Branches | None = None
) -> None:
    """Find where `patch` changes something; without a mapping it fills gaps only. Leaves `changed` behind, the profiles
    as they will be, with `existed`."""
    fields = [name for name, _ in mapping.fields] if mapping else []
    channels = [name for name, _ in mapping.consent if name in CHANNELS] if mapping else []

    def value(name: str) -> str:
        if name in IDENTITY:
            return f"coalesce(x.{name}, p.{name})" if mapping else f"coalesce(p.{name}, x.{name})"
        if mapping and name in fields and name in mapping.clear:
            return f"x.{name}"
        return f"coalesce(x.{name}, p.{name})" if name in fields else f"p.{name}"

    both = properties.joined("p.properties", "x.properties", branches or {})
    if mapping and mapping.cleared_properties():
        both = properties.cleared(both, branches or {})
    joined = f"CASE WHEN x.properties IS NULL THEN coalesce(p.properties, '{{}}'::JSON) ELSE {both} END"
    subscriptions = consent.updated(channels, before="p.subscriptions", rows="x")
    last_event_date = "greatest(p.last_event_date, x.last_event_date)"
    different = " OR ".join(
        f"{sql} IS DISTINCT FROM p.{name}"
        for name, sql in [(n, value(n)) for n in (*IDENTITY, *fields)]
        + [("properties::VARCHAR", f"({joined})::VARCHAR"), ("last_event_date", last_event_date)]
        + [("subscriptions::VARCHAR", f"({subscriptions})::VARCHAR")] * bool(channels)
    )
    columns = ", ".join(f"{value(name)} AS {name}" for name in _FIELDS)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE changed AS SELECT x.profile_id, {seq}::BIGINT AS seq, {columns}, "
        f"{joined} AS properties, {subscriptions} AS subscriptions, coalesce(p.created, now()) AS created, "
        f"now() AS updated, {last_event_date} AS last_event_date, p.profile_id IS NOT NULL AS existed "
        "FROM patch x LEFT JOIN lake.profiles p ON p.profile_id = x.profile_id "
        f"WHERE p.profile_id IS NULL OR {different}"
    )


def replace_with_changed(write: Write) -> None:
    """Put the rows of `changed` in place of those that existed."""
    con = write.con
    row = con.execute("SELECT count(*), count(*) FILTER (existed) FROM changed").fetchone()
    assert row is not None
    if row[0] == 0:
        return
    write.touched = True
    if row[1]:
        con.execute("DELETE FROM lake.profiles WHERE profile_id IN (SELECT profile_id FROM changed WHERE existed)")
    con.execute("INSERT INTO lake.profiles SELECT * EXCLUDE (existed) FROM changed")


def merge(write: Write) -> None:
    """Carry out the merges in `merging`: the destination's values win, gaps are filled from the sources, events and
    identifiers move, a merge record is kept, and the source leaves a tombstone.

    Runs before the batch's own rows land, so that these find one person.
    """
    con = write.con
    if not con.execute("SELECT 1 FROM merging LIMIT 1").fetchone():
        return
    write.touched = True
    seq = write.seq
    con.execute(
        "CREATE OR REPLACE TEMP TABLE sources AS SELECT *, coalesce(phone_there, arg_min(phone_number, created) "
        "FILTER (phone_number IS NOT NULL) OVER (PARTITION BY destination)) AS phone_after FROM (SELECT p.*, "
        "m.destination, m.cause, d.phone_number AS phone_there FROM lake.profiles p JOIN merging m "
        "ON m.source = p.profile_id LEFT JOIN lake.profiles d ON d.profile_id = m.destination)"
    )
    gaps = ", ".join(f"coalesce(p.{f}, (arg_min(s.{f}, s.created) FILTER (s.{f} IS NOT NULL))) AS {f}" for f in _FIELDS)
    grouped = ", ".join(f"p.{f}" for f in _FIELDS)
    subscriptions = consent.merged("p.subscriptions", "s.subscriptions", same_phone="s.phone_number = s.phone_after")
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE changed AS SELECT s.destination AS profile_id, {seq}::BIGINT AS seq, {gaps}, "
        "merge_objects(list_reduce(list(s.properties ORDER BY s.created DESC), lambda a, b: merge_objects(a, b)), "
        "coalesce(p.properties, '{}'::JSON)) AS properties, "
        f"{subscriptions} AS subscriptions, "
        "least(p.created, min(s.created)) AS created, now() AS updated, "
        "greatest(p.last_event_date, max(s.last_event_date)) AS last_event_date, p.profile_id IS NOT NULL AS existed "
        "FROM sources s LEFT JOIN lake.profiles p ON p.profile_id = s.destination "
        f"GROUP BY s.destination, p.profile_id, {grouped}, p.properties, p.subscriptions, p.created, p.last_event_date"
    )
    replace_with_changed(write)
    con.execute("DELETE FROM lake.profiles WHERE profile_id IN (SELECT source FROM merging)")
    con.execute(
        f"INSERT INTO lake.tombstones SELECT 'profile', source, 'merged', {seq}, NULL, NULL, NULL, NULL FROM merging "
        "WHERE source IN (SELECT profile_id FROM sources)"
    )
    _move_identifiers(write)
    _move_events(write)
    con.execute(
        "INSERT INTO lake.merges SELECT uuidv7(), s.profile_id, s.destination, s.cause, now(), coalesce(e.moved, 0), "
        f"guard_json(to_json({_snapshot()})::VARCHAR), {seq} FROM sources s "
        "LEFT JOIN (SELECT was, count(*) AS moved FROM moved GROUP BY was) e ON e.was = s.profile_id"
    )


def _snapshot() -> str:
    names = (*_FIELDS, "properties", "subscriptions", "created", "updated", "last_event_date")
    return "{" + ", ".join(f"'{n}': {f'unguard(s.{n})' if n in _TEXT else f's.{n}'}" for n in names) + "}"


_TEXT = {name for name, kind in PROFILE_FIELDS if kind is Type.TEXT}


def _move_identifiers(write: Write) -> None:
    con, seq = write.con, write.seq
    con.execute(
        "CREATE OR REPLACE TEMP TABLE renamed AS SELECT i.kind, i.value, m.destination FROM lake.identifiers i "
        "JOIN merging m ON m.source = i.profile_id"
    )
    con.execute("DELETE FROM lake.identifiers WHERE profile_id IN (SELECT source FROM merging)")
    con.execute(
        f"INSERT INTO lake.identifiers SELECT kind, value, destination, {seq} FROM renamed "
        f"UNION ALL SELECT 'profile_id', source::VARCHAR, destination, {seq} FROM merging"
    )


def _move_events(write: Write) -> None:
    """Re-point events. Where both had the same event (metric and unique id), the first that landed stays."""
    con, seq = write.con, write.seq
    con.execute(
        "CREATE OR REPLACE TEMP TABLE moved AS SELECT e.*, e.profile_id AS was, m.destination FROM lake.events e "
        "JOIN merging m ON m.source = e.profile_id"
    )
    if not con.execute("SELECT 1 FROM moved LIMIT 1").fetchone():
        return
    con.execute(
        "CREATE OR REPLACE TEMP TABLE doubled AS SELECT event_id, metric_id, event_time, landed_seq, origin, "
        "CASE WHEN origin = origin_there THEN there END AS stays FROM ("
        "SELECT event_id, metric_id, event_time, landed_seq, origin, row_number() OVER alike AS place, "
        "first_value(event_id) OVER alike AS there, first_value(origin) OVER alike AS origin_there FROM ("
        "SELECT event_id, destination, metric_id, unique_id, event_time, landed_seq, origin, 1 AS ours "
        "FROM moved UNION ALL "
        "SELECT e.event_id, e.profile_id, e.metric_id, e.unique_id, e.event_time, e.landed_seq, e.origin, 0 "
        "FROM lake.events e WHERE e.profile_id IN (SELECT destination FROM merging)) "
        "WINDOW alike AS (PARTITION BY destination, metric_id, unique_id ORDER BY landed_seq, ours, event_id)) "
        "WHERE place > 1"
    )
    con.execute(
        "DELETE FROM lake.events WHERE profile_id IN (SELECT source FROM merging) "
        "OR event_id IN (SELECT event_id FROM doubled)"
    )
    con.execute(
        f"INSERT INTO lake.events SELECT event_id, {seq}, landed_seq, metric_id, destination, event_time, ingested, "
        "unique_id, value, value_currency, properties, origin, backfill FROM moved "
        "WHERE event_id NOT IN (SELECT event_id FROM doubled)"
    )
    con.execute(
        f"INSERT INTO lake.tombstones SELECT 'event', event_id, 'repeated', {seq}, metric_id, event_time, "
        "landed_seq, origin "
        "FROM doubled"
    )
    # Rows that are compared stood for the events that go: from now on for those that stay.
    if con.execute("SELECT 1 FROM lake.known_rows SEMI JOIN doubled USING (event_id) LIMIT 1").fetchone():
        con.execute(
            f"UPDATE lake.known_rows SET event_id = d.stays, seq = {seq} FROM doubled d "
            "WHERE known_rows.event_id = d.event_id"
        )

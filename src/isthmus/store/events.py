"""Events in the store: landing without doubles. Works inside a write transaction.

An event's id is the MD5 of metric id, profile id and unique id at the moment it landed, as a UUID, and never changes.
Its key is metric, *present* profile and unique id. After a merge the two differ for events that moved; so a row is also
looked for under every id that its profile had before (docs/architecture.md, "Keys").
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from isthmus.duck import literal
from isthmus.store import identity, profiles
from isthmus.store.lake import Write


def find(con: duckdb.DuckDBPyConnection, kinds: Sequence[str]) -> int:
    """Find the good rows of `mapped` that are new; the first of a key wins. How many they are.

    Leaves `fresh(event_id, n, profile_id)` behind and changes nothing. Needs the tables of `identity.find`.
    """
    con.execute(
        "CREATE OR REPLACE TEMP TABLE fresh AS SELECT k.event_id, min(k.n) AS n, any_value(k.profile_id) AS profile_id "
        "FROM (SELECT m.n, w.profile_id, event_key(m.metric_id, w.profile_id, m.unique_id) AS event_id "
        f"FROM {identity.placed(kinds)}) k "
        "ANTI JOIN lake.events e ON e.event_id = k.event_id GROUP BY k.event_id"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE former AS SELECT i.profile_id, i.value::UUID AS was FROM lake.identifiers i "
        "WHERE i.kind = 'profile_id' AND i.profile_id IN (SELECT profile_id FROM who)"
    )
    if con.execute("SELECT 1 FROM former LIMIT 1").fetchone():
        con.execute(
            "DELETE FROM fresh WHERE n IN (SELECT f.n FROM fresh f JOIN mapped m USING (n) "
            "JOIN former o ON o.profile_id = f.profile_id JOIN lake.events e "
            "ON e.event_id = event_key(m.metric_id, o.was, m.unique_id) AND e.profile_id = f.profile_id)"
        )
    row = con.execute("SELECT count(*) FROM fresh").fetchone()
    return int(row[0]) if row else 0


def land(write: Write, kinds: Sequence[str], connection: str | None = None) -> int:
    """Insert the rows that `find` finds. Returns how many landed.

    `connection` is the id of the one they were read from, if they were.
    """
    con, seq = write.con, write.seq
    landed = find(con, kinds)
    if not landed:
        return 0
    write.touched = True
    con.execute(
        "CREATE OR REPLACE TEMP TABLE unheard AS SELECT DISTINCT metric_id FROM mapped WHERE bad IS NULL "
        "AND metric_id NOT IN (SELECT metric_id FROM lake.metrics)"
    )
    if con.execute("SELECT 1 FROM unheard LIMIT 1").fetchone():
        con.execute(
            "INSERT INTO lake.metrics SELECT metric_id, guard(any_value(metric)), guard(any_value(integration)), "
            f"now(), now(), {seq} FROM mapped WHERE metric_id IN (SELECT metric_id FROM unheard) "
            "AND n IN (SELECT n FROM fresh) GROUP BY metric_id"
        )
    origin = f"guard({literal(connection)})" if connection else "NULL"
    back = _back(write)
    first = f"coalesce(b.landed_seq, {seq})" if back else f"{seq}"
    con.execute(
        f"INSERT INTO lake.events SELECT f.event_id, {seq}, {first}, m.metric_id, f.profile_id, m.event_time, now(), "
        f"guard(m.unique_id), m.value, m.value_currency, m.properties, {origin}, m.backfill "
        "FROM mapped m JOIN fresh f USING (n)" + (" LEFT JOIN back b ON b.event_id = f.event_id" if back else "")
    )
    return landed


def _back(write: Write) -> bool:
    """Whether any of `fresh` was here before and taken away. Its tombstone goes, and to `back` the commit that brought
    it first: a warehouse that may still have the event must not be told that it is new."""
    con = write.con
    con.execute(
        "CREATE OR REPLACE TEMP TABLE back AS SELECT t.id AS event_id, min(t.landed_seq) AS landed_seq "
        "FROM lake.tombstones t WHERE t.kind = 'event' AND t.id IN (SELECT event_id FROM fresh) GROUP BY t.id"
    )
    if not con.execute("SELECT 1 FROM back LIMIT 1").fetchone():
        return False
    con.execute("DELETE FROM lake.tombstones WHERE kind = 'event' AND id IN (SELECT event_id FROM back)")
    return True


def correct(write: Write) -> int:
    """Give the events of `saying(event_id, n)` the content of those rows of `mapped`; how many said something else.

    An event's id, and the commit that brought it, stay. Leaves `corrected`.
    """
    con = write.con
    con.execute(
        "CREATE OR REPLACE TEMP TABLE corrected AS SELECT e.event_id, e.landed_seq, e.metric_id, e.profile_id, "
        "m.event_time, e.ingested, e.unique_id, m.value, m.value_currency, m.properties, e.origin, e.backfill, "
        "e.event_time AS time_before FROM saying s JOIN mapped m USING (n) JOIN lake.events e "
        "ON e.event_id = s.event_id WHERE e.event_time IS DISTINCT FROM m.event_time "
        "OR e.value IS DISTINCT FROM m.value OR e.value_currency IS DISTINCT FROM m.value_currency "
        "OR e.properties::VARCHAR IS DISTINCT FROM m.properties::VARCHAR"
    )
    row = con.execute("SELECT count(*) FROM corrected").fetchone()
    if not row or not row[0]:
        return 0
    write.touched = True
    con.execute("DELETE FROM lake.events WHERE event_id IN (SELECT event_id FROM corrected)")
    con.execute(
        f"INSERT INTO lake.events SELECT event_id, {write.seq}, landed_seq, metric_id, profile_id, event_time, "
        "ingested, unique_id, value, value_currency, properties, origin, backfill FROM corrected"
    )
    _date_again(write, "SELECT profile_id FROM corrected WHERE event_time <> time_before")
    return int(row[0])


def withdraw(write: Write) -> int:
    """Take away the events of `leaving(event_id)`, here and, by their tombstones, in every warehouse; how many."""
    con = write.con
    con.execute(
        "CREATE OR REPLACE TEMP TABLE gone AS SELECT event_id, metric_id, event_time, landed_seq, origin, profile_id "
        "FROM lake.events WHERE event_id IN (SELECT event_id FROM leaving)"
    )
    row = con.execute("SELECT count(*) FROM gone").fetchone()
    if not row or not row[0]:
        return 0
    write.touched = True
    con.execute("DELETE FROM lake.events WHERE event_id IN (SELECT event_id FROM gone)")
    con.execute(
        f"INSERT INTO lake.tombstones SELECT 'event', event_id, 'withdrawn', {write.seq}, metric_id, event_time, "
        "landed_seq, origin FROM gone"
    )
    _date_again(write, "SELECT profile_id FROM gone")
    return int(row[0])


def _date_again(write: Write, whose: str) -> None:
    """Work out the last event date of these profiles: an event may have gone back or away."""
    write.con.execute(
        f"CREATE OR REPLACE TEMP TABLE changed AS SELECT p.* REPLACE ({write.seq}::BIGINT AS seq, now() AS updated, "
        "l.at AS last_event_date), true AS existed FROM lake.profiles p JOIN (SELECT d.profile_id, "
        f"max(e.event_time) AS at FROM (SELECT DISTINCT * FROM ({whose})) d LEFT JOIN lake.events e "
        "ON e.profile_id = d.profile_id GROUP BY d.profile_id) l ON l.profile_id = p.profile_id "
        "WHERE p.last_event_date IS DISTINCT FROM l.at"
    )
    profiles.replace_with_changed(write)

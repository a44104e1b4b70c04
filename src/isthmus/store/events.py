"""Events in the store: landing without doubles. Works inside a write transaction.

An event's id is the MD5 of metric id, profile id and unique id at the moment it landed, as a UUID, and never changes.
Its key is metric, *present* profile and unique id. After a merge the two differ for events that moved; so a row is also
looked for under every id that its profile had before (docs/architecture.md, "Keys").
"""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.duck import literal
from isthmus.store import identity
from isthmus.store.lake import Write


def land(write: Write, kinds: Sequence[str], connection: str | None = None) -> int:
    """Insert the good rows of `mapped` that are new; the first of a key wins. Returns how many landed.

    `connection` is the id of the one they were read from, if they were.

    Leaves `fresh(event_id, n, profile_id)` behind. Needs the tables of `identity.resolve`.
    """
    con, seq = write.con, write.seq
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
    landed = int(row[0]) if row else 0
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
    con.execute(
        f"INSERT INTO lake.events SELECT f.event_id, {seq}, {seq}, m.metric_id, f.profile_id, m.event_time, now(), "
        "guard(m.unique_id), m.value, m.value_currency, m.properties, "
        f"{origin}, m.backfill FROM mapped m JOIN fresh f USING (n)"
    )
    return landed

"""Who is who: the identifiers of a batch as profiles, with merges.

Precedence is the order of `IDENTIFIER_KINDS`. The distinct combinations of identifiers in a batch ("tuples") are
resolved, never rows. Almost all are settled by SQL: those that are known already, and those that touch nobody else's.
Only tuples that share an identifier with another new one, or that touch two profiles, need a decision that depends on
their order; those go through `decide`, a pure function.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from isthmus.model.mapping import IDENTIFIER_KINDS
from isthmus.store.lake import Write

RANK = {kind: rank for rank, kind in enumerate(IDENTIFIER_KINDS)}

Link = tuple[int, str]
"""An identifier as (rank of its kind, value)."""


@dataclass
class Person:
    """A profile during a decision: an existing one, or one that this batch makes."""

    profile_id: str
    exists: bool
    values: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def rank(self) -> int:
        return min(self.values, default=len(RANK))


@dataclass(frozen=True)
class Decisions:
    """What `decide` found: tuple → profile id; new profile ids; merges as (source, destination, cause); identifiers
    newly given to a profile; and (tuple, identifier) pairs that belong to somebody else and stay with them."""

    people: dict[int, str]
    created: list[str]
    merges: list[tuple[str, str, str]]
    attached: list[tuple[Link, str]]
    taken: list[tuple[int, Link]]


def decide(tuples: Sequence[tuple[int, Sequence[Link]]], known: Mapping[str, Iterable[Link]]) -> Decisions:
    """Settle tuples one after the other, as if each were landed alone, in the order given.

    `known` has every profile that any of the tuples touches, with all its identifiers. A tuple belongs to the profile
    of its highest identifier. A profile reached by a lower identifier is the same person, and is merged with it, unless
    the two differ in a higher identifier: then they are two people who share the lower one, which stays where it is.
    In a merge the profile with the higher identifier stays.
    """
    people: dict[str, Person] = {}
    owner: dict[Link, str] = {}
    gone: dict[str, str] = {}
    existing_merges: list[tuple[str, str, str]] = []
    attached: list[tuple[Link, str]] = []
    taken: list[tuple[int, Link]] = []
    result: dict[int, str] = {}
    created: list[str] = []
    for profile_id, links in known.items():
        person = people[profile_id] = Person(profile_id, True)
        for link in links:
            person.values[link[0]].add(link[1])
            owner[link] = profile_id

    def differ(a: Mapping[int, set[str]], b: Mapping[int, set[str]], below: int) -> bool:
        return any(a.get(rank) and b.get(rank) and not a[rank] & b[rank] for rank in range(below))

    for number, links in tuples:
        mine: dict[int, set[str]] = {rank: {value} for rank, value in links}
        base: Person | None = None
        for link in sorted(links):
            at = owner.get(link)
            if at is None:
                continue
            other = people[at]
            if base is other:
                continue
            if base is None:
                if differ(mine, other.values, link[0]):
                    taken.append((number, link))
                else:
                    base = other
            elif differ(base.values, other.values, link[0]) or differ(mine, other.values, link[0]):
                taken.append((number, link))
            else:
                # The higher identifier's profile stays; of two alike, the one that this tuple named first.
                stays, goes = (other, base) if other.rank < base.rank else (base, other)
                for rank, values in goes.values.items():
                    stays.values[rank] |= values
                    for value in values:
                        owner[rank, value] = stays.profile_id
                del people[goes.profile_id]
                gone[goes.profile_id] = stays.profile_id
                if goes.exists:
                    existing_merges.append((goes.profile_id, stays.profile_id, IDENTIFIER_KINDS[link[0]]))
                base = stays
        if base is None:
            base = Person(str(uuid.uuid4()), False)
            people[base.profile_id] = base
            created.append(base.profile_id)
        for link in links:
            if link not in owner:
                owner[link] = base.profile_id
                base.values[link[0]].add(link[1])
                attached.append((link, base.profile_id))
        result[number] = base.profile_id

    def final(profile_id: str) -> str:
        while profile_id in gone:
            profile_id = gone[profile_id]
        return profile_id

    return Decisions(
        {number: final(at) for number, at in result.items()},
        [at for at in created if at not in gone],
        [(source, final(destination), cause) for source, destination, cause in existing_merges],
        [(link, final(at)) for link, at in attached],
        taken,
    )


def resolve(write: Write, kinds: Sequence[str]) -> None:
    """Find who the rows of `mapped` are, and keep the identifiers that are new."""
    find(write.con, kinds)
    write.con.execute(f"INSERT INTO lake.identifiers SELECT kind, value, profile_id, {write.seq} FROM attached")
    if write.con.execute("SELECT 1 FROM attached LIMIT 1").fetchone():
        write.touched = True


def find(con: duckdb.DuckDBPyConnection, kinds: Sequence[str]) -> None:
    """Make the temporary tables that say who the rows of `mapped` are. Changes nothing.

    `who(t, id_…, profile_id, last_n)`: each tuple and its profile (NULL: a profile id that nobody has);
    `newcomers(profile_id)`; `merging(source, destination, cause)`; `taken(t, kind, value)`; and
    `named(profile_id, kind, value, last_n)`: identifiers the batch gave for a profile that are its own;
    `attached(kind, value, profile_id)`: those that nobody had. Values in these tables are guarded, as in the store.
    """
    columns = ", ".join(f"id_{kind}" for kind in kinds)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE tuples AS SELECT row_number() OVER (ORDER BY first_n) AS t, * FROM "
        f"(SELECT {columns}, min(n) AS first_n, max(n) AS last_n FROM mapped WHERE bad IS NULL GROUP BY {columns})"
    )
    parts = " UNION ALL ".join(
        f"SELECT t, {RANK[kind]} AS rank, '{kind}' AS kind, {spelled(kind)} AS value, last_n "
        f"FROM tuples WHERE id_{kind} IS NOT NULL"
        for kind in kinds
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE links AS {parts}")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE owned AS SELECT l.*, i.profile_id "
        "FROM links l LEFT JOIN lake.identifiers i ON i.kind = l.kind AND i.value = l.value"
    )
    if "profile_id" in kinds:
        con.execute(
            "UPDATE owned SET profile_id = p.profile_id FROM lake.profiles p "
            "WHERE owned.rank = 0 AND p.profile_id = TRY_CAST(owned.value AS UUID)"
        )
    con.execute("CREATE OR REPLACE TEMP TABLE state AS " + _STATE)
    for table, shape in _EMPTY.items():
        con.execute(f"CREATE OR REPLACE TEMP TABLE {table} ({shape})")
    con.execute("INSERT INTO settled SELECT t, profile_id FROM state WHERE path = 'known'")
    if con.execute("SELECT 1 FROM state WHERE path <> 'known' LIMIT 1").fetchone():
        _settle_new(con)
    con.execute(
        "CREATE OR REPLACE TEMP TABLE who AS SELECT t.*, coalesce(m.destination, s.profile_id) AS profile_id "
        "FROM tuples t JOIN settled s USING (t) LEFT JOIN merging m ON m.source = s.profile_id"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE named AS SELECT w.profile_id, l.kind, l.value, max(l.last_n) AS last_n "
        "FROM links l JOIN who w USING (t) ANTI JOIN taken x ON x.t = l.t AND x.kind = l.kind "
        "WHERE w.profile_id IS NOT NULL AND l.kind <> 'profile_id' GROUP BY ALL"
    )


def spelled(kind: str) -> str:
    """An identifier as the store writes it: guarded, and a profile id as every UUID is spelled."""
    guarded = f"guard(id_{kind})"
    return f"coalesce(TRY_CAST(id_{kind} AS UUID)::VARCHAR, {guarded})" if kind == "profile_id" else guarded


_EMPTY = {
    "settled": "t BIGINT, profile_id UUID",
    "newcomers": "profile_id UUID",
    "merging": "source UUID, destination UUID, cause VARCHAR",
    "taken": "t BIGINT, kind VARCHAR, value VARCHAR",
    "attached": "kind VARCHAR, value VARCHAR, profile_id UUID",
}

# known: every identifier is there already, all of one profile.  unknown: a profile id that nobody has.
# fresh: nobody has any of them.  joins: the highest identifier that is known belongs to the only profile touched, and
# that profile has none of the higher kinds.  Fresh and joins only where nobody else of the batch is concerned.
_STATE = """
WITH per AS (
    SELECT t, count(*) AS links, count(profile_id) AS found, count(DISTINCT profile_id) AS people, min(rank) AS top,
           min(rank) FILTER (profile_id IS NOT NULL) AS at_rank, any_value(profile_id) AS profile_id,
           bool_or(rank = 0 AND profile_id IS NULL) AS unknown
    FROM owned GROUP BY t),
rest AS (SELECT * FROM per WHERE NOT unknown AND NOT (found = links AND people = 1)),
shared AS (
    SELECT DISTINCT unnest(ts) AS t FROM (
        SELECT list(t) AS ts FROM owned SEMI JOIN rest USING (t) GROUP BY rank, value HAVING count(*) > 1
        UNION ALL
        SELECT list(DISTINCT o.t) FROM owned o SEMI JOIN rest USING (t) WHERE o.profile_id IS NOT NULL
        GROUP BY o.profile_id HAVING count(DISTINCT o.t) > 1)),
crowded AS (
    SELECT r.t FROM rest r JOIN lake.identifiers i ON i.profile_id = r.profile_id
    WHERE r.people = 1 AND r.at_rank > r.top GROUP BY r.t, r.at_rank
    HAVING min(CASE i.kind WHEN 'profile_id' THEN 9 WHEN 'external_id' THEN 1 WHEN 'email' THEN 2
                           WHEN 'phone_number' THEN 3 ELSE 4 END) < r.at_rank)
SELECT p.t, p.profile_id, CASE
    WHEN p.unknown THEN 'unknown'
    WHEN p.found = p.links AND p.people = 1 THEN 'known'
    WHEN p.people > 1 OR p.t IN (FROM shared) OR p.t IN (FROM crowded) THEN 'decide'
    WHEN p.people = 0 THEN 'fresh' ELSE 'joins' END AS path
FROM per p
"""


def _settle_new(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("INSERT INTO settled SELECT t, NULL FROM state WHERE path = 'unknown'")
    con.execute("INSERT INTO settled SELECT t, profile_id FROM state WHERE path = 'joins'")
    con.execute("INSERT INTO settled SELECT t, uuidv7() FROM state WHERE path = 'fresh'")
    con.execute("INSERT INTO newcomers SELECT s.profile_id FROM settled s JOIN state USING (t) WHERE path = 'fresh'")
    con.execute(
        "INSERT INTO attached SELECT o.kind, o.value, s.profile_id FROM owned o "
        "JOIN settled s USING (t) JOIN state USING (t) WHERE path IN ('fresh', 'joins') AND o.profile_id IS NULL"
    )
    if con.execute("SELECT 1 FROM state WHERE path = 'decide' LIMIT 1").fetchone():
        _settle_by_decision(con)


def _settle_by_decision(con: duckdb.DuckDBPyConnection) -> None:
    rows = con.execute(
        "SELECT o.t, list((o.rank, o.value) ORDER BY o.rank) FROM owned o JOIN state USING (t) "
        "WHERE path = 'decide' GROUP BY o.t ORDER BY o.t"
    ).fetchall()
    known: dict[str, list[Link]] = defaultdict(list)
    for profile_id, kind, value in con.execute(
        "SELECT DISTINCT i.profile_id::VARCHAR, i.kind, i.value FROM lake.identifiers i "
        "WHERE i.kind <> 'profile_id' AND i.profile_id IN "
        "(SELECT o.profile_id FROM owned o JOIN state USING (t) WHERE path = 'decide' AND o.profile_id IS NOT NULL)"
    ).fetchall():
        known[profile_id].append((RANK[kind], value))
    # A profile counts as known by its id only where this batch names it so: by its own id or one merged into it.
    for profile_id, value in con.execute(
        "SELECT DISTINCT o.profile_id::VARCHAR, o.value FROM owned o JOIN state USING (t) "
        "WHERE path = 'decide' AND o.rank = 0"
    ).fetchall():
        known[profile_id].append((0, value))
    found = decide([(t, [(rank, value) for rank, value in links]) for t, links in rows], known)
    _fill(con, "settled", found.people.items(), ("t", "profile_id"))
    _fill(con, "newcomers", ((at,) for at in found.created), ("profile_id",))
    _fill(con, "merging", found.merges, ("source", "destination", "cause"))
    _fill(con, "taken", ((t, IDENTIFIER_KINDS[r], v) for t, (r, v) in found.taken), ("t", "kind", "value"))
    new = ((IDENTIFIER_KINDS[rank], value, at) for (rank, value), at in found.attached if rank != 0)
    _fill(con, "attached", new, ("kind", "value", "profile_id"))


def _fill(con: duckdb.DuckDBPyConnection, table: str, rows: Iterable[Sequence[object]], columns: Sequence[str]) -> None:
    cells = list(zip(*rows, strict=True))
    if not cells:
        return
    batch = pa.table({name: pa.array(list(values)) for name, values in zip(columns, cells, strict=True)})
    con.register("decided", batch)
    con.execute(f"INSERT INTO {table} SELECT {', '.join(columns)} FROM decided")
    con.unregister("decided")


def placed(kinds: Sequence[str]) -> str:
    """The FROM of the good rows of `mapped` (m) with who they are (w)."""
    same = " AND ".join(f"w.id_{kind} IS NOT DISTINCT FROM m.id_{kind}" for kind in kinds)
    return f"mapped m JOIN who w ON {same} WHERE m.bad IS NULL AND w.profile_id IS NOT NULL"

"""Erased people stay erased: a row from before an erasure, read again, brings nobody back.

Warehouses and files still have an erased person's rows, and imports read rows again. So keyed digests are remembered:
of every identifier, of what profile rows had said, and of the rejections that were removed. A row that names an erased
person is from before the erasure if anything about it is: its changed-at, the time of its event, its own content, or an
earlier landing of the same file or rejection. Such rows are counted, and nothing of them is kept.
A row is a person's by its highest identifier that is known: of an erased one, or of somebody who is here.
Works inside a transaction; `sift` only fills temporary tables.
"""

from __future__ import annotations

import secrets

import duckdb
import pyarrow as pa

from isthmus.duck import literal
from isthmus.model.intake import Reason
from isthmus.model.mapping import Mapping
from isthmus.store import identity, news
from isthmus.store.lake import Write

_EVER = "TIMESTAMPTZ '0001-01-01 00:00:00+00'"
"""When a row is from that should say so, and does not in a way we can read."""

_DIGESTS = "SELECT digest FROM lake.erased WHERE what ="


def remember(write: Write, profile_id: str) -> None:
    """Remember that this person is erased: the identifiers in `names`, what is kept of their rows, and the rejections
    of `naming`.

    Clocks differ: where the person's newest row is from a moment that is yet to come here, up to a day of that counts.
    """
    con = write.con
    con.execute(
        "INSERT INTO lake.erasure_key SELECT ? WHERE NOT EXISTS (FROM lake.erasure_key)", [secrets.token_hex(32)]
    )
    theirs = f"FROM lake.profile_news WHERE profile_id IN ({_PROFILES})"
    con.execute(
        "CREATE OR REPLACE TEMP TABLE forgotten AS "
        f"SELECT DISTINCT what, {_digest('what', 'value')} AS digest FROM ("
        "SELECT kind AS what, guard(value) AS value FROM names UNION ALL SELECT 'profile_id', $id "
        f"UNION ALL SELECT 'row', concat(row_key, digest) {theirs} "
        "UNION ALL SELECT 'payload', unguard(payload) FROM lake.rejections SEMI JOIN naming USING (rejection_id))",
        {"id": profile_id},
    )
    con.execute("DELETE FROM lake.erased WHERE digest IN (SELECT digest FROM forgotten)")
    con.execute(
        "INSERT INTO lake.erased SELECT what, digest, greatest(now(), least(now() + INTERVAL 1 DAY, coalesce(greatest("
        f"(SELECT max(event_time) FROM gone), (SELECT max(changed_at) {theirs})), now()))), {write.seq} FROM forgotten",
        {"id": profile_id},
    )


_PROFILES = "SELECT $id::UUID UNION ALL SELECT value::UUID FROM names WHERE kind = 'profile_id'"


def sift(con: duckdb.DuckDBPyConnection, mapping: Mapping, *, payload: str, landed_before: str | None) -> int:
    """Take the rows out of `mapped` that are an erased person's, from before the erasure; how many.

    `payload` is the SQL of what a rejection of a row of `incoming` (i) would keep; `landed_before` that of the commit
    that first took the row, if one did.
    """
    if not con.execute("SELECT 1 FROM lake.erased LIMIT 1").fetchone():
        return 0
    kinds = [kind for kind, _ in mapping.identifiers]
    con.execute(
        "CREATE OR REPLACE TEMP TABLE doubtful AS " + " UNION ALL ".join(_naming_erased(kind) for kind in kinds)
    )
    moments = [f"coalesce({name}, {_EVER})" for name in _moments(con, mapping)]
    before = [f"least({', '.join(moments)}) <= d.erased_at"] if moments else []
    if mapping.data == "profiles":
        key, digest = news.row_key(mapping), news.digest(mapping)
        before.append(f"(bad IS NULL AND {_digest(literal('row'), f'concat({key}, {digest})')} IN ({_DIGESTS} 'row'))")
    if landed_before is not None:
        before.append(f"{landed_before} < d.seq")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE from_before AS SELECT n, min(rank) AS rank FROM doubtful d JOIN mapped USING (n) "
        f"JOIN incoming i USING (n) WHERE {' OR '.join(before) or 'false'} GROUP BY n"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE struck AS SELECT n FROM from_before WHERE n NOT IN "
        f"({' UNION ALL '.join(_of_the_living(kind) for kind in kinds)}) UNION SELECT n FROM mapped JOIN incoming i "
        f"USING (n) WHERE bad IS NOT NULL AND {_digest(literal('payload'), payload)} IN ({_DIGESTS} 'payload')"
    )
    row = con.execute("SELECT count(*) FROM struck").fetchone()
    count = int(row[0]) if row else 0
    if count:
        con.execute("DELETE FROM mapped WHERE n IN (FROM struck)")
    return count


def strike(write: Write, broken: pa.Table) -> pa.Table:
    """These broken rows of a file, as `rejections.keep` wants them; of those that were removed with an erased person
    only the reason is left, which says so."""
    con = write.con
    if not con.execute(f"{_DIGESTS} 'payload' LIMIT 1").fetchone():
        return broken
    con.register("broken_rows", broken)
    try:
        return con.execute(
            f"SELECT * EXCLUDE (gone) REPLACE (if(gone, NULL, payload) AS payload, if(gone, '{Reason.ERASED}', reason) "
            f"AS reason) FROM (SELECT *, {_digest(literal('payload'), 'payload')} IN ({_DIGESTS} 'payload') AS gone "
            "FROM broken_rows)"
        ).to_arrow_table()
    finally:
        con.unregister("broken_rows")


def _moments(con: duckdb.DuckDBPyConnection, mapping: Mapping) -> list[str]:
    """The columns of `mapped` that say when a row is from."""
    there = {name for name, *_ in con.execute("DESCRIBE mapped").fetchall()}
    wanted = ["event_time"] if mapping.data == "events" else []
    return [name for name in [*wanted, *(["changed_at"] if mapping.changed_at else [])] if name in there]


def _naming_erased(kind: str) -> str:
    """Rows of `mapped` that name an erased person by an identifier of this kind."""
    return (
        f"SELECT n, {identity.RANK[kind]} AS rank, erased_at, seq FROM (SELECT id_{kind}, erased_at, seq FROM "
        f"(SELECT DISTINCT id_{kind} FROM mapped WHERE id_{kind} IS NOT NULL) JOIN lake.erased ON what = '{kind}' "
        f"AND digest = {_digest(literal(kind), identity.spelled(kind))}) JOIN mapped USING (id_{kind})"
    )


def _of_the_living(kind: str) -> str:
    """Rows of `from_before` that somebody who is here has by a higher identifier, of this kind."""
    rank = identity.RANK[kind]
    known = f"SELECT value FROM lake.identifiers WHERE kind = '{kind}'"
    if kind == "profile_id":
        known += " UNION ALL SELECT profile_id::VARCHAR FROM lake.profiles"
    return (
        f"SELECT n FROM from_before JOIN mapped USING (n) WHERE rank > {rank} AND {identity.spelled(kind)} IN ({known})"
    )


def _digest(what: str, value: str) -> str:
    """A digest of a text: nobody without the store's key can tell whose it is. SQL of a UUID."""
    key = "(SELECT key FROM lake.erasure_key)"
    return f"left(sha256(concat_ws(chr(31), {key}, {what}, {value})), 32)::UUID"

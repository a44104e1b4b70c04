"""Profile news: a row that was heard before, or that is older than what was, changes nothing.

An import reads rows again (ties, a look-back), and a file may be loaded twice. Kept per origin and row, a row being
known by its identifiers: when it was last changed, and a digest of what it said. A row is news if it is newer, or says
something else at the same time; rows of one time follow each other in the order in which they are read.
Works inside a write transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from isthmus.duck import literal
from isthmus.model.mapping import CHANNELS, Mapping
from isthmus.store.lake import Write

_EVER = "TIMESTAMPTZ '0001-01-01 00:00:00+00'"
"""When a row was changed that does not say so: before all others."""


def sift(con: duckdb.DuckDBPyConnection, origin: str, mapping: Mapping) -> int:
    """Take the good rows that are no news out of `mapped`; how many. Leaves `news` for `keep`, and changes nothing
    else."""
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE heard AS SELECT n, {row_key(mapping)} AS row_key, "
        f"coalesce(changed_at, {_EVER}) AS changed_at, {digest(mapping)} AS digest FROM mapped WHERE bad IS NULL"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE news AS SELECT n, row_key, changed_at, digest, was_kept FROM ("
        "SELECT *, coalesce(lag(changed_at) OVER rows_of, kept_at) AS before_at, "
        "coalesce(lag(digest) OVER rows_of, kept_digest) AS before_digest FROM ("
        "SELECT h.*, k.changed_at AS kept_at, k.digest AS kept_digest, k.row_key IS NOT NULL AS was_kept "
        f"FROM heard h LEFT JOIN (SELECT * FROM lake.profile_news WHERE origin = guard({literal(origin)})) k "
        "ON k.row_key = h.row_key WHERE k.row_key IS NULL OR h.changed_at >= k.changed_at) "
        "WINDOW rows_of AS (PARTITION BY row_key ORDER BY changed_at, n)) "
        "WHERE before_at IS NULL OR changed_at > before_at OR digest <> before_digest"
    )
    row = con.execute(
        "SELECT (SELECT count(*) FROM heard) - (SELECT count(*) FROM news), count(*) FROM heard"
    ).fetchone()
    assert row is not None
    if row[0]:
        con.execute("DELETE FROM mapped WHERE bad IS NULL AND n NOT IN (SELECT n FROM news)")
    return int(row[0])


def keep(write: Write, origin: str) -> None:
    """Remember what was heard in the rows of `news` that were `placed`."""
    con = write.con
    con.execute(
        "CREATE OR REPLACE TEMP TABLE latest AS SELECT row_key, max(changed_at) AS changed_at, "
        "arg_max(digest, (changed_at, n)) AS digest, any_value(profile_id) AS profile_id, "
        "bool_or(was_kept) AS was_kept FROM news JOIN placed USING (n) GROUP BY row_key"
    )
    row = con.execute("SELECT count(*), count(*) FILTER (was_kept) FROM latest").fetchone()
    assert row is not None
    if not row[0]:
        return
    write.touched = True
    if row[1]:
        con.execute(
            f"DELETE FROM lake.profile_news WHERE origin = guard({literal(origin)}) "
            "AND row_key IN (SELECT row_key FROM latest WHERE was_kept)"
        )
    con.execute(
        f"INSERT INTO lake.profile_news SELECT guard({literal(origin)}), row_key, changed_at, digest, profile_id, "
        f"{write.seq} FROM latest"
    )


def row_key(mapping: Mapping) -> str:
    """What a row of `mapped` is known by."""
    return _digest([f"id_{kind}" for kind, _ in mapping.identifiers])


def digest(mapping: Mapping) -> str:
    """What a row of `mapped` says, besides whom it is about and when it was changed."""
    said = [*(name for name, _ in mapping.fields), "properties"]
    for name, _ in mapping.consent:
        if name in CHANNELS:
            said += [f"consent_{name}.known", f"consent_{name}.refused"]
        else:  # without a time of its own a consent would be another one at every reading
            said.append(f"consent_{name.removesuffix('_at')}.since")
    return _digest(said)


def _digest(values: Sequence[str]) -> str:
    return f"md5(to_json([{', '.join(f'{value}::VARCHAR' for value in values)}])::VARCHAR)::UUID"

"""Known rows: what an import that compares a whole relation saw of each of its rows.

Kept per import and row, a row being told by its key: a digest of what it said, and what it stands for here. It moves in
the transaction that lands the row, so neither can be there without the other. Which rows a reading has met is in memory
(or the scratch folder), for only a reading from the first row to the last can say which are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from isthmus.duck import literal
from isthmus.model.intake import KEY_TWICE, NO_KEY, IncomingColumn
from isthmus.model.mapping import Mapping
from isthmus.store import events, given, identity, rejections
from isthmus.store.lake import Lake, Write


@dataclass(frozen=True)
class Known:
    """Whose rows: `origin` names the import with what makes its keys, `connection` is where its events come from.

    With `gives`, a mapping of profiles, it is kept what each row gave, to be taken back when the row is gone."""

    origin: str
    connection: str
    gives: Mapping | None = None

    @property
    def where(self) -> str:
        return f"origin = guard({literal(self.origin)})"

    def settle(self, write: Write, kinds: Sequence[str]) -> int:
        """Keep what the rows of `moving` stand for, now that the good ones of `mapped` have landed.

        An event that came from this warehouse says what its row says now; one that its row no longer stands for goes,
        unless another row does. What a row that is rejected stood for stays. Returns how many events were corrected.
        """
        con = write.con
        self._look_up(con, "moving")
        self._stand(con, kinds)
        con.execute(
            "CREATE OR REPLACE TEMP TABLE saying AS SELECT s.event_id, max(s.n) AS n FROM stands s "
            "ANTI JOIN fresh f ON f.event_id = s.event_id WHERE s.event_id IS NOT NULL GROUP BY s.event_id"
        )
        corrected = events.correct(write)
        self._keep(write)
        con.execute(
            "CREATE OR REPLACE TEMP TABLE leaving AS SELECT DISTINCT b.event_id FROM before b JOIN lake.known_rows k "
            f"ON k.row_key = b.row_key WHERE k.{self.where} AND b.event_id IS DISTINCT FROM k.event_id "
            f"AND {_nobody_elses('b.event_id')}"
        )
        events.withdraw(write)
        return corrected

    def settle_profiles(self, write: Write) -> None:
        """The same for rows of profiles: whom they are about, and what they gave and did not take back since."""
        con = write.con
        self._look_up(con, "moving")
        said = given.said(self.gives) if self.gives else "NULL::JSON"
        con.execute(
            "CREATE OR REPLACE TEMP TABLE stands AS SELECT n, NULL::UUID AS event_id, p.profile_id, "
            f"{said} AS said FROM placed p JOIN mapped m USING (n)"
        )
        self._keep(write)

    def _look_up(self, con: duckdb.DuckDBPyConnection, keys: str) -> None:
        """Leaves `before(row_key, event_id, profile_id, said)`: what the rows of `keys` stood for until now."""
        con.execute(
            "CREATE OR REPLACE TEMP TABLE before AS SELECT row_key, event_id, profile_id, said FROM lake.known_rows "
            f"WHERE {self.where} AND row_key IN (SELECT row_key FROM {keys})"
        )

    def _stand(self, con: duckdb.DuckDBPyConnection, kinds: Sequence[str]) -> None:
        """Leaves `stands(n, event_id)` of the good rows: NULL where the event came from elsewhere first."""
        con.execute(
            "CREATE OR REPLACE TEMP TABLE placed AS SELECT m.n, m.metric_id, m.unique_id, w.profile_id "
            f"FROM {identity.placed(kinds)}"
        )
        con.execute(
            "CREATE OR REPLACE TEMP TABLE stands AS SELECT p.n, any_value(e.event_id) AS event_id, "
            "NULL::UUID AS profile_id, NULL::JSON AS said FROM placed p "
            "LEFT JOIN (SELECT c.n, e.event_id FROM ("
            "SELECT n, profile_id, event_key(metric_id, profile_id, unique_id) AS event_id FROM placed "
            "UNION ALL SELECT n, profile_id, event_key(metric_id, o.was, unique_id) FROM placed "
            "JOIN former o USING (profile_id)) c JOIN lake.events e ON e.event_id = c.event_id "
            f"AND e.profile_id = c.profile_id WHERE e.origin = guard({literal(self.connection)})) e ON e.n = p.n "
            "GROUP BY p.n"
        )

    def _keep(self, write: Write) -> None:
        con = write.con
        con.execute(
            "CREATE OR REPLACE TEMP TABLE keeping_rows AS SELECT DISTINCT ON (v.row_key) v.row_key, v.digest, "
            "s.n IS NOT NULL AS taken, CASE WHEN s.n IS NULL THEN b.event_id ELSE s.event_id END AS event_id, "
            "coalesce(s.profile_id, b.profile_id) AS profile_id, "
            "CASE WHEN s.said IS NULL THEN b.said WHEN b.said IS NULL OR s.profile_id <> b.profile_id THEN s.said "
            "ELSE json_merge_patch(b.said, s.said) END AS said "
            "FROM moving v LEFT JOIN stands s ON s.n = v.n LEFT JOIN before b ON b.row_key = v.row_key "
            "ORDER BY v.row_key, v.n"
        )
        if not con.execute("SELECT 1 FROM keeping_rows LIMIT 1").fetchone():
            return
        write.touched = True
        if con.execute("SELECT 1 FROM before LIMIT 1").fetchone():
            con.execute(
                f"DELETE FROM lake.known_rows WHERE {self.where} AND row_key IN (SELECT row_key FROM keeping_rows)"
            )
        con.execute(
            f"INSERT INTO lake.known_rows SELECT guard({literal(self.origin)}), row_key, digest, taken, event_id, "
            f"profile_id, guard_json(said::VARCHAR)::JSON, {write.seq} FROM keeping_rows"
        )

    def prepare_replay(self, write: Write) -> None:
        """Make `moving` of the rejections in `incoming`: their rows are known already, and stay as they were read."""
        write.con.execute(
            "CREATE OR REPLACE TEMP TABLE moving AS SELECT i.n, i.row_key, k.digest FROM incoming i "
            f"JOIN lake.known_rows k ON k.row_key = i.row_key WHERE k.{self.where}"
        )

    def forget(self, write: Write, *, label: str, remove: bool, columns: Sequence[str] = ()) -> int:
        """Forget the rows of `missing(row_key)`, and their rejections; with `remove` also the events they stand for,
        or what they gave to profiles. How many events that were, or profiles. `columns` are the relation's."""
        con = write.con
        if not con.execute("SELECT 1 FROM missing LIMIT 1").fetchone():
            return 0
        write.touched = True
        self._look_up(con, "missing")
        con.execute(f"DELETE FROM lake.known_rows WHERE {self.where} AND row_key IN (SELECT row_key FROM missing)")
        rejections.withdraw(write, label=label, keys="missing")
        if not remove:
            return 0
        if self.gives:
            return self._take_back(write, self.gives, columns)
        con.execute(
            "CREATE OR REPLACE TEMP TABLE leaving AS SELECT DISTINCT b.event_id FROM before b "
            f"WHERE b.event_id IS NOT NULL AND {_nobody_elses('b.event_id')}"
        )
        return events.withdraw(write)

    def _take_back(self, write: Write, gives: Mapping, columns: Sequence[str]) -> int:
        """While another row is about the same person nothing is taken from them."""
        now = "coalesce(i.profile_id, k.profile_id)"  # of a profile that was merged away: the one that stayed
        whose = "LEFT JOIN lake.identifiers i ON i.kind = 'profile_id' AND i.value = k.profile_id::VARCHAR"
        write.con.execute(
            f"CREATE OR REPLACE TEMP TABLE taking AS SELECT {now} AS profile_id, any_value(k.said) AS said "
            f"FROM before k {whose} WHERE k.said IS NOT NULL AND {now} NOT IN (SELECT {now} FROM lake.known_rows k "
            f"{whose} WHERE k.{self.where} AND k.profile_id IS NOT NULL) GROUP BY 1"
        )
        return given.take_back(write, gives, columns)

    def forget_former(self, write: Write) -> None:
        """Forget what this import knew under other keys, of another connection or kind of data."""
        where = f"starts_with(origin, guard({literal(self.origin.split(' ', 1)[0] + ' ')})) AND NOT {self.where}"
        if write.con.execute(f"SELECT 1 FROM lake.known_rows WHERE {where} LIMIT 1").fetchone():
            write.touched = True
            write.con.execute(f"DELETE FROM lake.known_rows WHERE {where}")


def _nobody_elses(event_id: str) -> str:
    return f"{event_id} NOT IN (SELECT event_id FROM lake.known_rows WHERE event_id IS NOT NULL)"


@dataclass(frozen=True)
class Looked:
    """What comparing a batch found: its rows that are to land, with `key_fault`; how many of them were not known
    before, how many were and say something else; and how many are as they were when they were rejected."""

    rows: pa.Table
    inserted: int
    updated: int
    still_rejected: int


class Reading:
    """One reading of a relation, batch after batch, held against what is known."""

    def __init__(
        self,
        lake: Lake,
        known: Known,
        columns: Sequence[IncomingColumn],
        *,
        key: Sequence[str],
        said: Sequence[str],
        version: str,
    ) -> None:
        """`key` and `said` are names of columns: those that tell rows apart, and those that a row says something by.
        With another `version` every row counts as changed."""
        self._con = lake.con
        refs = {c.name: c.ref for c in columns}
        none = " OR ".join(f"{refs[k]} IS NULL" for k in key)
        names = sorted({*said, *key})
        self._key = f"CASE WHEN {none} THEN NULL ELSE {_digest([refs[k] for k in key])} END"
        self._content = _digest([refs[name] for name in names])
        self._version = literal(f"{version} {len(names)} {' '.join(names)} ")
        self._con.execute(
            "CREATE OR REPLACE TEMP TABLE known_before AS SELECT row_key, digest, taken FROM lake.known_rows "
            f"WHERE {known.where}"
        )
        self._con.execute("CREATE OR REPLACE TEMP TABLE seen_keys (row_key UUID)")

    def look(self, batch: pa.Table) -> Looked:
        """Compare the rows of `batch`, numbered without gaps in `n`. Leaves `moving(n, row_key, digest)`.

        A row without a key, and one whose key another row of this reading has, is told by its content: so it is
        rejected once, and known from then on.
        """
        con = self._con
        con.register("arrived", batch)
        try:
            con.execute(
                "CREATE OR REPLACE TEMP TABLE looked AS SELECT l.*, k.row_key IS NOT NULL AS was_known, "
                "coalesce(k.digest <> l.digest, true) AS is_news, k.taken FROM (SELECT n, fault, "
                "CASE WHEN fault = 0 THEN key ELSE md5(concat(fault, ' ', content))::UUID END AS row_key, "
                f"(CASE WHEN fault = 0 THEN md5(concat({self._version}, content)) ELSE content END)::UUID AS digest "
                f"FROM (SELECT n, key, content, CASE WHEN key IS NULL THEN {NO_KEY} "
                "WHEN row_number() OVER (PARTITION BY key ORDER BY n) > 1 "
                f"OR key IN (SELECT row_key FROM seen_keys) THEN {KEY_TWICE} ELSE 0 END AS fault "
                f"FROM (SELECT n, {self._key}::UUID AS key, {self._content} AS content FROM arrived))) l "
                "LEFT JOIN known_before k ON k.row_key = l.row_key"
            )
        finally:
            con.unregister("arrived")
        con.execute(
            "CREATE OR REPLACE TEMP TABLE moving AS SELECT n, row_key, digest FROM looked WHERE is_news ORDER BY n"
        )
        row = con.execute(
            "SELECT count(*) FILTER (is_news AND fault = 0 AND NOT was_known), "
            "count(*) FILTER (is_news AND was_known), count(*) FILTER (NOT is_news AND NOT taken) FROM looked"
        ).fetchone()
        assert row is not None
        picked = con.execute(
            "SELECT n - (SELECT min(n) FROM looked) AS i, fault::TINYINT AS fault FROM looked WHERE is_news ORDER BY n"
        ).to_arrow_table()
        rows = batch if picked.num_rows == batch.num_rows else batch.take(picked["i"])
        return Looked(rows.append_column("key_fault", picked["fault"]), *(int(count) for count in row))

    def saw(self) -> None:
        """The rows of the last look are done with."""
        self._con.execute("INSERT INTO seen_keys SELECT row_key FROM looked")

    def missing(self) -> int:
        """How many known rows a whole reading has not met. Leaves `missing(row_key)`."""
        self._con.execute(
            "CREATE OR REPLACE TEMP TABLE missing AS SELECT k.row_key FROM known_before k "
            "ANTI JOIN seen_keys s ON s.row_key = k.row_key"
        )
        return _number(self._con, "SELECT count(*) FROM missing")

    def known(self) -> int:
        """How many rows were known when this reading began."""
        return _number(self._con, "SELECT count(*) FROM known_before")

    def close(self) -> None:
        for table in ("known_before", "seen_keys", "looked", "moving", "missing"):
            self._con.execute(f"DROP TABLE IF EXISTS temp.{table}")


def how_many(lake: Lake, known: Known) -> int:
    """How many rows are known."""
    return _number(lake.con, f"SELECT count(*) FROM lake.known_rows WHERE {known.where}")


def _digest(refs: Sequence[str]) -> str:
    return f"md5(to_json([{', '.join(f'{ref}::VARCHAR' for ref in refs)}])::VARCHAR)"


def _number(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = con.execute(sql).fetchone()
    return int(row[0]) if row else 0

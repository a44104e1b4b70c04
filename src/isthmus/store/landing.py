"""Landing: one batch of source rows into the store, in one transaction with the mark of how far its source has got."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from isthmus import duck
from isthmus.duck import literal
from isthmus.model.errors import InvalidInput, StoreBusy
from isthmus.model.intake import Counts, IncomingColumn, Reason, find_fault
from isthmus.model.mapping import Mapping
from isthmus.store import cells, erased, events, identity, mapped, news, profiles, rejections
from isthmus.store.known import Known
from isthmus.store.lake import Lake, Write
from isthmus.store.rules import Fault


@dataclass(frozen=True)
class Progress:
    """How far a source has got: rows taken so far, what became of them, and whether that was all of them.

    `cursor` is what the import of a relation needs beside (`imports.cursor`), as JSON-ready values. `begun` is the
    store's commit that took its first rows.
    """

    rows: int
    done: bool
    counts: Counts
    cursor: dict[str, Any] | None = None
    begun: int | None = None

    def as_text(self) -> str:
        values = {"rows": self.rows, "done": self.done, "counts": self.counts.as_dict(), "begun": self.begun}
        return json.dumps(values if self.cursor is None else values | {"cursor": self.cursor})

    @classmethod
    def from_text(cls, text: str) -> Progress:
        values = json.loads(text)
        return cls(
            values["rows"],
            values["done"],
            Counts.from_dict(values["counts"]),
            values.get("cursor"),
            values.get("begun", 0),
        )


def progress(lake: Lake, source: str) -> Progress | None:
    """How far this source has got, if it was ever begun."""
    rows = lake.query(
        "SELECT cursor FROM lake.import_state WHERE source = guard(?) ORDER BY seq DESC LIMIT 1", [source]
    )
    return Progress.from_text(rows[0][0]) if rows else None


def keep_progress(write: Write, source: str, reached: Progress) -> None:
    """Keep how far this source has got, with whatever else the transaction writes."""
    write.touched = True
    write.con.execute("DELETE FROM lake.import_state WHERE source = guard(?)", [source])
    write.con.execute(
        f"INSERT INTO lake.import_state SELECT guard(?), guard_json(?), {write.seq}", [source, reached.as_text()]
    )


class Landing:
    """Lands the batches of one source. `label` is what rejections call the source; `key` names it for resuming."""

    def __init__(
        self,
        lake: Lake,
        mapping: Mapping,
        columns: Sequence[IncomingColumn],
        *,
        lines: bool,
        label: str,
        key: str,
        phone_region: str | None = None,
        numbered: bool = True,
        origin: str | None = None,
        connection: str | None = None,
        needs_changed_at: bool = False,
        known: Known | None = None,
        key_columns: Sequence[str] = (),
        is_history: bool = True,
        follows: Progress | None = None,
    ) -> None:
        """`numbered` says that a row's number means something to a person; the rows of a relation have none.

        With an `origin` rows of profiles that are no news from there change nothing (see `store.news`). `connection` is
        the id of the one that events are read from: its own exports leave them out. With `needs_changed_at` a row that
        does not say when it was changed is a rejection. With `is_history` events are marked as backfill, unless the
        mapping or the row says otherwise.

        With `known` the table `moving` has the rows' keys, which are kept with what each row became; with the names
        of `key_columns` a row that has a `key_fault` is a rejection. See `store.known`.

        Landings with a cursor go on from what `follows` says is in the store: where that is not so any more, somebody
        else has gone on, and nothing lands.
        """
        self._follows = follows
        self.lake, self.mapping, self.label, self.key, self._numbered = lake, mapping, label, key, numbered
        self.origin, self.connection = origin if mapping.data == "profiles" else None, connection
        self.known = known
        self.mapped = mapped.build(
            mapping,
            columns,
            as_lines=lines,
            needs_changed_at=needs_changed_at,
            is_history=is_history,
            key=key_columns,
        )
        self.kinds = self.mapped.identifiers
        self.phone_region = phone_region
        self._phone_column = next((c for kind, c in mapping.identifiers if kind == "phone_number"), None)
        self._columns = {c.name: c for c in columns}
        self._lines = lines

    def land(
        self,
        batch: pa.Table,
        so_far: Progress,
        *,
        refused: pa.Table | None = None,
        done: bool,
        record: bool = True,
        cursor: dict[str, Any] | None = None,
    ) -> Progress:
        """Land `batch` (the columns `n`, rising row numbers, and the source's), after what `so_far` says is in.

        `refused` are rows that did not come as far as a batch, as `rejections.keep` wants them. With `record` the
        progress is kept in the same transaction, so that a landing that was cut off goes on behind its last whole
        batch. Landing a batch again changes nothing. `cursor` is kept with it, and always. Without one, rows of people
        who were erased since `so_far.begun` are not taken. Raises StoreError; then nothing of this batch is in the
        store.
        """
        con = self.lake.con
        con.register("incoming", batch)
        try:
            self._map(con)
            reached = self.lake.write(
                lambda write: self._land(write, batch.num_rows, so_far, refused, done, record, cursor)
            )
        finally:
            con.unregister("incoming")
        self._follows = reached
        return reached

    def require_followed(self, write: Write) -> None:
        """That nobody else has gone on since `follows`, or the last landing here. Raises StoreBusy."""
        row = write.con.execute("SELECT cursor FROM lake.import_state WHERE source = guard(?)", [self.key]).fetchone()
        if (Progress.from_text(row[0]) if row else None) != self._follows:
            raise StoreBusy(
                f"{self.label} went on in another process meanwhile", hint="nothing is lost; the next run goes on there"
            )

    def replay(self, batch: rejections.Kept) -> Counts:
        """Land the payloads of rejections, and take away those of them that are none any more, in one transaction.

        One that fails again is kept once, with its present reason. Raises as `land` does.
        """
        con = self.lake.con
        rejections.prepare(con, batch)
        try:
            self._map(con)
            return self.lake.write(lambda write: self._replay(write, batch.rows))
        finally:
            con.execute("DROP TABLE IF EXISTS incoming")

    def _map(self, con: duckdb.DuckDBPyConnection) -> None:
        self._read_phones(con)
        try:
            con.execute(f"CREATE OR REPLACE TEMP TABLE mapped AS {self.mapped.sql}")
            self._look_closely(con)
        except duckdb.ConversionException as e:
            raise InvalidInput(
                f"{self.label} has a value that cannot be converted: {e}", hint="send that column as text"
            ) from e

    def _replay(self, write: Write, size: int) -> Counts:
        if self.known:
            self.known.prepare_replay(write)
        counts, good = self._take(write, size, newcomers_only=False, payload="i.payload", before="i.kept_seq")
        self._reject(write, counts, replayed=True)
        rejections.settle(write)
        counts.rejected = counts.read - good
        return counts

    def _land(
        self,
        write: Write,
        size: int,
        so_far: Progress,
        refused: pa.Table | None,
        done: bool,
        record: bool,
        cursor: dict[str, Any] | None,
    ) -> Progress:
        if cursor is not None:
            self.require_followed(write)
        # A file that was landed before is no news about anybody who is still here.
        before = str(so_far.begun) if so_far.begun is not None and cursor is None else None
        counts, good = self._take(write, size, newcomers_only=not record, payload=self.mapped.payload, before=before)
        counts.read += refused.num_rows if refused else 0
        if self.known:  # what was rejected of these rows before does not count any more
            rejections.withdraw(write, label=self.label, keys="moving")
        self._reject(write, counts)
        if refused:
            refused = erased.strike(write, refused)
            rejections.keep(
                write,
                refused.filter(pc.not_equal(refused["reason"], Reason.ERASED.value)),
                label=self.label,
                data=self.mapping.data,
            )
            for each in pc.value_counts(refused["reason"]).to_pylist():
                counts.reasons[each["values"]] += each["counts"]
        counts.rejected = counts.read - good
        total = Counts()
        total.add(so_far.counts)
        total.add(counts)
        begun = write.seq if so_far.begun is None else so_far.begun
        reached = Progress(so_far.rows + size, done, total, cursor, begun)
        # A landing that was begun must also be closed, or its file would count as unfinished for ever.
        if record and (write.touched or not done or so_far.rows or cursor is not None):
            keep_progress(write, self.key, reached)
        return reached

    def _take(
        self, write: Write, size: int, *, newcomers_only: bool, payload: str, before: str | None
    ) -> tuple[Counts, int]:
        """Land the good rows of `mapped`: what came of them, and how many they were."""
        con = write.con
        counts = Counts(read=size)
        if gone := erased.sift(con, self.mapping, payload=payload, landed_before=before):
            counts.reasons[Reason.ERASED.value] += gone
        stale = news.sift(con, self.origin, self.mapping) if self.origin else 0
        identity.resolve(write, self.kinds)
        profiles.merge(write)
        if self.mapping.data == "events":
            counts.landed = events.land(write, self.kinds, self.connection)
            profiles.patch_from_events(write)
            if self.known:
                counts.landed += self.known.settle(write, self.kinds)
            good = _number(con, f"SELECT count(*) FROM {identity.placed(self.kinds)}")
        else:
            profiles.patch_from_rows(write, self.mapping, self.mapped.branches, newcomers_only=newcomers_only)
            if self.origin:
                news.keep(write, self.origin)
            good = _number(con, "SELECT count(*) FROM placed") + stale
            counts.landed = _number(con, "SELECT count(*) FROM placed SEMI JOIN changed USING (profile_id)")
            if self.known:
                self.known.settle_profiles(write)
        counts.repeated = good - counts.landed
        counts.profiles_created = _number(con, "SELECT count(*) FROM newcomers")
        counts.merged = _number(con, "SELECT count(*) FROM merging")
        counts.taken = _number(con, "SELECT count(*) FROM taken")
        return counts, good

    def _reject(self, write: Write, counts: Counts, *, replayed: bool = False) -> None:
        """Keep the rows that broke a rule, those that name a profile nobody has, and the identifiers that are taken."""
        number = "row_number" if replayed else "p.n" if self._numbered else "NULL"
        payload = "payload" if replayed else self.mapped.payload
        key = "row_key" if replayed else "v.row_key" if self.known else "NULL::UUID"
        keys = " LEFT JOIN moving v ON v.n = p.n" if self.known and not replayed else ""
        with self._refusals(write.con, counts) as refusals:
            rejections.keep_from(
                write,
                f"SELECT {literal(self.label)} AS source, '{self.mapping.data}' AS data, "
                f'{number} AS row_number, p."column", p.reason, p.message, {payload} AS payload, p.landed, '
                f"{key} AS row_key FROM ({refusals}) p JOIN incoming USING (n){keys}",
                columns=list(self._columns.values()),
                lines=self._lines,
            )

    @contextmanager
    def _refusals(self, con: duckdb.DuckDBPyConnection, counts: Counts) -> Iterator[str]:
        """SQL with n, column, reason, message and landed of what `_reject` keeps; the reasons are added to `counts`."""
        faults = self.mapped.faults
        unknown = len(faults)
        column_of = dict(self.mapping.identifiers)
        known = ", ".join(f"id_{k}" for k in self.kinds)
        same = " AND ".join(f"w.id_{k} IS NOT DISTINCT FROM m.id_{k}" for k in self.kinds)
        con.execute(
            "CREATE OR REPLACE TEMP TABLE broken AS SELECT n, bad::INTEGER AS fault FROM mapped WHERE bad IS NOT NULL "
            f"UNION ALL SELECT m.n, {unknown + 1} FROM mapped m "
            f"JOIN (SELECT {known} FROM who WHERE profile_id IS NULL) w "
            f"ON {same} WHERE m.bad IS NULL"
        )
        table = pa.table(
            {
                "fault": pa.array(range(1, unknown + 2), pa.int32()),
                "column": [*(f.column for f in faults), column_of.get("profile_id", "")],
                "reason": [*(f.reason.value for f in faults), Reason.UNKNOWN_PROFILE.value],
                "message": [
                    *(f.message for f in faults),
                    "no profile has this id; map ids of another system as external_id",
                ],
            }
        )
        con.register("faults", table)
        try:
            for reason, count in con.execute(
                "SELECT reason, count(*) FROM broken JOIN faults USING (fault) GROUP BY reason"
            ).fetchall():
                counts.reasons[str(reason)] += int(count)
            parts = [
                'SELECT b.n, f."column", f.reason, coalesce(c.message, f.message) AS message, false AS landed '
                "FROM broken b JOIN faults f USING (fault) LEFT JOIN closely c ON c.n = b.n"
            ]
            if counts.taken:
                columns = " ".join(f"WHEN '{kind}' THEN {literal(column)}" for kind, column in column_of.items())
                parts.append(
                    f"SELECT w.first_n, CASE x.kind {columns} END, '{Reason.IDENTIFIER_TAKEN.value}', "
                    "'the ' || x.kind || ' ' || unguard(x.value) || ' belongs to another profile, known by a higher "
                    "identifier; the row landed without it', true FROM taken x JOIN who w USING (t)"
                )
            yield " UNION ALL ".join(parts)
        finally:
            con.unregister("faults")

    def _look_closely(self, con: duckdb.DuckDBPyConnection) -> None:
        """Parse the few rows whose properties look as if no warehouse could hold them; mark those that are bad."""
        con.execute("CREATE OR REPLACE TEMP TABLE closely (n BIGINT, reason VARCHAR, message VARCHAR)")
        if not self.mapped.suspicious:
            return
        found = []
        rows = con.execute("SELECT n, properties FROM mapped WHERE bad IS NULL AND suspicious(properties)")
        while batch := rows.fetchmany(1000):
            found += [(n, *fault) for n, text in batch if (fault := find_fault(text))]
        if not found:
            return
        there = {f.reason for f in self.mapped.faults if f.message == f.reason.value}
        for reason in sorted({reason for _, reason, _ in found} - there):
            self.mapped.faults.append(Fault("", reason, reason.value))
        number = {f.reason: i for i, f in enumerate(self.mapped.faults, start=1) if f.message == f.reason.value}
        table = pa.table(
            {
                "n": pa.array([n for n, _, _ in found], pa.int64()),
                "reason": [reason.value for _, reason, _ in found],
                "message": [message for _, _, message in found],
                "fault": pa.array([number[reason] for _, reason, _ in found], pa.int32()),
            }
        )
        con.register("found", table)
        try:
            con.execute("INSERT INTO closely SELECT n, reason, message FROM found")
            con.execute("UPDATE mapped SET bad = found.fault FROM found WHERE mapped.n = found.n")
        finally:
            con.unregister("found")

    def _read_phones(self, con: duckdb.DuckDBPyConnection) -> None:
        """Have the phone number library read those that are not plain E.164."""
        con.execute("CREATE OR REPLACE TEMP TABLE phones (given VARCHAR, good VARCHAR)")
        if self._phone_column is None:
            return
        if self._lines:
            pointer = duck.literal(cells.pointer(self._phone_column))
            text = f"TRY(json_extract_string(decode(line), {pointer}))"
        else:
            text = f"{self._columns[self._phone_column].ref}::VARCHAR"
        given = con.execute(
            f"SELECT DISTINCT given FROM (SELECT {text} AS given FROM incoming) "
            "WHERE given IS NOT NULL AND clean_phone(given) IS NULL"
        ).fetchall()
        read = [(text, good) for (text,) in given if (good := read_phone(text, self.phone_region))]
        if read:
            con.executemany("INSERT INTO phones VALUES (?, ?)", read)


def read_phone(text: str, region: str | None) -> str | None:
    """A phone number in E.164, or None. Without a `region` (such as "US") only numbers with + are understood."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _number(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = con.execute(sql).fetchone()
    return int(row[0]) if row else 0

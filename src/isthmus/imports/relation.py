"""Importing: what one run of an import does. Look at the relation's end, then read it in order and land it.

The cursor lies in the store and moves in the transaction that lands the rows; the ledger only has the account of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.imports import cursor as cursors
from isthmus.imports.ahead import ahead
from isthmus.imports.cursor import Cursor, Seen
from isthmus.imports.files import BATCH_ROWS, gathered
from isthmus.imports.shapes import readable, shape, unreadable
from isthmus.ledger import syncs
from isthmus.ledger.database import Ledger, Tx
from isthmus.model.errors import InvalidInput, Mismatch, WarehouseError
from isthmus.model.import_rules import check_together
from isthmus.model.intake import Counts, IncomingColumn, Reason
from isthmus.model.mapping import Mapping, bind
from isthmus.model.table import SEQ
from isthmus.model.work import Chunk, Intake, Run, RunKind, Sync, SyncState
from isthmus.runs.attempt import Done, Keep, Still
from isthmus.store.lake import Lake
from isthmus.store.landing import Landing, Progress, progress
from isthmus.warehouses.protocol import Config, Relation, Warehouse, Window, knock


@dataclass(frozen=True)
class Arrival:
    """All that a run of an import needs: where from, where to, and what keeps account. A `runs.attempt.Work`."""

    lake: Lake
    ledger: Ledger
    config: Config
    now: Callable[[], datetime]
    phone_region: str | None = None
    leaves_easily: ClassVar[bool] = True
    _looked: dict[str, tuple[Cursor, Look]] = field(default_factory=dict, repr=False, compare=False)
    """What planning a run has seen: who carries it out at once need not ask the warehouse again."""

    def plan(self, run: Run, keep: Keep) -> Run:
        """Chunks of rows that may be new. None of them if the relation's end looks as the last pass found it; then not
        one row is read."""
        sync, intake = sync_of(self.ledger, run)
        moment = self.now()
        before = self._progress(sync)
        cursor = Cursor.from_dict(before.cursor if before else None)
        warehouse = self.config.open()
        try:
            looked = look(warehouse, self.config, intake, cursor)
            yields_to_older(self.ledger, warehouse, self.config, sync, looked.columns)
        finally:
            warehouse.close()
        rows = looked.rows + looked.nowhere if looked.is_news else 0
        first = sync.watermark == 0
        planned = in_chunks(run, sync, intake, moment, rows, first=first, count=-(-rows // BATCH_ROWS))
        with self.ledger.transaction() as tx:
            kept = keep(tx, planned, sync.generation, 1)
        self._looked[run.run_id] = cursor, looked
        return kept

    def can_go_on(self, run: Run) -> bool:
        """Always: a run goes on where the cursor is."""
        return True

    def outcome(self, run: Run) -> dict[str, Any]:
        """What became of the rows. Raises InvalidInput if every one of them was rejected: that is no success."""
        if not run.chunks:
            return {}
        sync, _ = sync_of(self.ledger, run)
        reached = self._progress(sync)
        counts = reached.counts if reached else Counts()
        require_some(counts, sync)
        return counts.as_dict()

    def knock(self) -> WarehouseError | None:
        return knock(self.config)

    @contextmanager
    def open(self, run: Run) -> Iterator[Callable[[Chunk, Still], Done]]:
        """The relation, read in order; each chunk lands the next rows of it, the last one all that are left."""
        sync, intake = sync_of(self.ledger, run)
        warehouse = self.config.open()
        try:
            reading = _Reading(self, sync, intake, warehouse, self._looked.pop(run.run_id, None))
            last = len(run.chunks) - 1
            try:
                yield lambda chunk, still: reading.land(None if chunk.number == last else chunk.rows, still)
            finally:
                reading.close()
        finally:
            warehouse.close()

    def _progress(self, sync: Sync) -> Progress | None:
        return progress(self.lake, key_of(sync))


def in_chunks(run: Run, sync: Sync, intake: Intake, moment: datetime, rows: int, *, first: bool, count: int) -> Run:
    """The run with so many chunks of the rows that it is to read."""
    return replace(
        run,
        kind=RunKind.HISTORICAL if first else RunKind.PERIODIC,
        after=sync.watermark,
        upto=1,  # of a store's commits an import knows nothing: 0 before its first run, 1 after it
        snapshot_at=moment,
        planned_at=moment,
        chunks=tuple(
            Chunk(
                number=i,
                table=intake.what,
                part="rows",
                seqs_after=0,
                seqs_upto=0,
                batch_id=f"{sync.sync_id}.{run.run_id}.{i}",
                rows=min(BATCH_ROWS, rows - i * BATCH_ROWS),
                adds_only=False,
            )
            for i in range(count)
        ),
    )


def numbered(table: pa.Table, columns: Sequence[IncomingColumn], at: int) -> pa.Table:
    """Rows of a relation as a landing takes them: under our names, with types that it can read, counted from `at`."""
    renamed = readable(table.rename_columns([c.ref for c in columns]))
    return renamed.add_column(0, "n", pa.arange(at, at + table.num_rows))


def require_some(counts: Counts, sync: Sync) -> None:
    """Raises InvalidInput if every row was rejected: that is no success."""
    if counts.rejected > counts.reasons[Reason.ERASED] and counts.rejected == counts.read:
        raise InvalidInput(
            f"all {counts.read:,} rows were rejected: {', '.join(counts.reasons) or 'as before'}",
            hint=f"isthmus rejections list --sync {sync.name}; mend the mapping or the rows, then replay them",
        )


def sync_of(ledger: Ledger, run: Run) -> tuple[Sync, Intake]:
    """The import that a run is of, and what it brings in."""
    with ledger.reading() as tx:
        sync = syncs.by_id(tx, run.sync_id)
    assert sync.intake is not None
    return sync, sync.intake


def key_of(sync: Sync) -> str:
    """What the store calls the cursor of an import."""
    return f"import {sync.sync_id} {sync.generation}"


def relation_of(config: Config, intake: Intake) -> Relation:
    """The relation as a person named it: a query, `schema.name`, or a name in the import schema."""
    if intake.query:
        return Relation("", intake.query, "query")
    schema, _, name = intake.relation.rpartition(".")
    return Relation(schema or getattr(config, "import_schema", config.traits.default_import_schema), name)


def older(tx: Tx, sync: Sync) -> list[Sync]:
    """The other syncs of the connection that were there before this one: where two get in each other's way, the later
    one has to yield."""
    return [s for s in syncs.of(tx, sync.connection_id) if (s.created_at, s.name) < (sync.created_at, sync.name)]


def require_one_origin(
    warehouse: Warehouse, config: Config, name: str, mapping: Mapping, columns: Sequence[str], others: Iterable[Sync]
) -> None:
    """That no field or property of profiles comes from this import and another one of `others`, all of one connection.

    Here the columns are known, and with them the properties that no mapping names. Raises InvalidInput.
    """
    together: dict[str, Mapping] = {}
    known = {name: columns}
    for other in others:
        its = other.intake
        if its is None or not its.data == mapping.data == "profiles" or other.state is SyncState.DISABLED:
            continue
        together[other.name] = its.mapping
        if its.mapping.properties is None:
            with suppress(WarehouseError):  # what is wrong with that one, its own runs say
                known[other.name] = warehouse.schema(relation_of(config, its)).names
    check_together({**together, name: mapping}, known)


def yields_to_older(
    ledger: Ledger, warehouse: Warehouse, config: Config, sync: Sync, columns: Sequence[IncomingColumn]
) -> None:
    """`require_one_origin`, held against the imports that were there before this one."""
    assert sync.intake is not None
    with ledger.reading() as tx:
        beside = older(tx, sync)
    require_one_origin(warehouse, config, sync.name, sync.intake.mapping, [c.name for c in columns], beside)


@dataclass(frozen=True)
class Look:
    """What a pass would find: rows from its start on, what the cursor will be, and whether anything is new. `nowhere`:
    how many rows without a time it has to read, none if the last pass found the same ones."""

    relation: Relation
    columns: tuple[IncomingColumn, ...]
    start: datetime | None
    rows: int
    nowhere: int
    goal: datetime | None
    then: Seen
    is_news: bool


def look(warehouse: Warehouse, config: Config, intake: Intake, cursor: Cursor) -> Look:
    """Ask the warehouse what is there, without reading a row.

    Raises Missing if the relation is not there, InvalidInput for a column that is not, Mismatch if changed-at is no
    time.
    """
    with naming(relation_of(config, intake)) as relation:
        return _look(warehouse, relation, intake, cursor)


def _look(warehouse: Warehouse, relation: Relation, intake: Intake, cursor: Cursor) -> Look:
    schema = warehouse.schema(relation)
    columns = columns_of(schema, intake)
    bind(intake.mapping, [c.name for c in columns], where=str(intake.what))
    changed_at, key = _order(intake)
    by_day = pa.types.is_date(schema.field(changed_at).type)
    nowhere = warehouse.count(relation, window=Window(changed_at, key, None, None, nulls=True))
    start = cursor.start(intake.look_back_s, by_day=by_day)
    found = warehouse.count(relation, window=Window(changed_at, key, start or _FIRST, None))
    assert found.checksum is not None and found.now is not None
    without = (nowhere.rows, nowhere.checksum or 0)
    now = Seen(start, found.rows, found.checksum, *without)
    goal = cursors.goal(cursor.at, found.last, found.now)
    start_then = Cursor(at=goal).start(intake.look_back_s, by_day=by_day)
    then = now
    if start_then != start:
        end = warehouse.count(relation, window=Window(changed_at, key, start_then or _FIRST, None))
        assert end.checksum is not None
        then = Seen(start_then, end.rows, end.checksum, *without)
    told = cursor.seen is not None and (cursor.seen.without, cursor.seen.without_checksum) == without
    is_news = cursor.under_way or cursor.seen != now
    return Look(relation, columns, start, found.rows, 0 if told else nowhere.rows, goal, then, is_news)


@contextmanager
def naming(relation: Relation) -> Iterator[Relation]:
    """Have what a warehouse says name the relation: its own words may leave that out."""
    try:
        yield relation
    except WarehouseError as e:
        e.name(str(relation))
        raise


_FIRST = datetime(1, 1, 1, tzinfo=UTC)
"""A window that is open at both ends would hold rows without a time too."""


def _order(intake: Intake) -> tuple[str, str]:
    mapping = intake.mapping
    assert mapping.changed_at is not None
    return mapping.changed_at, mapping.unique_id or mapping.identifiers[0][1]


def columns_of(schema: pa.Schema, intake: Intake) -> tuple[IncomingColumn, ...]:
    """The relation's columns as a landing takes them. Raises Mismatch for one that cannot be read at all, InvalidInput
    if it shows what an export wrote."""
    if SEQ in schema.names:
        raise InvalidInput(
            f"{intake.what} has the column {SEQ}: it shows what an export of Isthmus wrote",
            hint="that is a loop: what came from us is no news to us. Import another table or view, or one without "
            "that column if you mean it",
        )
    for f in schema:
        if what := unreadable(f.type):
            raise Mismatch(
                f"{intake.what}, column {f.name!r}: {what}",
                column=f.name,
                ours="text",
                theirs=str(f.type),
                hint="make a view that gives it as text",
            )
    return tuple(IncomingColumn(f.name, f"c{i}", shape(f.type)) for i, f in enumerate(schema))


class _Reading:
    """One attempt at a pass: the rows in order, landed as they come."""

    def __init__(
        self,
        arrival: Arrival,
        sync: Sync,
        intake: Intake,
        warehouse: Warehouse,
        looked: tuple[Cursor, Look] | None,
    ) -> None:
        before = progress(arrival.lake, key_of(sync))
        cursor = Cursor.from_dict(before.cursor if before else None)
        if looked is not None and looked[0] == cursor:
            self._look = looked[1]
        else:
            self._look = look(warehouse, arrival.config, intake, cursor)
        goes_on = before is not None and cursor.under_way
        self._cursor = cursor if goes_on else cursor.begun(self._look.goal, self._look.then)
        moved = goes_on and cursor.position is not None
        self._so_far = before if moved and before else Progress(0, False, Counts())
        self._over = not self._look.is_news
        self._changed_at, key = _order(intake)
        self._ref = next(c.ref for c in self._look.columns if c.name == self._changed_at)
        start = self._cursor.position or self._look.start or _FIRST
        self._tables = ahead(self._read(warehouse, key, start))
        self._landing = Landing(
            arrival.lake,
            intake.mapping,
            self._look.columns,
            lines=False,
            label=sync.name,
            key=key_of(sync),
            phone_region=arrival.phone_region,
            numbered=False,
            origin=sync.sync_id,
            connection=sync.connection_id,
            needs_changed_at=True,
            is_history=cursor.at is None,
            follows=before,
        )
        self._next = None if self._over else next(self._tables, None)

    def land(self, rows: int | None, still: Still) -> Done:
        """Land as many rows, or a few more; None: all that are left, and with them the end of the pass."""
        landed = size = 0
        while not self._over and (rows is None or landed < rows):
            table, self._next = self._next, None
            if table is not None:
                self._next = next(self._tables, None)
            still()
            self._over = self._next is None
            if table is None:
                table = self._nothing()
            self._cursor = self._cursor.moved(self._newest(table))
            cursor = self._cursor.finished() if self._over else self._cursor
            self._so_far = self._landing.land(table, self._so_far, done=self._over, cursor=cursor.as_dict())
            landed += table.num_rows
            size += table.nbytes
        return Done(landed, size)

    def close(self) -> None:
        """Read no more. The warehouse may be closed then."""
        self._tables.close()

    def _read(self, warehouse: Warehouse, key: str, start: datetime) -> Generator[pa.Table]:
        """Rows without a time first, so that the last batch is the newest."""
        at = self._so_far.rows + 1
        windows = [Window(self._changed_at, key, start, None)]
        if self._look.nowhere and self._cursor.position is None:
            windows.insert(0, Window(self._changed_at, key, None, None, nulls=True))
        with naming(self._look.relation) as relation:
            for window in windows:
                for table in gathered(warehouse.read(relation, window=window)):
                    yield numbered(table, self._look.columns, at)
                    at += table.num_rows

    def _nothing(self) -> pa.Table:
        return pa.table(
            {"n": pa.array([], pa.int64())} | {c.ref: pa.array([], pa.string()) for c in self._look.columns}
        )

    def _newest(self, table: pa.Table) -> datetime | None:
        """The highest changed-at, to the microsecond below: what is read again from there on includes it."""
        newest = pc.max(table.column(self._ref))
        if not newest.is_valid:
            return None
        micros = newest.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).as_py()
        try:
            return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)
        except OverflowError:
            return None

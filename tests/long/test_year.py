"""A year of hourly runs of 200 syncs: the ledger stays small, and whoever asks it something gets an answer at once.

The runs are written as they would be found, day by day and in bulk; what forgets and what asks is the real thing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from sqlalchemy import Engine as Database
from sqlalchemy import event, func, select, text, update

from isthmus.actions import observing, syncing
from isthmus.api import metrics
from isthmus.app import App
from isthmus.ledger import connections, retention, syncs, workers
from isthmus.ledger.database import Ledger, Tx
from isthmus.ledger.presence import new_worker_id, presence
from isthmus.ledger.schema import chunks, lanes, run_errors, runs
from isthmus.ledger.schema import syncs as syncs_table
from isthmus.model.work import LaneState, RunKind, RunState, Selection
from isthmus.runs.engine import Engine
from isthmus.runs.housekeeping import Housekeeping
from isthmus.settings import Settings
from isthmus.warehouses import kinds

pytestmark = pytest.mark.long

SYNCS, DAYS = 200, int(os.environ.get("YEAR_DAYS", "365"))
KEEP = timedelta(days=30)  # what ISTHMUS_RUN_RETENTION_DAYS is if nobody sets it
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

MOST_MB = 250
"""What the ledger may take on disk after any day, with the usual retention."""

MOST_S = 0.5
"""What any question may take, on a machine that has other things to do as well."""

VACUUM_DAYS = 4
"""A day's runs are a twentieth of those that are kept, and PostgreSQL cleans up when a fifth of a table is gone."""

GROWING = ("runs", "chunks", "lanes", "run_errors")


@pytest.mark.parametrize("keep", [KEEP, None], ids=["usual", "forgets-nothing"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_year(kind: str, keep: timedelta | None, tmp_path: Path, request: Any, told: list[str]) -> None:
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else None
    with App(_settings(tmp_path, url)) as app:
        ids = _apply(app)
        sizes: dict[int, float] = {}
        forgetting_s: list[float] = []
        for day in range(DAYS):
            with app.ledger.transaction() as tx:
                _live(tx, ids, day)
            if keep is not None:
                begun = time.perf_counter()
                retention.gc(app.ledger, now=BEGINNING + timedelta(days=day + 1), keep=keep)
                forgetting_s.append(time.perf_counter() - begun)
            if day % VACUUM_DAYS == 0 and app.settings.scaled:
                _vacuum(app)
            if day % 30 == 29 or day == DAYS - 1:
                sizes[day + 1] = _size_mb(app)
                if keep is not None:
                    assert sizes[day + 1] < MOST_MB, sizes
        at = BEGINNING + timedelta(days=DAYS)
        with app.ledger.reading() as tx:
            count = tx.scalar(select(func.count()).select_from(runs))
        spent = _ask(app, at)
        name = f"{kind}, {'the usual retention' if keep else 'forgetting nothing'}"
        months = ", ".join(f"day {day}: {mb:.0f}" for day, mb in sizes.items())
        told.append(f"a year, {name}: {SYNCS * 24 * DAYS:,} runs, {count:,} kept; MB on disk {months}")
        if forgetting_s:
            told.append(f"  forgetting a day of runs: {max(forgetting_s):.2f} s at most")
        told.append("  " + ", ".join(f"{what} {s * 1e3:.0f} ms" for what, s in spent.items()))
        slow = {what: s for what, s in spent.items() if s > MOST_S}
        assert not slow, slow


def _settings(home: Path, url: str | None) -> Settings:
    environ = {"ISTHMUS_HOME": str(home)}
    if url is not None:  # nobody asks the bucket for anything here
        keys = {"ISTHMUS_S3_ACCESS_KEY_ID": "k", "ISTHMUS_S3_SECRET_ACCESS_KEY": "s"}
        environ |= {"ISTHMUS_DATABASE_URL": url, "ISTHMUS_STORAGE_URL": "s3://bucket/prefix", **keys}
    return Settings.load(environ)


def _apply(app: App) -> list[str]:
    with app.ledger.transaction() as tx:
        given = {"kind": "duckdb", "fields": {"path": "dwh.duckdb"}, "secrets": {}, "seal": app.seal, "at": BEGINNING}
        connection, _ = connections.put(tx, name="dwh", **given)
        found = []
        for n in range(SYNCS):
            sync, _ = syncs.apply_export(
                tx,
                name=f"sync {n:03}",
                connection_id=connection.connection_id,
                selection=Selection(table_prefix=f"t{n}_"),
                schedule="hourly",
                at=BEGINNING,
            )
            found.append(sync.sync_id)
        return found


def _live(tx: Tx, ids: list[str], day: int) -> None:
    """One day of every sync: by day there is something to deliver each hour, at night there is not. One run in a
    hundred meets an error that passes, and one in a thousand fails."""
    made: dict[str, list[dict[str, Any]]] = {"runs": [], "chunks": [], "lanes": [], "errors": []}
    for hour in range(24):
        for n, sync_id in enumerate(ids):
            number = (day * 24 + hour) * SYNCS + n
            at = BEGINNING + timedelta(days=day, hours=hour, seconds=n)
            run_id = f"run_{blake2b(number.to_bytes(8), digest_size=10).hexdigest()}"
            _run(made, run_id, sync_id, number, at, busy=7 <= hour < 19, first=day == hour == 0)
    for table, rows in ((runs, "runs"), (chunks, "chunks"), (lanes, "lanes"), (run_errors, "errors")):
        if made[rows]:
            _write(tx, table.name, made[rows])
    end = BEGINNING + timedelta(days=day + 1)
    tx.execute(update(syncs_table).values(watermark=(day + 1) * 24, fresh_at=end, next_due=end + timedelta(minutes=30)))


def _write(tx: Tx, table: str, rows: list[dict[str, Any]]) -> None:
    """Many rows, by the shortest way: the driver's own."""
    names = ", ".join(rows[0])
    with tx.connection.cursor() if tx.dialect.name == "postgresql" else closing(tx.connection.cursor()) as cursor:
        if tx.dialect.name == "postgresql":
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(tuple(row.values()))
            return
        at = {moment: f"{moment:%Y-%m-%d %H:%M:%S.%f}" for row in rows for moment in _moments(row)}
        values = ([at.get(v, v) if isinstance(v, datetime) else v for v in row.values()] for row in rows)
        cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(rows[0]))})", values)


def _moments(row: dict[str, Any]) -> list[datetime]:
    return [value for value in row.values() if isinstance(value, datetime)]


def _run(
    made: dict[str, list[dict[str, Any]]],
    run_id: str,
    sync_id: str,
    number: int,
    at: datetime,
    *,
    busy: bool,
    first: bool,
) -> None:
    rows = 1000 if busy or first else 0
    failed = busy and number % 1000 == 7
    made["runs"].append(
        {
            "run_id": run_id,
            "sync_id": sync_id,
            "generation": 1,
            "kind": RunKind.HISTORICAL.value if first else RunKind.PERIODIC.value,
            "state": RunState.FAILED.value if failed else RunState.COMPLETED.value,
            "seqs_after": number,
            "seqs_upto": number + 1,
            "snapshot_id": number,
            "snapshot_at": at,
            "planned_at": at,
            "started_at": at,
            "finished_at": at + timedelta(seconds=20),
            "rows_total": rows,
            "rows_done": rows,
            "planned": True,
            "scheduled_at": at,
            "bytes_done": rows * 100,
        }
    )
    made["lanes"].append({"run_id": run_id, "lane": 0, "attempt": 1, "state": LaneState.IDLE.value, "deaths": 0})
    for chunk in range(2 if rows else 0):
        made["chunks"].append(
            {
                "run_id": run_id,
                "number": chunk,
                "table_name": ("profile", "event")[chunk],
                "part": "rows",
                "seqs_after": number,
                "seqs_upto": number + 1,
                "batch_id": f"{sync_id}.{run_id}.{chunk}.rows.{number}-{number + 1}",
                "rows": rows // 2,
                "adds_only": True,
                "done": True,
                "replaces": False,
                "size_bytes": rows * 50,
                "begun_at": at,
                "done_at": at + timedelta(seconds=10),
            }
        )
    if failed or number % 100 == 3:
        error = {"summary": "the server db.example.com does not answer", "code": "08006", "hint": "see that it runs"}
        vendor = "connection to server at db.example.com failed: timeout expired"
        where = {"run_id": run_id, "at": at, "chunk": f"event rows ({number}, {number + 1}]", "retryable": not failed}
        made["errors"].append({**error, "vendor": vendor, **where})


def _vacuum(app: App) -> None:
    """As autovacuum does, which has no time for it in a year that passes in minutes."""
    with app.ledger._writing.connect().execution_options(isolation_level="AUTOCOMMIT") as con:
        for table in GROWING:
            con.execute(text(f"VACUUM ANALYZE {table}"))


def _size_mb(app: App) -> float:
    with app.ledger.reading() as tx:
        if tx.dialect.name == "postgresql":
            return float(tx.scalar(text("SELECT pg_database_size(current_database())")) or 0) / 1e6
    return sum(file.stat().st_size for file in app.home.glob("ledger.sqlite*")) / 1e6


def _ask(app: App, at: datetime) -> dict[str, float]:
    """Everything that people and machines ask all the time: how long each takes. None may read what grows."""
    named = next(iter(syncing.list_syncs(app)))[0].name
    registry = metrics.registry(app)
    app.now = lambda: at  # type: ignore[method-assign]
    spent: dict[str, float] = {}
    if app.settings.scaled:
        with app.ledger.transaction() as tx:
            tx.execute(text("ANALYZE"))  # as its autovacuum does

    def ask(what: str, do: Callable[[], Any]) -> None:
        with _plans(app.ledger) as plans:
            do()
        assert plans or app.settings.scaled
        wrong = [step for step in plans if _reads_what_grows(step)]
        assert not wrong, (what, wrong)
        begun = time.perf_counter()
        do()
        spent[what] = time.perf_counter() - begun

    ask("run list", lambda: syncing.list_runs(app, sync=None, limit=50))
    ask("run list --sync", lambda: syncing.list_runs(app, sync=named, limit=50))
    ask("sync list", lambda: syncing.list_syncs(app))
    ask("sync show", lambda: syncing.show_sync(app, named))
    newest = syncing.list_runs(app, sync=None, limit=1)[0].run_id
    ask("run show", lambda: syncing.show_run(app, newest))
    ask("figures", lambda: observing.figures(app))
    ask("/metrics", lambda: generate_latest(registry))
    with _housekeeping(app) as housekeeping:
        housekeeping.tick()
        ask("housekeeping", housekeeping.tick)
    return spent


@contextmanager
def _housekeeping(app: App) -> Iterator[Housekeeping]:
    own, worker_id = presence(app.home / "workers", app.settings.database_url), new_worker_id()
    own.hold(worker_id)
    with app.ledger.transaction() as tx:
        workers.join(tx, worker_id, role="worker", place="here", at=app.now())
    engine = Engine(app.ledger_place(), worker_id, lambda attempt: None, slots=1)
    try:
        yield Housekeeping(app.ledger, own, engine, worker_id, True, kinds.loads_at_once, app.now)
    finally:
        engine.close()
        own.close()


@contextmanager
def _plans(ledger: Ledger) -> Iterator[list[str]]:
    """How SQLite finds what is asked for inside: the steps of each statement's plan."""
    steps: list[str] = []
    database: Database = ledger._reading  # what listens here hears of both
    if database.dialect.name != "sqlite":
        yield steps
        return

    def explain(con: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            limited = "LIMIT" in statement.upper()
            steps.extend(f"{row[3]}{' and stops' if limited else ''}" for row in plan)

    event.listen(database, "before_cursor_execute", explain)
    try:
        yield steps
    finally:
        event.remove(database, "before_cursor_execute", explain)


UNDER_WAY = ("one_active_run", "lanes_at_work")


def _reads_what_grows(step: str) -> bool:
    if not step.startswith("SCAN"):
        return False
    table = step.split()[1]
    in_order = "USING INDEX" in step and step.endswith("and stops")
    return table in GROWING and not in_order and not any(name in step for name in UNDER_WAY)

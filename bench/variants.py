"""One measurement in a process of its own: `variants.py NAME '{"argument": …}'`. Prints seconds, rows and peak memory.

What is prepared is not in the seconds; what is prepared once and kept is made by `prepare_…`.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ground
import intakes
from ground import Ground

import warehouses

NEW_ROWS = 100_000


class Clock:
    """Adds up the seconds that pass inside it, and those that the processors spend on this process."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        begun, cpu_begun = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - begun
        self.cpu_seconds += time.process_time() - cpu_begun


# What is kept


def prepare_store(ground_: Ground, clock: Clock, *, times: int) -> int:
    """The store with the purchases so many times over, in good order, and its output as a plain file."""
    from isthmus.actions import syncing

    home = ground_.home(times)
    if ground_.output(times).exists():
        return 0
    shutil.rmtree(home, ignore_errors=True)
    with ground.app(home) as app, clock.running():
        for number in range(times):
            ground.land(app, ground_.again(number))
        syncing.tidy(app)
        _write_output(app, ground_.output(times))
    return 1


def _write_output(app: Any, path: Path) -> None:
    from isthmus.model.table import SeqRange
    from isthmus.model.tables import EVENT

    snapshot, changes = _changes(app)
    path.unlink(missing_ok=True)
    changes.extract(EVENT, SeqRange(0, snapshot.seq), path, deletes=False)


def prepare_delivered(ground_: Ground, clock: Clock, *, times: int) -> int:
    """A home whose store is delivered to a DuckDB file, both copied to where periodic runs are measured."""
    kept, work = ground_.folder / f"delivered-{times}", ground_.folder / f"work-{times}"
    if not (kept / "done").exists():
        shutil.rmtree(kept, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        ground.copy(ground_.home(times), work / "home")
        with ground.app(work / "home") as app, clock.running():
            ground.wish(app, {"kind": "duckdb", "path": str(work / "dwh.duckdb")})
            _run(app)
        ground.copy(work / "home", kept / "home")
        shutil.copyfile(work / "dwh.duckdb", kept / "dwh.duckdb")
        (kept / "done").touch()
    shutil.rmtree(work, ignore_errors=True)
    ground.copy(kept / "home", work / "home")
    shutil.copyfile(kept / "dwh.duckdb", work / "dwh.duckdb")
    return 0


def prepare_landed(ground_: Ground, clock: Clock) -> int:
    """The purchases in the shape of the store's table, for a plain insert of the same rows."""
    if not ground_.landed.exists():
        home = ground_.folder / "landing"
        shutil.rmtree(home, ignore_errors=True)
        with ground.app(home) as app:
            ground.land(app, ground_.purchases)
            making = ground_.landed.with_suffix(".making")
            app.lake.query(f"COPY (FROM lake.events) TO '{making}' (FORMAT parquet)")
            making.rename(ground_.landed)
    return 0


# Landing


def land(ground_: Ground, clock: Clock) -> int:
    """The whole import path: read, map, check, who is who, de-duplicate, write, into a fresh store."""
    home = ground_.folder / "landing"
    shutil.rmtree(home, ignore_errors=True)
    file = ground_.purchases
    with ground.app(home) as app:
        app.lake.snapshot()
        with clock.running():
            counts = ground.land(app, file)
        assert counts.landed == counts.read, counts
        return counts.landed


def plain_insert(ground_: Ground, clock: Clock) -> int:
    """The same rows, ready made, by one INSERT into a table of the same columns in a lake of the same settings."""
    from isthmus.store.lake import sync_files

    home = ground_.folder / "plain"
    shutil.rmtree(home, ignore_errors=True)
    with ground.app(home) as app:
        con = app.lake.con
        con.execute(f"CREATE TABLE lake.plain AS FROM read_parquet('{ground_.landed}') LIMIT 0")
        with clock.running():
            con.execute("BEGIN")
            con.execute(f"INSERT INTO lake.plain SELECT * FROM read_parquet('{ground_.landed}')")
            sync_files(app.lake.data_files())
            con.execute("COMMIT")
        return _count(con, "lake.plain")


# History


def _changes(app: Any) -> tuple[Any, Any]:
    from isthmus.model.work import Scope, Selection
    from isthmus.store.changes import Changes

    snapshot = app.lake.snapshot()
    return snapshot, Changes(app.lake, snapshot.snapshot_id, Selection(), Scope(None, snapshot.seq))


def extract(ground_: Ground, clock: Clock, *, times: int) -> int:
    """The events of a history run, chunk by chunk, to Parquet files in the spool."""
    from isthmus.exports import plan
    from isthmus.model.table import SeqRange
    from isthmus.model.tables import EVENT

    rows = 0
    with ground.app(ground_.home(times)) as app:
        snapshot, changes = _changes(app)
        commits = [(c.seq, c.rows, c.older) for c in changes.commits(EVENT, SeqRange(0, snapshot.seq))]
        pending = plan.Pending(EVENT.name, commits, 0, True)
        for chunk in plan.history([pending], upto=snapshot.seq, stem="bench"):
            file = app.lake.spool / f"{chunk.number}.parquet"
            with clock.running():
                rows += changes.extract(EVENT, SeqRange(chunk.seqs_after, chunk.seqs_upto), file, deletes=False)
            file.unlink()
    return rows


def plain_copy(ground_: Ground, clock: Clock, *, times: int) -> int:
    """The same rows from a plain Parquet file to another by one COPY with the same codec."""
    file = ground_.folder / "copied.parquet"
    con = _engine(ground_)
    with clock.running():
        (rows,) = con.execute(
            f"COPY (FROM read_parquet('{ground_.output(times)}')) TO '{file}' "
            "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        ).fetchone()
    file.unlink()
    return int(rows)


def history(ground_: Ground, clock: Clock, *, times: int) -> int:
    """A whole first run to a DuckDB file: plan, chunks, receipts, upkeep."""
    work = ground_.folder / "history"
    shutil.rmtree(work, ignore_errors=True)
    ground.copy(ground_.home(times), work / "home")
    with ground.app(work / "home") as app:
        ground.wish(app, {"kind": "duckdb", "path": str(work / "dwh.duckdb")})
        app.lake.snapshot()
        with clock.running():
            rows = _run(app)
    shutil.rmtree(work)
    return rows


def plain_table(ground_: Ground, clock: Clock, *, times: int) -> int:
    """The same events by one CREATE TABLE AS into a DuckDB file."""
    from isthmus import duck
    from isthmus.warehouses.duckdb import MEMORY_MB

    file = ground_.folder / "plain.duckdb"
    file.unlink(missing_ok=True)
    con = duck.connect(str(file), memory_mb=MEMORY_MB, temp_dir=ground_.folder / "plain.tmp")
    with clock.running():
        con.execute(f"CREATE TABLE event AS SELECT * EXCLUDE (_deleted) FROM read_parquet('{ground_.output(times)}')")
        rows = _count(con, "event")
        con.close()
    file.unlink()
    return rows


def postgres_history(ground_: Ground, clock: Clock, *, connection: dict[str, Any]) -> int:
    """A whole first run to PostgreSQL."""
    work = ground_.folder / "history"
    shutil.rmtree(work, ignore_errors=True)
    ground.copy(ground_.home(1), work / "home")
    with ground.app(work / "home") as app:
        ground.wish(app, {"kind": "postgres", **connection})
        app.lake.snapshot()
        with clock.running():
            rows = _run(app)
    shutil.rmtree(work)
    return rows


def postgres_plain(ground_: Ground, clock: Clock, *, connection: dict[str, Any]) -> int:
    """The same events by a bare ingestion into a table without a key."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from adbc_driver_postgresql import dbapi

    c = connection
    uri = f"postgresql://{c['username']}:{c['password']}@{c['host']}:{c['port']}/{c['database']}"
    file = pq.ParquetFile(ground_.output(1))
    reader = pa.RecordBatchReader.from_batches(file.schema_arrow, file.iter_batches(65_536))
    with dbapi.connect(uri) as con, con.cursor() as cursor, clock.running():
        rows = cursor.adbc_ingest("plain_event", reader, mode="create")
        con.commit()
    return int(rows)


# Periodic


def new_events(ground_: Ground, clock: Clock, *, times: int, number: int) -> int:
    """Land 100,000 events nobody has sent before."""
    with ground.app(_work(ground_, times)) as app:
        rows = NEW_ROWS if not ground_.rows else ground_.rows // 5
        return ground.land(app, ground_.again(100 + number, rows, after=number * rows)).landed


def changed_events(ground_: Ground, clock: Clock, *, times: int, number: int) -> int:
    """Have about 100,000 events change hands: people turn out to be one with another."""
    with ground.app(_work(ground_, times)) as app:
        rows = NEW_ROWS if not ground_.rows else ground_.rows // 5
        people = app.lake.query(  # of those whom no earlier round has joined
            "SELECT p.value, p.profile_id::VARCHAR, count(*) FROM lake.events e JOIN "
            "(SELECT profile_id, min(value) AS value FROM lake.identifiers WHERE kind = 'external_id' "
            "AND value LIKE '%-0' GROUP BY profile_id HAVING count(*) = 1) p ON p.profile_id = e.profile_id "
            "GROUP BY ALL ORDER BY ALL"
        )
        stays = people[0][1]
        merged, moved = [], 0
        for external_id, _, events in people[1:]:
            if moved < rows:
                merged.append({"profile_id": stays, "external_id": external_id})
                moved += events
        file = app.home / f"merged-{number}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in merged))
        names = {"identifiers": {"profile_id": "profile_id", "external_id": "external_id"}}
        counts = ground.land(app, file, "profiles", names)
        assert counts.merged == len(merged), counts
        return moved


def sync(ground_: Ground, clock: Clock, *, times: int) -> int:
    """One run in an app that is open already."""
    with ground.app(_work(ground_, times)) as app:
        app.lake.snapshot()
        with clock.running():
            return _run(app)


def command(ground_: Ground, clock: Clock, *, times: int) -> int:
    """One run as a person starts it: the whole process of `isthmus sync run`."""
    import subprocess

    isthmus = Path(sys.executable).with_name("isthmus")
    with clock.running():
        subprocess.run(
            [isthmus, "sync", "run", ground.SYNC, "--home", _work(ground_, times)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return 0


def _work(ground_: Ground, times: int) -> Path:
    return ground_.folder / f"work-{times}" / "home"


# Shared


def _run(app: Any) -> int:
    from isthmus.actions import syncing

    run = syncing.run_sync(app, ground.SYNC)
    return 0 if run is None else run.rows_done


def _engine(ground_: Ground) -> Any:
    from isthmus import duck

    return duck.connect(memory_mb=800, temp_dir=ground_.folder / "plain.tmp")


def _count(con: Any, table: str) -> int:
    return int(con.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def main(name: str, rows: int, times: int, arguments: dict[str, Any]) -> None:
    measure: Callable[..., int] = globals().get(name) or getattr(intakes, name, None) or getattr(warehouses, name)
    clock = Clock()
    found = measure(Ground(rows, times), clock, **arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "command":
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    spent = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds}
    print(json.dumps({**spent, "rows": found, "peak_mb": round(peak / 1024)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))

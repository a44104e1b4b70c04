"""One measurement of what carries runs out, in a process of its own: `hands.py NAME '{"argument": …}'`. Prints JSON."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ground
import homes


def now() -> datetime:
    return datetime.now(UTC)


def overhead(*, where: str, chunks: int) -> dict[str, float]:
    """Milliseconds a chunk that does nothing: carried out, in a bare loop, and as one bare durable commit."""
    from isthmus.ledger import dues
    from isthmus.runs.attempt import Done, Hands, carry_out

    ledger = _ledger(where)
    (sync,) = _syncs(ledger, 1)
    work = _Nothing(ledger, chunks)
    with ledger.transaction() as tx:
        (attempt,) = dues.start(tx, sync.sync_id, at=now())
    told: list[tuple[float, float]] = []
    hands = Hands("worker_bench", now, report=lambda run, done: told.append((time.perf_counter(), time.process_time())))
    ended = carry_out(ledger, lambda: work, attempt, hands)
    assert ended.error is None and ended.run is not None and ended.run.rows_done == chunks, ended
    begun = time.perf_counter()
    for chunk in ended.run.chunks:
        Done(chunk.rows, 0)
    bare = time.perf_counter() - begun
    ledger.close()
    carried, cpu = ((last - first) / chunks for first, last in zip(told[0], told[-1], strict=True))
    return {"carried": carried * 1e3, "cpu": cpu * 1e3, "bare": bare / chunks * 1e3, "commit": _commits(where) * 1e3}


def attempts(*, where: str, count: int, poll_s: float) -> dict[str, float]:
    """Attempts that do nothing: how many a second from the first one queued to the last one carried out, and how long
    from a single one queued to its beginning."""
    from isthmus.model.work import Attempt
    from isthmus.runs.engine import Engine

    ledger = _ledger(where)
    done: list[float] = []
    is_done = threading.Event()

    def do(attempt: Attempt) -> None:
        done.append(time.perf_counter())
        if len(done) == count:
            is_done.set()

    engine = Engine(where if "://" in where else Path(where), "worker_bench", do, slots=8, poll_s=poll_s)
    engine.hear([4])
    time.sleep(3)  # a new queue is looked at for the first time after a second or two
    begun = time.perf_counter()
    for number in range(count):
        with ledger.transaction() as tx:
            engine.enqueue(tx, Attempt(f"run_{number}", 0, 1), partition=f"c{number % 10}", limit=4)
    queued = time.perf_counter()
    assert is_done.wait(300), len(done)
    ended = time.perf_counter()
    waits = []
    for number in range(5):
        time.sleep(0.37)
        asked = time.perf_counter()
        with ledger.transaction() as tx:
            engine.enqueue(tx, Attempt(f"run_again_{number}", 0, 1), partition="c", limit=4)
        homes.wait_until(lambda goal=count + number: len(done) > goal, pause_s=0.005)  # type: ignore[misc]
        waits.append(done[-1] - asked)
    engine.close()
    ledger.close()
    found = {"per_s": count / (ended - begun), "enqueue_ms": (queued - begun) * 1e3 / count}
    return {**found, "wait_s": sorted(waits)[len(waits) // 2]}


def lands(*, home: str, environ: dict[str, str], number: int, rows: int, seconds: float) -> dict[str, float]:
    """Small batches of new events into a store that others write to as well: how many commits in so many seconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(home) / f"small-{os.getpid()}"
    folder.mkdir(parents=True)

    def small(at: int) -> Path:
        path = folder / f"{at}.parquet"
        moments = pa.array([1_700_000_000_000_000 + at * 1000 + i for i in range(rows)], pa.timestamp("us", "UTC"))
        people = [f"{number}-{at}-{i % 500}" for i in range(rows)]
        names = ("household_id", "transaction_timestamp", "sales_value")
        pq.write_table(pa.table([people, moments, pa.array([1.0] * rows)], names), path)
        return path

    with ground.app(Path(home), **environ) as app:
        ground.land(app, small(0))
        files = [small(at) for at in range(1, 400)]
        print("ready", flush=True)
        sys.stdin.readline()
        times: list[float] = []
        begun = time.perf_counter()
        for file in files:
            at = time.perf_counter()
            if at - begun > seconds:
                break
            ground.land(app, file)
            times.append(time.perf_counter() - at)
        spent = time.perf_counter() - begun
    return {"commits": len(times), "seconds": spent, "median_s": sorted(times)[len(times) // 2], "max_s": max(times)}


class _Nothing:
    """A run of so many chunks, in which there is nothing to do."""

    leaves_easily = True

    def __init__(self, ledger: Any, chunks: int) -> None:
        self._ledger, self._chunks = ledger, chunks

    def plan(self, run: Any, keep: Callable[..., Any]) -> Any:
        from isthmus.model.work import Chunk, RunKind

        plan = tuple(Chunk(n, "event", "rows", n, n + 1, f"{run.run_id}.{n}", 1, True) for n in range(self._chunks))
        planned = replace(run, kind=RunKind.HISTORICAL, upto=self._chunks, snapshot_id=1, planned_at=now(), chunks=plan)
        with self._ledger.transaction() as tx:
            return keep(tx, planned, 1, 1)

    def can_go_on(self, run: Any) -> bool:
        return True

    def knock(self) -> None:
        return None

    def outcome(self, run: Any) -> dict[str, object]:
        return {}

    @contextmanager
    def open(self, run: Any) -> Iterator[Callable[..., Any]]:
        from isthmus.runs.attempt import Done

        def do(chunk: Any, still: Callable[[], None]) -> Any:
            still()  # as the delivery of a chunk does, once
            return Done(chunk.rows, 0)

        yield do


def _ledger(where: str) -> Any:
    from isthmus.ledger.database import open_ledger

    return open_ledger(where if "://" in where else Path(where))


def _syncs(ledger: Any, count: int) -> list[Any]:
    from cryptography.fernet import Fernet

    from isthmus.ledger import connections, syncs
    from isthmus.model.work import Selection
    from isthmus.secrets import Seal

    with ledger.transaction() as tx:
        seal = Seal(Fernet.generate_key())
        dwh, _ = connections.put(tx, name="dwh", kind="duckdb", fields={"path": "x"}, secrets={}, seal=seal, at=now())
        given = {"connection_id": dwh.connection_id, "schedule": "manual", "at": now()}
        return [
            syncs.apply_export(tx, name=f"s{n}", selection=Selection(table_prefix=f"t{n}_"), **given)[0]
            for n in range(count)
        ]


def _commits(where: str, count: int = 500) -> float:
    """Seconds for one bare commit that the database has on its disk."""
    if "://" in where:
        import psycopg

        with psycopg.connect(where, autocommit=True) as con:
            con.execute("CREATE TABLE bare (n int)")
            con.execute("INSERT INTO bare VALUES (0)")
            begun = time.perf_counter()
            for _ in range(count):
                con.execute("UPDATE bare SET n = n + 1")
            return (time.perf_counter() - begun) / count
    con = sqlite3.connect(f"{where}.bare", isolation_level=None)
    con.execute("PRAGMA journal_mode = WAL")
    con.execute("PRAGMA synchronous = FULL")
    con.execute("CREATE TABLE bare (n int)")
    con.execute("INSERT INTO bare VALUES (0)")
    begun = time.perf_counter()
    for _ in range(count):
        con.execute("UPDATE bare SET n = n + 1")
    spent = (time.perf_counter() - begun) / count
    con.close()
    return spent


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))

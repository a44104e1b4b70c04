"""The group `runs`: what it costs to carry out runs so that they survive anything, and what a second worker brings."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import command
import homes
import shares
from homes import Home, Process, Servers, wait_until

PICK_UP_S, IDLE_PERCENT, TWO_WORKERS = 15.0, 2.0, 0.6
CORE = 0.5
"""What a worker's one core is of one of this machine, where workers are compared with each other."""
PARTS = ("overhead", "idle", "kills", "freezes", "due", "commits", "workers", "remote")


def measure(bench: Any) -> None:
    """All of them, or those asked for. The servers are started once."""
    command.prepare()  # this process applies connections of the kind `nowhere` too
    with ExitStack() as stack:
        folder = stack.enter_context(homes.folder("runs"))
        servers = stack.enter_context(homes.servers())

        def alone(name: str) -> Home:
            return Home(folder / name)

        def shared(name: str) -> Home:
            return servers.home(folder / name)

        if bench.has("overhead"):
            overhead(bench, folder)
        for name, home in (("embedded", alone), ("shared", shared)):
            if bench.has("idle"):
                idle(bench, name, home(f"idle-{name}"))
            if bench.has("kills"):
                pick_up(bench, name, home(f"kills-{name}"), "killed")
        if bench.has("freezes"):
            pick_up(bench, "shared", shared("freezes"), "frozen")
        for name, home, count in (("embedded", alone, 1), ("shared", shared, 1), ("shared", shared, 2)):
            if bench.has("due"):
                no_change(bench, name, home(f"due-{name}-{count}"), count)
        for name, home in (("embedded", alone), ("shared", shared)):
            if bench.has("commits"):
                commits(bench, name, home(f"commits-{name}"))
        if bench.has("workers") or bench.has("remote"):
            two_workers(bench, shared("workers"), servers)


def overhead(bench: Any, folder: Path) -> None:
    """What a chunk costs beside its work, and how many attempts the engine hands out."""
    with homes.durable_postgres() as postgres:
        for name in ("SQLite", "PostgreSQL"):

            def where(name: str = name) -> str:
                if name == "SQLite":
                    return str(folder / f"ledger-{random.randrange(10**9)}.sqlite")
                return str(postgres.url(postgres.fresh_database()))

            for chunks in (20, 200) if bench.quick else (200, 2000):
                found = [hands("overhead", where=where(), chunks=chunks) for _ in range(bench.repetitions or 3)]
                ours, cpu, floor, bare = (median(f[key] for f in found) for key in ("carried", "cpu", "commit", "bare"))
                bench.told(
                    "runs",
                    f"a chunk beside its work, run of {chunks:,} chunks, {name}",
                    f"{ours:.1f} ms, {cpu:.1f} ms of CPU",
                    f"one bare commit: {floor:.2f} ms, a bare loop {bare:.4f} ms",
                    ours / floor,
                    "×",
                    samples={"ours": [f["carried"] for f in found], "baseline": [f["commit"] for f in found]},
                )
            found = [hands("attempts", where=where(), count=60 if bench.quick else 300, poll_s=1.0)]
            rate, wait = found[0]["per_s"], found[0]["wait_s"]
            bench.told("runs", f"attempts queued and carried out, {name}", f"{rate:.0f} /s", "–", rate, "/s")
            bench.told("runs", f"from queued to begun, {name} (median)", f"{wait:.2f} s", "–", wait, "s")


def idle(bench: Any, name: str, home: Home) -> None:
    """What an Isthmus costs when nothing is due: 20 hourly syncs that have nothing to do."""
    seconds = 10 if bench.quick else 60
    home.apply([{"name": "dwh", "kind": "nowhere"}], [_export(n, "dwh", schedule="hourly") for n in range(20)])
    with home.at_work() as (process,), home.app() as app:
        _all_ran(app, 20, None)
        time.sleep(3)
        wait_until(lambda: _next_due(app) > datetime.now(UTC) + timedelta(seconds=seconds + 5), 600)
        begun, before = time.monotonic(), process.cpu_s
        time.sleep(seconds)
        percent = (process.cpu_s - before) / (time.monotonic() - begun) * 100
        peak = process.peak_mb
    what = "`isthmus serve`" if name == "embedded" else "`isthmus worker`"
    bench.told(
        "runs",
        f"idle for {seconds} s, 20 hourly syncs, none due: {what}",
        f"{percent:.1f} % of a core, {peak} MB",
        "–",
        percent,
        "%",
        target=f"≤ {IDLE_PERCENT:g} %",
        met=percent <= IDLE_PERCENT,
    )


def pick_up(bench: Any, name: str, home: Home, how: str) -> None:
    """From the end, or the freezing, of the worker that is at a chunk until another one has begun its lane."""
    times = 3 if bench.quick else 12
    _land(home, commits=3 * times + 20, rows=10)
    connection = {"name": "dwh", "kind": "nowhere", "chunk_ms": 1500, "concurrency": 1}
    home.apply([connection], [_export(0, "dwh", profiles=False)])
    given = {"BENCH_CHUNK_ROWS": "1"}
    found: list[float] = []
    with home.app() as app, home.at_work(3 if home.is_shared else 1, **given) as processes:
        _run(app, 0)
        for _ in range(times):
            wait_until(lambda: bool(_going(app)))
            done = _done(app)
            wait_until(lambda done=done: _done(app) > done and bool(_going(app)))  # type: ignore[misc]
            time.sleep(random.uniform(0, 1.2))
            worker_id, pid = next(iter(_going(app).items()), ("", 0))
            its = [p for p in processes if p.popen.pid == pid]
            if not its:
                continue  # between two chunks
            begun = time.monotonic()
            if how == "killed":
                its[0].kill()
                if not home.is_shared:  # at once, as whatever watches over it does
                    processes.append(home.start_worker(**given))
            else:
                os.kill(pid, signal.SIGSTOP)
            wait_until(lambda lost=worker_id: bool(set(_going(app)) - {lost}))  # type: ignore[misc]
            found.append(time.monotonic() - begun)
            print(f"  {name}, {how}: {found[-1]:.2f} s", flush=True)
            if how != "killed":
                os.kill(pid, signal.SIGCONT)
            elif home.is_shared:
                processes.append(home.start_worker(**given))
                processes[-1].wait_until_ready()
    what = {"embedded": "`isthmus serve`, started again at once", "shared": "one of three workers"}[name]
    bench.told(
        "runs",
        f"{what}, is {how} at a chunk: until its lane is begun again ({len(found)} times; median)",
        f"{median(found):.1f} s, {max(found):.1f} s at most",
        "–",
        max(found),
        "s",
        target=f"≤ {PICK_UP_S:g} s",
        met=max(found) <= PICK_UP_S,
        samples={"ours": found},
    )


def no_change(bench: Any, name: str, home: Home, workers: int) -> None:
    """Many syncs due at the same moment, for which nothing has changed."""
    count = 20 if bench.quick else 200
    connections = [{"name": f"dwh{n}", "kind": "nowhere"} for n in range(10)]
    home.apply(connections, [_export(n, f"dwh{n % 10}", schedule="hourly") for n in range(count)])
    with home.at_work(workers) as processes, home.app() as app:
        _all_ran(app, count, None)
        time.sleep(2)
        moment, cpu = datetime.now(UTC), sum(p.cpu_s for p in processes)
        begun = time.monotonic()
        _make_due(app, moment)
        _all_ran(app, count, moment)
        seconds = time.monotonic() - begun
        spent = sum(p.cpu_s for p in processes) - cpu
    bench.told(
        "runs",
        f"{count} syncs due at once, nothing changed, {name}, {workers} at work",
        f"{seconds:.1f} s, {count / seconds:.0f} runs/s, {spent / count * 1e3:.0f} ms of CPU each",
        "–",
        count / seconds,
        "runs/s",
    )


def commits(bench: Any, name: str, home: Home) -> None:
    """Small batches of 1,000 events from several processes at once: all of them move one fence."""
    seconds = 3.0 if bench.quick else 15.0
    for count in (1, 2) if bench.quick else (1, 2, 4):
        arguments = {"home": str(home.folder), "environ": home.environ, "rows": 1000, "seconds": seconds}
        started = []
        for number in range(count):
            text = json.dumps({**arguments, "number": random.randrange(10**9) + number})
            line = [sys.executable, str(homes.HERE / "hands.py"), "lands", text]
            started.append(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
        rate = sum(f["commits"] for f in found) / max(f["seconds"] for f in found)
        slowest = max(f["max_s"] for f in found)
        bench.told(
            "runs",
            f"landing batches of 1,000 events, {name} store, {count} process{'es' if count > 1 else ''}",
            f"{rate:.1f} commits/s, {median(f['median_s'] for f in found):.2f} s each, {slowest:.1f} s at most",
            "–",
            rate,
            "commits/s",
        )


def two_workers(bench: Any, home: Home, servers: Servers) -> None:
    """One history run by one worker of one core, and by two: of a core that is half as fast as one of this machine, so
    that what the workers share has the other one and a half or one to itself."""
    rows, chunks = (20_000, 8) if bench.quick else (150_000, 32)
    for number in range(chunks):
        with home.app() as app:
            _land_purchases(bench, app, number, rows)
    numbers = iter(range(1000))

    def once(count: int, fields: Callable[[], dict[str, Any]]) -> tuple[float, int]:
        number = next(numbers)
        name, given_fields = f"dwh-{number}", fields()
        home.apply([{"name": name, "concurrency": 8, **given_fields}], [_export(number, name, profiles=False)])
        given = {"BENCH_CHUNK_ROWS": str(rows), "ISTHMUS_THREADS": "1"}
        processes: list[Process] = []
        with ExitStack() as stack:
            for _ in range(count):
                group = stack.enter_context(shares.share(CORE))
                if group is None:
                    raise SystemExit("two workers: control groups are needed (Linux, root), or --part something else")
                processes.append(home.start_worker(**given, BENCH_GROUP=str(group)))
                stack.callback(processes[-1].end)
            for process in processes:
                process.wait_until_ready()
            time.sleep(2.5)
            with home.app() as app:
                run_id = _run(app, number)
                wait_until(lambda: _ended(app, run_id) is not None, 600, 0.1)
                run = _ended(app, run_id)
                peak = max(process.peak_mb for process in processes)
                bench.peaks["worker"] = max(peak, bench.peaks.get("worker", 0))
                spent = ", ".join(f"{process.cpu_s:.1f}" for process in processes)
                shown = f"{_span(run):.2f} s, {run.rows_done:,} rows, {peak:,} MB, {spent} s of CPU since they started"
                print(f"  {count} x {given_fields['kind']}: {shown}", flush=True)
                return _span(run), run.rows_done

    extract_s, done = once(1, lambda: {"kind": "nowhere"})
    row_ns = round(extract_s / done * 1e9)
    variants: dict[str, Callable[[], dict[str, Any]]] = {}
    if bench.has("workers"):
        variants["PostgreSQL beside it"] = servers.warehouse
    if bench.has("remote"):
        what = f"a warehouse elsewhere ({row_ns / 1e3:.1f} µs a row, as long as extracting takes)"
        variants[what] = lambda: {"kind": "nowhere", "row_ns": row_ns}
    for what, fields in variants.items():
        ones, twos = [], []
        for _ in range(bench.repetitions or 3):
            ones.append(once(1, fields)[0])
            twos.append(once(2, fields)[0])
        one, two = median(ones), median(twos)
        bench.told(
            "runs",
            f"a history of {done:,} events to {what}: two workers of half a core each against one",
            f"{two:.1f} s, {done / two:,.0f} rows/s",
            f"{one:.1f} s, {done / one:,.0f} rows/s",
            two / one,
            "×",
            target=f"≤ {TWO_WORKERS:g} ×",
            met=two / one <= TWO_WORKERS,
            samples={"ours": twos, "baseline": ones},
        )


def hands(name: str, **arguments: Any) -> dict[str, float]:
    print(f"  {name}({', '.join(str(v) for k, v in arguments.items() if k != 'where')}) … ", end="", flush=True)
    line = [sys.executable, str(homes.HERE / "hands.py"), name, json.dumps(arguments)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed with {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(", ".join(f"{k} {v:.3g}" for k, v in found.items()))
    return found


# What is in the home


def _export(number: int, connection: str, **other: Any) -> dict[str, Any]:
    given = {"name": f"s{number}", "connection": connection, "schedule": "manual", "table_prefix": f"t{number}_"}
    return {**given, **other}


def _land(home: Home, *, commits: int, rows: int) -> None:
    import ground

    folder = home.folder / "small"
    folder.mkdir(parents=True)
    names = {"identifiers": {"external_id": "who"}, "event_time": "at", "metric": {"constant": "Bought Product"}}
    with home.app() as app:
        for commit in range(commits):
            file = folder / f"{commit}.jsonl"
            lines = [{"who": f"{row}", "at": f"2026-01-{1 + commit % 28:02}T00:00:{row:02}Z"} for row in range(rows)]
            lines = [{**line, "at": line["at"].replace("T00", f"T{commit // 28:02}")} for line in lines]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
            ground.land(app, file, "events", names)


def _land_purchases(bench: Any, app: Any, number: int, rows: int) -> None:
    import ground

    first = (number * rows) % 1_000_000 if not bench.quick else 0
    ground.land(app, bench.ground.again(number, rows, after=first))


def _run(app: Any, number: int) -> str:
    """Have the workers begin a run; its id."""
    from isthmus.actions import syncing

    run = syncing.run_sync(app, f"s{number}", wait=False)
    assert run is not None
    return str(run.run_id)


def _ended(app: Any, run_id: str) -> Any:
    from isthmus.ledger import runs

    with app.ledger.reading() as tx:
        run = runs.get(tx, run_id)
    if run.errors:
        raise RuntimeError(str(run.errors[-1]))
    return run if run.finished_at else None


def _span(run: Any) -> float:
    return float((run.finished_at - run.started_at).total_seconds())


def _going(app: Any) -> dict[str, int]:
    """The workers that are at a lane, and their processes."""
    from isthmus.ledger import lanes, workers

    with app.ledger.reading() as tx:
        busy = set(lanes.going(tx).values())
        return {w.worker_id: int(w.place.split()[-1]) for w in workers.every(tx) if w.worker_id in busy}


def _done(app: Any) -> int:
    from sqlalchemy import func, select

    from isthmus.ledger.schema import chunks

    with app.ledger.reading() as tx:
        return int(tx.scalar(select(func.count()).where(chunks.c.done)) or 0)


def _all_ran(app: Any, count: int, since: datetime | None) -> None:
    from sqlalchemy import func, select

    from isthmus.ledger.schema import runs
    from isthmus.model.work import RunState

    query = select(func.count(runs.c.sync_id.distinct())).where(runs.c.state == RunState.COMPLETED)
    if since is not None:
        query = query.where(runs.c.scheduled_at >= since)

    def is_so() -> bool:
        with app.ledger.reading() as tx:
            return bool(tx.scalar(query) == count)

    wait_until(is_so, 300, 0.05)


def _next_due(app: Any) -> datetime:
    from isthmus.ledger import syncs

    with app.ledger.reading() as tx:
        return min(sync.next_due or datetime.now(UTC) for sync in syncs.every(tx))


def _make_due(app: Any, at: datetime) -> None:
    from sqlalchemy import update

    from isthmus.ledger.schema import syncs

    with app.ledger.transaction() as tx:
        tx.execute(update(syncs).values(next_due=at))

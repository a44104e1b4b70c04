"""Killing those who live a story, again and again, and looking at what is left at the end."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from isthmus.actions import syncing
from isthmus.app import App
from isthmus.duck import identifier
from isthmus.model.tables import named
from isthmus.testing.standins import PostgresServer, S3Server
from isthmus.warehouses.protocol import Relation
from long.child import Death, Home, live, prepare
from long.story import EXPORT, Step, Story, differences, unequal

PATIENCE_S = 120
BY_HAND = "random moment"
_PRELOADED = ["__main__", "isthmus.actions.syncing", "isthmus.actions.people", "isthmus.actions.applying"]
_DRIVERS = ["isthmus.testing.killing", "isthmus.warehouses.kinds", "adbc_driver_postgresql.dbapi", "psycopg"]
_DRIVERS += ["isthmus.cli.main", "dbos"]

DEATHS: Mapping[str, Sequence[str]] = {
    "make": (BY_HAND, "store statement", "ledger commit", BY_HAND, "store commit"),
    "land": (BY_HAND, "store commit", BY_HAND, "store statement"),
    "merge": ("store commit", BY_HAND, "store statement"),
    "erase": ("store commit", "store statement"),
    "upkeep": ("upkeep call", BY_HAND, "store statement", "store commit"),
    "history": ("load statement", BY_HAND, "spool file", "ledger commit", BY_HAND, "load statement"),
    "periodic": (BY_HAND, "load statement", "ledger commit", "spool file"),
    "reactivate": ("ledger commit",),
}
"""How those who take a step of that kind die: at a seam, or by our hand after a random time. One after the other."""

_GUESSES = {"store statement": 80, "load statement": 30, "ledger commit": 10, "spool file": 6, "upkeep call": 6}
_SECONDS = {"make": 0.5, "land": 1.0, "merge": 1.0, "erase": 1.0, "upkeep": 1.0, "history": 1.5, "periodic": 1.5}


@dataclass
class Kills:
    """What was killed, by (kind of step, manner); and how many times somebody got through before."""

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: Counter[tuple[str, str]] = field(default_factory=Counter)
    passed: dict[tuple[str, str], int] = field(default_factory=dict)  # seams in a whole step of that kind
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.done.total()


def context() -> Any:
    """Processes that start fast: one that has loaded everything once, and forks."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_PRELOADED + _DRIVERS)
    return found


def run(what: Any, *arguments: object) -> int:
    """Run a function in a process of its own, to its end; the exit code."""
    process = context().Process(target=what, args=arguments)
    process.start()
    process.join(PATIENCE_S)
    process.kill()
    process.join()
    code: int = process.exitcode
    process.close()
    return code


def live_and_die(home: Home, story: Story, kills: Kills, *, seed: int, deaths: Mapping[str, Sequence[str]]) -> None:
    """Have the story lived to its end by one process after the other, killing each as `deaths` says for its step."""
    prepare(home)
    chance = random.Random(seed)
    left = {step.number: list(deaths.get(step.kind, ())) for step in story.steps}
    start = 0
    while start < len(story.steps):
        # Who dies in a step may live through earlier ones first, when no death is left for those.
        victim = next((s for s in story.steps[start:] if left[s.number]), None)
        manner = left[victim.number].pop(0) if victim else ""
        start = _live_once(home, story, start, victim, manner, kills, chance)


def _live_once(
    home: Home, story: Story, start: int, victim: Step | None, manner: str, kills: Kills, chance: random.Random
) -> int:
    death, stop = None, victim.number + 1 if victim else len(story.steps)
    if victim and manner != BY_HAND:
        last = kills.passed.get((victim.kind, manner), _GUESSES.get(manner, 2))
        death = Death(victim.number, manner, chance.randint(1, max(1, last)))
    seen = home.journal.stat().st_size if home.journal.exists() else 0
    process = context().Process(target=live, args=(home, story, start, stop, death, chance.randrange(1 << 30)))
    process.start()
    fate = time.monotonic() + PATIENCE_S
    if victim and manner == BY_HAND:
        if _wait_for(home.journal, seen, "begin", victim.number, process):
            usual = kills.seconds.get(victim.kind, _SECONDS.get(victim.kind, 1.0))
            fate = time.monotonic() + chance.random() * usual
    process.join(max(0.0, fate - time.monotonic()))
    assert process.is_alive() is False or manner == BY_HAND, f"{victim} took more than {PATIENCE_S} s"
    process.kill()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL), f"taking {story.steps[start:][:3]} ended with {code}"
    words = [json.loads(line) for line in home.journal.read_bytes()[seen:].splitlines()]
    _learn(story, words, kills)
    if victim:
        (kills.done if code else kills.missed)[victim.kind, manner] += 1
        if code and any(w[:2] == ["done", victim.number] for w in words):
            kills.done[victim.kind, manner] -= 1
            kills.done["between steps", manner] += 1
    else:
        assert code == 0
    return max((w[1] + 1 for w in words if w[0] == "done"), default=start)


def _learn(story: Story, words: Sequence[Any], kills: Kills) -> None:
    """How many seams a whole step has, for choosing one of them."""
    for word in words:
        if word[0] == "done":
            kind = story.steps[word[1]].kind
            for seam, count in word[2].items():
                known = kills.passed.get((kind, seam), count)
                kills.passed[kind, seam] = max(1, round(0.5 * (known + count)))
            kills.seconds[kind] = 0.5 * (kills.seconds.get(kind, word[3]) + word[3])


def _wait_for(journal: Path, seen: int, word: str, number: int, process: Any) -> bool:
    """Wait until the journal says so; False if the process ended before."""
    line = json.dumps([word, number]).encode()
    while process.is_alive():
        if journal.exists() and line in journal.read_bytes()[seen:].splitlines():
            return True
        time.sleep(0.003)
    return False


# Homes


def embedded(folder: Path) -> Home:
    return Home(folder, {"ISTHMUS_HOME": str(folder / "home")}, folder / "isthmus.yaml")


def scaled(folder: Path, postgres: PostgresServer, s3: S3Server) -> Home:
    environ = {
        "ISTHMUS_HOME": str(folder / "home"),
        "ISTHMUS_DATABASE_URL": postgres.url(postgres.fresh_database()),
        "ISTHMUS_STORAGE_URL": f"s3://{s3.bucket}/{uuid4().hex}",
        "ISTHMUS_S3_ENDPOINT": s3.endpoint,
        "ISTHMUS_S3_REGION": s3.region,
        "ISTHMUS_S3_ACCESS_KEY_ID": s3.access_key_id,
        "ISTHMUS_S3_SECRET_ACCESS_KEY": s3.secret_access_key,
    }
    return Home(folder, environ, folder / "isthmus.yaml")


def export_to_duckdb(home: Home) -> None:
    _write_export(home, {"kind": "duckdb", "path": str(home.folder / "dwh.duckdb")})


def export_to_postgres(home: Home, server: PostgresServer) -> None:
    fields = {
        "kind": "postgres",
        "host": server.host,
        "port": server.port,
        "database": server.fresh_database(),
        "username": server.username,
        "password": server.password,
    }
    _write_export(home, fields)


def _write_export(home: Home, connection: dict[str, object]) -> None:
    document = {
        "connections": [{"name": "dwh", **connection}],
        "exports": [{"name": EXPORT, "connection": "dwh", "schedule": "manual"}],
    }
    home.applied.parent.mkdir(parents=True, exist_ok=True)
    home.applied.write_text(json.dumps(document))  # JSON is YAML


# The end


def found_wrong(home: Home, story: Story, export: str = EXPORT) -> list[str]:
    """One more run, and then everything that is not as it must be: in the store by the files, in the warehouse by the
    store, and left behind on disk."""
    with App(home.settings()) as app:
        again = syncing.run_sync(app, export)
        wrong = [] if again is None else [f"one more run found {again.rows_done} rows to send"]
        proof = syncing.verify_sync(app, export)
        wrong += [f"verify: {w}" for w in proof.windows if not w.equal]
        wrong += differences(app.lake.con, story)
        wrong += _warehouse_differences(app, export)
        wrong += _store_differences(app)
    wrong += [f"left behind: {path}" for path in _left_behind(home)]
    return wrong


def _warehouse_differences(app: App, export: str) -> Iterator[str]:
    """Each table of the warehouse against the store's views, row by row."""
    sync = app.sync(export)
    config: Any = app.config(app.connection(sync.connection_name))
    ours = {
        "metric": "SELECT * EXCLUDE (seq) REPLACE (id::VARCHAR AS id), seq AS _isthmus_seq FROM metrics",
        "profile": "SELECT * EXCLUDE (seq) REPLACE (id::VARCHAR AS id, properties::VARCHAR AS properties, "
        "subscriptions::VARCHAR AS subscriptions), seq AS _isthmus_seq FROM profiles",
        "event": "SELECT id::VARCHAR AS id, metric_id::VARCHAR AS metric_id, profile_id::VARCHAR AS profile_id, "
        "datetime, id::VARCHAR AS uuid, event_properties::VARCHAR AS event_properties, metric_name, integration_name, "
        "value, value_currency, unique_id, ingested, seq AS _isthmus_seq FROM events",
    }
    from isthmus.exports.deliver import tables_of

    with closing(config.open()) as warehouse:
        for table in tables_of(sync.selection):
            name = named(table, sync.selection.table_prefix).name
            app.lake.con.execute("DROP TABLE IF EXISTS theirs")
            for number, batch in enumerate(warehouse.read(Relation(config.schema, name))):
                app.lake.con.register("batch", batch)
                made = "INSERT INTO theirs" if number else "CREATE TEMP TABLE theirs AS"
                app.lake.con.execute(f"{made} SELECT * FROM batch")
                app.lake.con.unregister("batch")
            columns = ", ".join(identifier(c.name) for c in table.columns)
            yield from unequal(
                app.lake.con, f"table {name}", f"SELECT {columns} FROM theirs",
                f"SELECT {columns} FROM ({ours[table.name]})",
            )  # fmt: skip


def _store_differences(app: App) -> Iterator[str]:
    """The store's own settings and notes, which no view shows."""
    options = dict(app.lake.query("SELECT option_name, value FROM ducklake_options('lake') WHERE scope = 'GLOBAL'"))
    for name, value in {"parquet_compression": "zstd", "parquet_row_group_size": "122880"}.items():
        if options.get(name) != value:
            yield f"option {name} of the store is {options.get(name)}"
    if not app.lake.query("SELECT 1 FROM ducklake_options('lake') WHERE option_name = 'data_inlining_row_limit' "
                          "AND scope = 'TABLE' AND value = '10'"):  # fmt: skip
        yield "the fence is not kept in the catalog"
    if app.lake.query("SELECT count(*) FROM lake.fence") != [(1,)]:
        yield "there is not one fence"
    with app.ledger.reading() as tx:
        from isthmus.ledger import runs

        if any(runs.active(tx, sync.sync_id) for sync, _ in syncing.list_syncs(app)):
            yield "a run is still under way"


def _left_behind(home: Home) -> list[Path]:
    """Files on their way to a warehouse, and what the engine spilled, of those who were killed."""
    root = home.folder / "home"
    return [p for part in ("spool", "tmp") if (root / part).is_dir() for p in (root / part).rglob("*")]

"""The demo: the whole story on real data, told step by step."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Fields
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from isthmus.actions import people, syncing
from isthmus.actions.applying import apply
from isthmus.actions.demo_data import CAMPAIGNS, HOUSEHOLDS, PURCHASES, REDEMPTIONS, TILLS, TILLS_MENDED, prepare
from isthmus.app import App
from isthmus.imports.load import load
from isthmus.model.errors import InvalidInput
from isthmus.model.intake import Counts
from isthmus.model.mapping import Mapping, as_document, renamed
from isthmus.store import people as stored
from isthmus.warehouses import duckdb_tills


@dataclass(frozen=True)
class Place:
    """Where the story takes place: the connection it delivers to, the one that the tills load into every night, and how
    they do so. `secrets` are the variables that the connections' fields name; `named` is how the tills' warehouse keeps
    the name of a column."""

    title: str
    warehouse: Fields[str, object]
    tills: Fields[str, object]
    ring_up: Callable[[Path], None]
    secrets: Fields[str, str] = field(default_factory=dict)
    named: Callable[[str], str] = str


def in_files(app: App) -> Place:
    """The place that needs nothing: a DuckDB file for each."""
    folder, temp_dir = app.home / "demo", app.home / "tmp" / "tills"
    return Place(
        "a DuckDB warehouse",
        {"kind": "duckdb", "path": "./warehouse.duckdb"},
        {"kind": "duckdb", "path": "./tills.duckdb"},
        lambda purchases: duckdb_tills.ring_up(folder / "tills.duckdb", purchases, temp_dir=temp_dir),
    )


Tell = Callable[[str, dict[str, Any]], None]
"""Told each step of the story: its name and its figures."""

Step = Callable[[int, int | None], None]

SYNC, INTAKE = "everything", "december"
_MARKER = "demo.json"
_MERGED = ("900", "1023")  # turn out to be one household
_ERASED = "1228"


def start_over(app: App) -> None:
    """Clear the home of an earlier demo. Raises InvalidInput if it holds anything else, or if the demo was worked
    with since: that is not ours to remove."""
    home = app.home
    marker = home / _MARKER
    if marker.exists():
        left_at = json.loads(marker.read_text()).get("seq")
        if left_at is not None and app.lake.snapshot().seq != left_at:
            raise InvalidInput(
                f"{home} holds a demo that was worked with since", hint="remove that folder, or give another --home"
            )
        app.close()
        for part in ("store", "spool", "tmp", "locks", "workers", "demo"):
            shutil.rmtree(home / part, ignore_errors=True)
        for file in home.glob("ledger.sqlite*"):
            file.unlink()
    elif home.exists() and any(home.iterdir()):
        raise InvalidInput(
            f"{home} holds something already", hint="give the demo a home of its own: --home ./demo-home"
        )
    home.mkdir(parents=True, exist_ok=True)
    _mark(home, None)


def _mark(home: Path, seq: int | None) -> None:
    (home / _MARKER).write_text(json.dumps({"made_by": "isthmus demo", "seq": seq}) + "\n")


def tell_demo(
    app: App, tell: Tell, *, step: Step = lambda done, total: None, place: Place | None = None
) -> dict[str, Any]:
    """Land a year of purchases, deliver them, let the world change, deliver the change, and prove both sides equal.

    Returns all figures. Raises whatever goes wrong on the way.
    """
    folder = app.home / "demo"
    figures: dict[str, Any] = {}

    @contextmanager
    def chapter(name: str) -> Iterator[dict[str, Any]]:
        facts: dict[str, Any] = {}
        started = time.monotonic()
        yield facts
        facts["seconds"] = round(time.monotonic() - started, 1)
        figures[name] = facts
        tell(name, facts)

    def land(path: Path, mapping: Mapping) -> Counts:
        return load(app.lake, path, mapping.data, mapping=mapping, report=step)

    place = place or in_files(app)
    with chapter("prepare"):
        files = prepare(folder)
        place.ring_up(files.last_month)
    with chapter("land") as facts:
        total = land(files.households, HOUSEHOLDS)
        facts["profiles"] = total.landed
        for name, path, mapping in (
            ("purchases", files.purchases, PURCHASES),
            ("redemptions", files.redemptions, REDEMPTIONS),
            ("campaigns", files.campaigns, CAMPAIGNS),
        ):
            counts = land(path, mapping)
            facts[name], facts["rejected"] = counts.landed, facts.get("rejected", 0) + counts.rejected
    with chapter("import") as facts:
        _wish(app, folder, place, TILLS)
        facts.update(_import(app, step))
    with chapter("mend") as facts:
        _wish(app, folder, place, TILLS_MENDED)
        facts["purchases"] = people.replay_import(app, INTAKE).landed
        facts["left"] = len(people.list_rejections(app, source=INTAKE, limit=None))
    with chapter("deliver") as facts:
        facts["rows"], facts["to"] = _run(app, step), place.title
    with chapter("prove") as facts:
        proof = syncing.verify_sync(app, SYNC)
        facts["rows"], facts["equal"] = proof.rows, proof.equal
    with chapter("change") as facts:
        place.ring_up(files.last_week)
        facts.update(_import(app, step))
        facts.update(_merge(app, folder))
        facts["erased_events"] = people.erase_person(app, _ERASED)["events"]
    with chapter("deliver the change") as facts:
        facts["rows"] = _run(app, step)
    with chapter("prove again") as facts:
        proof = syncing.verify_sync(app, SYNC)
        facts["rows"], facts["equal"] = proof.rows, proof.equal
    with chapter("nothing new") as facts:
        facts["rows"] = _run(app, step)
    _mark(app.home, app.lake.snapshot().seq)
    figures["warehouse"] = place.title
    figures["equal"] = figures["prove"]["equal"] and figures["prove again"]["equal"]
    return figures


def _wish(app: App, folder: Path, place: Place, mapping: Mapping) -> None:
    """Apply what the story wants: one export of everything, and the purchases of December through a mapping."""
    wish = {
        "connections": [
            {"name": "demo-warehouse", **place.warehouse},
            {"name": "tills", **place.tills},
        ],
        "exports": [{"name": SYNC, "connection": "demo-warehouse", "history": "all", "schedule": "hourly"}],
        "imports": [
            {
                "name": INTAKE,
                "connection": "tills",
                "data": "events",
                "relation": duckdb_tills.VIEW,
                "mapping": as_document(renamed(mapping, place.named)),
            }
        ],
    }
    file = folder / "isthmus.yaml"
    file.write_text(yaml.safe_dump(wish, sort_keys=False))
    apply(app, file, plan_only=False, environ=dict(place.secrets))


def _import(app: App, step: Step) -> dict[str, Any]:
    run = syncing.run_sync(app, INTAKE, report=lambda r, done: step(done, max(r.rows_total, done)))
    counts = run.counts if run else {}
    reasons = counts.get("reasons") or {}
    return {"purchases": counts.get("landed", 0), "rejected": counts.get("rejected", 0), "reasons": sorted(reasons)}


def _run(app: App, step: Step) -> int:
    run = syncing.run_sync(app, SYNC, report=lambda r, done: step(done, max(r.rows_total, done)))
    return 0 if run is None else run.rows_done


def _merge(app: App, folder: Path) -> dict[str, int]:
    """One row that names two households is all it takes: the profile id of one, the external id of the other."""
    stays, goes = _MERGED
    row = {"profile_id": stored.find(app.lake, stays), "external_id": goes, "note": "moved in together"}
    path = folder / "moved_in.jsonl"
    path.write_text(json.dumps(row) + "\n")
    counts = load(
        app.lake,
        path,
        "profiles",
        mapping=Mapping(data="profiles", identifiers=(("profile_id", "profile_id"), ("external_id", "external_id"))),
    )
    moved = stored.show(app.lake, row["profile_id"]).merges
    return {"merged": counts.merged, "events_moved": sum(int(m["events_moved"]) for m in moved)}

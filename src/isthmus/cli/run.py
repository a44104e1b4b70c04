"""`isthmus run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from isthmus.actions import syncing
from isthmus.cli.common import Home, Json, RunId, opened, out, print_json, print_rows, say, shown
from isthmus.model.work import Run

commands = typer.Typer(no_args_is_help=True)


def described(run: Run) -> dict[str, Any]:
    """A run as plain values, for JSON."""
    return {
        "run_id": run.run_id,
        "sync": run.sync_name,
        "kind": run.kind,
        "state": run.state,
        "after": run.after,
        "upto": run.upto,
        "planned_at": run.planned_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "rows_done": run.rows_done,
        "rows_total": run.rows_total,
        "chunks": [asdict(c) for c in run.chunks],
        "errors": [asdict(e) for e in run.errors],
    }


def print_runs(runs: Sequence[Run]) -> None:
    print_rows(
        ("run", "sync", "kind", "state", "rows", "started", "finished"),
        [(r.run_id, r.sync_name, r.kind, r.state, r.rows_done, r.started_at, r.finished_at) for r in runs],
        empty="No runs yet.",
    )


@commands.command("list")
def list_(
    sync: Annotated[str | None, typer.Option("--sync", help="Only runs of this sync.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    with opened(home, as_json) as app:
        found = syncing.list_runs(app, sync=sync, limit=limit)
        if as_json:
            print_json([described(r) for r in found])
        else:
            print_runs(found)


@commands.command()
def show(run_id: RunId, home: Home = None, as_json: Json = False) -> None:
    """Show one run with its chunks and its error log. The beginning of the id is enough."""
    with opened(home, as_json) as app:
        found = syncing.show_run(app, run_id)
        if as_json:
            print_json(described(found))
            return
        for name in ("run_id", "sync_name", "kind", "state", "started_at", "finished_at", "rows_done", "rows_total"):
            say(f"{name.replace('_', ' '):16}{shown(getattr(found, name))}")
        out.print()
        print_rows(
            ("chunk", "table", "part", "window", "rows", "done"),
            [(c.number, c.table, c.part, f"({c.seqs_after}, {c.seqs_upto}]", c.rows, c.done) for c in found.chunks],
            empty="The run had nothing to send.",
        )
        for e in found.errors:
            say(f"\n{shown(e.at)}  {e.code}: {e.summary}\n  {e.vendor}\n  {e.hint}".rstrip())


@commands.command()
def cancel(run_id: RunId, home: Home = None, as_json: Json = False) -> None:
    """End a run at its next chunk. What it delivered stays."""
    with opened(home, as_json) as app:
        found = syncing.cancel_run(app, run_id)
        if as_json:
            print_json(described(found))
        else:
            say(f"{found.run_id} is {found.state.value}.")

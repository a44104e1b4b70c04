"""`isthmus run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from isthmus.actions import syncing
from isthmus.cli.common import Home, Json, RunId, duration, opened, out, print_json, print_rows, say, shown, size
from isthmus.model import status
from isthmus.model.work import Chunk, Run

commands = typer.Typer(no_args_is_help=True)


def described(run: Run) -> dict[str, Any]:
    """A run as plain values, for JSON."""
    at = status.progress(run)
    return {
        "run_id": run.run_id,
        "sync": run.sync_name,
        "kind": run.kind,
        "state": run.state,
        "status": status.of_run(run),
        "progress": asdict(at),
        "after": run.after,
        "upto": run.upto,
        "scheduled_at": run.scheduled_at,
        "planned_at": run.planned_at if run.planned else None,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "rows_done": run.rows_done,
        "rows_total": run.rows_total,
        "bytes_done": run.bytes_done,
        "counts": run.counts,
        "tries": run.tries,
        "retry_at": run.retry_at,
        "chunks": [asdict(c) for c in run.chunks],
        "errors": [asdict(e) for e in run.errors],
    }


def print_runs(runs: Sequence[Run]) -> None:
    print_rows(
        ("run", "sync", "kind", "status", "rows", "size", "started", "finished"),
        [
            (r.run_id, r.sync_name, r.kind, told(r), r.rows_done, size(r.bytes_done), r.started_at, r.finished_at)
            for r in runs
        ],
        empty="No runs yet.",
    )


def told(run: Run) -> str:
    """The status of a run with what belongs to it."""
    return status.words(status.of_run(run), run, shown=shown(run.retry_at) if run.retry_at else "")


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
        at = status.progress(found)
        for label, value in (
            ("run", found.run_id),
            ("sync", found.sync_name),
            ("kind", found.kind),
            ("status", told(found)),
            ("scheduled", found.scheduled_at),
            ("started", found.started_at),
            ("finished", found.finished_at),
            ("rows", f"{at.rows_done:,} of {at.rows_total:,}" if found.planned else "not counted yet"),
            ("size", size(found.bytes_done)),
            ("time left", duration(at.seconds_left) if found.active else None),
            ("came to", came_to(found.counts)),
            ("errors in a row", found.tries or None),
        ):
            if value not in (None, ""):
                say(f"{label:16}{shown(value)}")
        out.print()
        print_rows(
            ("chunk", "lane", "table", "part", "window", "rows", "size", "took", "done"),
            [
                (
                    *(c.number, c.lane, c.table, c.part, f"({c.seqs_after}, {c.seqs_upto}]", c.rows),
                    *(size(c.size_bytes) if c.done else None, took(c), c.done),
                )
                for c in found.chunks
            ],
            empty="The run has nothing to send." if found.planned else "What the run has to send is not known yet.",
        )
        for e in found.errors:
            again = "will be tried again" if e.retryable else "needs a person"
            say(f"\n{shown(e.at)}  {e.code}: {e.summary} ({again}; attempt {e.attempt}, {e.chunk})")
            for part in (e.vendor, e.hint):
                if part:
                    say(f"  {part}")


def came_to(counts: dict[str, Any]) -> str:
    """What became of the rows of an import, in words; empty for an export."""
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items() if n and name != "reasons")


def took(chunk: Chunk) -> str | None:
    """How long a chunk took, the last time it was begun."""
    if not chunk.done or chunk.begun_at is None or chunk.done_at is None:
        return None
    return duration((chunk.done_at - chunk.begun_at).total_seconds())


@commands.command()
def cancel(run_id: RunId, home: Home = None, as_json: Json = False) -> None:
    """End a run at its next chunk. What it delivered stays."""
    with opened(home, as_json) as app:
        found = syncing.cancel_run(app, run_id)
        if as_json:
            print_json(described(found))
        else:
            say(f"{found.run_id}: {told(found)}.")

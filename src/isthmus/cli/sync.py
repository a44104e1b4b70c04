"""`isthmus sync`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from isthmus.actions import previewing, syncing
from isthmus.actions.here import workers_there
from isthmus.app import App
from isthmus.cli import preview as previews
from isthmus.cli import run as run_words
from isthmus.cli.common import Home, Json, Name, opened, out, print_json, print_rows, progress, say, shown
from isthmus.cli.preview import Limit, Rows
from isthmus.exports.prove import Proof
from isthmus.imports.preview import LIMIT, ROWS
from isthmus.model import status
from isthmus.model.work import GOING, Intake, Run, Selection, Sync, SyncState

commands = typer.Typer(no_args_is_help=True)


def described(sync: Sync, newest: Run | None) -> dict[str, Any]:
    """A sync as plain values, for JSON."""
    return {
        "name": sync.name,
        "connection": sync.connection_name,
        "direction": sync.direction,
        "state": sync.state,
        "status": status.of_sync(sync, newest),
        "schedule": sync.schedule,
        "next_run": next_run(sync),
        "complete_up_to": sync.fresh_at,
        "failures_in_a_row": sync.failures,
        "paused_because": sync.paused_because,
        "freshness_limit_s": sync.freshness_limit_s,
        "watermark": sync.watermark,
        "generation": sync.generation,
        **(_of_import(sync.intake) if sync.intake else _of_export(sync.selection)),
    }


def _of_export(selection: Selection) -> dict[str, Any]:
    return {
        "profiles": selection.profiles,
        "events": selection.events,
        "metrics": "all" if selection.metrics is None else list(selection.metrics),
        "exclude_integrations": list(selection.exclude_integrations),
        "history": selection.history,
        "tables": selection.table_prefix + "*",
    }


def _of_import(intake: Intake) -> dict[str, Any]:
    shown: dict[str, Any] = {"data": intake.data, "relation": intake.relation or intake.query}
    if not intake.key:
        return shown | {"look_back_s": intake.look_back_s}
    return shown | {"key": list(intake.key), "deletes": intake.deletes, "deletes_limit": intake.deletes_limit}


@commands.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the syncs: what goes where, and up to when it is complete."""
    with opened(home, as_json) as app:
        found = syncing.list_syncs(app)
        if as_json:
            print_json([described(s, newest) for s, newest in found])
        else:
            print_rows(
                ("name", "connection", "status", "schedule", "next run", "complete up to"),
                [
                    (
                        s.name,
                        s.connection_name,
                        told(s, r),
                        s.schedule,
                        next_run(s),
                        s.fresh_at,
                    )
                    for s, r in found
                ],
                empty="No syncs yet. Describe one in a file and `isthmus apply` it.",
            )
            tell_if_nobody_is_at_work(app, found)


@commands.command()
def show(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Show one sync with its newest runs."""
    with opened(home, as_json) as app:
        sync, runs = syncing.show_sync(app, name)
        newest = next(iter(runs), None)
        if as_json:
            print_json({**described(sync, newest), "runs": [run_words.described(r) for r in runs]})
            return
        for label, value in described(sync, newest).items():
            if label == "status":
                print_value(label, told(sync, newest))
            elif value not in (None, "", 0):
                print_value(label, value)
        out.print()
        run_words.print_runs(runs)
        tell_if_nobody_is_at_work(app, [(sync, newest)])


def tell_if_nobody_is_at_work(app: App, found: list[tuple[Sync, Run | None]]) -> None:
    """Say so where a run is to start, or to be tried again, by itself."""
    waits = [s for s, r in found if s.schedule != "manual" or (r is not None and r.state in GOING)]
    if any(s.state is SyncState.ENABLED for s in waits) and not workers_there(app):
        out.print("\nNo worker is at work, so nothing starts or goes on by itself: isthmus serve", style="yellow")


def next_run(sync: Sync) -> datetime | None:
    """When the next run is due; None if there is none, or nobody has worked it out yet."""
    return sync.next_due if sync.state is SyncState.ENABLED else None


def told(sync: Sync, newest: Run | None) -> str:
    """The status of a sync with what belongs to it; a dash if nothing is to be said."""
    at = shown(newest.retry_at) if newest and newest.retry_at else ""
    found = status.of_sync(sync, newest)
    return shown(None) if found is None else status.words(found, newest, shown=at)


def print_value(label: str, value: object) -> None:
    say(f"{label.replace('_', ' '):22}{shown(value)}")


@commands.command()
def preview(name: Name, rows: Rows = ROWS, limit: Limit = LIMIT, home: Home = None, as_json: Json = False) -> None:
    """Say what a run would do now, and do nothing. Of an export: the rows it would send. Of an import: how its columns
    are used, rows as they would land, and those that would be rejected."""
    with opened(home, as_json) as app:
        if app.sync(name).intake is not None:
            seen = previewing.preview_import(app, name, rows=rows, limit=limit)
            if as_json:
                print_json(previews.described(seen))
            else:
                previews.show(seen)
            return
        found = syncing.preview_sync(app, name)
        if as_json:
            print_json(found)
        else:
            print_rows(
                ("table", "rows", "deletions"),
                [(f["table"], f["rows"], f["deletions"]) for f in found],
                empty="Nothing.",
            )


@commands.command()
def run(
    name: Name,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Where workers are at work: wait until they have done it."),
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Bring what a sync is for up to date now: a warehouse, or of an import the store. Goes on with a run that was cut
    off.

    Where workers are at work (`isthmus serve`) the run is theirs. Where there is none it is done here.
    """
    with opened(home, as_json) as app:
        is_import = app.sync(name).intake is not None
        with progress(f"{'Importing' if is_import else 'Delivering'} {name}", quiet=as_json) as step:
            done = syncing.run_sync(app, name, report=lambda r, rows: step(rows, max(r.rows_total, rows)), wait=wait)
        handed_over = done is not None and done.active
        if as_json:
            changed = None if handed_over else done is not None
            described = run_words.described(done) if done else None
            print_json({"sync": name, "changed": changed, "handed_over": handed_over, "run": described})
        elif done is not None and handed_over:
            out.print(f"{name}: the workers have the run in hand ({done.run_id}, {done.state.value}).")
            out.print(f"To follow it: isthmus run show {done.run_id}. To wait for it: isthmus sync run {name} --wait.")
        elif done is None:
            said = "no row was read" if is_import else "the warehouse was not opened"
            out.print(f"{name} is up to date: nothing had changed, and {said}.")
        else:
            what = "read" if is_import else "delivered"
            out.print(f"{name}: {done.rows_done:,} rows {what} in a {done.kind.value} run ({done.run_id}).")


@commands.command()
def pause(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Stop a sync at its next chunk; nothing delivered is undone."""
    with opened(home, as_json) as app:
        syncing.pause_sync(app, name)
        _tell_state(app, name, as_json)


@commands.command()
def resume(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Let a paused sync go on where it was stopped."""
    with opened(home, as_json) as app:
        syncing.resume_sync(app, name)
        _tell_state(app, name, as_json)


@commands.command()
def reactivate(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Enable a sync and deliver its whole history again, in place of what is there."""
    with opened(home, as_json) as app:
        syncing.reactivate_sync(app, name)
        _tell_state(app, name, as_json)


def _tell_state(app: App, name: str, as_json: bool) -> None:
    sync, found = syncing.show_sync(app, name, runs_shown=1)
    if as_json:
        print_json(described(sync, next(iter(found), None)))
    else:
        say(f"{sync.name} is {sync.state.value}.")


@commands.command()
def verify(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Prove that the warehouse holds what the store does: counts and checksums of both sides, per window.

    Exit code 1 when they differ.
    """
    with opened(home, as_json) as app:
        proof = syncing.verify_sync(app, name)
        if as_json:
            print_json(proof_described(proof))
        else:
            print_proof(proof)
        if not proof.equal:
            raise typer.Exit(1)


@commands.command()
def repair(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Verify, deliver again just the windows that differ, and verify again."""
    with opened(home, as_json) as app:
        with progress(f"Repairing {name}", quiet=as_json) as step:
            before, done, after = syncing.repair_sync(
                app, name, report=lambda r, rows: step(rows, max(r.rows_total, rows))
            )
        if as_json:
            print_json(
                {
                    "before": proof_described(before),
                    "run": run_words.described(done) if done else None,
                    "after": proof_described(after),
                }
            )
        elif done is None:
            print_proof(before)
        else:
            out.print(
                f"{sum(not w.equal for w in before.windows)} windows differed; {done.rows_done:,} rows sent again."
            )
            print_proof(after)
        if not after.equal:
            raise typer.Exit(1)


def proof_described(proof: Proof) -> dict[str, Any]:
    """A proof as plain values, for JSON. Checksums are texts: they are larger than some JSON readers' numbers."""
    return {
        "sync": proof.sync,
        "equal": proof.equal,
        "watermark": proof.watermark,
        "rows": proof.rows,
        "windows": [
            {
                "table": w.table,
                "window": str(w.window),
                "after": w.window.after,
                "upto": w.window.upto,
                "equal": w.equal,
                "outside": w.outside,
                "store_rows": w.store.rows,
                "warehouse_rows": w.warehouse.rows,
                "store_checksum": str(w.store.checksum),
                "warehouse_checksum": str(w.warehouse.checksum),
            }
            for w in proof.windows
        ],
    }


def print_proof(proof: Proof) -> None:
    """Per table one line if all is equal, else the windows that differ."""
    tables = list(dict.fromkeys(w.table for w in proof.windows))
    for table in tables:
        windows = [w for w in proof.windows if w.table == table]
        bad = [w for w in windows if not w.equal]
        rows = sum(w.store.rows for w in windows)
        mark = "[green]✓[/]" if not bad else "[red]✗[/]"
        end = "equal on both sides" if not bad else f"{len(bad)} differ"
        out.print(f"{mark} {table}: {rows:,} rows in {len(windows)} windows, {end}")
        for w in bad:
            where = "rows that no delivery explains" if w.outside else f"window {w.window}"
            what = (
                "same count, other contents"
                if w.store.rows == w.warehouse.rows
                else (f"store {w.store.rows:,} rows, warehouse {w.warehouse.rows:,}")
            )
            say(f"    {where}: {what}")
    if proof.equal:
        out.print(f"Proven: store and warehouse are equal, {proof.rows:,} rows.")
    else:
        say(f"They differ. `isthmus sync repair {proof.sync}` delivers just those windows again.")

"""The command `isthmus`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from isthmus import __version__
from isthmus.actions.applying import apply
from isthmus.cli import alert, connection, demo, people, preview, rejections, run, store, sync, work
from isthmus.cli.common import Home, Json, opened, print_json, print_rows
from isthmus.settings import environment

app = typer.Typer(
    name="isthmus",
    help="Joins your customer profiles and events with your data warehouse, and proves every delivery.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(connection.commands, name="connection", help="Connections to warehouses.")
app.add_typer(sync.commands, name="sync", help="Standing exports and imports: run, prove, mend, pause.")
app.add_typer(run.commands, name="run", help="Single runs of syncs.")
app.add_typer(alert.commands, name="alert", help="What a person has to know, and who is told.")
app.add_typer(people.load_commands, name="load", help="Load local files through the import path.")
app.add_typer(people.commands, name="person", help="One person: show or erase.")
app.add_typer(rejections.commands, name="rejections", help="Rows that could not be taken.")
app.command("preview")(preview.preview)
app.command("serve")(work.serve)
app.command("worker")(work.worker)
app.command("query")(store.query)
app.command("upkeep")(store.upkeep)
app.command("demo")(demo.demo)


@app.command("apply")
def apply_file(
    file: Annotated[Path, typer.Argument(help="A YAML file with connections, exports and imports.")],
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would change.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make connections, exports and imports be as a file says. Applying it again changes nothing."""
    with opened(home, as_json) as isthmus:
        done = apply(isthmus, file, plan_only=plan, environ=environment())
        if as_json:
            print_json([{"what": d.what, "name": d.name, "change": d.change} for d in done])
            return
        print_rows(
            ("", "name", "would be" if plan else ""),
            [(d.what, d.name, d.change) for d in done],
            empty="The file asks for nothing.",
        )


@app.command("version")
def version(home: Home = None, as_json: Json = False) -> None:
    """Say which version this is."""
    if as_json:
        print_json({"version": __version__})
    else:
        print(__version__)


def main() -> None:
    """Run the command line. Exit code 0: done; 1: failed, with a message; 2: bad usage."""
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    app()

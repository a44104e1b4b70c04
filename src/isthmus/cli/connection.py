"""`isthmus connection`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from isthmus.actions import connecting
from isthmus.cli.common import Home, Json, Name, opened, out, print_json, print_rows, say
from isthmus.warehouses.protocol import Direction

commands = typer.Typer(no_args_is_help=True)


@commands.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the connections with their states."""
    with opened(home, as_json) as app:
        found = connecting.list_connections(app)
        rows = [
            {"name": c.name, "kind": c.kind, "state": c.state, "checked_at": c.checked_at, "fields": c.fields}
            for c in found
        ]
        if as_json:
            print_json(rows)
        else:
            print_rows(
                ("name", "kind", "state", "checked"),
                [(r["name"], r["kind"], r["state"], r["checked_at"]) for r in rows],
                empty="No connections yet. Describe one in a file and `isthmus apply` it.",
            )


@commands.command()
def check(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Ask, question by question, whether a connection can do its work."""
    with opened(home, as_json) as app:
        answers = []
        for answer in connecting.check_connection(app, name):
            answers.append(answer)
            if not as_json:
                colour, mark = ("yellow", "!") if answer.warns else ("green", "✓") if answer.passed else ("red", "✗")
                out.print(f"[{colour}]{mark}[/] {answer.question}")
                shown = answer.warns or not answer.passed
                for line in (answer.detail, answer.hint, answer.statement) if shown else ():
                    if line:
                        say(f"    {line}")
        if as_json:
            print_json([dataclasses.asdict(a) for a in answers])
        if not all(a.passed for a in answers):
            raise typer.Exit(1)


@commands.command()
def script(
    name: Name,
    direction: Annotated[
        Direction | None,
        typer.Option(help="Rights for this alone: export, import, or both (all the kind can do, if left out)."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print the set-up script for the warehouse's administrator. It holds no secret and may be run twice."""
    with opened(home, as_json) as app:
        text = connecting.setup_script(app, name, direction)
        if as_json:
            print_json({"name": name, "script": text})
        else:
            print(text)


@commands.command()
def remove(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Disable a connection and its syncs; their history stays, and nothing in the warehouse is touched."""
    with opened(home, as_json) as app:
        connecting.remove_connection(app, name)
        if as_json:
            print_json({"name": name, "state": "disabled"})
        else:
            out.print(f"Removed. The syncs of {name} are disabled; applying the connection again brings it back.")

"""`isthmus rejections`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.actions import people
from isthmus.cli.common import Home, Json, opened, print_json, print_rows, say

commands = typer.Typer(no_args_is_help=True)

Source = Annotated[str | None, typer.Option("--file", "--sync", help="Only those of this file or sync.")]


@commands.command("list")
def list_(
    source: Source = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List rows that were not taken, newest first, with the reason."""
    with opened(home, as_json) as app:
        found = people.list_rejections(app, source=source, limit=limit)
        if as_json:
            print_json(found)
        else:
            print_rows(
                ("source", "row", "column", "reason", "what is wrong"),
                [(f["source"], f["row"], f["column"], f["reason"], f["message"]) for f in found],
                empty="Nothing was rejected.",
            )


@commands.command()
def export(
    file: Annotated[Path, typer.Argument(help="The JSON lines file to write.")],
    source: Source = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write rejections to a JSON lines file, the original rows included."""
    with opened(home, as_json) as app:
        count = people.export_rejections(app, file, source=source)
        if as_json:
            print_json({"file": str(file), "rejections": count})
        else:
            say(f"{count:,} rejections written to {file}")

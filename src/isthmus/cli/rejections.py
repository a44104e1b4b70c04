"""`isthmus rejections`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from isthmus.actions import people
from isthmus.cli.common import Home, Json, opened, print_json, print_rows, say
from isthmus.cli.people import print_counts
from isthmus.model.mapping import Data

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


@commands.command()
def replay(
    file: Annotated[str | None, typer.Option("--file", help="The name of the file whose rows were rejected.")] = None,
    sync: Annotated[
        str | None, typer.Option("--sync", help="The import whose rows were rejected; its mapping is as last applied.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="The mended mapping of a file's rows, a YAML file.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="events or profiles, where the file was loaded as both.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Try rejected rows again, through a mended mapping. What lands is rejected no more; doing it again is safe."""
    if data not in (None, "events", "profiles"):
        raise typer.BadParameter("events or profiles", param_hint="--data")
    if (file is None) == (sync is None):
        raise typer.BadParameter("give --sync NAME, or --file NAME with --mapping FILE", param_hint="--sync")
    if (file is None) != (mapping is None):
        raise typer.BadParameter("belongs to --file; an import has its own", param_hint="--mapping")
    with opened(home, as_json) as app:
        if sync is not None:
            counts = people.replay_import(app, sync)
        else:
            assert file is not None and mapping is not None
            counts = people.replay_rejections(app, file, mapping_file=mapping, data=cast("Data | None", data))
        if as_json:
            print_json({"file": file, "sync": sync, **counts.as_dict()})
        else:
            print_counts(counts)

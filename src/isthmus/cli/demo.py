"""`isthmus demo`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.actions.demo import Place, in_files, start_over, tell_demo
from isthmus.app import App
from isthmus.cli.common import Home, Json, opened, out, print_json, progress, say
from isthmus.model.errors import InvalidInput
from isthmus.model.tables import ALL, named
from isthmus.settings import environment
from isthmus.warehouses.duckdb_tills import VIEW


def demo(
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Leave the console running, once it exists.")
    ] = True,
    warehouse: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="The kind of warehouse. Any but a DuckDB file is a server that is started here for it."
        ),
    ] = "duckdb",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tell the whole story on real data: land, deliver, change, deliver the change, prove. About a minute.

    Its home is ./isthmus-demo unless another one is named. With --warehouse another kind than DuckDB stands at the end
    of the way, and the tills' purchases come from it: that needs what `make setup` installs.
    """
    if home is None and "ISTHMUS_HOME" not in environment():
        home = Path("isthmus-demo")  # never where a person keeps their own
    with opened(home, as_json) as app:
        if app.settings.scaled:
            raise InvalidInput("the demo keeps everything in a folder", hint="unset ISTHMUS_DATABASE_URL for it")
        start_over(app)
        if not as_json:
            out.print("[bold]A year of shopping, from the till to the warehouse[/]\n")
        with _place(app, warehouse) as place, progress("", quiet=as_json) as step:
            figures = tell_demo(app, _silent if as_json else _tell, step=step, place=place)
        if as_json:
            print_json(figures)
        else:
            _tell_end(figures, str(app.home), stays=warehouse == "duckdb")
        if not figures["equal"]:
            raise typer.Exit(1)


@contextmanager
def _place(app: App, kind: str) -> Iterator[Place]:
    """Where the story takes place; a stand-in ends with it."""
    if kind == "duckdb":
        yield in_files(app)
        return
    try:
        from isthmus.testing.standins.environments import Unavailable
        from isthmus.testing.standins.ready import READY
    except ImportError as e:
        raise InvalidInput(
            f"the servers that stand in for warehouses are not installed: {e.name} is missing",
            hint="get the source and run: make demo ARGS='--warehouse " + kind + "'",
        ) from e
    if kind not in READY:
        raise InvalidInput(f"the demo knows no warehouse {kind!r}", hint=f"it knows: {', '.join(['duckdb', *READY])}")
    tables = [named(t, "klaviyo_") for t in ALL]
    try:
        with READY[kind](tables) as standin:
            connection, secrets = standin.connection()
            files = in_files(app)
            loads = standin.config.traits.loads  # where nothing can be delivered to, we import from it all the same
            title = f"{standin.config.traits.title} ({standin.what})"
            yield Place(
                title if loads else files.title,
                connection if loads else files.warehouse,
                connection,
                lambda purchases: standin.expose(VIEW, purchases),
                secrets,
                standin.named,
            )
    except Unavailable as e:
        raise InvalidInput(f"this machine cannot run that stand-in: {e}") from e


def _silent(name: str, facts: dict[str, Any]) -> None:
    pass


def _tell(name: str, f: dict[str, Any]) -> None:
    out.print(f"[green]✓[/] {_sentence(name, f)} [dim]{f['seconds']:.1f} s[/]")


def _sentence(name: str, f: dict[str, Any]) -> str:
    match name:
        case "prepare":
            return "Read the Complete Journey data: a year of shopping at one supermarket chain."
        case "land":
            return (
                f"Landed {f['profiles']:,} households and {f['purchases']:,} purchases, {f['redemptions']:,} coupons "
                f"and {f['campaigns']:,} mailings; {f['rejected']:,} rows rejected."
            )
        case "import":
            return (
                f"Imported December from a view in the tills' own warehouse: {f['purchases']:,} purchases; "
                f"{f['rejected']:,} row kept as a rejection ({', '.join(f['reasons'])})."
            )
        case "mend":
            return (
                f"Mended the mapping, which knew no e-mail addresses, and replayed what was rejected: "
                f"{f['purchases']:,} landed, {f['left']:,} left."
            )
        case "deliver":
            return f"Delivered the history to {f['to']}: {f['rows']:,} rows."
        case "change":
            return (
                f"The world changed: {f['purchases']:,} more purchases at the tills; two households turned out to be "
                f"one ({f['events_moved']:,} events moved); one asked to be forgotten "
                f"({f['erased_events']:,} events gone)."
            )
        case "deliver the change":
            return f"Delivered only the change: {f['rows']:,} rows."
        case "nothing new":
            return "Ran once more: nothing had changed, and the warehouse was not opened."
    return _proven(f)


def _proven(f: dict[str, Any]) -> str:
    if f["equal"]:
        return f"Proved it: counts and checksums of both sides are equal, {f['rows']:,} rows."
    return "[red]Store and warehouse differ.[/] See `isthmus sync verify everything`."


def _tell_end(figures: dict[str, Any], home: str, *, stays: bool) -> None:
    total = sum(f["seconds"] for f in figures.values() if isinstance(f, dict))
    say(f"\nAll of it took {total:.0f} seconds. Look around:\n")
    for line in (
        "isthmus sync show everything",
        "isthmus sync show december",
        "isthmus person show 900",
        'isthmus query "FROM metrics"',
        *(["isthmus sync verify everything"] if stays else []),
    ):
        say(f"  {line} --home {home}")
    if stays:
        say(f"\nThe warehouse is {home}/demo/warehouse.duckdb; any DuckDB opens it.")
    else:
        say("\nThe server that stood in for the warehouse has ended with the story.")

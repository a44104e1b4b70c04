"""`isthmus demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus.actions.demo import start_over, tell_demo
from isthmus.cli.common import Home, Json, opened, out, print_json, progress, say
from isthmus.model.errors import InvalidInput
from isthmus.settings import environment


def demo(
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Leave the console running, once it exists.")
    ] = True,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tell the whole story on real data: land, deliver, change, deliver the change, prove. About a minute.

    Its home is ./isthmus-demo unless another one is named.
    """
    if home is None and "ISTHMUS_HOME" not in environment():
        home = Path("isthmus-demo")  # never where a person keeps their own
    with opened(home, as_json) as app:
        if app.settings.scaled:
            raise InvalidInput("the demo keeps everything in a folder", hint="unset ISTHMUS_DATABASE_URL for it")
        start_over(app)
        if not as_json:
            out.print("[bold]A year of shopping, from the till to the warehouse[/]\n")
        with progress("", quiet=as_json) as step:
            figures = tell_demo(app, _silent if as_json else _tell, step=step)
        if as_json:
            print_json(figures)
        else:
            _tell_end(figures, str(app.home))
        if not figures["equal"]:
            raise typer.Exit(1)


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
            return f"Delivered the history to a DuckDB warehouse: {f['rows']:,} rows."
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


def _tell_end(figures: dict[str, Any], home: str) -> None:
    total = sum(f["seconds"] for f in figures.values() if isinstance(f, dict))
    say(f"\nAll of it took {total:.0f} seconds. Look around:\n")
    for line in (
        "isthmus sync show everything",
        "isthmus sync show december",
        "isthmus person show 900",
        'isthmus query "FROM metrics"',
        "isthmus sync verify everything",
    ):
        say(f"  {line} --home {home}")
    say(f"\nThe warehouse is {figures['warehouse']}; any DuckDB opens it.")

"""`isthmus load` and `isthmus person`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.actions import people
from isthmus.cli.common import Home, Json, opened, out, print_json, print_rows, progress, say, shown
from isthmus.model.intake import Counts, Reason
from isthmus.model.mapping import Data

load_commands = typer.Typer(no_args_is_help=True)
commands = typer.Typer(no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file; the first two also as .gz.")]
MappingFile = Annotated[
    Path | None, typer.Option("--mapping", help="A YAML file that says which column is what; else names are guessed.")
]
Key = Annotated[str, typer.Argument(help="An e-mail, phone number, external id or profile id.")]
Delimiter = Annotated[str | None, typer.Option("--delimiter", help="What separates CSV cells, if not commas.")]


@load_commands.command()
def events(
    file: File,
    mapping: MappingFile = None,
    metric: Annotated[str | None, typer.Option("--metric", help="The metric of every row, without a mapping.")] = None,
    delimiter: Delimiter = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Load a file of events. Loading it again changes nothing."""
    _load(file, "events", mapping, metric, delimiter, home, as_json)


@load_commands.command()
def profiles(
    file: File, mapping: MappingFile = None, delimiter: Delimiter = None, home: Home = None, as_json: Json = False
) -> None:
    """Load a file of profiles. Loading it again changes nothing."""
    _load(file, "profiles", mapping, None, delimiter, home, as_json)


def _load(
    file: Path,
    data: Data,
    mapping: Path | None,
    metric: str | None,
    delimiter: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    if delimiter is not None and len(delimiter) != 1:
        raise typer.BadParameter("a delimiter is one character", param_hint="--delimiter")
    with opened(home, as_json) as app:
        with progress(f"Loading {file.name}", quiet=as_json) as step:
            counts = people.load_file(
                app, file, data, mapping_file=mapping, metric=metric, delimiter=delimiter, report=step
            )
        if as_json:
            print_json({"file": str(file), "data": data, **counts.as_dict()})
        else:
            print_counts(counts)


def print_counts(counts: Counts) -> None:
    """The summary of a landing."""
    for label, value in (
        ("rows read", counts.read),
        ("landed", counts.landed),
        ("repeated", counts.repeated),
        ("rejected", counts.rejected),
        ("new profiles", counts.profiles_created),
        ("profiles merged", counts.merged),
        ("identifiers taken", counts.taken),
    ):
        if value or label in ("rows read", "landed", "repeated", "rejected"):
            out.print(f"{label:20}{value:>14,}")
    for reason, count in sorted(counts.reasons.items()):
        say(f"    {reason:16}{count:>14,}")
    if counts.rejected > counts.reasons[Reason.ERASED] or counts.taken:
        out.print("See them with `isthmus rejections list`.")


@commands.command()
def show(key: Key, home: Home = None, as_json: Json = False) -> None:
    """Show what is known of a person. KEY is an e-mail, phone number, external id or profile id."""
    with opened(home, as_json) as app:
        person, delivered = people.show_person(app, key)
        if as_json:
            print_json(
                {
                    "profile": person.profile,
                    "identifiers": [{"kind": k, "value": v} for k, v in person.identifiers],
                    "merges": person.merges,
                    "metrics": person.metrics,
                    "latest_events": person.latest,
                    "delivered": delivered,
                }
            )
            return
        for name, value in person.profile.items():
            if value is not None:
                say(f"{name.replace('_', ' '):22}{value if name == 'seq' else shown(value)}")
        out.print()
        print_rows(("identifier", "value"), person.identifiers, empty="No identifiers.")
        out.print()
        print_rows(
            ("metric", "integration", "events", "value", "first", "last", "backfill"),
            [tuple(m.values()) for m in person.metrics],
            empty="No events.",
        )
        if person.merges:
            out.print()
            print_rows(
                ("merged profile", "by", "at", "events moved"),
                [(m["source_profile_id"], m["cause"], m["merged_at"], m["events_moved"]) for m in person.merges],
                empty="",
            )
        for d in delivered:
            say(f"{d['sync']}: {'delivered' if d['delivered'] else 'not delivered yet'}")


@commands.command()
def erase(
    key: Key,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Erase a person here; every warehouse follows with the next run of its sync. Rows from before, read again, are
    counted as "erased" and bring nobody back."""
    if not yes and not as_json:
        typer.confirm(f"Erase everything about {key}? This cannot be undone.", abort=True)
    with opened(home, as_json) as app:
        removed = people.erase_person(app, key)
        if as_json:
            print_json(removed)
        else:
            out.print(f"Erased: {', '.join(f'{n:,} {what}' for what, n in removed.items())}.")
            hours = app.settings.snapshot_retention_hours
            out.print(f"Past states of the store, with the person in them, are removed after {hours} hours.")

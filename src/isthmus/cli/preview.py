"""`isthmus preview`, and what `isthmus sync preview` shows of an import."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from isthmus.actions import previewing
from isthmus.actions.previewing import as_yaml
from isthmus.cli.common import Home, Json, opened, print_exactly, print_fitting, print_json, say
from isthmus.imports.preview import LIMIT, ROWS, Preview
from isthmus.model.mapping import Data, Mapping, as_document
from isthmus.settings import environment

Rows = Annotated[int, typer.Option("--rows", min=1, max=100_000, help="How many rows are looked at.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="How many rows, and how many rejections, are shown.")]

DATA_FILES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet", ".gz")


def preview(
    file: Annotated[
        Path, typer.Argument(help="An apply file; or, with --data, a .csv, .jsonl or .parquet file to be loaded.")
    ],
    data: Annotated[
        str | None, typer.Option("--data", help="events or profiles: FILE holds rows, as `isthmus load` takes them.")
    ] = None,
    only: Annotated[str | None, typer.Option("--import", help="Only the import of that name.")] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="With --data: a YAML file that says which column is what.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="The metric of every row, where the mapping is guessed.")
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option("--delimiter", help="With --data: what separates CSV cells, if not commas.")
    ] = None,
    rows: Rows = ROWS,
    limit: Limit = LIMIT,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what imports, or a file's rows, would become before anything is saved: rows as they would land, rejections.

    Where there is no mapping one is guessed, and printed ready to paste.
    """
    _check(file, data, only, mapping, delimiter)
    with opened(home, as_json) as app:
        if data is None:
            found = previewing.preview_file(
                app, file, environ=environment(), only=only, metric=metric, rows=rows, limit=limit
            )
        else:
            found = [
                previewing.preview_data(
                    app,
                    file,
                    cast("Data", data),
                    mapping_file=mapping,
                    metric=metric,
                    delimiter=delimiter,
                    rows=rows,
                    limit=limit,
                )
            ]
        if as_json:
            print_json([described(each) for each in found])
            return
        for i, each in enumerate(found):
            if i:
                say("")
            show(each)


def _check(file: Path, data: str | None, only: str | None, mapping: Path | None, delimiter: str | None) -> None:
    if data not in (None, "events", "profiles"):
        raise typer.BadParameter("events or profiles", param_hint="--data")
    if data is None and file.suffix.lower() in DATA_FILES:
        raise typer.BadParameter(f"say what the rows of {file} are: events or profiles", param_hint="--data")
    if data is None and (mapping or delimiter):
        which = "--mapping" if mapping else "--delimiter"
        raise typer.BadParameter("belongs to a file of rows, with --data", param_hint=which)
    if data is not None and only is not None:
        raise typer.BadParameter("belongs to an apply file, without --data", param_hint="--import")
    if delimiter is not None and len(delimiter) != 1:
        raise typer.BadParameter("a delimiter is one character", param_hint="--delimiter")


def described(found: Preview) -> dict[str, Any]:
    """A preview as plain values, for JSON: nothing is shortened."""
    counts = found.rehearsed.counts
    return {
        **{"name": found.name, "reads": found.what, "data": found.data, "guessed": found.guessed},
        "mapping": as_document(found.mapping),
        "columns": [
            {
                "name": c.name,
                "type": c.type,
                "uses": [{"as": u.role, "name": u.name, "clears": u.clears} for u in c.uses],
            }
            for c in found.columns
        ],
        "counts": {**counts.as_dict(), "profiles_found": found.rehearsed.found, "whole": found.whole},
        "rows": found.rehearsed.rows,
        "rejections": found.rehearsed.rejections,
    }


def show(found: Preview) -> None:
    """A preview as text: how each column is used, what would become of the rows, and the first of them."""
    counts, rehearsed = found.rehearsed.counts, found.rehearsed
    by = "a guessed mapping" if found.guessed else "its mapping"
    reads = "" if found.what.endswith(found.name) else f" from {found.what}"
    say(f"{found.name}: {found.data}{reads}, through {by}. Nothing is saved.\n")
    print_fitting(
        ("column", "type", "used as"),
        [(c.name, c.type, "; ".join(str(u) for u in c.uses)) for c in found.columns],
        empty="It has no columns.",
    )
    constants = _constants(found.mapping)
    for name, constant in constants.items():
        say(f"{name} is {constant} in every row.")
    say("")
    say(_counted(found))
    if rehearsed.rows:
        more = counts.landed + counts.repeated > len(rehearsed.rows)
        say(f"\n{'The first rows' if more else 'Rows'} as they would land:\n")
        names = [name for name in _used(rehearsed.rows) if name not in constants]
        print_fitting(names, [[_cell(row.get(name)) for name in names] for row in rehearsed.rows], empty="")
    if rehearsed.rejections:
        more = counts.rejected + counts.taken > len(rehearsed.rejections)
        say(f"\n{'The first of what' if more else 'What'} would be rejected:\n")
        print_fitting(
            ("row", "column", "reason", "value", "what is wrong"),
            [(r["row"], r["column"], r["reason"], _cell(r["value"]), r["message"]) for r in rehearsed.rejections],
            empty="",
        )
    if found.guessed:
        say("\nThe guessed mapping, to be looked through and pasted:\n")
        print_exactly("".join(f"    {line}\n" for line in as_yaml(found.mapping).splitlines()))


def _counted(found: Preview) -> str:
    counts = found.rehearsed.counts
    if not counts.read:
        return "There are no rows."
    rows = "1 row" if counts.read == 1 else f"{counts.read:,} rows"
    first = f"Looked at {rows}, {'all there is' if found.whole else 'the first of more'}"
    outcomes = [f"{counts.landed:,} would land"]
    if counts.repeated:
        outcomes.append(f"{counts.repeated:,} would change nothing")
    outcomes.append(f"{counts.rejected:,} would be rejected")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.reasons.items()))
    text = f"{first}: {', '.join(outcomes)}{f' ({reasons})' if reasons else ''}."
    people = [f"{counts.profiles_created:,} new", f"{found.rehearsed.found:,} known"]
    if counts.merged:
        people.append(f"{counts.merged:,} merged into others")
    text += f"\nProfiles: {', '.join(people)}."
    if counts.taken:
        text += f"\n{counts.taken:,} identifiers belong to somebody else: those rows would land without them."
    return text


def _constants(mapping: Mapping) -> dict[str, str]:
    """What is the same in every event."""
    if mapping.data == "profiles":
        return {}
    given = {name: getattr(mapping, name) for name in ("metric", "integration", "value_currency")}
    return {name: its.constant for name, its in given.items() if its is not None and its.constant is not None}


def _used(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The names under which any of the rows has a value."""
    return [name for name in rows[0] if any(row.get(name) is not None for row in rows)]


def _cell(value: Any) -> Any:
    """A value as it is, not as prose: JSON as JSON, a time with all of its digits."""
    match value:
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)
        case datetime():
            return value.isoformat(sep=" ").replace("+00:00", "Z")
        case float() | int():
            return str(value)
    return value

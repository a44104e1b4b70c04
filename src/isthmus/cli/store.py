"""`isthmus query` and `isthmus upkeep`."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Annotated

import typer

from isthmus.actions import syncing
from isthmus.actions.querying import query_store
from isthmus.cli.common import Home, Json, opened, out, print_json, print_rows


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over the store's views.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows shown as text; --json has them all.")] = 200,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Ask the store in SQL, read only: profiles, events, metrics, identifiers, merges, rejections."""
    with opened(home, as_json) as app:
        names, rows = query_store(app, sql)
        if as_json:
            print_json([dict(zip(names, row, strict=True)) for row in rows])
            return
        shown = list(itertools.islice(rows, limit + 1))
        print_rows(names, shown[:limit], empty="No rows.")
        if len(shown) > limit:
            out.print(f"… only the first {limit} rows; --limit shows more.")


def upkeep(
    only_show: Annotated[bool, typer.Option("--show", help="Do nothing; say what the last upkeep did.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put the store's files in order now, erased people's included. It also happens by itself after runs and loads."""
    with opened(home, as_json) as app:
        report = syncing.last_upkeep(app) if only_show else syncing.tidy(app, erase_now=True)
        if as_json:
            print_json(dataclasses.asdict(report) if report else None)
        elif report is None or not report.did_something:
            out.print("There was nothing to do." if not only_show else "Nothing was ever to do.")
        else:
            joined = ", ".join(f"{n} of {table}" for table, n in report.joined.items()) or "none"
            out.print(f"Files joined:        {joined}")
            out.print(f"Tables rewritten:    {', '.join(report.rewritten) or 'none'}")
            out.print(f"Snapshots expired:   {report.snapshots:,}")
            out.print(f"Files removed:       {report.files:,}")

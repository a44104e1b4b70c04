"""`isthmus query`."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer

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

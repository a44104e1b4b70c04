"""One question to the store in a person's own SQL, on a connection that can only read the store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import duckdb

from isthmus import duck
from isthmus.model.errors import InvalidInput
from isthmus.store import schema
from isthmus.store.lake import Lake
from isthmus.store.place import Place

# What would reach around the views: the catalog's own database, and functions that run a text as SQL elsewhere.
_AROUND = re.compile(r"__ducklake_metadata|postgres_|sqlite_|\bquery(_table)?\s*\(", re.IGNORECASE)


def ask(place: Place, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The column names and the rows, streamed. Raises InvalidInput for SQL that is wrong, or is more than one read.

    The connection is attached read-only, reaches no file or address but the store's, and cannot be talked out of it.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as e:
        raise InvalidInput("the SQL is not understood", vendor=str(e)) from e
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InvalidInput("only one SELECT can be asked", hint="changes go through `isthmus load` and `person erase`")
    if _AROUND.search(sql):
        raise InvalidInput(
            "the query reaches around the store's views", hint=f"the views are: {', '.join(schema.VIEWS)}"
        )
    lake = Lake.open(place, read_only=True)
    con = lake.con
    data = place.storage_url or str(place.root / "store")
    con.execute(f"SET allowed_directories=[{duck.literal(data)}, {duck.literal(str(place.root / 'tmp'))}]")
    con.execute("SET enable_external_access=false")
    con.execute("SET lock_configuration=true")
    con.execute("USE memory.main")
    try:
        result = con.execute(sql)
        names = [d[0] for d in result.description or ()]
    except duckdb.Error as e:
        lake.close()
        raise InvalidInput("the query failed", vendor=str(e), hint=f"the views are: {', '.join(schema.VIEWS)}") from e
    return names, _rows(lake)


def _rows(lake: Lake) -> Iterator[tuple[Any, ...]]:
    try:
        while batch := lake.con.fetchmany(10_000):
            yield from batch
    except duckdb.Error as e:
        raise InvalidInput("the query failed", vendor=str(e)) from e
    finally:
        lake.close()

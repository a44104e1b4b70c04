"""Questions to the store in SQL, read only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isthmus.app import App
from isthmus.store import query


def query_store(app: App, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The columns and rows of one SELECT over the views profiles, events, metrics, identifiers, merges, rejections."""
    app.lake.close()  # the question is asked on a connection of its own, which can only read
    return query.ask(app.place(), sql)

"""`isthmus demo`."""

from __future__ import annotations

import typer

from isthmus.cli.common import Home, Json


def demo(home: Home = None, as_json: Json = False) -> None:
    """Tell the whole story on real data."""
    raise typer.Exit(1)

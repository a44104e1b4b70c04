"""A ledger on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.ledger.database import Ledger, Tx, open_ledger


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a fresh ledger is to be made."""
    if request.param == "sqlite":
        return tmp_path / "ledger.sqlite"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def ledger(where: Path | str) -> Iterator[Ledger]:
    opened = open_ledger(where)
    yield opened
    opened.close()


@pytest.fixture
def tx(ledger: Ledger) -> Iterator[Tx]:
    """One transaction around the whole test."""
    with ledger.transaction() as opened:
        yield opened

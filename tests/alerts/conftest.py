"""A desk on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alerts_cast import Desk

from isthmus.ledger.database import open_ledger


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    yield Desk(ledger)
    ledger.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    sqlite = request.param == "sqlite"
    ledger = open_ledger(tmp_path / "ledger.sqlite" if sqlite else request.getfixturevalue("postgres_url"))
    yield Desk(ledger)
    ledger.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")

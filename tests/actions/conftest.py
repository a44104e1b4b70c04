"""A yard whose guards are new for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from doors_cast import GUARDS, GuardedConfig, Yard

from isthmus.exports import plan
from isthmus.warehouses import kinds


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setitem(kinds.KINDS, "guarded", GuardedConfig)  # type: ignore[arg-type]
    for planned in (plan.history, plan.changes):
        monkeypatch.setitem(planned.__kwdefaults__, "limit", 1)  # a chunk for each commit
    GUARDS.clear()
    opened = Yard(tmp_path)
    yield opened
    opened.close()

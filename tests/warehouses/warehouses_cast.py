"""What the tests of several kinds share: small batches, what a check said, and scripts as somebody read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isthmus.model.checks import Check
from isthmus.model.table import SEQ, Batch
from isthmus.testing.builders import batch_of
from isthmus.testing.conformance.situations import PEOPLE
from isthmus.warehouses.protocol import Config

GOLDEN = Path(__file__).parent / "golden"


def people(folder: Path, *ids: str, seq: int = 1, **options: Any) -> Batch:
    """A batch of people with these ids, whose names say the seq."""
    return batch_of(folder, PEOPLE, [{"id": i, "name": f"v{seq}", SEQ: seq} for i in ids], **options)


def refused(config: Config) -> list[Check]:
    """The checks that are a no."""
    return [c for c in config.check() if not c.passed]


def warnings(config: Config) -> dict[str, Check]:
    """The checks that warn, by their questions."""
    return {c.question: c for c in config.check() if c.warns}


def require_as_read(script: str, name: str) -> None:
    """That a script is the golden file of that name. After a change that is meant, delete the file and run it twice."""
    golden = GOLDEN / name
    if not golden.exists():
        golden.write_text(script)
        pytest.fail(f"{name} was not there; it is now: read it, and run the test again")
    assert script == golden.read_text(), f"changed: if that is meant, delete {name} and run the test twice"

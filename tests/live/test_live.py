"""The conformance suite of one kind against a real account: `make test-live KIND=snowflake`.

The class of `tests/warehouses/test_<kind>.py` as it is, but for the config, which comes from the environment
(`ISTHMUS_LIVE_<FIELD>`). The account plays the customer too: it may make schemas, and writes where it imports from.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import places

from isthmus.model.table import Table
from isthmus.testing.conformance import Conformance, ReadingConformance
from isthmus.testing.conformance.situations import Situations
from isthmus.warehouses.kinds import KINDS
from isthmus.warehouses.protocol import Relation

KIND = os.environ.get("ISTHMUS_LIVE_KIND", "")
WAREHOUSES = Path(__file__).parents[1] / "warehouses"

if not KIND:
    pytest.skip("no account: make test-live KIND=… with its fields in ISTHMUS_LIVE_<FIELD>", allow_module_level=True)
if KIND not in KINDS:
    pytest.fail(f"there is no kind {KIND}; there are: {', '.join(KINDS)}", pytrace=False)


def suite_of(kind: str) -> type[Situations]:
    """What the kind's own test module says about it: the first whole suite in it."""
    (file,) = WAREHOUSES.rglob(f"test_{kind}.py")
    sys.path.insert(0, str(file.parent))
    module = importlib.import_module(file.stem)
    return next(
        each
        for name, each in vars(module).items()
        if name.startswith("Test") and isinstance(each, type) and issubclass(each, Conformance | ReadingConformance)
    )


Suite: Any = suite_of(KIND)


class TestLive(Suite):
    @pytest.fixture(autouse=True)
    def owned(self) -> None:
        """There is one account, and it owns what it makes."""

    @pytest.fixture
    def config(self) -> Iterator[Any]:
        with places.fresh(places.given(KIND), Suite) as config:
            yield config

    def exposing(self, config: Any) -> Any:
        return replace(config, **{self.target_field: getattr(config, self.import_field)})

    def expose(self, config: Any, table: Table, rows: list[dict[str, Any]], folder: Path) -> Relation:
        if config.traits.loads:
            return super().expose(config, table, rows, folder)
        return places.filled(config, table, rows)

    def target(self, config: Any, table: Table) -> Relation:
        if config.traits.loads:
            return super().target(config, table)
        return Relation(getattr(config, self.import_field), table.name)

    def test_a_missing_schema_is_a_no_with_the_statement_for_it(self, config: Any) -> None:
        if KIND == "s3":
            pytest.skip("a prefix is there as soon as something is put into it, and this account may put anything")
        super().test_a_missing_schema_is_a_no_with_the_statement_for_it(config)

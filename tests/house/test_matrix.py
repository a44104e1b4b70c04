"""The support matrix is a page of the documentation: it may not be older than the suite and the kinds it is about."""

from __future__ import annotations

import re

from source_tree import ROOT

from isthmus.testing.conformance import matrix
from isthmus.warehouses.kinds import KINDS

PAGE = ROOT / "docs" / "warehouses" / "matrix.md"


def test_the_matrix_knows_every_kind_and_every_promise() -> None:
    text = PAGE.read_text()
    found: dict[str, list[str]] = {}
    for title, part in re.findall(r"^## (.+?)\n\n(\| promise .+?)(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL):
        head, _, *lines = part.splitlines()
        titles = [cell.strip() for cell in head.strip("|").split("|")][1:]
        assert titles == [config.traits.title for config in KINDS.values()], "docs/warehouses/matrix.md: make matrix"
        found[title] = [line.split("|")[1].strip() for line in lines]
    expected = {title: [matrix.promise(name) for name in names] for title, names in matrix.rows().items()}
    assert found == expected, "docs/warehouses/matrix.md is older than the suite: make matrix"


def test_every_kind_says_what_it_is_tested_against() -> None:
    assert set(KINDS) <= set(matrix.AGAINST)


def test_nothing_in_the_matrix_fails() -> None:
    assert matrix.FAILED not in PAGE.read_text()

"""One store in a folder for each module: its tests land people of their own in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from imports_cast import Desk
from shop_cast import PostgresShop, Shop

from isthmus.store.lake import Lake
from isthmus.store.place import Place
from isthmus.testing.builders import fresh_home


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake.open(Place(root=fresh_home(tmp_path_factory.mktemp("home")))) as lake:
        yield lake


@pytest.fixture
def desk(lake: Lake, tmp_path: Path) -> Desk:
    """Where files are landed, and what came of them is looked at."""
    return Desk(lake, tmp_path)


@pytest.fixture
def alone(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk on a store that this test has to itself."""
    with Lake.open(Place(root=fresh_home(tmp_path_factory.mktemp("home")))) as lake:
        yield Desk(lake, tmp_path)


@pytest.fixture(params=["duckdb", pytest.param("postgres", marks=pytest.mark.long)])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    if request.param == "duckdb":
        found = Shop(tmp_path)
    else:
        found = PostgresShop(tmp_path, request.getfixturevalue("postgres_server"))
    yield found
    found.close()

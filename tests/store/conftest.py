"""A store in a folder, and one on PostgreSQL and S3; each serves the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_cast import Cast

from isthmus.secrets import Secret
from isthmus.store.lake import Lake
from isthmus.store.place import Place, S3Access
from isthmus.testing.builders import fresh_home

MakePlace = Callable[[], Place]


@pytest.fixture(scope="session")
def new_place(tmp_path_factory: pytest.TempPathFactory) -> MakePlace:
    """Makes an empty store in a folder."""
    return lambda: Place(root=fresh_home(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session", params=["folder", "scaled"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_place: MakePlace) -> Place:
    """A store that tests share: use identifiers of your own in it."""
    if request.param == "folder":
        return new_place()
    server, s3 = request.getfixturevalue("postgres_server"), request.getfixturevalue("s3")
    return Place(
        root=tmp_path_factory.mktemp("scaled"),
        database_url=Secret(server.url(server.fresh_database())),
        storage_url=f"s3://{s3.bucket}/store-tests",
        s3=S3Access(s3.endpoint, s3.region, s3.access_key_id, Secret(s3.secret_access_key)),
    )


@pytest.fixture(scope="session")
def shared_lake(place: Place) -> Iterator[Lake]:
    with Lake.open(place) as lake:
        yield lake


@pytest.fixture
def cast(shared_lake: Lake, tmp_path: Path) -> Cast:
    """People and events in the shared store, of both kinds."""
    return Cast(shared_lake, tmp_path)


@pytest.fixture
def alone(new_place: MakePlace, tmp_path: Path) -> Iterator[Cast]:
    """People and events in a store in a folder that this test has to itself."""
    with Lake.open(new_place()) as lake:
        yield Cast(lake, tmp_path)


@pytest.fixture(scope="module")
def crowd(new_place: MakePlace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    """People and events in one store in a folder for a whole module, each test with identifiers of its own."""
    with Lake.open(new_place()) as lake:
        yield Cast(lake, tmp_path_factory.mktemp("files"))

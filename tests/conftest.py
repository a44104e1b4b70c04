"""Fixtures shared by all tests. Servers start when the first test asks for one, and serve the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest

from isthmus.testing import standins


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[standins.PostgresServer]:
    """A real PostgreSQL. Make a database of your own in it with `fresh_database()`, or use `postgres_url`."""
    with standins.postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: standins.PostgresServer) -> str:
    """The URL of an empty database made for this test, with its superuser and password in it."""
    return postgres_server.url(postgres_server.fresh_database())


@pytest.fixture(scope="session")
def s3() -> Iterator[standins.S3Server]:
    """A real S3 server with a bucket. Tests share the bucket: use a prefix of your own in it."""
    with standins.s3() as server:
        yield server


@pytest.fixture(scope="session")
def synapse_server() -> Iterator[standins.SynapseServer]:
    """A dedicated SQL pool and its blob storage. Make a database of your own in it with `fresh_database()`."""
    with standin(standins.synapse()) as server:
        yield server


@contextmanager
def standin(starting: AbstractContextManager[Any]) -> Iterator[Any]:
    """A stand-in that cannot be had on this machine skips its tests, loudly; where CI is true they fail."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(starting)
        except standins.Unavailable as e:
            if os.environ.get("CI") == "true":
                pytest.fail(str(e))
            pytest.skip(str(e))
        yield server

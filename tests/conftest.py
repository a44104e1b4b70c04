"""Fixtures shared by all tests. Servers start when the first test asks for one, and serve the whole session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import pytest

from isthmus.testing import standins
from isthmus.testing.standins.environments import Unavailable

T = TypeVar("T")


@contextmanager
def standin(launch: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """A stand-in, or a loud skip where this machine cannot have it. In CI that is a failure."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(launch())
        except Unavailable as e:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"no stand-in: {e}")
        yield server


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
def sts_server() -> Iterator[standins.StsServer]:
    """AWS STS, and an S3 that takes the keys it gives."""
    with standins.sts() as server:
        yield server


@pytest.fixture(scope="session")
def redshift_server(s3: standins.S3Server) -> Iterator[standins.RedshiftServer]:
    """A stand-in for Redshift that moves objects of the S3 server. Make a database of your own in it."""
    with standins.redshift(s3) as server:
        yield server


@pytest.fixture(scope="session")
def snowflake_server() -> Iterator[standins.SnowflakeServer]:
    """Our Snowflake. Make a database of your own in it with `fresh_database()`."""
    with standin(standins.snowflake) as server:
        yield server


@pytest.fixture(scope="session")
def bigquery_server() -> Iterator[standins.BigQueryServer]:
    """A BigQuery with one project. Tests share it: make an account and datasets of your own in it."""
    with standin(standins.bigquery) as server:
        yield server


@pytest.fixture(scope="session")
def synapse_server() -> Iterator[standins.SynapseServer]:
    """A dedicated SQL pool and its blob storage. Make a database of your own in it with `fresh_database()`."""
    with standin(standins.synapse) as server:
        yield server

"""A bucket that the set-up script prepared, the administrator's command line, and a wire on which things go wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_cast import PEOPLE, Bystander, soon

from isthmus.model.table import DELETED, SEQ, Receipt
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import S3Server
from isthmus.testing.standins.aws_command import AwsCommand, aws_command
from isthmus.testing.standins.s3_wire import S3Wire, s3_wire
from isthmus.warehouses.s3 import S3Config, S3Warehouse


@pytest.fixture(scope="module")
def aws(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsCommand]:
    """The administrator's command line."""
    key = {"access_key_id": s3.access_key_id, "secret_access_key": s3.secret_access_key}
    with aws_command(tmp_path_factory.mktemp("aws"), **key, endpoints={"iam": s3.endpoint}) as command:
        yield command


@pytest.fixture(scope="module")
def prepared(s3: S3Server, aws: AwsCommand) -> S3Config:
    """A bucket in which the set-up script was run twice, and a key of the user it made."""
    key_id, secret = s3.key_of("isthmus")
    bucket = f"test-{time.time_ns():x}"
    made = S3Config(bucket, s3.region, key_id, Secret(secret), prefix="export", endpoint_url=s3.endpoint)
    for _ in range(2):
        aws.bash(made.setup_script([], egress=["127.0.0.1/32"]))
    soon(lambda: made.open().close())
    return made


@pytest.fixture
def config(prepared: S3Config, s3: S3Server) -> S3Config:
    s3.empty(prepared.bucket)
    return prepared


@pytest.fixture
def warehouse(config: S3Config) -> Iterator[S3Warehouse]:
    with closing(config.open()) as opened:
        yield opened


@pytest.fixture(scope="module")
def over(s3: S3Server) -> Iterator[S3Wire]:
    with s3_wire(s3.endpoint) as wire:
        yield wire


@pytest.fixture
def wire(over: S3Wire) -> Iterator[S3Wire]:
    """A wire to the server, whole again."""
    over.clear()
    yield over
    over.clear()


@pytest.fixture
def wired(config: S3Config, wire: S3Wire) -> Iterator[S3Warehouse]:
    """The warehouse at the other end of the wire, with a table of people."""
    with closing(replace(config, endpoint_url=wire.endpoint).open()) as opened:
        opened.create(PEOPLE)
        wire.requests.clear()
        yield opened


@pytest.fixture
def people(tmp_path: Path) -> Callable[..., Any]:
    """A batch of people: (id, name, seq) or (id, name, seq, deleted)."""

    def batch(*rows: tuple[Any, ...], **options: Any) -> Any:
        keys = ("id", "name", SEQ, DELETED)
        return batch_of(tmp_path, PEOPLE, [dict(zip(keys, row, strict=False)) for row in rows], **options)

    return batch


@pytest.fixture
def load(warehouse: S3Warehouse, people: Callable[..., Any]) -> Callable[..., Receipt]:
    warehouse.create(PEOPLE)
    return lambda *rows, **options: warehouse.load(people(*rows, **options))


@pytest.fixture
def bystander(s3: S3Server, config: S3Config, tmp_path: Path) -> Iterator[Bystander]:
    with closing(Bystander(s3, config, tmp_path / "bystander")) as made:
        yield made

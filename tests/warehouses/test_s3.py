"""The S3 connector against a real S3 server: the conformance suite, and what only S3 has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isthmus.model.errors import WarehouseError
from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.conformance.reading import Reading
from isthmus.testing.conformance.situations import Situations
from isthmus.testing.conformance.values import Values
from isthmus.testing.standins import S3Server
from isthmus.testing.standins.aws_command import AwsCommand, aws_command
from isthmus.warehouses.s3 import S3Config


@pytest.fixture(scope="module")
def aws(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsCommand]:
    """The administrator's command line."""
    key = {"access_key_id": s3.access_key_id, "secret_access_key": s3.secret_access_key}
    endpoints = {"s3": s3.endpoint, "iam": s3.endpoint}
    with aws_command(tmp_path_factory.mktemp("aws"), **key, endpoints=endpoints) as command:
        yield command


@pytest.fixture(scope="module")
def prepared(s3: S3Server, aws: AwsCommand) -> S3Config:
    """A bucket in which the set-up script was run twice, and a key of the user it made."""
    key_id, secret = s3.key_of("isthmus")
    bucket = s3.fresh_bucket()
    made = S3Config(bucket, s3.region, key_id, Secret(secret), prefix="export", endpoint_url=s3.endpoint)
    for _ in range(2):
        aws.bash(made.setup_script([], egress=["127.0.0.1/32"]))
    deadline = time.monotonic() + 10
    while True:  # a policy takes a moment to be known
        try:
            made.open().close()
            return made
        except WarehouseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture
def config(prepared: S3Config, s3: S3Server) -> S3Config:
    s3.empty(prepared.bucket)
    return prepared


class Here(Situations):
    """What the suite must know of S3."""

    holds_nul = True
    checks_json = False
    folds_case = True
    import_field = "import_prefix"
    temp_field = "temp_prefix"
    target_field = "prefix"
    statements = ("_execute",)

    @pytest.fixture
    def config(self, config: S3Config) -> S3Config:
        return config

    @pytest.fixture(autouse=True)
    def owned(self, s3: S3Server) -> None:
        self.owner = {"access_key_id": s3.access_key_id, "secret_access_key": Secret(s3.secret_access_key)}

    def exposing(self, config: S3Config) -> S3Config:
        """The customer's own key: ours may only read there."""
        return replace(config, prefix=config.import_prefix, **self.owner)

    def nowhere(self, config: Any, folder: Path) -> Any:
        return replace(config, endpoint_url="http://127.0.0.1:1")


class TestS3(Here, Conformance):
    pass


class TestS3Csv(Here, Values, Reading):
    """Text files, where types and empty texts are easily lost."""

    @pytest.fixture
    def config(self, config: S3Config) -> S3Config:
        return replace(config, file_format="csv")


class TestS3JsonLines(Here, Values, Reading):
    """The same in lines of JSON."""

    @pytest.fixture
    def config(self, config: S3Config) -> S3Config:
        return replace(config, file_format="jsonl")

"""The S3 connector against a real S3 server: the conformance suite, in every file format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.conformance.reading import Reading
from isthmus.testing.conformance.situations import Situations
from isthmus.testing.conformance.values import Values
from isthmus.testing.standins import S3Server
from isthmus.warehouses.s3 import S3Config


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

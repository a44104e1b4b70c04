"""The BigQuery connector against local-bigquery behind a front that checks rights: the suite, and what only it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bigquery_cast import emptied, made

from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import BigQueryServer
from isthmus.warehouses.bigquery import BigQueryConfig


@pytest.fixture(scope="module")
def place(bigquery_server: BigQueryServer) -> BigQueryConfig:
    """Where the set-up script was run twice."""
    config = made(bigquery_server)
    bigquery_server.run(config.setup_script([]))
    return config


@pytest.fixture
def config(place: BigQueryConfig, bigquery_server: BigQueryServer) -> BigQueryConfig:
    """The same, as good as new: nothing is in its datasets."""
    return emptied(place, bigquery_server)


class TestBigQuery(Conformance):
    holds_nul = True
    checks_json = False
    folds_case = True
    refused_names = frozenset(["two words", 'qu"ote', "it's", "ünï 日本", "{DATA_PATH}", "a%s.b"])
    import_field = "import_dataset"
    temp_field = "temp_dataset"
    target_field = "dataset"
    statements = ("_execute", "_upload", "_end", "_drop")

    @pytest.fixture
    def config(self, config: BigQueryConfig, bigquery_server: BigQueryServer) -> BigQueryConfig:
        self.owner = Secret(json.dumps(bigquery_server.owner))
        return config

    def exposing(self, config: BigQueryConfig) -> BigQueryConfig:
        """The customer's own user: ours may only read there."""
        return replace(config, dataset=config.import_dataset, service_account_key=self.owner)

    def nowhere(self, config: BigQueryConfig, folder: Path) -> Any:
        return replace(config, endpoint="http://127.0.0.1:1")

"""The BigQuery connector against local-bigquery behind a front that checks rights: the suite, and what only it has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import BigQueryServer
from isthmus.warehouses.bigquery import BigQueryConfig, BigQueryWarehouse


@pytest.fixture
def config(bigquery_server: BigQueryServer) -> BigQueryConfig:
    """Datasets of its own in which the set-up script was run, and the account that it gave its rights."""
    mark = uuid4().hex[:8]
    made = BigQueryConfig(
        project_id=bigquery_server.project,
        dataset=f"klaviyo_{mark}",
        service_account_key=Secret(bigquery_server.fresh_account()),
        import_dataset=f"import_{mark}",
        temp_dataset=f"tmp_{mark}",
        endpoint=bigquery_server.endpoint,
        storage_endpoint=bigquery_server.storage_endpoint,
    )
    bigquery_server.run(made.setup_script([]))
    return made


@pytest.fixture
def warehouse(config: BigQueryConfig) -> Iterator[BigQueryWarehouse]:
    with closing(config.open()) as opened:
        yield opened


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

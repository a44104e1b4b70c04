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


def described(server: BigQueryServer, **fields: Any) -> BigQueryConfig:
    """A connection to datasets of its own that are not there yet, with a new account that has no rights yet."""
    mark = uuid4().hex[:8]
    return BigQueryConfig(
        project_id=server.project,
        dataset=f"klaviyo_{mark}",
        service_account_key=Secret(server.fresh_account()),
        import_dataset=f"import_{mark}",
        temp_dataset=f"tmp_{mark}",
        endpoint=server.endpoint,
        storage_endpoint=server.storage_endpoint,
        **fields,
    )


@pytest.fixture(scope="module")
def place(bigquery_server: BigQueryServer) -> BigQueryConfig:
    """Where the set-up script was run twice."""
    made = described(bigquery_server)
    for _ in range(2):
        bigquery_server.run(made.setup_script([]))
    return made


@pytest.fixture
def config(place: BigQueryConfig, bigquery_server: BigQueryServer) -> BigQueryConfig:
    """The same, as good as new: nothing is in its datasets."""
    bigquery_server.calls.heal()
    with closing(bigquery_server.client()) as client:
        for dataset in (place.dataset, place.import_dataset, place.temp_dataset):
            for table in client.list_tables(dataset):
                client.delete_table(table.reference)
    return place


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

"""A BigQuery connection as our set-up script makes it, with what the tests share."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from uuid import uuid4

from isthmus.secrets import Secret
from isthmus.testing.standins import BigQueryServer
from isthmus.warehouses.bigquery import BigQueryConfig


def described(server: BigQueryServer, **fields: Any) -> BigQueryConfig:
    """A connection to datasets of its own that are not there yet, with a new account that has no rights yet."""
    mark = uuid4().hex[:8]
    given: dict[str, Any] = {
        "project_id": server.project,
        "dataset": f"klaviyo_{mark}",
        "service_account_key": Secret(server.fresh_account()),
        "import_dataset": f"import_{mark}",
        "temp_dataset": f"tmp_{mark}",
        "endpoint": server.endpoint,
        "storage_endpoint": server.storage_endpoint,
    }
    return BigQueryConfig(**{**given, **fields})


def made(server: BigQueryServer, **fields: Any) -> BigQueryConfig:
    """The same after the script has run."""
    config = described(server, **fields)
    server.run(config.setup_script([]))
    return config


def emptied(config: BigQueryConfig, server: BigQueryServer) -> BigQueryConfig:
    """The same, as good as new: nothing is in its datasets, and nothing is about to go wrong."""
    server.calls.heal()
    with closing(server.client()) as client:
        for dataset in (config.dataset, config.import_dataset, config.temp_dataset):
            for table in client.list_tables(dataset):
                client.delete_table(table.reference)
    return config

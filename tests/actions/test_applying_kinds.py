"""What a kind of warehouse cannot do is refused when a file is applied, not hours later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from isthmus.actions import applying
from isthmus.app import App
from isthmus.ledger import connections
from isthmus.model.errors import InvalidInput
from isthmus.settings import Settings
from isthmus.testing.builders import fresh_home

LAKE = {
    "name": "lake",
    "kind": "databricks",
    "hostname": "dbc-1.cloud.databricks.com",
    "http_path": "/sql/1.0/warehouses/1",
    "catalog": "main",
    "access_token": "dapi-not-a-real-one",
}
ORDERS = {
    "name": "orders",
    "connection": "lake",
    "data": "events",
    "relation": "KLAVIYO_IMPORT_FROM_DWH.orders",
    "mapping": {
        "event_time": "bought_at",
        "metric": {"constant": "Placed Order"},
        "identifiers": {"email": "mail"},
        "changed_at": "loaded_at",
        "unique_id": "id",
    },
}


def apply(app: App, folder: Path, **document: Any) -> int:
    file = folder / "isthmus.yaml"
    file.write_text(yaml.safe_dump({"connections": [LAKE], **document}))
    return len(applying.apply(app, file, plan_only=False, environ={}))


def test_an_export_to_a_kind_that_only_reads_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with App(Settings.load({}, fresh_home(tmp_path / "home"))) as app:
        with pytest.raises(InvalidInput, match=r"'everything' goes to Databricks .* read only") as caught:
            apply(app, tmp_path, exports=[{"name": "everything", "connection": "lake"}])
        assert "S3" in caught.value.hint
        with app.ledger.reading() as tx:
            assert not connections.every(tx)
        assert apply(app, tmp_path, imports=[ORDERS]) == 2

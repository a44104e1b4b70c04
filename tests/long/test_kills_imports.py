"""An import that is killed before and after every landing: the next one goes on, and each row is there once."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest

from isthmus.actions import applying, syncing
from isthmus.app import App
from isthmus.imports import files, relation
from isthmus.model.errors import InvalidInput
from isthmus.store.landing import Landing
from long import killing
from long.child import Home

pytestmark = pytest.mark.long

MAPPING = {
    "event_time": "bought_at",
    "metric": {"constant": "Placed Order"},
    "identifiers": {"external_id": "customer_id"},
    "changed_at": "loaded_at",
    "unique_id": "order_id",
}
ROWS, BATCH = 300, 100


def bring(home: Home, number: int) -> None:
    """Run the import, and die when landings are begun or done for the `number`-th time."""
    passed, real = 0, Landing.land

    def pass_by() -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def landing(self: Landing, *args: Any, **options: Any) -> Any:
        pass_by()
        done = real(self, *args, **options)
        pass_by()
        return done

    Landing.land = landing  # type: ignore[method-assign]
    for module in (relation, files):
        vars(module)["BATCH_ROWS"] = BATCH
    with App(home.settings()) as app:
        with suppress(InvalidInput):  # it is not paused
            syncing.resume_sync(app, "pos")
        syncing.run_sync(app, "pos")


def orders(path: Path, first: int) -> None:
    with closing(duckdb.connect(str(path))) as con:
        con.execute("SET TimeZone='UTC'")
        con.execute("CREATE SCHEMA IF NOT EXISTS KLAVIYO_IMPORT_FROM_DWH")
        con.execute(
            "CREATE TABLE IF NOT EXISTS KLAVIYO_IMPORT_FROM_DWH.orders "
            "(order_id TEXT, customer_id TEXT, bought_at TIMESTAMPTZ, loaded_at TIMESTAMPTZ)"
        )
        con.execute(
            "INSERT INTO KLAVIYO_IMPORT_FROM_DWH.orders SELECT 'o' || i, 'c' || (i % 7), "
            "TIMESTAMPTZ '2026-01-01 00:00:00+00', TIMESTAMPTZ '2026-01-02 00:00:00+00' + i * INTERVAL '1 minute' "
            f"FROM range({first}, {first + ROWS}) t(i)"
        )


@pytest.mark.parametrize("mode", ["embedded", "scaled"])
def test_killed_between_any_two_landings_each_row_is_there_once(
    mode: str, tmp_path: Path, request: pytest.FixtureRequest, told: list[str]
) -> None:
    home = killing.embedded(tmp_path)
    if mode == "scaled":
        home = killing.scaled(tmp_path, request.getfixturevalue("postgres_server"), request.getfixturevalue("s3"))
    path = tmp_path / "dwh.duckdb"
    document = {
        "connections": [{"name": "dwh", "kind": "duckdb", "path": str(path)}],
        "imports": [
            {"name": "pos", "connection": "dwh", "data": "events", "relation": "orders", "schedule": "manual"}
            | {"mapping": MAPPING}
        ],
    }
    home.applied.write_text(json.dumps(document))  # JSON is YAML
    orders(path, 0)
    with App(home.settings()) as app:
        app.lake.snapshot()
        applying.apply(app, home.applied, plan_only=False, environ={})
    kills, rounds = 0, 0
    while rounds < 12:  # each time a little further, until one gets through
        rounds += 1
        code = killing.run(bring, home, rounds)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        orders(path, rounds * ROWS)
    assert kills >= 6
    assert killing.run(bring, home, 0) == 0
    with App(home.settings()) as app:
        found = app.lake.query("SELECT unique_id FROM events ORDER BY 1")
        wanted = sorted(f"o{n}" for n in range((rounds + 1) * ROWS))
        assert [u for (u,) in found] == wanted
        assert syncing.run_sync(app, "pos") is None
    told.append(f"imports, {mode}: {kills} kills at landings, {len(wanted)} rows, each there once")

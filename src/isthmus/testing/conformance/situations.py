"""The tables the tests use, what a connector tells the suite, and the tools the tests share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from isthmus.model.errors import WarehouseError
from isthmus.model.table import DELETED, SEQ, Batch, Column, Receipt, Table, Type
from isthmus.testing.builders import batch_of
from isthmus.warehouses.protocol import Config, Relation, Warehouse

PEOPLE = Table("people", (Column("id", Type.TEXT), Column("name", Type.TEXT), Column(SEQ, Type.BIGINT)), key=("id",))
NOTES = Table("notes", (Column("note", Type.TEXT),))
EVERY_TYPE = Table(
    "every_type",
    (
        Column("id", Type.TEXT),
        Column("text", Type.TEXT),
        Column("json", Type.JSON),
        Column("at", Type.TIMESTAMP),
        Column("double", Type.DOUBLE),
        Column("bigint", Type.BIGINT),
        Column("boolean", Type.BOOLEAN),
        Column(SEQ, Type.BIGINT),
    ),
    key=("id",),
)
MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)


class Situations:
    """What a connector tells the suite about itself, and the tools the tests share."""

    holds_nul: ClassVar[bool] = False
    """A text may hold U+0000. If not, it must be refused by row and column."""
    checks_json: ClassVar[bool] = True
    """A text that is no JSON is refused in a JSON column."""
    text_limit_bytes: ClassVar[int | None] = None
    """The longest text a column holds, in UTF-8; a longer one must be refused by row and column, never cut."""
    json_limit_bytes: ClassVar[int | None] = None
    """The same for a JSON text."""
    folds_case: ClassVar[bool] = False
    """Two columns whose names differ only by case are one: a table with both must be refused."""
    refused_names: ClassVar[frozenset[str]] = frozenset()
    """Names that the vendor lets no table or column have: making one must be refused, and the name said."""
    import_field: ClassVar[str] = "import_schema"
    """The field of the config that says what may be imported."""
    temp_field: ClassVar[str] = "temp_schema"
    """The field of the config that says where our own short-lived tables lie."""
    target_field: ClassVar[str] = "schema"
    """The field of the config that says where the exported tables go."""
    statements: ClassVar[tuple[str, ...]] = ("_execute", "_ingest")
    """The methods of the open warehouse through which all its statements go: it is killed after each of them."""

    # What a subclass gives, or may change

    @pytest.fixture
    def config(self) -> Any:
        raise NotImplementedError("give a config of an empty warehouse")

    def exposing(self, config: Any) -> Any:
        """A config that writes where `config` imports from."""
        return replace(config, **{self.target_field: getattr(config, self.import_field)})

    def folded(self, name: str) -> str:
        """How the warehouse writes back a name of ours, if it keeps names in another case."""
        return name

    def target(self, config: Any, table: Table) -> Relation:
        return Relation(getattr(config, self.target_field), self.folded(table.name))

    def same_json(self, ours: str | None, theirs: str | None) -> bool:
        """Whether a JSON text came back as it was: to the byte, if a kind does not say otherwise."""
        return ours == theirs

    def nowhere(self, config: Any, folder: Path) -> Any:
        """The config with nobody at the other end."""
        return replace(config, port=1) if hasattr(config, "port") else replace(config, path=str(folder / "no" / "file"))

    # Tools

    @pytest.fixture
    def warehouse(self, config: Config) -> Iterator[Warehouse]:
        opened = config.open()
        yield opened
        opened.close()

    def rows(self, warehouse: Warehouse, config: Config, table: Table) -> list[dict[str, Any]]:
        """The rows of a table of ours, under its own names, in the order of its first column."""
        ours = {self.folded(c.name): c.name for c in table.columns}
        read = [row for batch in warehouse.read(self.target(config, table)) for row in batch.to_pylist()]
        found = [{ours.get(name, name): value for name, value in row.items()} for row in read]
        return sorted(found, key=lambda row: str(row[table.columns[0].name]))

    def schema_there(self, table: Table) -> pa.Schema:
        """The schema of a table of ours as it is read back."""
        return pa.schema([f.with_name(self.folded(f.name)) for f in table.schema])

    def names(self, warehouse: Warehouse, config: Config) -> dict[str, str]:
        return {row["id"]: row["name"] for row in self.rows(warehouse, config, PEOPLE)}

    @pytest.fixture
    def people(self, warehouse: Warehouse, tmp_path: Path) -> Any:
        """Loads rows into PEOPLE: (id, name, seq) or (id, name, seq, deleted)."""
        warehouse.create(PEOPLE)

        def load(*rows: tuple[Any, ...], **options: Any) -> Receipt:
            keys = ("id", "name", SEQ, DELETED)
            batch = batch_of(tmp_path, PEOPLE, [dict(zip(keys, row, strict=False)) for row in rows], **options)
            return warehouse.load(batch)

        return load

    def expose(self, config: Config, table: Table, rows: list[dict[str, Any]], folder: Path) -> Relation:
        """A table with these rows where `config` imports from, filled by somebody who may: here, by a load."""
        opened = self.exposing(config).open()
        opened.create(table)
        opened.load(batch_of(folder, table, rows))
        opened.close()
        return self.target(self.exposing(config), table)


def while_open(config: Config, use: Any) -> Any:
    warehouse = config.open()
    try:
        return use(warehouse)
    finally:
        warehouse.close()


def load_once(config: Config, batch: Batch) -> bool:
    return bool(while_open(config, lambda warehouse: warehouse.load(batch).repeated))


def patiently(attempt: Any) -> Any:
    """Do as callers do: try again while the error says that it can help."""
    for _ in range(200):
        try:
            return attempt()
        except WarehouseError as e:
            if not e.retryable:
                raise
            time.sleep(0.02)
    raise AssertionError("still busy")

"""What a kind that only reads must do beside reading: hand values over as they are, and refuse to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isthmus.model.errors import WarehouseError
from isthmus.model.table import SEQ, Column, SeqRange, Table, Type
from isthmus.testing.builders import batch_of
from isthmus.testing.conformance.situations import EVERY_TYPE, PEOPLE, Situations
from isthmus.testing.conformance.values import EDGES, edge_rows
from isthmus.warehouses.protocol import Config, Direction, Warehouse


class ReadingOnly(Situations):
    """Values and names as they are read, where nothing of ours was loaded; and that nothing can be."""

    def test_every_type_and_edge_is_read_as_it_is(self, config: Config, tmp_path: Path) -> None:
        rows = edge_rows()
        relation = self.expose(config, EVERY_TYPE, rows, tmp_path)
        opened = config.open()
        found = {row.pop("id"): row for batch in opened.read(relation) for row in batch.to_pylist()}
        opened.close()
        for row in rows:
            for column in EDGES:
                theirs, ours = found[row["id"]][column], row.get(column)
                same = self.same_json(ours, theirs) if column == "json" else ours == theirs
                assert same, (row["id"], column, theirs)
        assert len(found) == len(rows)

    def test_a_value_of_a_megabyte_is_read(self, config: Config, tmp_path: Path) -> None:
        value = json.dumps({"ä": "x" * 1_000_000}, ensure_ascii=False)
        relation = self.expose(config, EVERY_TYPE, [{"id": "1", "text": value, SEQ: 1}], tmp_path)
        opened = config.open()
        (batch,) = opened.read(relation)
        assert batch.column("text").to_pylist() == [value]
        opened.close()

    @pytest.mark.parametrize("name", ["select", "two words", 'qu"ote', "it's", "back`tick", "{DATA_PATH}", "a%s:b ?"])
    def test_awkward_names_are_read(self, config: Config, tmp_path: Path, name: str) -> None:
        plain = name.translate(str.maketrans(" .,;{}()=/", "__________"))  # what names of columns often may not hold
        table = Table(self.relation_name(name), (Column(plain, Type.TEXT), Column(f"{plain}2", Type.JSON)))
        rows: list[dict[str, Any]] = [{plain: "a", f"{plain}2": "[1]"}, {plain: "b", f"{plain}2": None}]
        relation = self.expose(config, table, rows, tmp_path)
        opened = config.open()
        assert relation in list(opened.relations())
        assert opened.schema(relation).names == [plain, f"{plain}2"]
        found = [row for batch in opened.read(relation) for row in batch.to_pylist()]
        assert sorted(found, key=lambda row: str(row[plain])) == rows
        opened.close()

    def relation_name(self, name: str) -> str:
        """The nearest a table of this warehouse may be called."""
        return name

    def test_whatever_writes_is_refused_with_a_way_out(self, warehouse: Warehouse, tmp_path: Path) -> None:
        everything = SeqRange(None, None)
        for ask in (
            lambda: warehouse.create(PEOPLE),
            lambda: warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}])),
            lambda: warehouse.receipt("any"),
            lambda: warehouse.reached(PEOPLE),
            lambda: list(warehouse.tally(PEOPLE, everything)),
        ):
            with pytest.raises(WarehouseError) as caught:
                ask()
            assert not caught.value.retryable
            assert "read only" in caught.value.summary
            assert "export to" in caught.value.hint

    def test_a_script_gives_the_rights_to_read_and_no_others(self, config: Any) -> None:
        tables, egress = [PEOPLE], ("192.0.2.7/32",)
        scripts = {config.setup_script(tables, direction=d, egress=egress) for d in (Direction.BOTH, Direction.IMPORT)}
        (script,) = scripts
        assert "192.0.2.7" in script
        assert "people" not in script
        for right in ("INSERT", "MODIFY", "DELETE", "ALL PRIVILEGES"):
            assert right not in script.upper()

"""Making tables and loading batches: once, twice, at once, and killed in the middle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from isthmus.model.errors import Mismatch, WarehouseError
from isthmus.model.table import DELETED, SEQ, Batch, Column, SeqRange, Table, Type
from isthmus.testing.builders import batch_of
from isthmus.testing.conformance.situations import (
    EVERY_TYPE,
    NOTES,
    PEOPLE,
    Situations,
    load_once,
    patiently,
    while_open,
)
from isthmus.testing.killing import load_and_be_killed
from isthmus.warehouses.protocol import Config, Warehouse


class Loading(Situations):
    """Create and load."""

    # Create

    def test_creating_twice_changes_nothing(self, warehouse: Warehouse, config: Config, people: Any) -> None:
        people(("1", "Ann", 1))
        warehouse.create(PEOPLE)
        assert self.names(warehouse, config) == {"1": "Ann"}

    def test_creating_adds_missing_columns(self, warehouse: Warehouse, config: Config, people: Any) -> None:
        people(("1", "Ann", 1))
        wider = Table("people", (*PEOPLE.columns, Column("born", Type.TIMESTAMP)), PEOPLE.key)
        warehouse.create(wider)
        assert self.rows(warehouse, config, wider) == [{"id": "1", "name": "Ann", SEQ: 1, "born": None}]
        warehouse.create(PEOPLE)
        assert self.folded("born") in warehouse.schema(self.target(config, wider)).names

    def test_creating_over_a_column_of_another_type_says_which(self, warehouse: Warehouse, people: Any) -> None:
        columns = (Column("id", Type.TEXT), Column("name", Type.BIGINT), Column(SEQ, Type.BIGINT))
        with pytest.raises(Mismatch) as caught:
            warehouse.create(Table("people", columns, PEOPLE.key))
        assert caught.value.column == "name"
        assert caught.value.ours and caught.value.theirs and caught.value.hint

    def test_two_create_at_once(self, config: Config) -> None:
        def create(_: int) -> None:
            patiently(lambda: while_open(config, lambda warehouse: warehouse.create(EVERY_TYPE)))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(create, range(2)))
        opened = config.open()
        assert opened.schema(self.target(config, EVERY_TYPE)).names == self.schema_there(EVERY_TYPE).names
        opened.close()

    # Load

    def test_a_table_without_a_key_appends(self, warehouse: Warehouse, config: Config, tmp_path: Path) -> None:
        warehouse.create(NOTES)
        for _ in range(2):
            warehouse.load(batch_of(tmp_path, NOTES, [{"note": "same"}, {"note": "same"}]))
        assert [row["note"] for row in self.rows(warehouse, config, NOTES)] == ["same"] * 4

    def test_the_newest_version_wins_inside_a_batch(self, warehouse: Warehouse, config: Config, people: Any) -> None:
        people(("1", "old", 1), ("1", "newest", 3), ("1", "middle", 2), ("2", "gone", 1), ("2", "", 2, True), files=2)
        assert self.names(warehouse, config) == {"1": "newest"}

    def test_the_newest_version_wins_over_what_is_there(
        self, warehouse: Warehouse, config: Config, people: Any
    ) -> None:
        people(("1", "a", 1), ("2", "b", 5), ("3", "c", None))
        people(("1", "newer", 2), ("2", "older", 4), ("3", "newer", 1), ("4", "new", 1))
        assert self.names(warehouse, config) == {"1": "newer", "2": "b", "3": "newer", "4": "new"}
        people(("1", "the same version again", 2))
        assert self.names(warehouse, config)["1"] == "the same version again"

    def test_deleted_rows_go_unless_what_is_there_is_newer(
        self, warehouse: Warehouse, config: Config, people: Any
    ) -> None:
        people(("1", "a", 1), ("2", "b", 5), ("3", "c", 2))
        people(("1", "", 2, True), ("2", "", 4, True), ("3", "", 2, True), ("9", "", 2, True))
        assert self.names(warehouse, config) == {"2": "b"}
        people(("1", "back", 3))
        assert self.names(warehouse, config) == {"1": "back", "2": "b"}

    def test_a_deleted_flag_that_is_null_means_no(self, warehouse: Warehouse, config: Config, people: Any) -> None:
        people(("1", "a", 1, None))
        people(("2", "b", 1, None), adds_only=True)
        assert self.names(warehouse, config) == {"1": "a", "2": "b"}

    def test_the_same_batch_again_changes_nothing(
        self, warehouse: Warehouse, config: Config, people: Any, tmp_path: Path
    ) -> None:
        first = people(("1", "a", 1), batch_id="b'1")
        people(("1", "newer", 2))
        again = people(("1", "a", 1), batch_id="b'1")
        assert not first.repeated
        assert again == replace(first, repeated=True)
        assert warehouse.receipt("b'1") == first
        assert self.names(warehouse, config) == {"1": "newer"}

    def test_a_receipt_says_what_is_in(self, warehouse: Warehouse, people: Any) -> None:
        receipt = people(("1", "a", 4), ("2", "b", 6), batch_id="the id")
        assert (receipt.batch_id, receipt.table, receipt.rows) == ("the id", "people", 2)
        assert receipt.seqs == SeqRange(3, 6)
        assert abs(receipt.loaded_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert warehouse.receipt("another id") is None

    def test_there_is_no_receipt_before_anything_was_made(self, warehouse: Warehouse) -> None:
        assert warehouse.receipt("any") is None

    def test_a_batch_that_only_adds(self, warehouse: Warehouse, config: Config, people: Any) -> None:
        people(("1", "a", 1), adds_only=True)
        people(("2", "b", 2), ("3", "c", 2), ("4", "never there", 2, True), adds_only=True, files=3)
        assert self.names(warehouse, config) == {"1": "a", "2": "b", "3": "c"}

    def test_an_empty_batch_leaves_a_receipt(
        self, warehouse: Warehouse, config: Config, people: Any, tmp_path: Path
    ) -> None:
        assert people().rows == 0
        assert not warehouse.load(Batch("no files", PEOPLE, (), 0, SeqRange(0, 1))).repeated
        assert warehouse.load(Batch("no files", PEOPLE, (), 0, SeqRange(0, 1))).repeated
        assert self.names(warehouse, config) == {}

    def test_a_repair_replaces_a_range(self, warehouse: Warehouse, config: Config, people: Any) -> None:
        people(("1", "a", 1), ("2", "b", 2), ("3", "c", 3), ("4", "d", 4), ("5", "e", None))
        people(("2", "right", 2), ("4", "older", 3), replaces=SeqRange(1, 3))
        assert self.names(warehouse, config) == {"1": "a", "2": "right", "4": "older", "5": "e"}
        people(("1", "all", 1), replaces=SeqRange(None, None))
        assert self.names(warehouse, config) == {"1": "all"}

    def test_a_key_of_two_columns(self, warehouse: Warehouse, config: Config, tmp_path: Path) -> None:
        columns = (Column("a", Type.TEXT), Column("b", Type.BIGINT), Column("v", Type.TEXT), Column(SEQ, Type.BIGINT))
        table = Table("pairs", columns, key=("a", "b"))
        warehouse.create(table)
        for seq, rows in enumerate([[("x", 1), ("x", 2), ("y", 1)], [("x", 2), ("y", 2)]], start=1):
            written = [{"a": a, "b": b, "v": f"{seq}", SEQ: seq} for a, b in rows]
            warehouse.load(batch_of(tmp_path, table, written))
        found = {(r["a"], r["b"]): r["v"] for r in self.rows(warehouse, config, table)}
        assert found == {("x", 1): "1", ("x", 2): "2", ("y", 1): "1", ("y", 2): "2"}

    def test_two_load_the_same_batch_at_once(self, config: Config, tmp_path: Path) -> None:
        while_open(config, lambda warehouse: warehouse.create(NOTES))
        batch = batch_of(tmp_path, NOTES, [{"note": str(n)} for n in range(1000)])

        def load(_: int) -> bool:
            return bool(patiently(lambda: load_once(config, batch)))

        with ThreadPoolExecutor(3) as pool:
            assert sorted(pool.map(load, range(3))) == [False, True, True]
        opened = config.open()
        assert opened.count(self.target(config, NOTES)).rows == 1000
        opened.close()

    def test_a_load_that_fails_half_way_leaves_nothing(
        self, warehouse: Warehouse, config: Config, people: Any, tmp_path: Path
    ) -> None:
        people(("1", "a", 1))
        batch = batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "b", SEQ: 2}, {"id": "2", SEQ: 2}], files=2)
        whole = batch.files[1].read_bytes()
        for adds_only in (False, True):
            batch.files[1].write_bytes(b"PAR1 but broken PAR1")
            with pytest.raises(WarehouseError) as caught:
                warehouse.load(replace(batch, adds_only=adds_only))
            assert not caught.value.retryable
            assert self.names(warehouse, config) == {"1": "a"}
            assert warehouse.receipt(batch.batch_id) is None
        batch.files[1].write_bytes(whole)
        assert not warehouse.load(batch).repeated
        assert self.names(warehouse, config) == {"1": "b", "2": None}

    @pytest.mark.parametrize("adds_only", [False, True], ids=["upserting", "adding"])
    def test_killed_after_any_statement_of_a_load(self, config: Config, tmp_path: Path, adds_only: bool) -> None:
        while_open(config, lambda warehouse: warehouse.create(PEOPLE))
        for number in range(1, 100):
            a, b, c = (f"{number}-{letter}" for letter in "abc")
            before = [{"id": key, "name": "old", SEQ: 1} for key in (a, b)]
            rows = [{"id": a, "name": "new", SEQ: 2}, {"id": b, SEQ: 2, DELETED: True}]
            after = {a: "new"}
            if adds_only:
                before, rows, after = [], [], {}
            rows.append({"id": c, "name": "new", SEQ: 2})
            after[c] = "new"
            batch = batch_of(tmp_path, PEOPLE, rows, adds_only=adds_only)
            load_once(config, batch_of(tmp_path, PEOPLE, before))
            was_killed = load_and_be_killed(config, batch, self.statements, number)

            opened = patiently(config.open)
            try:
                there = self._only(opened, config, f"{number}-")
                if opened.receipt(batch.batch_id) is None:
                    assert there == {row["id"]: "old" for row in before}, f"half a batch after statement {number}"
                else:
                    assert there == after, f"half a batch after statement {number}"
                opened.load(batch)
                assert self._only(opened, config, f"{number}-") == after
                assert opened.load(batch).repeated
            finally:
                opened.close()
            if not was_killed:
                assert number > 3
                return
        raise AssertionError("the load never came to its end")

    def _only(self, warehouse: Warehouse, config: Config, prefix: str) -> dict[str, str]:
        return {key: name for key, name in self.names(warehouse, config).items() if key.startswith(prefix)}

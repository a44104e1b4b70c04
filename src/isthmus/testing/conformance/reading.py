"""Reading what a customer exposes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from isthmus.model.table import Column, Table, Type
from isthmus.testing.conformance.situations import (
    MOMENT,
    Situations,
)
from isthmus.warehouses.protocol import Config, Relation, Warehouse, Window


class Reading(Situations):
    """Relations, schema, read and count."""

    # Read

    ORDERS = Table(
        "orders", (Column("order_id", Type.TEXT), Column("loaded_at", Type.TIMESTAMP), Column("amount", Type.DOUBLE))
    )

    def orders(self, config: Config, folder: Path) -> Relation:
        """Ten orders: five share a moment, then one a second; the last has none."""
        moments = [MOMENT + timedelta(seconds=max(0, n - 4)) for n in range(9)]
        rows = [{"order_id": f"{n}", "loaded_at": m, "amount": n / 4} for n, m in enumerate([*moments, None])]
        return self.expose(config, self.ORDERS, rows[::-1], folder)

    def ids(self, warehouse: Warehouse, relation: Relation, **options: Any) -> list[str]:
        return [
            row[self.folded("order_id")] for batch in warehouse.read(relation, **options) for row in batch.to_pylist()
        ]

    def test_what_can_be_imported_is_listed_and_described(self, config: Config, tmp_path: Path) -> None:
        relation = self.orders(config, tmp_path)
        opened = config.open()
        assert relation in list(opened.relations())
        assert opened.schema(relation).equals(self.schema_there(self.ORDERS))
        (batch,) = opened.read(relation, limit=1)
        assert isinstance(batch, pa.RecordBatch)
        assert batch.schema.equals(self.schema_there(self.ORDERS))
        opened.close()

    def test_everything_is_read_without_a_window(self, config: Config, tmp_path: Path) -> None:
        relation = self.orders(config, tmp_path)
        opened = config.open()
        assert sorted(self.ids(opened, relation)) == [str(n) for n in range(10)]
        assert opened.count(relation).rows == 10
        assert len(self.ids(opened, relation, limit=3)) == 3
        assert self.ids(opened, relation, limit=0) == []
        opened.close()

    def test_a_window_holds_both_ends_and_every_tie_in_order(self, config: Config, tmp_path: Path) -> None:
        relation = self.orders(config, tmp_path)
        opened = config.open()
        second = timedelta(seconds=1)
        tick = timedelta(microseconds=1)
        for start, end, expected in (
            (MOMENT, MOMENT, "01234"),
            (MOMENT, MOMENT + second, "012345"),
            (MOMENT + tick, MOMENT + 2 * second, "56"),
            (MOMENT + second, None, "5678"),
            (None, MOMENT + second - tick, "01234"),
            (MOMENT + 99 * second, None, ""),
        ):
            window = Window("loaded_at", "order_id", start, end)
            assert "".join(self.ids(opened, relation, window=window)) == expected
            assert self.ids(opened, relation, window=window, limit=2) == list(expected[:2])
            count = opened.count(relation, window=window)
            assert count.rows == len(expected)
            if start == MOMENT:
                assert count.first == MOMENT
                assert count.last == end
        everything = Window("loaded_at", None, None, None)
        assert (
            len(self.ids(opened, relation, window=everything)) == opened.count(relation, window=everything).rows == 10
        )
        assert opened.count(relation, window=everything).last == MOMENT + 4 * second
        opened.close()

    def test_rows_without_a_moment_are_a_window_of_their_own(self, config: Config, tmp_path: Path) -> None:
        relation = self.orders(config, tmp_path)
        opened = config.open()
        nowhere = Window("loaded_at", "order_id", None, None, nulls=True)
        assert self.ids(opened, relation, window=nowhere) == ["9"]
        assert opened.count(relation, window=nowhere).rows == 1
        opened.close()

    def test_a_window_has_another_checksum_as_soon_as_its_rows_are_others(self, config: Config, tmp_path: Path) -> None:
        def row(n: int, seconds: int) -> dict[str, Any]:
            return {"order_id": f"{n}", "loaded_at": MOMENT + timedelta(seconds=seconds), "amount": 1.0}

        sums = []
        several: list[list[dict[str, Any]]] = [
            [row(1, 0), row(2, 5)],
            [row(2, 5), row(1, 0)],
            [row(1, 0), row(3, 5)],
            [row(1, 1), row(2, 4)],
            [row(1, 0), row(2, 5), row(3, 5)],
        ]
        for i, rows in enumerate(several):
            relation = self.expose(config, replace(self.ORDERS, name=f"orders_{i}"), rows, tmp_path)
            opened = config.open()
            count = opened.count(relation, window=Window("loaded_at", "order_id", MOMENT, None))
            sums.append((count.rows, count.first, count.last, count.checksum))
            assert count.now is not None and count.now.tzinfo is not None
            opened.close()
        assert sums[0] == sums[1]
        assert len(set(sums)) == 4

    def test_other_questions_may_be_asked_while_rows_are_read(self, config: Config, tmp_path: Path) -> None:
        rows = [{"order_id": f"{n}", "loaded_at": MOMENT, "amount": 1.0} for n in range(200_000)]
        relation = self.expose(config, self.ORDERS, rows, tmp_path)
        opened = config.open()
        batches = opened.read(relation)
        first = next(batches)
        assert opened.count(relation).rows == 200_000
        assert first.num_rows + sum(b.num_rows for b in batches) == 200_000
        given_up = opened.read(relation)
        next(given_up)
        given_up.close()  # type: ignore[attr-defined]
        assert opened.count(relation).rows == 200_000
        opened.close()

"""What values and names must survive, and the tally that proves it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus.model.errors import Mismatch, Rejected
from isthmus.model.table import SEQ, Column, SeqRange, Table, Type
from isthmus.testing.builders import batch_of, tallies
from isthmus.testing.conformance.situations import (
    EVERY_TYPE,
    MOMENT,
    Situations,
)
from isthmus.warehouses.protocol import Config, Warehouse

EDGES: dict[str, list[Any]] = {
    "text": [
        "",
        " ",
        "NULL",
        "\\N",
        "a\tb\r\nc",
        "'\"`;--",
        "{DATA_PATH}",
        "%s $1 ?",
        "日本 🧑‍🚀 e\u0301",
        "\u001f",
        "\ufeffx",
    ],
    "json": [
        "{}",
        "[]",
        '{"b": 1,  "a":2, "a":3}',
        '{"n": 1.10, "big": 12345678901234567890}',
        '["\\u0000", "ü", "\\ud83d"]',
        "[" * 200 + "]" * 200,
        '{"a": 9223372036854775808, "b": -0.0, "c": 1e400, "d": 0.1000000000000000055}',
        '{"select": null, "a.b": [[], {}, ""], "\\\\": "\\n"}',
    ],
    "at": [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1582, 10, 10, tzinfo=UTC),
        MOMENT,
    ],
    "double": [
        0.0,
        -0.0,
        1e300,
        1e-300,
        5e-324,
        1.7976931348623157e308,
        0.1,
        1 / 3,
        123456789012345678.0,
        -2.5,
        1e15,
        1e-5,
    ],
    "bigint": [0, -1, 2**63 - 1, -(2**63)],
    "boolean": [True, False],
}

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab$é"', max_size=3), inner, max_size=3),
    max_leaves=5,
)
_any_row = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        "json": st.none() | st.dictionaries(st.text("abc"), _json, max_size=3).map(json.dumps),
        "at": st.none() | st.datetimes(timezones=st.just(UTC)),
        "double": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "bigint": st.none() | st.integers(-(2**63), 2**63 - 1),
        "boolean": st.none() | st.booleans(),
        SEQ: st.none() | st.integers(1, 3),
    }
)


def edge_rows() -> list[dict[str, Any]]:
    """Rows of EVERY_TYPE: one of nothing, and one for each edge."""
    rows: list[dict[str, Any]] = [{"id": "nothing"}]
    for column, values in EDGES.items():
        rows += [{"id": f"{column}{n}", column: value, SEQ: 1 + n % 2} for n, value in enumerate(values)]
    return rows


class Values(Situations):
    """Types, names and tallies."""

    # Types and names

    def edge_rows(self) -> list[dict[str, Any]]:
        return edge_rows()

    def test_every_type_and_edge_comes_back_as_it_was(
        self, warehouse: Warehouse, config: Config, tmp_path: Path
    ) -> None:
        warehouse.create(EVERY_TYPE)
        rows = self.edge_rows()
        warehouse.load(batch_of(tmp_path, EVERY_TYPE, rows[::2], adds_only=True))
        warehouse.load(batch_of(tmp_path, EVERY_TYPE, rows[1::2]))
        found = {row.pop("id"): row for row in self.rows(warehouse, config, EVERY_TYPE)}
        for row in rows:
            for column in EDGES:
                theirs, ours = found[row["id"]][column], row.get(column)
                same = self.same_json(ours, theirs) if column == "json" else ours == theirs
                assert same, (row["id"], column, theirs)
        assert len(found) == len(rows)

    @pytest.mark.parametrize("column", ["text", "json"])
    def test_a_value_of_a_megabyte(self, warehouse: Warehouse, config: Config, tmp_path: Path, column: str) -> None:
        warehouse.create(EVERY_TYPE)
        value = json.dumps({"ä": "x" * 1_000_000}, ensure_ascii=False)
        limit = self.json_limit_bytes if column == "json" else self.text_limit_bytes
        if limit is not None and limit < len(value.encode()):
            value = self._refused_above(limit, warehouse, config, tmp_path, column)
        warehouse.load(batch_of(tmp_path, EVERY_TYPE, [{"id": "1", column: value, SEQ: 1}]))
        (row,) = self.rows(warehouse, config, EVERY_TYPE)
        assert self.same_json(value, row[column]) if column == "json" else row[column] == value

    def _refused_above(self, limit: int, warehouse: Warehouse, config: Config, folder: Path, column: str) -> str:
        """The longest value there may be; one with a byte more was refused before, whole, by row and column.

        Nearly all of it is of two bytes a character: a limit that counts characters is another one.
        """
        longest = '["' + "ä" * ((limit - 4) // 2) + "x" * (limit % 2) + '"]'
        assert len(longest.encode()) == limit
        longer = longest.replace('"]', 'x"]')
        rows = [{"id": "0", column: "[]", SEQ: 1}, {"id": "1", column: longer, SEQ: 1}]
        for adds_only in (False, True):
            with pytest.raises(Rejected) as caught:
                warehouse.load(batch_of(folder, EVERY_TYPE, rows, adds_only=adds_only))
            assert (caught.value.row, caught.value.column) == ("1", column)
            assert not caught.value.retryable and caught.value.hint
        assert self.rows(warehouse, config, EVERY_TYPE) == []
        return longest

    def test_columns_that_differ_only_by_case(self, warehouse: Warehouse, config: Config, tmp_path: Path) -> None:
        columns = (Column("name", Type.TEXT), Column("Name", Type.TEXT))
        table = Table("cases", columns)
        if self.folds_case:
            with pytest.raises(Mismatch) as caught:
                warehouse.create(table)
            assert caught.value.column in ("name", "Name") and caught.value.hint
            return
        warehouse.create(table)
        warehouse.load(batch_of(tmp_path, table, [{"name": "a", "Name": "b"}]))
        assert self.rows(warehouse, config, table) == [{"name": "a", "Name": "b"}]

    def test_text_with_a_nul(self, warehouse: Warehouse, config: Config, people: Any) -> None:
        rows = [("1", "good", 1), ("2", "a\0b", 1)]
        if self.holds_nul:
            people(*rows)
            assert self.names(warehouse, config)["2"] == "a\0b"
            return
        for adds_only in (False, True):
            with pytest.raises(Rejected) as caught:
                people(*rows, adds_only=adds_only)
            assert (caught.value.row, caught.value.column) == ("2", "name")
        assert self.names(warehouse, config) == {}

    def test_json_that_is_none(self, warehouse: Warehouse, config: Config, tmp_path: Path) -> None:
        if not self.checks_json:
            return
        warehouse.create(EVERY_TYPE)
        with pytest.raises(Rejected) as caught:
            warehouse.load(batch_of(tmp_path, EVERY_TYPE, [{"id": "7", "json": "{oops", SEQ: 1}]))
        assert (caught.value.row, caught.value.column) == ("7", "json")
        assert self.rows(warehouse, config, EVERY_TYPE) == []

    @pytest.mark.parametrize(
        "name", ["select", "two words", 'qu"ote', "it's", "MixedCase", "ünï 日本", "{DATA_PATH}", "a%s.b"]
    )
    def test_awkward_names(self, warehouse: Warehouse, config: Config, tmp_path: Path, name: str) -> None:
        other = f"{name} 2" if "two words" not in self.refused_names else f"{name}_2"
        columns = (Column(name, Type.TEXT), Column(other, Type.JSON), Column(SEQ, Type.BIGINT))
        table = Table(name, columns, key=(name,))
        if name in self.refused_names:
            with pytest.raises(Mismatch) as caught:
                warehouse.create(table)
            assert name in caught.value.summary and caught.value.hint
            return
        warehouse.create(table)
        rows: list[dict[str, Any]] = [{name: "a", other: "[1]", SEQ: 1}, {name: "b", other: None, SEQ: 1}]
        warehouse.load(batch_of(tmp_path, table, rows))
        warehouse.load(batch_of(tmp_path, table, [{**rows[0], SEQ: 2}]))
        rows[0][SEQ] = 2
        assert self.rows(warehouse, config, table) == rows
        assert list(warehouse.tally(table, SeqRange(None, None))) == tallies(tmp_path, table, rows)
        assert warehouse.load(batch_of(tmp_path, table, [], batch_id=name)).table == name
        assert self.expose(config, table, rows, tmp_path) in list(warehouse.relations())

    # Tally

    def test_a_tally_is_duckdbs_own(self, warehouse: Warehouse, tmp_path: Path) -> None:
        warehouse.create(EVERY_TYPE)
        rows = self.edge_rows()
        assert list(warehouse.tally(EVERY_TYPE, SeqRange(None, None))) == []
        warehouse.load(batch_of(tmp_path, EVERY_TYPE, rows))
        expected = tallies(tmp_path, EVERY_TYPE, rows)
        assert list(warehouse.tally(EVERY_TYPE, SeqRange(None, None))) == expected
        assert list(warehouse.tally(EVERY_TYPE, SeqRange(None, 1))) == [t for t in expected if t.seq in (None, 1)]
        assert list(warehouse.tally(EVERY_TYPE, SeqRange(1, None))) == [t for t in expected if t.seq == 2]
        assert list(warehouse.tally(EVERY_TYPE, SeqRange(2, 9))) == []

    @settings(
        max_examples=10,
        deadline=None,
        database=None,
        # Every connector's subclass runs this one function; there is no example database it could confuse.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(rows=st.lists(_any_row, min_size=5, max_size=40))
    def test_a_tally_of_any_rows_is_duckdbs_own(
        self, warehouse: Warehouse, tmp_path: Path, rows: list[dict[str, Any]]
    ) -> None:
        warehouse.create(EVERY_TYPE)
        keyed = [{**row, "id": str(n)} for n, row in enumerate(rows)]
        warehouse.load(batch_of(tmp_path, EVERY_TYPE, keyed, replaces=SeqRange(None, None)))
        assert list(warehouse.tally(EVERY_TYPE, SeqRange(None, None))) == tallies(tmp_path, EVERY_TYPE, keyed)

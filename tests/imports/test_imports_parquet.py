"""Parquet files, whole and poisoned; and the same table in three formats is the same events."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imports_cast import EVENTS, NOON, Desk

from isthmus.imports import files
from isthmus.model.errors import InvalidInput


def written(desk: Desk, columns: dict[str, Any], rows: int = 3) -> Path:
    """A Parquet file of good rows g0, g1, … with these columns beside (or in place of) the usual ones."""
    usual = {
        "who": [desk.own("g")] * rows,
        "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * rows, pa.timestamp("us", "UTC")),
        "id": [f"g{n}" for n in range(rows)],
        "worth": [1.5] * rows,
    }
    path = desk.folder / f"{uuid4().hex[:6]}.parquet"
    pq.write_table(pa.table(usual | columns), path)
    return path


def test_typed_values_become_json_of_their_kind(desk: Desk) -> None:
    path = written(
        desk,
        {
            "int": pa.array([2**63 - 1], pa.int64()),
            "small": pa.array([7], pa.uint8()),
            "huge": pa.array([2**63 - 1], pa.uint64()),
            "float": [0.1],
            "half": pa.array([0.5], pa.float16()),
            "bool": [True],
            "decimal": pa.array([Decimal("12.50")], pa.decimal128(10, 2)),
            "text": ["007"],
            "json": ['{"a": [1]}'],
            "day": [date(2026, 1, 2)],
            "clock": [time(3, 4, 5)],
            "stamp": pa.array([datetime(2026, 1, 2, 3, 4, 5)], pa.timestamp("ms")),
            "zoned": pa.array([datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)], pa.timestamp("ns", "Europe/Berlin")),
            "list": pa.array([[1, None]], pa.list_(pa.int32())),
            "struct": pa.array([{"a": 1, "b": None}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
            "map": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
            "bytes": [b"\x00\xff"],
            "category": pa.array(["red"]).dictionary_encode(),
            "nothing": pa.nulls(1),
            "empty": pa.array([None], pa.string()),
        },
        rows=1,
    )
    assert desk.land(path).landed == 1
    found = desk.landed()["g0"]
    assert {k: v for k, v in found.items() if not k.startswith("$")} == {
        "int": 2**63 - 1,
        "small": 7,
        "huge": 2**63 - 1,
        "float": 0.1,
        "half": 0.5,
        "bool": True,
        "decimal": 12.5,
        "text": "007",
        "json": {"a": [1]},
        "day": "2026-01-02",
        "clock": "03:04:05",
        "stamp": "2026-01-02T03:04:05.000000Z",
        "zoned": "2026-01-02T03:04:05.000000Z",
        "list": [1, None],
        "struct": {"a": 1, "b": None},
        "map": {"k": "v"},
        "bytes": "AP8=",
        "category": "red",
    }


def us(*values: int) -> pa.Array:
    return pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC"))


DAY_US = 86_400_000_000


POISONED_NOTES: list[tuple[Any, bool, str]] = [
    ([1.0, math.nan, 2.0], True, "bad number"),
    ([1.0, math.inf, 2.0], True, "bad number"),
    (pa.array([[1.0], [math.nan], [2.0]]), False, "bad number"),
    (pa.array([1, 2**63, 2], pa.uint64()), True, "bad number"),
    (pa.array([1, 2**63, 2], pa.decimal128(20, 0)), True, "bad number"),
    (pa.array([1, 10**30, 2], pa.decimal128(38, 0)), True, "bad number"),
    (pa.array([[1], [2**63], [2]], pa.list_(pa.uint64())), False, "bad number"),
    (["a", "nul\0", "b"], True, "NUL character"),
    (pa.array([["a"], ["nul\0"], ["b"]]), False, "NUL character"),
    (["a", "x" * 102_401, "b"], True, "too long"),
    (["a", "[" * 11 + "]" * 11, "b"], False, "too deeply nested"),
    (us(0, 253_402_300_800_000_000, 1), True, "bad time"),
    (us(0, 2**63 - 1, 1), True, "bad time"),
]
"""Columns of three values of which the second is bad; whether it can be named by its column; the reason."""


def test_every_poisoned_property_is_named_and_the_rows_beside_it_land(desk: Desk) -> None:
    columns: dict[str, Any] = {}
    count = len(POISONED_NOTES)
    for n, (values, _, _) in enumerate(POISONED_NOTES):  # column n is bad in row 3n + 2, and nowhere else
        three = values if isinstance(values, pa.Array) else pa.array(values)
        good = pa.concat_arrays([three.slice(0, 1)] * 3)
        columns[f"note{n}"] = pa.concat_arrays([three if row == n else good for row in range(count)])
    path = written(desk, columns, rows=3 * count)
    counts = desk.land(path)
    assert (counts.read, counts.landed, counts.rejected) == (3 * count, 2 * count, count)
    assert desk.refusals(path) == [
        (3 * n + 2, f"note{n}" if named else "", reason) for n, (_, named, reason) in enumerate(POISONED_NOTES)
    ]


@pytest.mark.parametrize(
    ("columns", "column", "reason"),
    [
        ({"worth": [1.0, math.nan, 2.0]}, "worth", "bad number"),
        ({"worth": [1.0, -math.inf, 2.0]}, "worth", "bad number"),
        ({"worth": ["1", "much", "2"]}, "worth", "bad number"),
        ({"who": ["nul 1", "nul\0", "nul 2"]}, "who", "NUL character"),
        ({"who": ["none 1", None, "none 2"]}, "who", "no identifier"),
        ({"at": us(0, -62_135_596_800_000_001, 1)}, "at", "bad time"),
        ({"at": us(0, 253_402_300_800_000_000, 1)}, "at", "bad time"),
        ({"at": us(0, 2**63 - 1, 1)}, "at", "bad time"),
        ({"at": us(0, -(2**63) + 1, 1)}, "at", "bad time"),
        ({"at": pa.array([0, 2**62, 1]).cast(pa.timestamp("ms", "UTC"))}, "at", "bad time"),
        ({"at": pa.array([0, 2**40, 1]).cast(pa.timestamp("ms"))}, "", ""),
        ({"at": ["2026-01-01", "0000-01-01", "2026-01-01"]}, "at", "bad time"),
        ({"at": pa.array([0, 2_932_897, 1], pa.int32()).cast(pa.date32())}, "at", "bad time"),
    ],
)
def test_a_poisoned_value_is_named_and_its_neighbours_land(
    desk: Desk, columns: dict[str, Any], column: str, reason: str
) -> None:
    path = written(desk, columns)
    counts = desk.land(path)
    if not reason:
        assert counts.landed == 3
        return
    assert (counts.read, counts.landed, counts.rejected) == (3, 2, 1)
    assert desk.refusals(path) == [(2, column, reason)]


def test_column_names_that_differ_only_by_case_are_two_columns_inside_structs_too(desk: Desk) -> None:
    inner = pa.struct([("a", pa.int64()), ("A", pa.int64())])
    path = written(desk, {"tier": ["x"], "Tier": ["y"], "in": pa.array([{"a": 1, "A": 2}], inner)}, rows=1)
    try:
        assert desk.land(path).landed == 1
    except InvalidInput as e:
        assert path.name in str(e) and "'in'" in str(e)
    else:
        assert desk.landed()["g0"]["in"] == {"a": 1, "A": 2}
        assert (desk.landed()["g0"]["tier"], desk.landed()["g0"]["Tier"]) == ("x", "y")


def test_a_file_that_is_cut_or_is_something_else_is_named(desk: Desk) -> None:
    whole = written(desk, {}).read_bytes()
    for content in (whole[:-8], whole[: len(whole) // 2], whole[8:], b"PAR1", b"", b"PAR1" + b"\0" * 100 + b"PAR1"):
        path = desk.file(content, "torn.parquet")
        with pytest.raises(InvalidInput, match=path.name):
            desk.land(path)


def test_a_file_damaged_in_the_middle_is_named_and_nothing_is_lost(desk: Desk) -> None:
    path = desk.folder / "damaged.parquet"
    noise = [uuid4().hex for _ in range(20_000)]
    table = {"who": [desk.own("g")] * 20_000, "at": [NOON] * 20_000, "id": noise, "worth": [1.0] * 20_000}
    pq.write_table(pa.table(table), path, compression="zstd", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidInput, match="damaged"):
        desk.land(path)


def test_a_file_without_rows_or_with_a_column_twice_is_refused(desk: Desk) -> None:
    with pytest.raises(InvalidInput, match="no rows"):
        desk.land(written(desk, {}, rows=0))
    path = desk.folder / "twice.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["who", "who"]), path)
    with pytest.raises(InvalidInput, match="'who' twice"):
        desk.land(path)


def test_a_load_that_was_cut_off_goes_on_behind_its_last_batch(alone: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 10)
    worth = [math.nan if n % 7 == 0 else 1.0 for n in range(45)]
    path = alone.folder / "rows.parquet"
    table = pa.table(
        {"who": [alone.own("g")] * 45, "at": [NOON] * 45, "id": [f"r{n:02}" for n in range(45)], "worth": worth}
    )
    pq.write_table(table, path)
    batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda self, batch_size: batches(self, batch_size=10))
    seen = []

    def cut(done: int, _total: int | None) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alone.land(path, report=cut)
    assert len(alone.landed()) == 17
    counts = alone.land(path)
    assert (counts.read, counts.landed, counts.repeated, counts.rejected) == (45, 38, 0, 7)
    assert alone.refusals(path) == [(n + 1, "worth", "bad number") for n in range(0, 45, 7)]


# The same table in every format

PLACEHOLDERS = st.sampled_from(["{DATA_PATH}", "{SNAPSHOT_ID}", "{\x02DATA_PATH}", "\x02", "{A}{B_}", "{", "\\u007bA}"])
TEXT = st.lists(
    st.one_of(PLACEHOLDERS, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=6)),
    max_size=4,
).map("".join)
# Not what a CSV cell means something else by: a number, a boolean, JSON.
PLAIN = TEXT.map(lambda text: "·" + text + "·")
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "worth": st.none() | st.decimals(-(10**6), 10**6, places=2).map(str),
            "note": st.none() | PLAIN,
            "{METADATA_CATALOG}": PLAIN,
            "seconds": st.integers(0, 4_000_000_000),
        }
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_a_table_is_the_same_events_as_csv_as_json_lines_and_as_parquet(desk: Desk, rows: list[dict[str, Any]]) -> None:
    found = {}
    run = uuid4().hex[:6]
    for kind in ("csv", "jsonl", "parquet"):
        here = Desk(desk.lake, desk.folder)
        table = [
            {
                "who": here.own(f"p{n % 3}"),
                "at": (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=row["seconds"])).isoformat(),
                "id": f"{n} {run} {row['note'] or ''}".strip(),
                **{k: v for k, v in row.items() if k != "seconds"},
            }
            for n, row in enumerate(rows)
        ]
        counts, _ = here.land_rows(table, kind, EVENTS)
        assert (counts.read, counts.landed) == (len(rows), len(rows))
        found[kind] = (here.landed(), here.column("datetime"), here.column("value"))
        expected = {row["id"]: row for row in table}
        assert found[kind][0].keys() == expected.keys()
        for key, properties in found[kind][0].items():
            assert properties.get("note") == (expected[key]["note"] or None)
            assert properties["{METADATA_CATALOG}"] == expected[key]["{METADATA_CATALOG}"]
    assert found["csv"] == found["jsonl"] == found["parquet"]

"""What a customer puts under the import prefix, in the ways customers do."""

from __future__ import annotations

import gzip
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from s3_cast import Bystander

from isthmus.duck import connect, literal
from isthmus.model.errors import Denied, Mismatch, Missing
from isthmus.secrets import Secret
from isthmus.warehouses.protocol import Relation, Window
from isthmus.warehouses.s3 import S3Config, S3Warehouse

IMPORT = "KLAVIYO_IMPORT_FROM_DWH"


def parquet(folder: Path, select: str) -> bytes:
    """A Parquet file as somebody's DuckDB writes it."""
    path = folder / "x.parquet"
    with connect(memory_mb=200, temp_dir=folder / "duck") as con:
        con.execute(f"COPY ({select}) TO {literal(str(path))} (FORMAT parquet)")
    return path.read_bytes()


def rows_of(warehouse: S3Warehouse, name: str) -> list[dict[str, object]]:
    return [row for batch in warehouse.read(Relation(IMPORT, name)) for row in batch.to_pylist()]


def test_folders_and_files_are_relations(warehouse: S3Warehouse, bystander: Bystander, tmp_path: Path) -> None:
    one = parquet(tmp_path, "SELECT 1 AS n")
    for key in (
        "orders/a.parquet",
        "orders/b.parquet",
        "by day/day=2024-01-01/a.parquet",
        "by day/day=2024-01-02/a.parquet",
        "single.parquet",
        "what's new 日本/a.parquet",
        "50% [off]*/a.parquet",
        "_hidden/a.parquet",
        "orders/_SUCCESS",
        "orders/.part.crc",
        "readme.txt",
        "pictures/cat.jpg",
    ):
        bystander.put(f"{IMPORT}/{key}", one)
    bystander.put(f"{IMPORT}/", b"")
    found = [r.name for r in warehouse.relations()]
    assert found == ["50% [off]*", "by day", "orders", "single.parquet", "what's new 日本"]
    counts = {name: warehouse.count(Relation(IMPORT, name)).rows for name in found}
    assert counts == {"50% [off]*": 1, "by day": 2, "orders": 2, "single.parquet": 1, "what's new 日本": 1}
    assert sorted(str(row["day"]) for row in rows_of(warehouse, "by day")) == ["2024-01-01", "2024-01-02"]
    for nothing in ("pictures", "readme.txt", "order"):
        with pytest.raises(Missing):
            warehouse.count(Relation(IMPORT, nothing))


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "ndjson", "json"])
def test_text_files_have_the_types_of_what_is_in_them(
    warehouse: S3Warehouse, bystander: Bystander, ending: str
) -> None:
    moment = "2024-02-29T12:30:15Z"
    if "sv" in ending:
        between = "\t" if ending == "tsv" else ","
        lines = [["id", "at", "amount", "note"], ["7", moment, "1.5", '"a ""b"""'], ["8", moment, "", ""]]
        text = "".join(between.join(line) + "\n" for line in lines)
    else:
        text = f'{{"id": 7, "at": "{moment}", "amount": 1.5, "note": "a \\"b\\""}}\n{{"id": 8, "at": "{moment}"}}\n'
    content = text.encode()
    bystander.put(f"{IMPORT}/orders/1.{ending}", gzip.compress(content) if ending.endswith("gz") else content)
    first, second = sorted(rows_of(warehouse, "orders"), key=lambda row: str(row["id"]))
    at = first["at"]
    assert isinstance(at, datetime)
    assert at.replace(tzinfo=UTC) == datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
    assert (first["id"], first["amount"], first["note"]) == (7, 1.5, 'a "b"')
    assert (second["id"], second["amount"], second["note"]) == (8, None, None)
    window = Window("at", "id", datetime(2024, 2, 29, tzinfo=UTC), None)
    assert warehouse.count(Relation(IMPORT, "orders"), window=window).rows == 2


def test_columns_of_several_files_are_brought_together(
    warehouse: S3Warehouse, bystander: Bystander, tmp_path: Path
) -> None:
    bystander.put(f"{IMPORT}/orders/1.parquet", parquet(tmp_path, "SELECT 1 AS id, 'a' AS old"))
    bystander.put(f"{IMPORT}/orders/2.parquet", parquet(tmp_path, "SELECT 'b' AS new, 2 AS id"))
    bystander.put(f"{IMPORT}/orders/3.jsonl", b'{"id": 3, "new": "c"}\n')
    found = sorted(rows_of(warehouse, "orders"), key=lambda row: str(row["id"]))
    assert found == [
        {"id": 1, "old": "a", "new": None},
        {"id": 2, "old": None, "new": "b"},
        {"id": 3, "old": None, "new": "c"},
    ]


def test_types_arrow_has_no_plain_word_for_come_as_text(
    warehouse: S3Warehouse, bystander: Bystander, tmp_path: Path
) -> None:
    select = """SELECT 1.50::DECIMAL(9,2) AS price, {'b': 1, 'a': [NULL, 'x"y']} AS doc, ['x', 'y'] AS tags,
        MAP {'k': 1} AS pairs, TIMESTAMP '2024-01-01 10:00:00.5' AS naive, TIMESTAMPTZ '2024-01-01 10:00:00+02' 
        AS zoned, TIME '10:00:00' AS hour, DATE '2024-01-01' AS day, 7::SMALLINT AS small, 1e300::DOUBLE AS large,
        '00000000-0000-0000-0000-000000000001'::UUID AS uid, 'fine'::ENUM('fine') AS mood, 'x'::BLOB AS raw,
        170141183460469231731687303715884105727::HUGEINT AS huge, NULL::INTEGER[] AS nothing"""
    bystander.put(f"{IMPORT}/odd/a.parquet", parquet(tmp_path, select))
    relation = Relation(IMPORT, "odd")
    (batch,) = warehouse.read(relation)
    assert batch.schema.equals(warehouse.schema(relation))
    assert not any(pa.types.is_nested(t) or pa.types.is_dictionary(t) for t in batch.schema.types)
    (row,) = batch.to_pylist()
    assert row["doc"] == '{"b":1,"a":[null,"x\\"y"]}' and row["tags"] == '["x","y"]' and row["pairs"] == '{"k":1}'
    assert str(row["price"]) == "1.50" and row["small"] == 7 and row["large"] == 1e300
    assert row["naive"] == datetime(2024, 1, 1, 10, 0, 0, 500_000) and row["day"] == date(2024, 1, 1)
    assert row["zoned"] == datetime(2024, 1, 1, 8, tzinfo=UTC)
    assert row["uid"] == "00000000-0000-0000-0000-000000000001" and row["mood"] == "fine" and row["raw"] == b"x"
    assert row["nothing"] is None


def test_json_in_json_lines_stays_the_text_it_is(warehouse: S3Warehouse, bystander: Bystander) -> None:
    bystander.put(
        f"{IMPORT}/docs/1.jsonl", b'{"id": 1, "doc": {"b": 1,  "a": {"x": []}}}\n{"id": 2, "doc": {"c": 2}}\n'
    )
    found = sorted(rows_of(warehouse, "docs"), key=lambda row: str(row["id"]))
    assert [str(row["doc"]).replace(" ", "") for row in found] == ['{"b":1,"a":{"x":[]}}', '{"c":2}']


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_MS", "TIMESTAMP_NS"])
def test_every_kind_of_time_bounds_a_window(
    warehouse: S3Warehouse, bystander: Bystander, tmp_path: Path, kind: str
) -> None:
    select = (
        f"SELECT n::INTEGER AS n, (TIMESTAMP '2024-01-01' + to_days(n::INTEGER))::{kind} AS day FROM range(10) t(n)"
    )
    bystander.put(f"{IMPORT}/days/a.parquet", parquet(tmp_path, select))
    window = Window("day", "n", datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
    days = Relation(IMPORT, "days")
    assert [row["n"] for batch in warehouse.read(days, window=window) for row in batch.to_pylist()] == [2, 3]
    assert warehouse.count(days, window=window).first == datetime(2024, 1, 3, tzinfo=UTC)


def test_a_file_that_is_not_what_its_name_says(warehouse: S3Warehouse, bystander: Bystander) -> None:
    bystander.put(f"{IMPORT}/broken/a.parquet", b"no Parquet at all, but long enough to look")
    with pytest.raises(Mismatch) as caught:
        warehouse.schema(Relation(IMPORT, "broken"))
    assert "broken/a.parquet" in caught.value.vendor and caught.value.hint and not caught.value.retryable


def test_files_that_may_not_be_read_are_denied_without_the_secret(
    config: S3Config, warehouse: S3Warehouse, bystander: Bystander, tmp_path: Path
) -> None:
    bystander.put("elsewhere/orders/a.parquet", parquet(tmp_path, "SELECT 1 AS n"))
    with pytest.raises(Denied) as caught:
        warehouse.count(Relation("elsewhere", "orders"))
    assert config.secret_access_key.reveal() not in str(caught.value.as_dict())


def test_a_bucket_answers_no_queries(warehouse: S3Warehouse) -> None:
    with pytest.raises(Missing) as caught:
        list(warehouse.read(Relation("", "SELECT 1", "query")))
    assert caught.value.hint


def test_the_import_prefix_may_lie_deep(config: S3Config, bystander: Bystander, s3: object, tmp_path: Path) -> None:
    bystander.put("exports/daily/orders/a.parquet", parquet(tmp_path, "SELECT 1 AS n"))
    administrator = bystander.client._request_signer._credentials
    key = {"access_key_id": administrator.access_key, "secret_access_key": Secret(administrator.secret_key)}
    deep = replace(config, import_prefix="/exports/daily/", **key)
    with closing(deep.open()) as warehouse:
        (relation,) = warehouse.relations()
        assert relation.name == "orders"
        assert warehouse.count(Relation(deep.import_schema, "orders")).rows == 1

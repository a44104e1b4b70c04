"""The poison list in table form: each cell is a right value or a clear rejection, and every other row lands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shop_cast import MAPPING, NOON, PostgresShop, Shop

from isthmus.actions import people
from isthmus.model.work import RunState
from isthmus.testing.standins import PostgresServer

AT = f"'{NOON.isoformat()}'"


@dataclass(frozen=True)
class Cell:
    """A column of its own with one value: its type, the value as SQL, and what the property is to be, or the reason."""

    kind: str
    value: str
    becomes: Any = None
    refused: str = ""


LONG = "repeat('x', 1048576)"
DEEP = "repeat('[', 11) || repeat(']', 11)"
BOTH = {
    "null": Cell("TEXT", "NULL"),
    "nan": Cell("DOUBLE PRECISION", "'NaN'", refused="bad number"),
    "infinity": Cell("DOUBLE PRECISION", "'-Infinity'", refused="bad number"),
    "a megabyte": Cell("TEXT", LONG, refused="too long"),
    "deep json": Cell("TEXT", DEEP, refused="too deeply nested"),
    "ten levels": Cell("TEXT", "repeat('[', 9) || repeat(']', 9)", [[[[[[[[[]]]]]]]]]),
    "bad json": Cell("TEXT", "'{\"a\": '", '{"a": '),
    "good json": Cell("TEXT", "'{\"a\": [1]}'", {"a": [1]}),
    "forever": Cell("TIMESTAMP", "'infinity'", refused="bad time"),
    "forever ago": Cell("TIMESTAMP", "'-infinity'", refused="bad time"),
    "big": Cell("BIGINT", "9223372036854775807", 9223372036854775807),
    "smallest": Cell("BIGINT", "(-9223372036854775807 - 1)", -(2**63)),
    "a uuid": Cell("UUID", "'00000000-0000-0000-0000-00000000000a'", "00000000-0000-0000-0000-00000000000a"),
    "no bytes": Cell("TEXT", "''", ""),
    "placeholder": Cell("TEXT", "'{DATA_PATH}'", "{DATA_PATH}"),
    'emoji 🛒 and "quotes"': Cell("TEXT", "'it''s \"so\"'", 'it\'s "so"'),
    "ü" * 31: Cell("TEXT", "'62 bytes'", "62 bytes"),
    "select": Cell("TEXT", "'reserved'", "reserved"),
    "a.b/c~d": Cell("TEXT", "'path'", "path"),
    " led by a blank": Cell("TEXT", "'blank'", "blank"),
    "flag": Cell("BOOLEAN", "true", True),
    "day": Cell("DATE", "DATE '2026-01-02'", "2026-01-02"),
    **{name: Cell("TEXT", "'ours'", "ours") for name in ("n", "c0", "c1", "bad", "seq", "line", "payload", "mapped")},
    **{
        name: Cell("TEXT", "'ours'", "ours") for name in ("event_time", "properties", "unique_id", "q", "x", "incoming")
    },
    **{name: Cell("TEXT", "'ours'", "ours") for name in ("row_number", "kept_seq", "rank", "erased_at", "many")},
}
DUCKDB = {
    "price": Cell("DECIMAL(20,4)", "1234567890123.4500", 1234567890123.45),
    "huge": Cell("HUGEINT", "170141183460469231731687303715884105727", refused="bad number"),
    "unsigned": Cell("UBIGINT", "18446744073709551615", refused="bad number"),
    "bytes": Cell("BLOB", "'\\x00\\xff'::BLOB", "AP8="),
    "enum": Cell("ENUM('a', 'b')", "'b'", "b"),
    "list": Cell("INTEGER[]", "[1, NULL]", [1, None]),
    "struct": Cell("STRUCT(a INTEGER, b TEXT[])", "{'a': 1, 'b': ['x']}", {"a": 1, "b": ["x"]}),
    "map": Cell("MAP(TEXT, INTEGER)", "MAP {'k': 1}", {"k": 1}),
    "json": Cell("JSON", "'{\"a\": [1, 2]}'", {"a": [1, 2]}),
    "nul": Cell("TEXT", "'a' || chr(0)", refused="NUL character"),
}
POSTGRES = {
    "price": Cell("DECIMAL(20,4)", "1234567890123.4500", "1234567890123.4500"),
    "numeric": Cell("NUMERIC", "123456789012345678901234567890.5", "123456789012345678901234567890.5"),
    "numeric nan": Cell("NUMERIC", "'NaN'", "NaN"),
    "enum": Cell("mood", "'happy'", "happy"),
    "bytes": Cell("BYTEA", "'\\x00ff'", "AP8="),
    "list": Cell("INTEGER[]", "ARRAY[1, NULL]", [1, None]),
    "json": Cell("JSON", "'{\"a\": [1, 2]}'", {"a": [1, 2]}),
    "jsonb": Cell("JSONB", "'{\"a\": [1, 2]}'", {"a": [1, 2]}),
    "interval": Cell("INTERVAL", "'1 day 2 hours'", "1 day 02:00:00"),
    "money": Cell("MONEY", "12.5", "$12.50"),
    "inet": Cell("INET", "'10.0.0.1'", "10.0.0.1/32"),
    "bit": Cell("BIT(4)", "B'1010'", "1010"),
    "point": Cell("POINT", "'(1,2)'", "(1,2)"),
    "range": Cell("INT4RANGE", "'[1,3)'", "[1,3)"),
    "long ago": Cell("TIMESTAMP", "'4000-01-01 BC'", refused="bad time"),
    "day bc": Cell("DATE", "DATE '0044-03-15 BC'", "0044-03-15 (BC)"),
}


GIVEN = "order_id TEXT, customer_id TEXT, bought_at TIMESTAMPTZ, loaded_at TIMESTAMPTZ"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def poisoned(shop: Shop) -> dict[str, Cell]:
    """A table with a column for each cell of the list, and a row that holds just that; and one good row."""
    cells = BOTH | (POSTGRES if isinstance(shop, PostgresShop) else DUCKDB)
    if isinstance(shop, PostgresShop):
        shop.sql("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    columns = ", ".join(f"{quoted(name)} {cell.kind}" for name, cell in cells.items())
    at = shop.at("poison")
    shop.sql(f"CREATE TABLE {at} ({GIVEN}, {columns})")
    given = f"{quoted('order_id')}, customer_id, bought_at, loaded_at"
    for name, cell in cells.items():
        shop.sql(
            f"INSERT INTO {at} ({given}, {quoted(name)}) VALUES "
            f"('{name.replace(chr(39), chr(39) * 2)}', 'c', {AT}, {AT}, {cell.value})"
        )
    shop.sql(f"INSERT INTO {at} ({given}) VALUES ('good', 'c', {AT}, {AT})")
    return cells


def test_every_poisoned_cell_is_a_value_or_a_rejection_and_all_others_land(shop: Shop) -> None:
    cells = poisoned(shop)
    mapping = {k: v for k, v in MAPPING.items() if k != "value"}
    shop.apply(relation="poison", mapping=mapping)
    run = shop.run()
    assert run is not None and run.state is RunState.COMPLETED
    assert run.counts["read"] == len(cells) + 1
    landed = {
        str(unique_id): {k: v for k, v in json.loads(properties).items() if k != "$event_id"}
        for unique_id, properties in shop.app.lake.query("SELECT unique_id, event_properties::VARCHAR FROM events")
    }
    refused = {
        json.loads(each["payload"])["order_id"]: (each["column"] or each["message"], each["reason"])
        for each in people.list_rejections(shop.app, source="pos", limit=None)
    }
    found = {name: refused[name][1] if name in refused else landed.get(name.strip(), "vanished") for name in cells}
    wanted = {
        name: cell.refused or ({} if cell.value == "NULL" else {name: cell.becomes}) for name, cell in cells.items()
    }
    assert {name: value for name, value in found.items() if value != wanted[name]} == {}
    assert landed["good"] == {}
    assert not set(refused) & set(landed)


def test_fields_that_hold_poison_are_rejections(shop: Shop) -> None:
    shop.sql(f"CREATE TABLE {shop.at('times')} ({GIVEN.replace('TIMESTAMPTZ', 'TIMESTAMP')}, amount TEXT)")
    far = [("'infinity'", AT), ("'-infinity'", AT), (AT, "'infinity'"), (AT, "'-infinity'"), ("NULL", AT), (AT, "NULL")]
    if isinstance(shop, PostgresShop):
        far += [("'4000-01-01 BC'", AT), (AT, "'4000-01-01 BC'")]
    for n, (bought, loaded) in enumerate(far):
        shop.sql(f"INSERT INTO {shop.at('times')} VALUES ('{n}', 'c', {bought}, {loaded}, '1')")
    for value in ("NaN", "Infinity", "1e999", "much", "1" * 400):
        shop.sql(f"INSERT INTO {shop.at('times')} VALUES ('{value}', 'c', {AT}, {AT}, '{value}')")
    shop.sql(f"INSERT INTO {shop.at('times')} VALUES ('good', 'c', {AT}, {AT}, '1')")
    shop.apply(relation="times")
    run = shop.run()
    assert run is not None
    assert (run.counts["read"], run.counts["landed"]) == (len(far) + 6, 1)
    assert set(run.counts["reasons"]) <= {"bad time", "no event time", "no changed-at time", "bad number", "too long"}
    assert shop.run() is None
    now = datetime.now(UTC).replace(tzinfo=None).isoformat()
    shop.sql(f"INSERT INTO {shop.at('times')} VALUES ('later', 'c', {AT}, '{now}', '1')")
    shop.run()
    assert shop.here() == ["good", "later"]


def test_more_properties_than_an_event_may_have_are_a_rejection_and_the_row_with_few_lands(shop: Shop) -> None:
    columns = ", ".join(f"p{n} INTEGER" for n in range(401))
    at = shop.at("wide")
    shop.sql(f"CREATE TABLE {at} ({GIVEN}, {columns})")
    shop.sql(f"INSERT INTO {at} VALUES ('many', 'c', {AT}, {AT}, {', '.join('1' for _ in range(401))})")
    shop.sql(f"INSERT INTO {at} (order_id, customer_id, bought_at, loaded_at, p7) VALUES ('few', 'c', {AT}, {AT}, 1)")
    shop.apply(relation="wide", mapping={k: v for k, v in MAPPING.items() if k != "value"})
    run = shop.run()
    assert run is not None and run.counts["reasons"] == {"too many properties": 1}
    assert shop.here() == ["few"]


def test_an_empty_table_is_no_trouble(shop: Shop) -> None:
    shop.apply()
    assert shop.run() is None
    shop.apply(relation="", query=f"SELECT * FROM {shop.at('orders')} WHERE false")
    assert shop.run() is None
    ids = shop.orders(2, NOON)
    shop.apply()
    shop.run()
    assert shop.here() == ids


@pytest.mark.long
def test_names_that_differ_only_by_case_are_two_properties(tmp_path: Path, postgres_server: PostgresServer) -> None:
    shop = PostgresShop(tmp_path, postgres_server)
    try:
        shop.sql(f'CREATE TABLE {shop.at("cases")} ({GIVEN}, "Order_Id" TEXT, "Note" TEXT, "NOTE" TEXT)')
        shop.sql(f"INSERT INTO {shop.at('cases')} VALUES ('1', 'c', {AT}, {AT}, 'x', 'a', 'b')")
        shop.apply(relation="cases", mapping={k: v for k, v in MAPPING.items() if k != "value"})
        shop.run()
        ((text,),) = shop.app.lake.query("SELECT event_properties::VARCHAR FROM events")
        assert json.loads(text) == {"$event_id": "1", "Order_Id": "x", "Note": "a", "NOTE": "b"}
    finally:
        shop.close()

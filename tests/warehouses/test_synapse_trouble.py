"""What goes wrong between us and Synapse, and what is read from it: nothing missing, nothing doubled, nothing cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from synapse_cast import made
from warehouses_cast import PEOPLE, people

from isthmus.model.errors import Busy, Mismatch, Missing, Rejected, Unreachable, WarehouseError
from isthmus.model.table import SEQ, Column, SeqRange, Table, Type
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import SynapseServer
from isthmus.warehouses import synapse_staging
from isthmus.warehouses.protocol import Relation, Window
from isthmus.warehouses.synapse import SynapseConfig, SynapseWarehouse

FIND, COPY, TAKE, STAGE = "UNION ALL SELECT 0, NULL", "COPY INTO", "INSERT INTO {receipts} SELECT", "CREATE TABLE"


@pytest.fixture
def config(synapse_server: SynapseServer) -> Iterator[SynapseConfig]:
    config = made(synapse_server)
    yield config
    synapse_server.faults()
    synapse_server.drop_database(config.database)


@pytest.fixture
def warehouse(config: SynapseConfig) -> Iterator[SynapseWarehouse]:
    with closing(config.open()) as opened:
        opened.create(PEOPLE)
        yield opened


def there(config: SynapseConfig, server: SynapseServer) -> list[tuple[Any, ...]]:
    return server.execute("SELECT id, name FROM klaviyo.people ORDER BY id", database=config.database)


def stages(config: SynapseConfig, server: SynapseServer) -> list[str]:
    rows = server.execute("SELECT name FROM sys.tables", database=config.database)
    return [name for (name,) in rows if name.startswith("_isthmus_stage_")]


def fault(config: SynapseConfig, words: str, how: str, **more: Any) -> dict[str, Any]:
    receipts = config.place("_isthmus_receipts")
    return {"database": config.database, "words": words.format(receipts=receipts), "how": how, **more}


# Faults


@pytest.mark.parametrize("adds_only", [False, True], ids=["upserting", "adding"])
@pytest.mark.parametrize("how", ["drop before", "drop after"])
@pytest.mark.parametrize("at", [FIND, STAGE, COPY, TAKE], ids=["find", "stage", "copy", "take"])
def test_a_line_that_is_cut_leaves_all_or_nothing_and_the_next_load_finds_out(
    config: SynapseConfig,
    warehouse: SynapseWarehouse,
    synapse_server: SynapseServer,
    tmp_path: Path,
    at: str,
    how: str,
    adds_only: bool,
) -> None:
    warehouse.load(people(tmp_path, "0"))
    batch = people(tmp_path, "1", "2", adds_only=adds_only)
    synapse_server.faults(fault(config, at, how))
    with pytest.raises(Unreachable) as caught:
        warehouse.load(batch)
    assert caught.value.retryable and caught.value.hint
    with closing(config.open()) as again:
        assert again.load(batch).repeated == (at == TAKE and how == "drop after")
        assert again.load(batch).repeated
    assert there(config, synapse_server) == [("0", "v1"), ("1", "v1"), ("2", "v1")]


@pytest.mark.parametrize(
    ("number", "message", "retryable"),
    [
        (1205, "Transaction (Process ID 55) was deadlocked on lock resources with another process.", True),
        (
            40613,
            "Database 'dwh' on server 'contoso' is not currently available. Please retry the connection later.",
            True,
        ),
        (10928, "Resource ID : 1. The request limit for the database is 4 and has been reached.", True),
        (1105, "Could not allocate space for object 'Distribution' because the filegroup is full.", False),
    ],
)
def test_what_the_pool_refuses_in_the_middle_leaves_nothing_and_says_whether_to_try_again(
    config: SynapseConfig,
    warehouse: SynapseWarehouse,
    synapse_server: SynapseServer,
    tmp_path: Path,
    number: int,
    message: str,
    retryable: bool,
) -> None:
    batch = people(tmp_path, "1")
    synapse_server.faults(fault(config, TAKE, "refuse", number=number, message=message))
    with pytest.raises(WarehouseError) as caught:
        warehouse.load(batch)
    assert caught.value.retryable == retryable, caught.value.as_dict()
    assert caught.value.hint and message in caught.value.vendor
    assert there(config, synapse_server) == [] and stages(config, synapse_server) == []
    assert synapse_server.blobs.names(config.container) == []
    assert not warehouse.load(batch).repeated  # the session is as good as before


def test_a_paused_pool_is_busy_and_resumes_without_anybody(
    config: SynapseConfig, synapse_server: SynapseServer
) -> None:
    said = "Cannot connect to database when it is paused."
    synapse_server.faults(fault(config, "LOGIN", "refuse", number=42108, message=said))
    with pytest.raises(Busy) as caught:
        config.open()
    assert "resume" in caught.value.hint.lower() or "paused" in caught.value.summary
    config.open().close()


def test_a_load_that_was_killed_leaves_what_the_next_session_removes_after_a_day(
    config: SynapseConfig,
    warehouse: SynapseWarehouse,
    synapse_server: SynapseServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synapse_server.faults(fault(config, TAKE, "drop before"), fault(config, "DROP TABLE", "drop before", times=9))
    with pytest.raises(Unreachable):
        warehouse.load(people(tmp_path, "1"))
    synapse_server.faults()
    assert len(stages(config, synapse_server)) == 1
    with closing(config.open()) as again:
        again.create(PEOPLE)
    assert len(stages(config, synapse_server)) == 1  # a load elsewhere may be at it
    monkeypatch.setattr("isthmus.warehouses.synapse._STAGE_AGE_S", -1)
    with closing(config.open()) as again:
        again.create(PEOPLE)
    assert stages(config, synapse_server) == []


def test_the_token_is_in_no_error_though_it_is_in_the_statement(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    token = config.sas_token.reveal()
    synapse_server.faults(fault(config, COPY, "refuse", number=105215, message=f"Bulk load failed: {token}"))
    with pytest.raises(WarehouseError) as caught:
        warehouse.load(people(tmp_path, "1"))
    assert token not in repr(caught.value.as_dict()) and "•••" in caught.value.vendor


def test_the_storage_is_gone_for_a_while(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    with pytest.raises(Unreachable):
        replace(config, blob_endpoint="http://127.0.0.1:1/stageaccount").open()
    with pytest.raises(Missing) as caught:
        replace(config, container="nowhere", sas_token=Secret(synapse_server.blobs.sas("nowhere"))).open()
    assert caught.value.hint


# What is asked


def test_a_batch_that_is_there_costs_one_question(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    batch = people(tmp_path, "1")
    warehouse.load(batch)
    before = len(synapse_server.statements(config.database, config.username))
    assert warehouse.load(batch).repeated
    assert len(synapse_server.statements(config.database, config.username)) == before + 1


# Names and values


def test_names_that_are_words_of_t_sql_are_names(
    config: SynapseConfig, warehouse: SynapseWarehouse, tmp_path: Path
) -> None:
    columns = (Column("select", Type.TEXT), Column("order by", Type.DOUBLE), Column("]", Type.TEXT))
    table = Table("group", (*columns, Column(SEQ, Type.BIGINT)), key=("select",))
    warehouse.create(table)
    for seq in (1, 2):
        row = {"select": "1", "order by": seq / 2, "]": "x", SEQ: seq}
        warehouse.load(batch_of(tmp_path, table, [row]))
    (tally,) = warehouse.tally(table, SeqRange(None, 9))
    assert (tally.seq, tally.rows) == (2, 1)


def test_keys_that_differ_by_a_blank_at_the_end_are_two(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    """To T-SQL 'a' = 'a ', whatever the collation."""
    for seq in (1, 2):
        warehouse.load(people(tmp_path, "a", "a ", "A", "ä", "ae", seq=seq))
    rows = synapse_server.execute("SELECT id, name, DATALENGTH(id) FROM klaviyo.people", database=config.database)
    assert sorted(rows) == sorted((i, "v2", 2 * len(i)) for i in ("a", "a ", "A", "ä", "ae"))


def test_a_row_too_long_for_copy_goes_another_way_in_the_same_batch(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    """COPY INTO takes a megabyte a row, text as two bytes a character."""
    long = "ä😀" * (synapse_staging.LONG_ROW_BYTES // 2)
    rows = [{"id": "1", "name": "short", SEQ: 1}, {"id": "2", "name": long, SEQ: 1}]
    warehouse.load(batch_of(tmp_path, PEOPLE, rows))
    found = synapse_server.execute(
        "SELECT id, DATALENGTH(name) FROM klaviyo.people ORDER BY id", database=config.database
    )
    assert found == [("1", 10), ("2", len(long.encode("utf-16-le")))]
    (batch,) = warehouse.read(Relation("klaviyo", "people"))
    assert {row["id"]: row["name"] for row in batch.to_pylist()} == {"1": "short", "2": long}


@pytest.mark.parametrize("value", ["a\0b", "\0"])
def test_what_a_text_of_t_sql_cannot_hold_is_rejected_by_its_row(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer, tmp_path: Path, value: str
) -> None:
    batch = batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "good", SEQ: 1}, {"id": "2", "name": value, SEQ: 1}])
    with pytest.raises(Rejected) as caught:
        warehouse.load(batch)
    assert (caught.value.row, caught.value.column) == ("2", "name")
    assert there(config, synapse_server) == []


def test_a_column_of_another_type_is_a_mismatch(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer
) -> None:
    for kind in ("varchar(5)", "int", "datetime2(3)"):
        synapse_server.execute("DROP TABLE klaviyo.people", database=config.database)
        synapse_server.execute(
            f"CREATE TABLE klaviyo.people (id nvarchar(4000) COLLATE Latin1_General_100_BIN2, name {kind}, "
            "_isthmus_seq bigint) WITH (HEAP)",
            database=config.database,
        )
        with pytest.raises(Mismatch) as caught:
            warehouse.create(PEOPLE)
        assert (caught.value.column, caught.value.theirs) == ("name", kind)


# Reading


def exposed(server: SynapseServer, config: SynapseConfig, *statements: str) -> None:
    for statement in statements:
        server.execute(statement.format(config.import_schema), database=config.database)


def test_every_type_is_read_as_what_it_is(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer
) -> None:
    exposed(
        synapse_server,
        config,
        "CREATE TABLE {}.odd (price decimal(10, 2), cash money, n int, small tinyint, big bigint, f float, r real, "
        "ok bit, day date, clock time(3), naive datetime2(7), old datetime, zoned datetimeoffset(7), "
        "ident uniqueidentifier, doc nvarchar(max), word varchar(20), bytes varbinary(10), nothing datetime2(6)) "
        "WITH (HEAP)",
        "INSERT INTO {}.odd SELECT 1.50, 2.5, 7, 200, 9007199254740993, 0.5, 0.25, 1, '2024-02-29', '12:30:15.5', "
        "'2024-02-29 12:30:15.1234567', '2024-02-29 12:30:15.5', '2024-02-29 12:30:15.123456+02:00', "
        "'0e984725-c51c-4bf4-9960-e1c80e27aba0', N'{{\"b\": \"日本\"}}', 'ok', 0x00ff, NULL",
    )
    odd = Relation(config.import_schema, "odd")
    (batch,) = warehouse.read(odd)
    assert batch.schema.equals(warehouse.schema(odd))
    (row,) = batch.to_pylist()
    assert str(row.pop("ident")).lower() == "0e984725-c51c-4bf4-9960-e1c80e27aba0"
    assert row == {
        "price": Decimal("1.50"), "cash": Decimal("2.5"), "n": 7, "small": 200, "big": 9007199254740993, "f": 0.5,
        "r": 0.25, "ok": True, "day": date(2024, 2, 29), "clock": time(12, 30, 15, 500000),
        "naive": datetime(2024, 2, 29, 12, 30, 15, 123456), "old": datetime(2024, 2, 29, 12, 30, 15, 500000),
        "zoned": datetime(2024, 2, 29, 10, 30, 15, 123456, tzinfo=UTC), "doc": '{"b": "日本"}', "word": "ok",
        "bytes": b"\x00\xff", "nothing": None,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["date", "datetime", "datetime2(7)", "datetimeoffset(7)"])
def test_every_kind_of_time_bounds_a_window(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer, kind: str
) -> None:
    rows = " UNION ALL ".join(f"SELECT {n} AS n, CAST('2024-01-{n + 1:02}' AS {kind}) AS day" for n in range(10))
    exposed(
        synapse_server,
        config,
        f"CREATE TABLE {{}}.days (n int, day {kind}) WITH (HEAP)",
        f"INSERT INTO {{}}.days {rows} UNION ALL SELECT 10, NULL",
    )
    days = Relation(config.import_schema, "days")
    window = Window("day", "n", datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
    assert [row["n"] for batch in warehouse.read(days, window=window) for row in batch.to_pylist()] == [2, 3]
    count = warehouse.count(days, window=window)
    assert (count.rows, count.first) == (2, datetime(2024, 1, 3, tzinfo=UTC))
    assert warehouse.count(days, window=Window("day", None, None, None, nulls=True)).rows == 1
    assert warehouse.count(days, window=Window("day", None, datetime.min.replace(tzinfo=UTC), None)).rows == 10


def test_rows_that_stop_coming_are_an_error_not_an_end(
    config: SynapseConfig, warehouse: SynapseWarehouse, synapse_server: SynapseServer
) -> None:
    exposed(synapse_server, config, "CREATE TABLE {}.few (n int) WITH (HEAP)", "INSERT INTO {}.few SELECT 1")
    few = Relation(config.import_schema, "few")
    assert sum(rows.num_rows for rows in warehouse.read(few)) == 1
    synapse_server.faults(fault(config, "1 = 1", "drop after", skip=1))  # the first only asks for the types
    with pytest.raises(Unreachable):
        list(warehouse.read(few))


def test_a_query_may_end_with_a_semicolon_or_a_comment(warehouse: SynapseWarehouse) -> None:
    for text in ("SELECT 1 AS n;", "SELECT 1 AS n -- one"):
        query = Relation("", text, "query")
        assert warehouse.schema(query).names == ["n"]
        assert warehouse.count(query).rows == 1


def test_a_query_that_is_wrong_is_the_persons_to_mend(warehouse: SynapseWarehouse) -> None:
    for text in ("SELEC 1", "SELECT nope FROM klaviyo.people", "SELECT * FROM nowhere"):
        with pytest.raises(WarehouseError) as caught:
            list(warehouse.read(Relation("", text, "query")))
        assert not caught.value.retryable
        assert caught.value.vendor

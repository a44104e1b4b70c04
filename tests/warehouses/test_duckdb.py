"""The DuckDB connector: the conformance suite, and what only a file can do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Rejected, WarehouseError
from isthmus.model.table import SEQ, Column, Table, Type
from isthmus.testing.builders import batch_of
from isthmus.testing.conformance import Conformance
from isthmus.warehouses.duckdb import DuckDBConfig, DuckDBWarehouse
from isthmus.warehouses.protocol import Relation, Window

NOTES = Table("notes", (Column("id", Type.TEXT), Column("note", Type.JSON), Column(SEQ, Type.BIGINT)), key=("id",))


@pytest.fixture
def config(tmp_path: Path) -> DuckDBConfig:
    return DuckDBConfig(str(tmp_path / "dwh [1]*.duckdb"))  # a name that would be a pattern, were it read as one


class TestDuckDB(Conformance):
    folds_case = True
    holds_nul = True
    checks_json = False

    @pytest.fixture
    def config(self, config: DuckDBConfig) -> DuckDBConfig:
        return config


@pytest.fixture
def warehouse(config: DuckDBConfig) -> Iterator[DuckDBWarehouse]:
    with closing(config.open()) as opened:
        yield opened


def test_a_file_another_process_holds_is_busy_and_says_who(config: DuckDBConfig) -> None:
    code = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, config.path]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(Busy, match=str(holder.pid)) as caught:
            config.open()
        assert caught.value.retryable
        assert [c.passed for c in config.check()] == [False]
        holder.communicate()
    config.open().close()


def test_a_file_opened_and_closed_by_threads_at_once_is_at_most_busy(config: DuckDBConfig) -> None:
    def open_often(_: int) -> None:
        for _ in range(30):
            with suppress(Busy):
                config.open().close()

    config.open().close()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(open_often, range(3)))


def test_a_temporary_folder_that_another_removes_while_it_is_made_is_made_again(
    config: DuckDBConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, removed = config.file.with_name(config.file.name + ".tmp"), []
    folder.mkdir()
    usual = Path.is_dir

    def is_dir(path: Path) -> bool:
        if path == folder and not removed:
            removed.append(path)
            folder.rmdir()
        return usual(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    config.open().close()
    assert removed


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no folder") as caught:
        DuckDBConfig(str(tmp_path / "not" / "there.duckdb")).open()
    assert "mkdir" in caught.value.hint


def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes.\n" * 1000)
    with pytest.raises(Mismatch, match="not a DuckDB file"):
        DuckDBConfig(str(path)).open()
    assert path.read_text().startswith("These are my notes.")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError) as caught:
        DuckDBConfig(str(tmp_path)).open()
    assert not caught.value.retryable
    assert caught.value.hint


def test_a_file_of_a_newer_duckdb_is_refused_with_both_versions(config: DuckDBConfig) -> None:
    config.open().close()
    content = bytearray(config.file.read_bytes())
    assert content[8:12] == b"DUCK"
    content[12:20] = (9999).to_bytes(8, "little")
    content[:8] = _checksum(content[8:4096]).to_bytes(8, "little")
    config.file.write_bytes(content)
    with pytest.raises(Mismatch, match="newer DuckDB") as caught:
        config.open()
    assert "9999" in caught.value.theirs
    assert caught.value.vendor


def _checksum(block: bytes) -> int:
    """DuckDB's checksum of a file header."""
    result = 5381
    for start in range(0, len(block), 8):
        result ^= int.from_bytes(block[start : start + 8], "little") * 0xBF58476D1CE4E5B9 % 2**64
    return result


def test_a_damaged_file_is_refused(config: DuckDBConfig) -> None:
    config.open().close()
    content = bytearray(config.file.read_bytes())
    content[100] ^= 1
    config.file.write_bytes(content)
    with pytest.raises(Mismatch, match="damaged"):
        config.open()


@pytest.mark.skipif(sys.platform == "win32", reason="no /proc")
def test_a_file_we_may_not_write_is_denied() -> None:
    with pytest.raises((Denied, Missing, Mismatch)) as caught:
        DuckDBConfig("/proc/version").open()
    assert not caught.value.retryable


@pytest.mark.parametrize("name", [":memory:", "md:somebody"])
def test_a_name_with_a_meaning_elsewhere_is_a_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    DuckDBConfig(name).open().close()
    assert (tmp_path / name).is_file()


def test_closing_leaves_the_database_file_only(config: DuckDBConfig) -> None:
    config.open().close()
    assert [p.name for p in config.file.parent.iterdir()] == [config.file.name]


def test_a_json_column_of_theirs_refuses_by_row_and_column(
    config: DuckDBConfig, warehouse: DuckDBWarehouse, tmp_path: Path
) -> None:
    warehouse.close()
    with duckdb.connect(config.path) as con:
        con.execute(f'CREATE TABLE notes (id VARCHAR, note JSON, "{SEQ}" BIGINT)')
    with closing(config.open()) as opened:
        opened.create(NOTES)
        opened.load(batch_of(tmp_path, NOTES, [{"id": "1", "note": '{"a":  1}', SEQ: 1}]))
        with pytest.raises(Rejected) as caught:
            opened.load(batch_of(tmp_path, NOTES, [{"id": "2", "note": "{", SEQ: 2}, {"id": "3", "note": "1"}]))
        assert (caught.value.row, caught.value.column) == ("2", "note")
        (batch,) = opened.read(Relation("main", "notes"))
        assert batch.to_pylist() == [{"id": "1", "note": '{"a":  1}', SEQ: 1}]


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_NS", "TIMESTAMPTZ"])
def test_every_kind_of_time_bounds_a_window(config: DuckDBConfig, kind: str) -> None:
    config.open().close()
    with duckdb.connect(config.path) as con:
        con.execute("SET TimeZone = 'UTC'")
        con.execute('USE "KLAVIYO_IMPORT_FROM_DWH"')
        day = f"(DATE '2024-01-01' + n::INTEGER)::{kind}"
        con.execute(f"CREATE VIEW days AS SELECT n, {day} AS day FROM range(10) AS t(n)")
    with closing(config.open()) as opened:
        days = Relation("KLAVIYO_IMPORT_FROM_DWH", "days", "view")
        assert list(opened.relations()) == [days]
        window = Window("day", "n", datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))
        assert [row["n"] for batch in opened.read(days, window=window) for row in batch.to_pylist()] == [2, 3]
        count = opened.count(days, window=window)
        assert (count.rows, count.first) == (2, datetime(2024, 1, 3, tzinfo=UTC))


def test_a_moment_beyond_all_calendars_can_be_counted(config: DuckDBConfig) -> None:
    with closing(config.open()) as opened:
        query = Relation("", "SELECT unnest(['infinity'::TIMESTAMPTZ, '-infinity', NULL]) AS at", "query")
        count = opened.count(query, window=Window("at", None, None, None))
        assert (count.rows, count.first, count.last) == (
            3, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC),
        )  # fmt: skip


def test_a_query_may_end_with_a_semicolon_or_a_comment(warehouse: DuckDBWarehouse) -> None:
    for text in ("SELECT 1 AS n;", "SELECT 1 AS n -- one"):
        query = Relation("", text, "query")
        assert warehouse.schema(query).names == ["n"]
        assert warehouse.count(query).rows == 1


def test_a_query_that_is_wrong_is_the_persons_to_mend(warehouse: DuckDBWarehouse) -> None:
    for text in ("SELEC 1", "SELECT nope", "SELECT * FROM nowhere"):
        with pytest.raises(WarehouseError) as caught:
            list(warehouse.read(Relation("", text, "query")))
        assert not caught.value.retryable
        assert caught.value.vendor


def test_a_file_made_elsewhere_lacks_our_schemas_until_told(config: DuckDBConfig, tmp_path: Path) -> None:
    duckdb.connect(config.path).close()
    refused = [c for c in config.check() if not c.passed]
    assert refused
    assert all(c.statement.startswith("CREATE SCHEMA IF NOT EXISTS") for c in refused)
    with closing(config.open()) as opened, pytest.raises(Missing):
        list(opened.relations())
    with duckdb.connect(config.path) as con:
        for _ in range(2):
            con.execute(config.setup_script([NOTES]))
    assert all(c.passed for c in config.check())
    with closing(config.open()) as opened:
        opened.create(NOTES)
        opened.load(batch_of(tmp_path, NOTES, [{"id": "1", SEQ: 1}]))


def test_the_schema_of_the_tables_is_made_with_them(config: DuckDBConfig, tmp_path: Path) -> None:
    config.open().close()
    elsewhere = DuckDBConfig(config.path, schema="Reporting Team")
    with closing(elsewhere.open()) as opened:
        opened.create(NOTES)
        opened.load(batch_of(tmp_path, NOTES, [{"id": "1", SEQ: 1}]))
        assert opened.count(Relation("Reporting Team", "notes")).rows == 1


def test_a_table_of_theirs_with_a_primary_key_is_upserted_too(config: DuckDBConfig, tmp_path: Path) -> None:
    config.open().close()
    with duckdb.connect(config.path) as con:
        con.execute(f'CREATE TABLE notes (id VARCHAR PRIMARY KEY, note VARCHAR NOT NULL, "{SEQ}" BIGINT)')
    with closing(config.open()) as opened:
        opened.create(NOTES)
        for seq in (1, 2):
            opened.load(batch_of(tmp_path, NOTES, [{"id": "1", "note": f"[{seq}]", SEQ: seq}]))
        with pytest.raises(Rejected) as caught:
            opened.load(batch_of(tmp_path, NOTES, [{"id": "2", SEQ: 3}]))
        assert not caught.value.retryable
        (batch,) = opened.read(Relation("main", "notes"))
        assert batch.to_pylist() == [{"id": "1", "note": "[2]", SEQ: 2}]


@pytest.mark.parametrize("kind", ["TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMPTZ", "DATE"])
def test_a_window_bounds_every_kind_of_time(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "w.duckdb"
    with closing(duckdb.connect(str(file))) as con:
        con.execute(
            f"CREATE SCHEMA s; CREATE TABLE s.t AS SELECT n, (TIMESTAMP '2026-01-01' + n * INTERVAL 1 DAY)::{kind} "
            "AS at FROM range(5) AS r(n) UNION ALL SELECT 9, NULL"
        )
    opened = DuckDBConfig(path=str(file)).open()
    day, ever, never = (datetime(y, 1, d, tzinfo=UTC) for y, d in ((2026, 3), (1, 1), (9999, 31)))
    for start, end, rows in ((day, None, 3), (ever, None, 5), (None, never, 5), (ever, never, 5), (never, None, 0)):
        window = Window("at", "n", start, end)
        assert opened.count(Relation("s", "t"), window=window).rows == rows
        assert sum(b.num_rows for b in opened.read(Relation("s", "t"), window=window)) == rows
    opened.close()

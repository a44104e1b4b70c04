"""The ledger is opened, migrated, shared between processes, killed, and found in bad shape."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ledger_cast import NOON, apply_everything, planned, put_dwh
from sqlalchemy import create_engine, text

from isthmus.ledger import connections, database, runs, syncs
from isthmus.ledger.database import Ledger, open_ledger
from isthmus.ledger.schema import HEAD, VERSION_TABLE, metadata
from isthmus.model.errors import InvalidInput, StoreAway, StoreBusy, StoreMissing, StoreTooNew
from isthmus.testing.standins import PostgresServer


def test_the_migrations_make_what_the_tables_say(ledger: Ledger) -> None:
    with ledger.reading() as tx:
        context = MigrationContext.configure(
            tx, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        assert tx.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == HEAD


def test_the_migrations_write_the_same_text_as_the_tables(tmp_path: Path) -> None:
    """What the comparison above does not look at, such as the condition of an index."""

    def statements(path: Path) -> list[list[str]]:
        con = sqlite3.connect(path)
        rows = con.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name != ?", [VERSION_TABLE])
        found = ["".join(sql.split()).replace('"', "").rstrip(")") for (sql,) in rows]
        con.close()
        return sorted(sorted(part.rstrip(")") for part in sql.split(",")) for sql in found)  # constraints in any order

    open_ledger(tmp_path / "migrated").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'declared'}")
    metadata.create_all(engine)
    engine.dispose()
    assert statements(tmp_path / "migrated") == statements(tmp_path / "declared")


def test_opening_again_finds_everything(where: Path | str, ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        put = put_dwh(tx)
    again = open_ledger(where)
    with again.reading() as tx:
        assert connections.every(tx) == [put]
    again.close()


def test_an_error_inside_a_transaction_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.transaction() as tx:
        put_dwh(tx)
        raise KeyError
    with ledger.reading() as tx:
        assert connections.every(tx) == []


def test_a_rehearsal_says_what_would_happen_and_leaves_nothing(ledger: Ledger) -> None:
    with ledger.rehearsal() as tx:
        assert apply_everything(tx).generation == 1
    with ledger.reading() as tx:
        assert syncs.every(tx) == []


def test_a_ledger_written_by_a_newer_version_is_left_alone(where: Path | str, ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreTooNew, match="newer Isthmus"):
        open_ledger(where)


def test_a_reader_is_not_held_up_by_a_writer_and_sees_one_moment(ledger: Ledger) -> None:
    with ledger.reading() as before:
        assert connections.every(before) == []
        with ledger.transaction() as tx:
            put_dwh(tx)
            with ledger.reading() as during:
                assert connections.every(during) == []
        assert connections.every(before) == []
    with ledger.reading() as after:
        assert len(connections.every(after)) == 1


def test_threads_may_share_one_ledger(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        run = runs.start(tx, planned(apply_everything(tx), parts=24), generation=1)

    def finish(numbers: range) -> None:
        for number in numbers:
            with ledger.transaction() as tx:
                runs.finish_chunk(tx, run.run_id, number, rows=1)

    threads = [threading.Thread(target=finish, args=(range(n, 24, 4),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ledger.reading() as tx:
        assert runs.get(tx, run.run_id).rows_done == 24


def test_what_is_committed_to_a_file_survives_a_power_cut(tmp_path: Path) -> None:
    """As far as can be asked without one: FULL (2) is what promises it, and references are enforced."""
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    with ledger.transaction() as tx:
        asked = [
            tx.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    ledger.close()
    assert asked == ["wal", 2, 1]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(StoreMissing, match=r"letter\.txt") as caught:
        open_ledger(path)
    assert caught.value.code == "SQLITE_NOTADB"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreMissing, match="cannot be made"):
        open_ledger(tmp_path / "file" / "ledger.sqlite")


def test_a_lock_held_too_long_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    ledger.close()
    monkeypatch.setattr(database, "PATIENCE_S", 0.05)
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    with ledger.transaction(), pytest.raises(StoreBusy) as caught, ledger.transaction():
        pass
    assert caught.value.retryable
    ledger.close()


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(StoreAway, match="does not answer") as caught:
        open_ledger("postgresql://someone:hunter2@127.0.0.1:1/isthmus")
    assert "hunter2" not in str(caught.value.as_dict())
    assert "127.0.0.1:1" in caught.value.summary


def test_a_database_that_is_not_there_is_named(postgres_url: str) -> None:
    with pytest.raises(StoreMissing, match="does not answer or refuses"):
        open_ledger(postgres_url + "_not")


def test_a_database_that_has_no_connection_to_spare_will_have_one_later(postgres_server: PostgresServer) -> None:
    name = postgres_server.fresh_database()
    postgres_server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0")
    with pytest.raises(StoreBusy, match="takes no connection now") as caught:
        open_ledger(f"postgresql://{name}:hunter2@{postgres_server.host}:{postgres_server.port}/{name}")
    assert caught.value.retryable


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "postgresql", "sqlite://"])
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_ledger(url)
    assert "hunter2" not in str(caught.value.as_dict())


def test_a_time_without_a_zone_is_refused(ledger: Ledger) -> None:
    with pytest.raises(Exception, match="aware"), ledger.transaction() as tx:
        put_dwh(tx, at=datetime(2026, 11, 21))


OPEN = """
import sys
from isthmus.ledger.database import open_ledger
from pathlib import Path
where = sys.argv[1]
ledger = open_ledger(where if "://" in where else Path(where))
sys.stdin.readline()  # all begin together
"""


def test_many_processes_may_make_the_ledger_at_once(where: Path | str) -> None:
    wait_then_open = OPEN.replace("ledger = ", "print(flush=True); sys.stdin.readline(); ledger = ")
    others = [_python(wait_then_open, where) for _ in range(4)]
    for other in others:
        other.stdout.readline()  # type: ignore[union-attr]
    for other in others:
        other.stdin.write("\n\n")  # type: ignore[union-attr]
    for other in others:
        assert other.communicate(timeout=60) == ("", "")
        assert other.returncode == 0
    open_ledger(where).close()


def test_two_processes_start_a_run_at_once_and_one_wins(where: Path | str, ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        sync = apply_everything(tx)
    start = OPEN.replace("sys.stdin", "print('ready', flush=True); sys.stdin") + (
        "sys.path.insert(0, sys.argv[2])\n"
        "from ledger_cast import planned, runs, syncs\n"
        "from isthmus.model.errors import SyncBusy\n"
        "for n in range(10):\n"
        "    with ledger.reading() as tx: run = planned(syncs.by_id(tx, sys.argv[3]))\n"
        "    try:\n"
        "        with ledger.transaction() as tx: runs.start(tx, run, generation=1); print('won', flush=True)\n"
        "    except SyncBusy: print('busy', flush=True)\n"
    )
    others = [_python(start, where, str(Path(__file__).parent), sync.sync_id) for _ in range(2)]
    for other in others:
        other.stdout.readline()  # type: ignore[union-attr]
    for other in others:
        other.stdin.write("\n")  # type: ignore[union-attr]
        other.stdin.flush()  # type: ignore[union-attr]
    said = "".join(other.communicate(timeout=60)[0] for other in others).split()
    assert sorted(said) == ["busy"] * 19 + ["won"]


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it(where: Path | str, ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        run = runs.start(tx, planned(apply_everything(tx), parts=50), generation=1)
    work = OPEN.split("sys.stdin")[0] + (
        "from isthmus.ledger import runs\n"
        "for n in range(3):\n"
        "    with ledger.transaction() as tx: runs.finish_chunk(tx, sys.argv[2], n, rows=1)\n"
        "with ledger.transaction() as tx:\n"
        "    for n in range(3, 50): runs.finish_chunk(tx, sys.argv[2], n, rows=1)\n"
        "    runs.finish(tx, sys.argv[2], at=__import__('datetime').datetime.now().astimezone())\n"
        "    print('in the middle', flush=True); sys.stdin.readline()\n"
    )
    other = _python(work, where, run.run_id)
    assert other.stdout is not None
    assert other.stdout.readline() == "in the middle\n"
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()

    with ledger.transaction() as tx:  # nothing is locked any more
        found = runs.get(tx, run.run_id)
        assert [chunk.number for chunk in found.chunks if chunk.done] == [0, 1, 2]
        assert (found.rows_done, found.state) == (3, run.state)
        assert syncs.by_id(tx, run.sync_id).watermark == 0
        for number in range(3, 50):
            runs.finish_chunk(tx, run.run_id, number, rows=1)
        runs.finish(tx, run.run_id, at=NOON)


def _python(code: str, where: Path | str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(where), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

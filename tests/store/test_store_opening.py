"""Opening: made, moved, newer, held by another process, half made; and what a question may reach."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from store_cast import Cast, outcome

from isthmus.model.errors import InvalidInput, StoreBusy, StoreError, StoreMissing, StoreTooNew
from isthmus.store import lock, query, schema, upkeep
from isthmus.store.lake import Lake
from isthmus.store.place import Place
from isthmus.testing.builders import fresh_home


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    place = Place(root=fresh_home(tmp_path))
    with Lake.open(place) as lake:
        lake.con.execute("INSERT INTO lake.store_version VALUES (99)")
        before = lake.snapshot()
    for read_only in (False, True):
        with pytest.raises(StoreTooNew, match="version 99"):
            Lake.open(place, read_only=read_only)
    with pytest.raises(StoreTooNew):
        query.ask(place, "SELECT 1")
    with sqlite3.connect(tmp_path / "store" / "catalog.sqlite") as catalog:
        assert catalog.execute("SELECT max(snapshot_id) FROM ducklake_snapshot").fetchone() == (before.snapshot_id,)
    catalog.close()


def test_a_store_that_was_cut_off_while_it_was_made_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = schema._script
    with monkeypatch.context() as m:
        m.setattr(schema, "_script", lambda name: script(name) + "; SELECT error('cut')")
        with pytest.raises(Exception, match="engine failed"):
            Lake.open(Place(root=tmp_path))
    with Lake.open(Place(root=tmp_path)) as lake:
        assert lake.query("SELECT max(version) FROM lake.store_version") == [(len(schema.MIGRATIONS),)]
        assert Cast(lake, tmp_path).events({"ext": "a"}).landed == 1


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    place = Place(root=fresh_home(tmp_path))
    with Lake.open(place) as lake:
        before = lake.snapshot()
    with Lake.open(place) as lake:
        assert lake.snapshot() == before


def test_a_home_that_was_moved_or_copied_opens_and_leaves_the_other_alone(tmp_path: Path) -> None:
    first, second = fresh_home(tmp_path / "first"), tmp_path / "second"
    with Lake.open(Place(root=first)) as lake:
        Cast(lake, tmp_path).events(*({"ext": f"p{n}"} for n in range(5)))
    shutil.copytree(first, second)
    with Lake.open(Place(root=second)) as lake:
        cast = Cast(lake, tmp_path)
        for n in range(2):
            cast.events({"ext": f"q{n}"})
        cast.erase("p0")
        future = datetime.now(UTC) + timedelta(days=3)
        upkeep.tidy(lake, retention=timedelta(hours=1), erase_now=True, now=future)
        assert lake.query("SELECT count(*) FROM events") == [(6,)]
    with Lake.open(Place(root=first)) as lake:
        assert lake.query("SELECT count(*) FROM events") == [(5,)]
        assert lake.query("SELECT count(*) FROM profiles") == [(5,)]


@pytest.mark.parametrize("taken", ["home", "store"])
def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path, taken: str) -> None:
    home = tmp_path / "home"
    if taken == "home":
        home.write_text("")
    else:
        home.mkdir()
        (home / "store").write_text("")
    with pytest.raises(StoreMissing, match="home"):
        Lake.open(Place(root=home))


def test_a_catalog_that_is_something_else_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    catalog = tmp_path / "store" / "catalog.sqlite"
    catalog.write_bytes(b"this is no catalog" * 100)
    with pytest.raises(StoreError):
        Lake.open(Place(root=tmp_path))
    assert catalog.read_bytes() == b"this is no catalog" * 100


_HOLD = """
import sys, time
from pathlib import Path
from isthmus.store import lock
with lock.FileLock(Path(sys.argv[1]), 5).held():
    print("held", flush=True)
    time.sleep(60)
"""


def test_while_another_process_writes_reading_goes_on_and_writing_says_busy(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    place = Place(root=home, lock_timeout_s=0.3)
    with Lake.open(place) as lake:
        cast = Cast(lake, tmp_path)
        cast.events({"ext": "a"})
        with subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(home / "store" / "writer.lock")], stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(StoreBusy) as told:
                cast.events({"ext": "b"})
            assert told.value.retryable and told.value.hint
            assert lake.query("SELECT count(*) FROM events") == [(1,)]
            assert list(query.ask(place, "SELECT count(*) FROM events")[1]) == [(1,)]
            other.kill()
        assert cast.events({"ext": "b"}).landed == 1, "the lock of a killed process is given back"


def test_two_lakes_on_one_store_see_each_others_work(cast: Cast, place: Place) -> None:
    with Lake.open(place) as other:
        theirs = Cast(other, cast.folder)
        theirs.tag = cast.tag
        for n in range(3):
            assert outcome(cast.events({"ext": cast.own("a"), "id": f"x{n}"})) == (1, 1, 0, 0)
            assert outcome(
                theirs.events({"ext": cast.own("a"), "id": f"x{n}"}, {"ext": cast.own("a"), "id": f"y{n}"})
            ) == (
                2,
                1,
                1,
                0,
            )
        assert len(cast.events_of(cast.own("a"))) == 6


NO_READS = [
    "DELETE FROM lake.events",
    "INSERT INTO lake.fence VALUES (1)",
    "CREATE TABLE lake.x (n INTEGER)",
    "DROP TABLE lake.events",
    "ATTACH 'x.db'",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "SELECT 1; DELETE FROM lake.events",
    "SET memory_limit='1GB'",
    "CALL ducklake_expire_snapshots('lake', older_than => now())",
    "INSTALL httpfs",
    "SELEC 1",
    "",
    "SELECT * FROM nothing",
]


def test_a_question_that_is_no_one_read_is_refused(crowd: Cast) -> None:
    before = crowd.lake.snapshot()
    for sql in NO_READS:
        with pytest.raises(InvalidInput):
            list(query.ask(crowd.lake.place, sql)[1])
    assert crowd.lake.snapshot() == before


def test_a_question_reaches_the_views_and_no_file_of_the_machine(cast: Cast, place: Place, tmp_path: Path) -> None:
    cast.events({"ext": cast.own("asked"), "worth": 3})
    names, rows = query.ask(place, "SELECT metric_name, sum(value) AS total FROM events GROUP BY ALL LIMIT 1")
    assert names == ["metric_name", "total"]
    assert len(list(rows)) == 1
    union = " UNION ALL ".join(f"SELECT count(*) FROM {view}" for view in schema.VIEWS)
    assert len(list(query.ask(place, union)[1])) == len(schema.VIEWS)
    secret = tmp_path / "secret.txt"
    secret.write_text("a,b\n1,2\n")
    for sql in (
        f"SELECT * FROM read_text('{secret}')",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM glob('{tmp_path}/*')",
        "SELECT * FROM read_text('https://127.0.0.1:1/')",
    ):
        with pytest.raises(InvalidInput):
            list(query.ask(place, sql)[1])


def test_no_question_shows_a_password(cast: Cast, place: Place) -> None:
    shown = []
    for sql in (
        "SELECT * FROM duckdb_databases()",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_views()",
        "SELECT * FROM pragma_database_list",
    ):
        try:
            shown.append(str(list(query.ask(place, sql)[1])))
        except InvalidInput as e:
            shown.append(str(e.vendor))
    if place.database_url is not None and place.s3 is not None:
        for hidden in (*lock.passwords(place.database_url), place.s3.secret_access_key.reveal()):
            assert not [text for text in shown if hidden in text]

"""The rules that make the store exact (docs/architecture.md, "The store"), on a folder and on PostgreSQL and S3."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from store_cast import EVENTS, PROFILES, Cast, NoLock, outcome

from isthmus.imports.load import load
from isthmus.model.errors import StoreBusy, StoreFull
from isthmus.model.mapping import Given, Mapping
from isthmus.model.table import Type
from isthmus.model.tables import PROFILE_FIELDS
from isthmus.store import lake as lakes
from isthmus.store import people, upkeep
from isthmus.store.lake import Lake, Write
from isthmus.store.place import Place
from isthmus.testing.builders import file_of

POISON = [
    "{DATA_PATH}",
    "{SNAPSHOT_ID}",
    "{METADATA_CATALOG}.x",
    "{\x02DATA_PATH}",
    "{\x02\x02A}",
    "\x02",
    "x{NEXT_FILE_ID}y",
]
FIELDS = [name for name, kind in PROFILE_FIELDS if kind is Type.TEXT and name not in ("email", "phone_number")]


def test_a_single_small_row_becomes_a_file_and_only_the_fence_lies_in_the_catalog(alone: Cast) -> None:
    """R1."""
    alone.events({"ext": alone.own("a"), "note": "{SNAPSHOT_ID}"})
    for table in ("events", "profiles", "identifiers", "metrics"):
        assert alone.ask(f"SELECT count(*) FROM ducklake_list_files('lake', '{table}')") == [(1,)]
    assert alone.ask("SELECT count(*) FROM ducklake_list_files('lake', 'fence')") == [(1,)]  # of the store's making
    with sqlite3.connect(alone.lake.place.root / "store" / "catalog.sqlite") as catalog:
        inlined = catalog.execute(
            "SELECT DISTINCT t.table_name FROM ducklake_inlined_data_tables i JOIN ducklake_table t USING (table_id)"
        ).fetchall()
    catalog.close()
    assert inlined == [("fence",)]


@pytest.mark.parametrize("poison", [*POISON[:2], *(pytest.param(p, marks=pytest.mark.long) for p in POISON[2:])])
def test_text_in_which_the_catalog_sees_a_placeholder_is_kept_and_found_again(cast: Cast, poison: str) -> None:
    """R2: in every text column at once, alone in its file, so that it is the file's minimum and maximum."""
    key = poison + cast.tag
    filled = {name: poison for name in FIELDS if name != "external_id"}
    profiles = Mapping(data="profiles", identifiers=(("external_id", "ext"),), fields=tuple((f, f) for f in filled))
    row = {"ext": key, **filled, "p": poison, poison: {poison: [poison]}}
    label = poison.replace("\x02", "_") + ".jsonl"
    path = file_of(cast.folder, [row], name=label)
    assert outcome(load(cast.lake, path, "profiles", mapping=profiles)) == (1, 1, 0, 0)
    assert outcome(load(cast.lake, path, "profiles", mapping=profiles)) == (1, 0, 1, 0)

    events = Mapping(
        data="events",
        identifiers=(("external_id", "ext"), ("anonymous_id", "anon")),
        event_time="at",
        metric=Given(column="metric"),
        integration=Given(column="shop"),
        unique_id="id",
    )
    event = {
        "ext": key,
        "anon": key,
        "at": "2026-01-01",
        "metric": poison,
        "shop": poison,
        "id": poison,
        poison: poison,
    }
    path = file_of(cast.folder, [event, {**event, "at": poison}])
    assert outcome(load(cast.lake, path, "events", mapping=events)) == (2, 1, 0, 1)
    assert outcome(load(cast.lake, path, "events", mapping=events)) == (2, 0, 1, 1)

    profile_id = people.find(cast.lake, key)
    [found] = cast.ask(f"SELECT {', '.join(FIELDS)} FROM profiles WHERE id = ?", profile_id)
    assert set(found[1:]) == {poison} and found[0] == key
    assert cast.ask("SELECT count(*) FROM profiles WHERE title = ? AND external_id = ?", poison, key) == [(1,)]
    [[properties]] = cast.ask("SELECT properties FROM profiles WHERE id = ?", profile_id)
    assert cast.ask("SELECT ?::JSON->>'p', json_extract_string(?::JSON, ?)", properties, properties, "/p") == [
        (poison, poison)
    ]
    [stored] = cast.ask("SELECT metric_name, integration_name, unique_id FROM events WHERE profile_id = ?", profile_id)
    assert stored == (poison, poison, poison)
    assert cast.ask("SELECT count(*) FROM events WHERE unique_id = ? AND profile_id = ?", poison, profile_id) == [(1,)]
    assert cast.ask("SELECT count(*) FROM metrics WHERE name = ? AND integration_name = ?", poison, poison) == [(1,)]
    [(source, payload)] = cast.ask("SELECT source, payload FROM rejections WHERE contains(payload, ?)", cast.tag)
    assert source == path.name and '"at"' in payload


@pytest.mark.parametrize("poison", ["{DATA_PATH}", pytest.param("{SNAPSHOT_ID}", marks=pytest.mark.long)])
def test_no_placeholder_stands_in_any_stored_text_even_after_a_merge_and_an_update(alone: Cast, poison: str) -> None:
    """R2: what goes through a merge or is joined key by key is guarded again."""
    alone.profiles({"email": alone.mail("a"), "first": poison, "p": poison, poison: {"deep": poison}})
    alone.profiles({"email": alone.mail("a"), "q": poison})
    alone.profiles({"ext": poison, "title": poison, "r": poison})
    alone.events({"ext": poison, "id": poison, "metric": poison}, {"email": alone.mail("a"), "id": poison, poison: 1})
    alone.events({"ext": poison, "email": alone.mail("a")}, {"ext": poison, "at": poison})
    assert alone.ask("SELECT count(*) FROM merges") == [(1,)]
    names = alone.ask(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake' "
        "AND data_type IN ('VARCHAR', 'JSON')"
    )
    assert len(names) > 30
    for table, column in names:
        seen = alone.ask(
            f"SELECT count(*) FROM lake.{table} WHERE regexp_matches({column}::VARCHAR, '\\{{[A-Z_]+\\}}')"
        )
        assert seen == [(0,)], f"{table}.{column}"
    profile = alone.profile(poison)
    assert (profile["first_name"], profile["title"]) == (poison, poison)
    properties = alone.ask("SELECT properties->>'p', properties->>'q', properties->>'r' FROM profiles")
    assert properties == [(poison, poison, poison)]


class Watched:
    """A connection that tells of every statement before it runs."""

    def __init__(self, con: duckdb.DuckDBPyConnection, told: Callable[[str], None]) -> None:
        self._con, self._told = con, told

    def execute(self, statement: str, *rest: Any) -> Any:
        self._told(statement)
        return self._con.execute(statement, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)


def test_files_reach_the_disk_after_the_last_write_and_before_the_commit(
    alone: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3."""
    seen: list[str] = []
    syncing = lakes.sync_files
    synced: list[Path] = []

    def watched(files: Iterable[Path]) -> None:
        seen.append("SYNC")
        synced.extend(files)
        syncing(synced)

    monkeypatch.setattr(lakes, "sync_files", watched)
    con = alone.lake.con
    alone.lake.con = Watched(con, seen.append)  # type: ignore[assignment]
    alone.events({"ext": alone.own("a")})
    alone.lake.con = con
    begun = seen[seen.index("BEGIN") :]
    assert begun[-2:] == ["SYNC", "COMMIT"] or begun[begun.index("COMMIT") - 1] == "SYNC"
    assert begun.count("SYNC") == begun.count("COMMIT") == 1
    assert [s for s in begun if s.startswith("INSERT INTO lake.events")]
    if alone.lake.place.storage_url is None:
        assert {file.parent.name for file in synced} >= {"events", "profiles", "identifiers", "metrics"}


def test_a_disk_that_cannot_be_written_to_keeps_nothing_and_says_so(
    alone: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3."""

    def full(_files: Iterable[Path]) -> None:
        raise StoreFull("no space")

    before = alone.lake.snapshot()
    with monkeypatch.context() as m:
        m.setattr(lakes, "sync_files", full)
        with pytest.raises(StoreFull):
            alone.events({"ext": alone.own("a")})
    assert alone.lake.snapshot() == before
    assert alone.events({"ext": alone.own("a")}).landed == 1


def test_every_write_moves_the_fence_by_one_and_its_rows_carry_the_number(cast: Cast) -> None:
    """R4."""
    start = cast.fence()
    cast.events({"ext": cast.own("a"), "id": "1"})
    cast.events({"ext": cast.own("a"), "id": "2"})
    cast.events({"ext": cast.own("a"), "id": "2"}, {"ext": cast.own("a"), "id": "1"})
    assert cast.fence() == start + 3 or cast.fence() == start + 2
    a = cast.who(cast.own("a"))
    rows = cast.ask("SELECT unique_id, seq, landed_seq FROM events WHERE profile_id = ? ORDER BY 1", a)
    assert rows == [("1", start + 1, start + 1), ("2", start + 2, start + 2)]
    before = cast.lake.snapshot()
    cast.lake.write(lambda write: None)
    assert cast.lake.snapshot() == before, "a write that changes nothing leaves no trace"


def without_lock(lake: Lake) -> None:
    lake._lock.close()
    lake._lock = NoLock()


def both(place: Place, land: Callable[[Lake, Callable[[], None]], Any]) -> list[Any]:
    """Run `land` in two lakes on one store at once, neither holding the lock. What it gives is given back, errors too.

    Each calls what it is given in the middle of its transaction: the first time, there both wait for each other."""
    barrier = threading.Barrier(2)
    results: list[Any] = [None, None]

    def one(number: int) -> None:
        with Lake.open(place) as lake:
            without_lock(lake)
            met = False

            def meet() -> None:
                nonlocal met
                if not met:
                    met = True
                    try:
                        barrier.wait(10)
                    except threading.BrokenBarrierError:
                        pass

            try:
                results[number] = land(lake, meet)
            except Exception as e:
                results[number] = e

    threads = [threading.Thread(target=one, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_the_same_new_rows_landed_twice_at_once_without_the_lock_are_there_once(
    cast: Cast, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: the fence alone, should the lock ever be lost, keeps phantoms out."""
    rows = [{"ext": cast.own(f"p{n % 5}"), "id": f"e{n}", "at": "2026-01-01", "metric": "M"} for n in range(40)]
    path = file_of(cast.folder, rows)
    writing = Lake.write
    meetings: dict[int, Callable[[], None]] = {}

    def write(self: Lake, do: Callable[[Write], Any]) -> Any:
        def met(write: Write) -> Any:
            result = do(write)
            if id(self) in meetings and write.touched:
                meetings[id(self)]()
            return result

        return writing(self, met)

    monkeypatch.setattr(Lake, "write", write)

    def land(lake: Lake, meet: Callable[[], None]) -> Any:
        meetings[id(lake)] = meet
        return load(lake, path, "events", mapping=EVENTS)

    before = cast.fence()
    results = both(place, land)
    assert not [r for r in results if isinstance(r, Exception)], results
    assert sorted(r.landed for r in results) == [0, 40]
    who = [cast.who(cast.own(f"p{n}")) for n in range(5)]
    assert sum(len(cast.events_of(w)) for w in who) == 40
    assert cast.ask("SELECT count(*) FROM identifiers WHERE contains(value, ?)", cast.tag) == [(5,)]
    assert cast.ask("SELECT count(*) FROM profiles WHERE contains(external_id, ?)", cast.tag) == [(5,)]
    assert before < cast.fence() <= before + 2


def test_a_write_that_loses_its_commit_is_done_again_as_a_whole(cast: Cast, place: Place) -> None:
    """R5: a real conflict, made by a second lake that commits in the middle of the first one's transaction."""
    attempts = []
    before = cast.fence()
    with Lake.open(place) as other:
        without_lock(other)

        def do(write: Write) -> int:
            attempts.append(write.seq)
            write.touched = True
            write.con.execute(
                f"INSERT INTO lake.import_state VALUES ('{cast.own('again')}', 'attempt {len(attempts)}', {write.seq})"
            )
            if len(attempts) == 1:
                if place.database_url is None:  # SQLite lets one transaction write at a time; the other's goes first
                    threading.Thread(target=interrupt, args=(other,)).run()
                else:
                    interrupt(other)
            return len(attempts)

        def interrupt(lake: Lake) -> None:
            def touch(write: Write) -> None:
                write.touched = True

            lake.write(touch)

        assert cast.lake.write(do) == 2
    assert attempts == [before + 1, before + 2]
    rows = cast.ask("SELECT cursor, seq FROM lake.import_state WHERE source = ?", cast.own("again"))
    assert rows == [("attempt 2", before + 2)]


def test_a_commit_that_is_lost_every_time_ends_as_busy_and_keeps_nothing(
    cast: Cast, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5."""
    monkeypatch.setattr("isthmus.store.lake.time.sleep", lambda _s: None)
    with Lake.open(place) as other:
        without_lock(other)

        def do(write: Write) -> None:
            write.touched = True
            write.con.execute(f"INSERT INTO lake.import_state VALUES ('{cast.own('lost')}', '', {write.seq})")
            other.write(lambda w: setattr(w, "touched", True))

        with pytest.raises(StoreBusy) as told:
            cast.lake.write(do)
    assert told.value.retryable
    assert cast.ask("SELECT count(*) FROM lake.import_state WHERE source = ?", cast.own("lost")) == [(0,)]
    assert cast.events({"ext": cast.own("after")}).landed == 1


def test_landing_and_erasing_at_once_wait_for_each_other(cast: Cast, place: Place) -> None:
    """R7: an append and a deletion of one table are a conflict; under the lock none is seen."""
    for n in range(4):
        cast.events({"ext": cast.own(f"gone{n}")}, {"ext": cast.own("stays")})
    failed: list[Exception] = []

    def work(do: Callable[[Cast, int], Any]) -> None:
        try:
            with Lake.open(place) as lake:
                own = Cast(lake, cast.folder)
                own.tag = cast.tag
                for n in range(4):
                    do(own, n)
        except Exception as e:
            failed.append(e)

    threads = [
        threading.Thread(target=work, args=(lambda c, n: c.erase(c.own(f"gone{n}")),)),
        threading.Thread(target=work, args=(lambda c, n: c.events({"ext": c.own("stays"), "id": f"late{n}"}),)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(cast.events_of(cast.own("stays"))) == 8
    assert cast.ask("SELECT count(*) FROM identifiers WHERE contains(value, ?)", cast.own("gone")[:4] + "%") == [(0,)]


def test_upkeep_joins_many_small_files_and_leaves_a_few_alone(alone: Cast) -> None:
    """R8."""
    retention = timedelta(hours=1)
    for n in range(5):
        alone.events({"ext": alone.own(f"a{n}")})
    assert upkeep.tidy(alone.lake, retention=retention).joined == {}
    for n in range(10):
        alone.events({"ext": alone.own(f"b{n}")})
    before = alone.ask("SELECT * FROM events ORDER BY id"), alone.ask("SELECT * FROM profiles ORDER BY id")
    report = upkeep.tidy(alone.lake, retention=retention)
    assert report.joined["events"] >= 12 and report.did_something
    assert alone.ask("SELECT count(*) FROM ducklake_list_files('lake', 'events')") == [(1,)]
    assert (alone.ask("SELECT * FROM events ORDER BY id"), alone.ask("SELECT * FROM profiles ORDER BY id")) == before
    told = upkeep.last(alone.lake)
    assert told is not None and told.joined == report.joined
    snapshot = alone.lake.snapshot()
    assert not upkeep.tidy(alone.lake, retention=retention).did_something
    assert alone.lake.snapshot() == snapshot, "upkeep that finds nothing to do leaves no trace"


def test_upkeep_does_not_break_a_reader_of_an_older_moment(cast: Cast, place: Place) -> None:
    """R8."""
    for n in range(5):  # and there are files of the other tests
        cast.events({"ext": cast.own("reader"), "id": f"{n} a"}, {"ext": cast.own("reader"), "id": f"{n} b"})
    who = cast.who(cast.own("reader"))
    at = cast.lake.snapshot().snapshot_id
    then = f"SELECT count(*) FROM lake.events AT (VERSION => {at}) WHERE profile_id = '{who}'"
    with Lake.open(place) as other:
        rows = other.con.execute("SELECT unique_id FROM events WHERE profile_id = ?", [who])
        first = rows.fetchone()
        for _ in range(2):
            upkeep.tidy(cast.lake, retention=timedelta(hours=1), erase_now=True)
            cast.erase(who) if cast.ask("SELECT 1 FROM profiles WHERE id = ?", who) else None
        assert first is not None and len(rows.fetchall()) == 9
        assert other.query_past(then) == cast.lake.query_past(then) == [(10,)]
    assert cast.ask("SELECT count(*) FROM events WHERE profile_id = ?", who) == [(0,)]


def test_upkeep_keeps_the_moments_that_runs_still_read(alone: Cast) -> None:
    """R8."""
    alone.events({"ext": alone.own("a")})
    kept = alone.lake.snapshot()
    alone.erase(alone.own("a"))
    later = alone.lake.snapshot()
    alone.events({"ext": alone.own("b")})
    future = datetime.now(UTC) + timedelta(days=3)
    report = upkeep.tidy(
        alone.lake, retention=timedelta(hours=1), keep=lambda: [kept.snapshot_id], erase_now=True, now=future
    )
    assert report.snapshots > 0
    assert alone.lake.has_snapshot(kept.snapshot_id) and not alone.lake.has_snapshot(later.snapshot_id)
    assert alone.ask(f"SELECT count(*) FROM lake.events AT (VERSION => {kept.snapshot_id})") == [(1,)]


def test_an_erased_person_is_gone_from_every_file(alone: Cast) -> None:
    """R8: rewrite, expiry and clean-up together leave no byte."""
    alone.profiles(
        {"ext": alone.own("ghost"), "email": alone.mail("ghost"), "first": "Ghostly"}, {"ext": alone.own("b")}
    )
    alone.events({"ext": alone.own("ghost"), "note": "Ghostly note"}, {"ext": alone.own("b"), "note": "stays"})
    alone.erase(alone.own("ghost"))
    future = datetime.now(UTC) + timedelta(days=3)
    report = upkeep.tidy(alone.lake, retention=timedelta(hours=1), erase_now=True, now=future)
    assert {"events", "profiles", "identifiers"} <= set(report.rewritten) and report.files
    data = alone.lake.place.root / "store" / "data"
    for file in data.rglob("*.parquet"):
        with duckdb.connect() as con:
            for row in con.execute("SELECT * FROM read_parquet(?)", [str(file)]).fetchall():
                assert "host" not in str(row) or "ghost" not in str(row).lower(), file
    assert len(alone.events_of(alone.own("b"))) == 1
    old = alone.ask("SELECT count(*) FROM ducklake_snapshots('lake')")
    assert old[0][0] <= 4


def test_files_that_nobody_knows_go_after_a_day_and_not_before(alone: Cast) -> None:
    """R8: orphans of a killed writer."""
    alone.events({"ext": alone.own("a")})
    folder = next((alone.lake.place.root / "store" / "data").rglob("events"))
    old, new = folder / "old.parquet", folder / "new.parquet"
    known = next(folder.glob("ducklake-*.parquet"))
    for file in (old, new):
        file.write_bytes(known.read_bytes())
    yesterday = (datetime.now(UTC) - timedelta(days=4)).timestamp()
    os.utime(old, (yesterday, yesterday))
    fence = alone.fence()
    upkeep.tidy(alone.lake, retention=timedelta(hours=48))
    assert (old.exists(), new.exists(), known.exists()) == (False, True, True)
    assert alone.fence() == fence + 1, "whoever wrote it and is frozen cannot commit it any more"


def test_the_catalogs_words_are_english_and_its_retries_many(cast: Cast, place: Place) -> None:
    """R9."""
    assert cast.ask("SELECT current_setting('ducklake_max_retry_count')::INTEGER") == [(100,)]
    if place.database_url is not None:
        from isthmus.store.lock import conninfo

        assert "lc_messages=C" in conninfo(place.database_url)


def test_properties_are_json_and_nothing_is_a_variant(cast: Cast) -> None:
    """R10."""
    kinds = dict(
        cast.ask(
            "SELECT table_name || '.' || column_name, data_type FROM duckdb_columns() WHERE database_name = 'lake' "
            "AND (column_name IN ('properties', 'subscriptions') OR data_type = 'VARIANT')"
        )
    )
    assert kinds == {"profiles.properties": "JSON", "profiles.subscriptions": "JSON", "events.properties": "JSON"}


def test_the_newest_ten_events_of_a_person_are_shown_in_order(cast: Cast) -> None:
    """R11: asked for without ordering a whole table."""
    cast.events(*({"ext": cast.own("busy"), "id": f"{n:02}", "at": f"2026-01-{n + 1:02}"} for n in range(25)))
    latest = people.show(cast.lake, cast.who(cast.own("busy"))).latest
    assert [e["datetime"].day for e in latest] == list(range(25, 15, -1))


def test_a_moment_of_the_store_has_a_time_with_a_zone(cast: Cast) -> None:
    """R12."""
    at = cast.lake.snapshot().at
    assert at.tzinfo is not None and abs(datetime.now(UTC) - at) < timedelta(days=1)


def test_profiles_and_events_are_found_the_same_in_both_kinds_of_store(cast: Cast) -> None:
    cast.profiles({"ext": cast.own("a"), "first": "Ann", "tier": 1}, mapping=PROFILES)
    cast.events({"ext": cast.own("a"), "email": cast.mail("a"), "worth": 2.5})
    profile = cast.profile(cast.mail("a"))
    assert (profile["first_name"], profile["email"], profile["properties"]) == ("Ann", cast.mail("a"), '{"tier":1}')
    assert cast.erase(cast.mail("a")) == {"profiles": 1, "events": 1, "identifiers": 2, "rejections": 0}

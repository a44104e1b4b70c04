"""Upkeep: few large files instead of many small ones, old snapshots gone, erased people gone from disk too.

Runs by itself after runs and loads, under the writer lock, in tiers: small files are joined often, large ones seldom,
and only files that lie next to each other in commit order, so that a window still finds its rows by file. Files that a
reader may be using are left alone for the retention time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from isthmus.store.lake import Lake, Write, sync_files

TABLES = (
    *("events", "profiles", "identifiers", "metrics", "merges", "tombstones", "rejections", "import_state"),
    *("profile_news", "rejected_columns", "erased", "known_rows"),
)
TIERS = ((8 << 20, 12), (64 << 20, 12))
"""Join files of up to this many bytes once there are more than so many of them."""

_ORPHANS = "CALL ducklake_delete_orphaned_files('lake', older_than => ?"
REWRITE_EVERY = timedelta(hours=24)
_FRACTION = 0.25  # a file of which this part is deleted is rewritten, erased people or not


@dataclass(frozen=True)
class Report:
    """What one upkeep did."""

    joined: dict[str, int]  # table → files that were joined
    rewritten: list[str]  # tables whose deleted rows are gone from the present files
    snapshots: int  # expired
    files: int  # removed from disk
    at: str

    @property
    def did_something(self) -> bool:
        return bool(self.joined or self.rewritten or self.snapshots or self.files)


def tidy(
    lake: Lake,
    *,
    retention: timedelta,
    keep: Callable[[], Collection[int]] = tuple,
    erase_now: bool = False,
    now: datetime | None = None,
) -> Report:
    """Do what is due. `keep` says, under the lock, which snapshots are still read by runs under way; they stay.

    With `erase_now` files with erased people in them are rewritten at once, not once a day. Safe at any time and beside
    readers; a kill in the middle leaves the store as it was or as it should be, and orphans that the next upkeep
    removes.
    """
    moment = now or datetime.now(UTC)

    def do(con: duckdb.DuckDBPyConnection) -> Report:
        before = lake.data_files()
        joined = {t: n for t in TABLES if (n := _join(con, t))}
        rewritten = _rewrite(con, moment, erase_now=erase_now)
        sync_files(lake.data_files() - before)
        snapshots = _expire(con, moment - retention, keep())
        # In a SQLite catalog DuckLake compares these times as texts of two spellings: only the day counts.
        by_the_day = timedelta(days=1) if lake.place.database_url is None else timedelta()
        files = _clean(lake, moment - retention - by_the_day)
        report = Report(joined, rewritten, snapshots, files, moment.isoformat())
        if report.did_something:
            _keep_report(con, report)
        return report

    return lake.maintain(do)


def last(lake: Lake) -> Report | None:
    """What the last upkeep that did something did."""
    rows = lake.query("SELECT cursor FROM lake.import_state WHERE source = 'upkeep'")
    return Report(**json.loads(rows[0][0])["report"]) if rows else None


def _join(con: duckdb.DuckDBPyConnection, table: str) -> int:
    sizes = _sizes(con, table)
    for limit, many in reversed(TIERS):
        small = sum(size <= limit for size in sizes)
        if small > many:
            con.execute(f"CALL ducklake_merge_adjacent_files('lake', '{table}', max_file_size => {limit})")
            return max(0, len(sizes) - len(_sizes(con, table)))
    return 0


def _sizes(con: duckdb.DuckDBPyConnection, table: str) -> list[int]:
    return [
        int(s)
        for (s,) in con.execute(f"SELECT data_file_size_bytes FROM ducklake_list_files('lake', '{table}')").fetchall()
    ]


def _rewrite(con: duckdb.DuckDBPyConnection, moment: datetime, *, erase_now: bool) -> list[str]:
    state = _state(con)
    erased = con.execute("SELECT coalesce(max(seq), 0) FROM lake.tombstones WHERE reason = 'erased'").fetchone()
    newest = int(erased[0]) if erased else 0
    due = newest > int(state.get("erased_seq", 0)) and (
        erase_now
        or moment - datetime.fromisoformat(state.get("rewritten_at", "2000-01-01T00:00:00+00:00")) > REWRITE_EVERY
    )
    done = []
    for table in TABLES:
        row = con.execute(
            f"SELECT count(*) FROM ducklake_list_files('lake', '{table}') WHERE delete_file IS NOT NULL"
        ).fetchone()
        if not row or not row[0]:
            continue
        before = _sizes(con, table)
        threshold = 0.0 if due else _FRACTION
        con.execute(f"CALL ducklake_rewrite_data_files('lake', '{table}', delete_threshold => {threshold})")
        if _sizes(con, table) != before:
            done.append(table)
    if due:
        _store_state(con, state | {"erased_seq": newest, "rewritten_at": moment.isoformat()})
    return done


def _expire(con: duckdb.DuckDBPyConnection, before: datetime, keep: Collection[int]) -> int:
    kept = ", ".join(str(int(k)) for k in keep) or "-1"
    rows = con.execute(
        "SELECT snapshot_id FROM ducklake_snapshots('lake') WHERE snapshot_time < ? "
        "AND snapshot_id <> (SELECT id FROM ducklake_current_snapshot('lake')) "
        f"AND snapshot_id NOT IN ({kept})",
        [before],
    ).fetchall()
    if rows:
        ids = ", ".join(str(int(i)) for (i,) in rows)
        con.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{ids}])")
    return len(rows)


def _clean(lake: Lake, before: datetime) -> int:
    con, day_before = lake.con, before - timedelta(hours=24)
    removed = con.execute("CALL ducklake_cleanup_old_files('lake', older_than => ?)", [before]).fetchall()
    if not con.execute(f"{_ORPHANS}, dry_run => true)", [day_before]).fetchall():
        return len(removed)
    # They may be files of a landing that is frozen and was put out: it must not commit them once they are gone.
    lake.write(_move_fence)
    return len(removed) + len(con.execute(f"{_ORPHANS})", [day_before]).fetchall())


def _move_fence(write: Write) -> None:
    write.touched = True


def _state(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    row = con.execute("SELECT cursor FROM lake.import_state WHERE source = 'upkeep'").fetchone()
    return dict(json.loads(row[0])["state"]) if row else {}


def _store_state(con: duckdb.DuckDBPyConnection, state: dict[str, object]) -> None:
    _write(con, {"state": state, "report": asdict(Report({}, [], 0, 0, ""))})


def _keep_report(con: duckdb.DuckDBPyConnection, report: Report) -> None:
    _write(con, {"state": _state(con), "report": asdict(report)})


def _write(con: duckdb.DuckDBPyConnection, document: dict[str, object]) -> None:
    con.execute("BEGIN")
    try:
        con.execute("DELETE FROM lake.import_state WHERE source = 'upkeep'")
        con.execute(
            "INSERT INTO lake.import_state SELECT 'upkeep', guard_json(?), (SELECT n FROM lake.fence)",
            [json.dumps(document)],
        )
        con.execute("COMMIT")
    except BaseException:
        con.execute("ROLLBACK")
        raise

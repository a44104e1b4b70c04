"""The store's tables, their versions, and the views and macros every session reads through."""

from __future__ import annotations

from importlib.resources import files

import duckdb

from isthmus.model.errors import StoreTooNew
from isthmus.model.table import Type
from isthmus.model.tables import PROFILE_FIELDS

MIGRATIONS = (
    *("0001_tables.sql", "0002_imports.sql", "0003_erased.sql", "0004_backfill.sql"),
    "0005_known_rows.sql",
)
"""In order; a store's version is how many of them it has seen. Never edit one that was released."""

VIEWS = ("profiles", "events", "metrics", "identifiers", "merges", "rejections")
"""What `isthmus query` reads."""


def version(con: duckdb.DuckDBPyConnection) -> int:
    """How many migrations the attached lake has seen."""
    if not con.execute(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = 'lake' AND table_name = 'store_version'"
    ).fetchone():
        return 0
    row = con.execute("SELECT max(version) FROM lake.store_version").fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def is_current(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether the lake is of this version. Raises StoreTooNew for a store from the future."""
    seen = version(con)
    if seen > len(MIGRATIONS):
        raise StoreTooNew(
            f"the store has version {seen}; this Isthmus knows versions up to {len(MIGRATIONS)}",
            hint="upgrade Isthmus to open this store; nothing was changed",
        )
    return seen == len(MIGRATIONS) and _has_options(con)


def migrate(con: duckdb.DuckDBPyConnection) -> None:
    """Bring the lake to this version, under the writer lock. Raises StoreTooNew for a store from the future."""
    if is_current(con):
        return
    seen = version(con)
    for number, name in enumerate(MIGRATIONS[seen:], start=seen + 1):
        con.execute("BEGIN")
        try:
            con.execute(_script(name))
            con.execute("INSERT INTO lake.store_version VALUES (?)", [number])
            con.execute("COMMIT")
        except BaseException:
            con.execute("ROLLBACK")
            raise
    _options(con)


def _has_options(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether the last of the options is set. The engine takes them only after the commit of the tables: whoever made
    those may have died in between."""
    last = "SELECT 1 FROM ducklake_options('lake') WHERE option_name = 'data_inlining_row_limit'"
    return con.execute(last).fetchone() is not None


def _options(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CALL lake.set_option('parquet_compression', 'zstd')")
    con.execute("CALL lake.set_option('parquet_row_group_size', 122880)")
    # A number cannot hold a placeholder, so the fence alone may live in the catalog itself: no tiny file per commit.
    con.execute("CALL lake.set_option('data_inlining_row_limit', 10, table_name => 'fence')")


def session(con: duckdb.DuckDBPyConnection) -> None:
    """Make the macros and views of this session. They are not stored in the lake."""
    con.execute(_script("session.sql"))
    fields = ", ".join(f"unguard({name}) AS {name}" if kind is Type.TEXT else name for name, kind in PROFILE_FIELDS)
    con.execute(
        f"CREATE OR REPLACE VIEW profiles AS SELECT profile_id AS id, {fields}, properties, subscriptions, created, "
        "updated, last_event_date, seq FROM lake.profiles"
    )


def _script(name: str) -> str:
    return (files("isthmus.store") / "sql" / name).read_text()

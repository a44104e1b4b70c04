"""How we start DuckDB, wherever it is used: pinned, offline, bounded, UTC. And the SQL text both its users share.

The store and the DuckDB connector each open their own instance through `connect`. Facts about the engine are measured
ones; the traps are in docs/architecture.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import duckdb

from isthmus.model.errors import InvalidInput
from isthmus.model.table import Column, Type


def _make(folder: Path) -> None:
    """Make a folder that others may be removing: between "it is there" and "it is a folder" it can go."""
    for _ in range(100):
        with suppress(FileExistsError):
            return folder.mkdir(parents=True, exist_ok=True)
    return folder.mkdir(parents=True, exist_ok=True)


def connect(
    database: str = ":memory:",
    *,
    memory_mb: int,
    temp_dir: Path,
    extensions: Iterable[str] = (),
    read_only: bool = False,
    threads: int | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open DuckDB with a memory bound, spilling to `temp_dir`, with nothing fetched from the network.

    Raises duckdb errors as they are; the caller maps them. `memory_mb` bounds DuckDB's buffer pool, not the process: a
    sort or a wide scan was measured to overshoot it by 18–45 %.
    """
    _make(temp_dir)
    con = duckdb.connect(
        database,
        read_only=read_only,
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": str(temp_dir),
            # Order is asked for where it matters; keeping it everywhere doubles the memory of large copies.
            "preserve_insertion_order": "false",
        },
    )
    for name in extensions:
        con.execute(f"LOAD {literal(extension_path(name))}")
    con.execute("SET TimeZone='UTC'")
    con.execute("SET enable_progress_bar=false")  # it would go to the output of whoever runs us
    if threads:
        con.execute(f"SET threads={int(threads)}")
    return con


def extension_path(name: str) -> str:
    """Where the pip-installed extension lies. Loading by path writes nothing to the home and needs no network."""
    try:
        module = importlib.import_module(f"duckdb_extension_{name}")
    except ImportError as e:
        raise InvalidInput(
            f"the DuckDB extension {name!r} is not installed",
            hint="install the extra that brings it: pip install 'isthmus[scaled]'",
        ) from e
    folder = Path(next(iter(module.__path__)))
    return str(folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")


def identifier(name: str) -> str:
    """`name` quoted as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` quoted as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def row_digest(columns: Iterable[Column]) -> str:
    """The SQL for a row's 60-bit digest, DuckDB's spelling of the definition every connector follows.

    Each value is written as text, and the texts are joined by U+001F, in column order:
    a NULL is empty; anything else begins with `=`, then TEXT and JSON as they are; TIMESTAMP as microseconds since
    1970; DOUBLE with 15 significant digits as `-1.23450000000000e+02` (zero is never negative); BIGINT in decimal;
    BOOLEAN as `1` or `0`. The digest is the first 15 hexadecimal digits of the MD5 of that text in UTF-8, as a number.
    """
    parts = [f"coalesce('=' || {_canonical(c)}, '')" for c in columns]
    return f"('0x' || substr(md5(concat_ws(chr(31), {', '.join(parts)})), 1, 15))::BIGINT"


def _canonical(column: Column) -> str:
    name = identifier(column.name)
    match column.type:
        case Type.TEXT | Type.JSON:
            return f"{name}::VARCHAR"
        case Type.TIMESTAMP:
            return f"epoch_us({name})::VARCHAR"
        case Type.DOUBLE:
            return f"CASE WHEN {name} IS NOT NULL THEN format('{{:.14e}}', {name} + 0.0) END"
        case Type.BIGINT:
            return f"{name}::VARCHAR"
        case Type.BOOLEAN:
            return f"CASE {name} WHEN true THEN '1' WHEN false THEN '0' END"

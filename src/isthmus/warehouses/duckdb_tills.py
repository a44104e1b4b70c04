"""The tills' own warehouse of the demo: a DuckDB file with a table of purchases, and the view that exposes them to us.

It stands for what a shop has already: nobody of Isthmus writes into it, the demo only reads it.
"""

from __future__ import annotations

from pathlib import Path

from isthmus import duck
from isthmus.warehouses.duckdb import DuckDBConfig

VIEW = "purchases"
"""In the schema that a connection reads unless it says otherwise."""


def open_tills(file: Path, purchases: Path, *, temp_dir: Path) -> None:
    """Make the file anew, with the purchases of a Parquet file in it."""
    file.unlink(missing_ok=True)
    schema = duck.identifier(DuckDBConfig.traits.default_import_schema)
    with duck.connect(str(file), memory_mb=512, temp_dir=temp_dir) as con:
        con.execute("CREATE SCHEMA shop")
        con.execute(f"CREATE TABLE shop.lines AS FROM read_parquet({duck.literal(str(purchases))})")
        con.execute(f"CREATE SCHEMA {schema}")
        con.execute(f"CREATE VIEW {schema}.{VIEW} AS FROM shop.lines")


def ring_up(file: Path, purchases: Path, *, temp_dir: Path) -> None:
    """More purchases, of another Parquet file."""
    with duck.connect(str(file), memory_mb=512, temp_dir=temp_dir) as con:
        con.execute(f"INSERT INTO shop.lines BY NAME FROM read_parquet({duck.literal(str(purchases))})")

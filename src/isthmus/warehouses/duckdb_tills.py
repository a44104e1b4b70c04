"""The tills' own warehouse of the demo: a DuckDB file with a table of purchases, and the view that exposes them to us.

It stands for what a shop has already: nobody of Isthmus writes into it, the demo only reads it.
"""

from __future__ import annotations

from pathlib import Path

from isthmus import duck
from isthmus.warehouses.duckdb import DuckDBConfig

VIEW = "purchases"
"""In the schema that a connection reads unless it says otherwise."""


def ring_up(file: Path, purchases: Path, *, temp_dir: Path) -> None:
    """Purchases of a Parquet file, into the tills' warehouse; it is made if it is not there."""
    schema, rows = duck.identifier(DuckDBConfig.traits.default_import_schema), duck.literal(str(purchases))
    with duck.connect(str(file), memory_mb=512, temp_dir=temp_dir) as con:
        con.execute("CREATE SCHEMA IF NOT EXISTS shop")
        con.execute(f"CREATE TABLE IF NOT EXISTS shop.lines AS FROM read_parquet({rows}) LIMIT 0")
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        con.execute(f"CREATE VIEW IF NOT EXISTS {schema}.{VIEW} AS FROM shop.lines")
        con.execute(f"INSERT INTO shop.lines BY NAME FROM read_parquet({rows})")

"""The data of all catalogs, in one DuckDB: what is there, and whether one may come to it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from sqlglot import exp

from isthmus.duck import identifier
from isthmus.testing.standins.databricks_wire.catalog import Access, Parts
from isthmus.testing.standins.databricks_wire.failures import no_catalog, no_schema

HIVE = "hive_metastore"
"""The catalog from before Unity Catalog: it has no information schema, and knows no grants of it."""


@dataclass
class Session:
    """Who is signed in, and where names without a catalog or a schema are looked up."""

    user: str
    catalog: str = HIVE
    schema: str = "default"


@dataclass
class Data:
    """All catalogs, and who may do what with them."""

    folder: Path
    access: Access
    con: duckdb.DuckDBPyConnection = field(default_factory=duckdb.connect)
    kinds: dict[Parts, str] = field(default_factory=dict)
    """What of the relations is no plain table or view."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.con.execute("SET TimeZone = 'UTC'")
        self.con.execute(f"SET temp_directory = '{self.folder / 'spill'}'")
        self.make_catalog(HIVE)

    def make_catalog(self, name: str) -> None:
        self.con.execute(f"ATTACH ':memory:' AS {identifier(name)}")
        self.con.execute(f"CREATE SCHEMA {identifier(name)}.{identifier('default')}")

    def catalogs(self) -> set[str]:
        found = self._ask("SELECT database_name FROM duckdb_databases() WHERE NOT internal")
        return {name for (name,) in found} - {"memory"}

    def is_there(self, on: Parts) -> bool:
        return any(parts == on for parts, _ in self.relations(on[0]))

    def require_catalog(self, name: str) -> None:
        if name not in self.catalogs():
            raise no_catalog(name)

    def require_schema(self, on: Parts, session: Session) -> None:
        self.require_catalog(on[0])
        if on[0] != HIVE:
            self.access.require(session.user, "USE CATALOG", on[:1])
        if on not in self.schemas(on[0]):
            raise no_schema(on)
        if on[0] != HIVE:
            self.access.require(session.user, "USE SCHEMA", on)

    def schemas(self, catalog: str) -> list[Parts]:
        found = self._ask("SELECT database_name, schema_name FROM duckdb_schemas() WHERE NOT internal")
        return sorted((c, s) for c, s in found if c == catalog)

    def relations(self, catalog: str) -> Iterable[tuple[Parts, str]]:
        found = self._ask(
            "SELECT database_name, schema_name, table_name, 'MANAGED' FROM duckdb_tables() UNION ALL "
            "SELECT database_name, schema_name, view_name, 'VIEW' FROM duckdb_views() WHERE NOT internal"
        )
        for *parts, kind in sorted(found):
            on = tuple(parts)
            if on[0] == catalog:
                yield on, self.kinds.get(on, kind)

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        with self.lock:
            return self.con.cursor().execute(query).fetchall()

    def do(self, statement: str) -> None:
        with self.lock:
            self.con.cursor().execute(statement)


def quoted(parts: Parts) -> str:
    return ".".join(identifier(part) for part in parts)


def table_of(parts: Parts) -> Any:
    catalog, db, this = (exp.to_identifier(part, quoted=True) for part in parts)
    return exp.Table(this=this, db=db, catalog=catalog)

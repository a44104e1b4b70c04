"""Statements that write: what an administrator does, and a customer who fills tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlglot import exp

from isthmus.testing.standins.databricks_wire import dialect
from isthmus.testing.standins.databricks_wire.catalog import Parts, object_name
from isthmus.testing.standins.databricks_wire.data import Data, Session, quoted, table_of
from isthmus.testing.standins.databricks_wire.failures import Failure, no_relation, no_schema, not_understood


def create_catalog(data: Data, name: str, if_not_there: bool, session: Session) -> None:
    if session.user != data.access.administrator:
        raise Failure("INSUFFICIENT_PERMISSIONS", "User does not have CREATE CATALOG on Metastore.", "42501")
    if name not in data.catalogs():
        data.make_catalog(name)
        data.access.owners[(name,)] = session.user
    elif not if_not_there:
        raise Failure("CATALOG_ALREADY_EXISTS", f"Catalog '{name}' already exists.", "42710")


def create_schema(data: Data, tree: Any, session: Session) -> None:
    catalog, name = (tree.this.catalog or session.catalog).lower(), object_name(tree.this.db)
    data.require_catalog(catalog)
    if (catalog, name) not in data.schemas(catalog):
        data.access.require(session.user, "CREATE SCHEMA", (catalog,))
        data.do(f"CREATE SCHEMA {quoted((catalog, name))}")
        data.access.owners[catalog, name] = session.user
    elif not tree.args.get("exists"):
        raise Failure("SCHEMA_ALREADY_EXISTS", f"Cannot create schema `{catalog}`.`{name}`.", "42P06")


def create_relation(data: Data, tree: Any, session: Session, names: dialect.Names) -> None:
    target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    on = _named(data, target, session)
    data.access.require(session.user, "CREATE TABLE", on[:2])
    if tree.args.get("replace") and data.is_there(on):
        data.access.require(session.user, "MANAGE", on)
        _drop_relation(data, on)
    kind = "VIEW" if tree.kind == "VIEW" else "TABLE"
    body = ""
    if tree.this is not target:
        body = f" ({', '.join(c.sql(dialect='duckdb') for c in _definitions(tree.this))})"
    if tree.expression:
        made, later = dialect.query(tree.expression, names)
        if later:
            raise not_understood("to_json", "this stand-in does not keep it in a view or a table")
        body += f" AS {made.sql(dialect='duckdb')}"
    exists = "IF NOT EXISTS " if tree.args.get("exists") else ""
    data.do(f"CREATE {kind} {exists}{quoted(on)}{body}")
    data.access.owners.setdefault(on, session.user)
    if tree.find(exp.MaterializedProperty):
        data.kinds[on] = "MATERIALIZED_VIEW"


def _definitions(schema: Any) -> Iterator[Any]:
    for column in schema.copy().expressions:
        for kind in column.find_all(exp.DataType):
            if kind.this == exp.DType.VARIANT:
                kind.set("this", exp.DType.JSON)
        kept = (exp.NotNullColumnConstraint,)  # comments and the like say nothing to DuckDB
        column.set("constraints", [c for c in column.args.get("constraints") or () if isinstance(c.kind, kept)])
        yield column


def drop(data: Data, tree: Any, session: Session) -> None:
    (target,) = tree.args.get("tables") or (tree.this,)
    if tree.kind == "SCHEMA":
        on: Parts = ((target.catalog or session.catalog).lower(), (target.db or target.name).lower())
        if on in data.schemas(on[0]):
            data.access.require(session.user, "MANAGE", on)
            data.do(f"DROP SCHEMA {quoted(on)} {'CASCADE' if tree.args.get('cascade') else ''}")
            data.kinds = {k: v for k, v in data.kinds.items() if k[:2] != on}
        elif not tree.args.get("exists"):
            raise no_schema(on)
    else:
        on = _named(data, target, session)
        if data.is_there(on):
            data.access.require(session.user, "MANAGE", on)
            _drop_relation(data, on)
        elif not tree.args.get("exists"):
            raise no_relation(on)
    data.access.forget(on)


def _drop_relation(data: Data, on: Parts) -> None:
    (kind,) = (kind for parts, kind in data.relations(on[0]) if parts == on)
    data.do(f"DROP {'TABLE' if kind == 'MANAGED' else 'VIEW'} {quoted(on)}")
    data.kinds.pop(on, None)


def modify(data: Data, tree: Any, session: Session, names: dialect.Names) -> None:
    tree = tree.copy()
    target = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    on = _named(data, target, session)
    if not data.is_there(on):
        raise no_relation(on)
    data.access.require(session.user, "MODIFY", on)
    for part in ("expression", "where"):
        if tree.args.get(part) is not None:
            dialect.rename(tree.args[part], names)
    target.replace(table_of(on))
    data.do(tree.sql(dialect="duckdb"))


def _named(data: Data, table: Any, session: Session) -> Parts:
    on = (table.catalog or session.catalog).lower(), (table.db or session.schema).lower(), object_name(table.name)
    data.require_schema(on[:2], session)
    return on

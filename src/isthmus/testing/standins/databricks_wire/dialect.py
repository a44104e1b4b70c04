"""Databricks' SQL as DuckDB's: what a query names and calls, checked and put in DuckDB's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from isthmus.testing.standins.databricks_wire.catalog import Parts
from isthmus.testing.standins.databricks_wire.failures import no_function, not_understood

FUNCTIONS = frozenset({"xxhash64", "is_account_group_member", "range"})
"""The functions sqlglot has no word for that are known here. What it has a word for is Databricks', or near to it."""


@dataclass
class Later:
    """What is done to a column of the result after DuckDB has made it: text that DuckDB would write otherwise."""

    what: str  # "json" or "text"
    options: dict[str, str] = field(default_factory=dict)
    is_variant: bool = False


@dataclass
class Names:
    """Who asks, and how the names in a query are looked up."""

    user: str
    catalog: str
    schema: str
    groups: set[str]
    relation: Callable[[Parts], exp.Expression]
    """DuckDB's table for one that is read; raises if it may not be, or is not there."""
    file: Callable[[str], exp.Expression]


def query(tree: Any, names: Names) -> tuple[Any, dict[int, Later]]:
    """A query in DuckDB's words, and what is to be done to which column of its result."""
    tree = tree.copy()
    later = _outermost(tree)
    rename(tree, names)
    return tree, later


def rename(tree: Any, names: Names) -> None:
    """Put what a statement reads and calls in DuckDB's words, in place."""
    within = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    calls = list(tree.find_all(exp.Func))
    for table in list(tree.find_all(exp.Table)):
        if not isinstance(table.this, exp.Identifier):
            continue  # a function that gives rows
        if not table.db and table.name.lower() in within:
            continue
        found = names.file(table.name) if table.db.lower() == "parquet" and not table.catalog else None
        if found is None:
            found = names.relation((table.catalog or names.catalog, table.db or names.schema, table.name))
        alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name, quoted=True))
        found.set("alias", alias)
        if table is not tree:
            table.replace(found)
    for call in calls:
        _call(call, names)
    for kind in list(tree.find_all(exp.DataType)):
        if kind.this == exp.DType.VARIANT:
            kind.set("this", exp.DType.JSON)


def _call(call: Any, names: Names) -> None:
    match call:
        case exp.CurrentUser() | exp.SessionUser():
            call.replace(exp.Literal.string(names.user))
        case exp.CurrentCatalog():
            call.replace(exp.Literal.string(names.catalog))
        case exp.CurrentSchema():
            call.replace(exp.Literal.string(names.schema))
        case exp.ReadCSV() | exp.ReadParquet():
            raise no_function(call.sql_name())  # DuckDB's, not Databricks'
        case exp.JSONFormat() if call.args.get("options"):
            raise not_understood("to_json", "with options this stand-in knows it in an outermost select list only")
        case exp.Anonymous():
            name = call.name.lower()
            if name not in FUNCTIONS:
                raise no_function(call.name)
            if name == "is_account_group_member":
                call.replace(exp.Boolean(this=call.expressions[0].name in names.groups))
            elif name == "xxhash64":
                # Another hash than Databricks' own, of the same width: sums of it compare, its numbers do not.
                hashed = exp.cast(exp.Anonymous(this="hash", expressions=call.expressions), "HUGEINT", dialect="duckdb")
                middle = exp.Literal.number(2**63)
                call.replace(exp.cast(exp.paren(exp.Sub(this=hashed, expression=middle)), "BIGINT", dialect="duckdb"))


def _outermost(tree: Any) -> dict[int, Later]:
    """Take to_json and casts to text out of the outermost select list, to be done to the result."""
    if not isinstance(tree, exp.Select):
        return {}
    later = {}
    for place, each in enumerate(tree.expressions):
        inner = each.unalias()
        if isinstance(inner, exp.JSONFormat):
            later[place] = Later("json", _options(inner.args.get("options")))
        elif isinstance(inner, exp.Cast) and inner.to.this == exp.DType.TEXT and isinstance(inner.this, exp.Column):
            later[place] = Later("text")
        else:
            continue
        tree.expressions[place].replace(exp.alias_(inner.this, each.alias_or_name or f"c{place}", quoted=True))
    return later


def _options(tree: Any) -> dict[str, str]:
    if tree is None:
        return {}
    if isinstance(tree, list):
        tree = tree[0]
    names, values = (part.expressions for part in (tree.args["keys"], tree.args["values"]))
    return {name.name: value.name for name, value in zip(names, values, strict=True)}

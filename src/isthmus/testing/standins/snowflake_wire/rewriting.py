"""Snowflake's functions that fakesnow leaves out or gets wrong, in DuckDB's words; each as Snowflake documents it."""

from __future__ import annotations

import re
from collections.abc import Callable

import sqlglot
from sqlglot import exp

from .naming import Name, Refused

FLOAT_FORMAT = re.compile(r"9\.(9+)EEEEE")


def duck(text: str, **parts: exp.Expr) -> exp.Expr:
    """An expression in DuckDB's words, in which the columns named like `parts` stand for these."""
    tree = sqlglot.parse_one(text, read="duckdb")
    for column in list(tree.find_all(exp.Column)):
        if column.name in parts:
            column.replace(exp.paren(parts[column.name].transform(_rewrite)))
    return tree


def rewritten(tree: exp.Expr) -> exp.Expr:
    """The statement with what fakesnow does not know said otherwise."""
    return tree.transform(_rewrite)


def _rewrite(node: exp.Expr) -> exp.Expr:
    kind, form = type(node).__name__, node.args.get("format")
    if kind == "HashAgg":  # the order of the rows is nothing to it, and NULL is a value like any other
        values = {f"_a{n}": value for n, value in enumerate([node.this, *node.expressions])}
        packed = ", ".join(f"b{name} := {name}" for name in values)
        return duck(f"(coalesce(sum(hash(struct_pack({packed}))::HUGEINT), 0) % {2**62})::BIGINT", **values)
    if kind == "ToNumber" and form is not None and set(form.name) == {"X"}:
        return duck("('0x' || _v)::BIGINT", _v=node.this)
    if kind == "ToChar" and form is not None:
        return _to_varchar(node.this, form.name)
    if kind == "TimeToStr" and form is not None and form.name == "%H:%M:%S.%f":
        return _to_varchar(node.this, "HH24:MI:SS.FF6")
    return node


def _to_varchar(value: exp.Expr, form: str) -> exp.Expr:
    number = FLOAT_FORMAT.fullmatch(form)
    if number:  # one digit, so many after the point, an exponent of a sign and three digits; a blank where no minus is
        shown = f"upper(format('{{:.{len(number[1])}e}}', _v::DOUBLE))"
        exponent = f"split_part({shown}, 'E', 2)"
        padded = f"CASE WHEN length({exponent}) = 3 THEN replace(replace({exponent}, '+', '+0'), '-', '-0') "
        fixed = f"split_part({shown}, 'E', 1) || 'E' || {padded} ELSE {exponent} END"
        return duck(f"CASE WHEN _v IS NULL THEN NULL WHEN _v < 0 THEN {fixed} ELSE ' ' || {fixed} END", _v=value)
    if form.upper() == "HH24:MI:SS.FF6":
        return duck("strftime(DATE '2000-01-01' + _v::TIME, '%H:%M:%S.%f')", _v=value)
    raise Refused(f"SQL compilation error:\nthe stand-in has no TO_VARCHAR of the format {form!r}", 1003, "42000")


def with_tables(tree: exp.Expr, replace: Callable[[exp.Table], exp.Expr]) -> exp.Expr:
    """The statement with every table named in it replaced by what `replace` says."""
    return tree.transform(lambda node: replace(node) if isinstance(node, exp.Table) and node.name else node)


def full_name(table: exp.Table, database: str | None, schema: str | None) -> Name:
    """A table's full name, from the session where it is short."""

    def said(part: exp.Expr | None, default: str | None) -> str:
        if part is None or not part.name:
            if default is None:
                raise Refused(
                    "Cannot perform the statement. This session does not have a current database.", 90105, "22000"
                )
            return default
        return part.name if part.args.get("quoted") else part.name.upper()

    return (
        said(table.args.get("catalog"), database),
        said(table.args.get("db"), schema),
        said(table.this, None),
    )


def scales(tree: exp.Expr, count: int) -> list[int]:
    """How many digits the seconds of each column of a query have: 9, unless its last cast says otherwise."""
    chosen = tree.expressions if isinstance(tree, exp.Select) else []
    if len(chosen) != count or any(isinstance(e, exp.Star) for e in chosen):
        return [9] * count
    return [_scale(e.unalias()) for e in chosen]


def _scale(node: exp.Expr) -> int:
    if isinstance(node, exp.Cast) and node.to.expressions:
        digits = node.to.expressions[0].name
        if node.to.this.name.startswith("TIMESTAMP") and digits.isdecimal():
            return int(digits)
    return 9


def merge(tree: exp.Merge) -> str:
    """MERGE in DuckDB's words, which are nearly the same ones."""
    for when in tree.args["whens"].expressions:
        then = when.args["then"]
        for assignment in then.expressions if isinstance(then, exp.Update) else []:
            assignment.set("this", exp.column(assignment.this.this.copy()))  # SET knows no alias
    return tree.sql("duckdb")

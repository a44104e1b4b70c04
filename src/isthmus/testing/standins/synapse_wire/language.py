"""A statement of T-SQL in DuckDB's words.

What sqlglot makes of it, but for: names (case, temporary tables, system views), types, text that is compared as its
column's collation says (blanks at the end never count), and functions. What is not known is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from isthmus.testing.standins.synapse_wire import functions
from isthmus.testing.standins.synapse_wire.catalog import Column, Relation
from isthmus.testing.standins.synapse_wire.packets import Refused
from isthmus.testing.standins.synapse_wire.values import MAX, SqlType

logging.getLogger("sqlglot").setLevel(logging.ERROR)

_TYPES = {
    "UTINYINT": "tinyint",
    "UUID": "uniqueidentifier",
    "TIMESTAMPTZ": "datetimeoffset",
    "TIMESTAMP": "datetime2",
    "USERDEFINED": "sysname",
    "VARBINARY": "varbinary",
}
_REAL = re.compile(r"\bREAL\b", re.IGNORECASE)


class Surroundings(Protocol):
    """What a statement is read in."""

    def find(self, schema: str, name: str) -> Relation: ...

    def system(self, schema: str, name: str) -> pa.Table | None: ...

    def system_function(self, name: str, arguments: list[str]) -> pa.Table | None: ...

    def known_value(self, name: str, arguments: list[str]) -> str | None:
        """What a function about the session or its rights gives, as a literal of SQL; None if it is no such one."""
        ...

    def offer(self, rows: pa.Table) -> str:
        """Make rows readable for this statement, and say under what name."""
        ...


def parse(text: str) -> exp.Expression:
    try:
        found: Any = sqlglot.parse_one(_REAL.sub("FLOAT(24)", text), read="tsql")
    except SqlglotError as e:
        raise Refused(102, f"Incorrect syntax. {str(e).splitlines()[0]}", severity=15) from e
    if not isinstance(found, exp.Expression) or isinstance(found, exp.Command):
        raise Refused(102, f"The stand-in does not know: {text[:200]}", severity=15)
    return found


def sql_type(kind: exp.DataType) -> SqlType:
    """The T-SQL type of a parsed one."""
    dtype = kind.this.name if hasattr(kind.this, "name") else str(kind.this)
    given = [e.this.name if isinstance(e, exp.DataTypeParam) else e.name for e in kind.expressions]
    name = _TYPES.get(dtype, dtype.lower())
    if name == "float":
        return SqlType("real" if given and int(given[0]) <= 24 else "float")
    if name in ("decimal", "numeric"):
        return SqlType("decimal", precision=int(given[0]) if given else 18, scale=int(given[1]) if given[1:] else 0)
    if name in ("time", "datetime2", "datetimeoffset"):
        return SqlType(name, scale=int(given[0]) if given else 7)
    if name in ("char", "varchar", "nchar", "nvarchar", "binary", "varbinary"):
        length = (MAX if given[0].upper() == "MAX" else int(given[0])) if given else 1
        most = 4000 if name.startswith("n") else 8000
        if length > most:
            raise Refused(131, f"The size ({length}) given to the type '{name}' exceeds the maximum allowed ({most}).")
        return SqlType(name, length)
    made = SqlType("sysname", 128) if name == "sysname" else SqlType(name)
    made.kept_as  # noqa: B018  (KeyError: no type of ours)
    return made


class Reading:
    """One statement being put into DuckDB's words. `tables` are those it touches, besides temporary system rows."""

    def __init__(self, tree: exp.Expression, around: Surroundings) -> None:
        self._around = around
        self._scope: dict[str, Column] = {}
        self.read: list[Relation] = []
        self.written: Relation | None = None
        self.tree = tree

    def duckdb(self) -> str:
        if isinstance(rows := self.tree.args.get("expression"), exp.Values) and len(rows.expressions) > 1:
            raise Refused(103010, "Parse error at line: 1, column: 1: Incorrect syntax near ','.", severity=15)
        self._names()
        self._divide()
        self.tree = self._rewritten(self.tree)
        self._compare()
        text = self.tree.sql(dialect="duckdb", unsupported_level=sqlglot.ErrorLevel.IGNORE)
        # sqlglot writes FLOAT(53) and the like by itself; what is left of T-SQL's lengths DuckDB ignores.
        return text.replace("TEXT(MAX)", "TEXT").replace("BLOB(MAX)", "BLOB")

    def column(self, name: str) -> Column | None:
        return self._scope.get(name.lower())

    # Numbers

    def _divide(self) -> None:
        """Whole numbers divide into a whole number in T-SQL; DuckDB has another sign for that."""
        for node in list(self.tree.find_all(exp.Div)):
            sides = self._is_whole(node.left), self._is_whole(node.right)
            if None in sides and False not in sides:
                raise Refused(8117, f"The stand-in does not know of what type {node.sql('tsql')} is.")
            if all(sides):
                node.replace(exp.IntDiv(this=node.left, expression=node.right))

    def _is_whole(self, node: Any) -> bool | None:
        """Whether a value is a whole number; None if it cannot be told."""
        match node:
            case exp.Paren() | exp.Neg():
                return self._is_whole(node.this)
            case exp.Literal():
                return not node.is_string and node.name.isdecimal()
            case exp.Convert():
                return bool(node.this.is_type(*exp.DataType.INTEGER_TYPES))
            case exp.Cast():
                return bool(node.to.is_type(*exp.DataType.INTEGER_TYPES))
            case exp.Count() | exp.DateDiff() | exp.IntDiv():
                return True
            case exp.Column() if (column := self.column(node.name)) is not None:
                return column.type.name in ("bigint", "int", "smallint", "tinyint")
            case exp.Add() | exp.Sub() | exp.Mul() | exp.Mod() | exp.Div():
                sides = self._is_whole(node.left), self._is_whole(node.right)
                return None if None in sides else all(sides)
        return None

    # Names

    def _names(self) -> None:
        common = {c.alias.lower() for c in self.tree.find_all(exp.CTE)}
        target = _target(self.tree)
        for table in list(self.tree.find_all(exp.Table)):
            if isinstance(table.this, exp.Anonymous):
                self._table_function(table)
                continue
            if not table.db and (not table.name or table.name.lower() in common):
                continue
            if table.catalog:
                raise Refused(102, "The stand-in does not know names of three parts.")
            rows = self._around.system(table.db, table.name) if table.db else None
            if rows is not None:
                self._put(table, self._around.offer(rows))
                continue
            relation = self._around.find(table.db or "dbo", name_of(table))
            if table is target:
                self.written = relation
            else:
                self.read.append(relation)
            for column in relation.columns:
                self._scope.setdefault(column.name.lower(), column)
            alias = table.args.get("alias")
            if relation.is_temporary:
                table.set("this", exp.to_identifier(relation.name, quoted=True))
                table.set("db", exp.to_identifier("main"))
                table.set("catalog", exp.to_identifier("temp"))
            else:
                table.set("this", exp.to_identifier(relation.name, quoted=True))
                table.set("db", exp.to_identifier(relation.schema, quoted=True))
            if alias is not None:
                table.set("alias", alias)

    def _table_function(self, table: exp.Table) -> None:
        call = table.this
        rows = self._around.system_function(f"{table.db}.{call.name}".strip("."), [a.name for a in call.expressions])
        if rows is None:
            raise Refused(208, f"Invalid object name '{call.name}'.")
        self._put(table, self._around.offer(rows))

    def _put(self, table: exp.Table, name: str) -> None:
        table.set("db", None)
        if table.args.get("alias") is None:
            shown = table.name or table.this.name
            table.set("alias", exp.TableAlias(this=exp.to_identifier(shown, quoted=True)))
        table.set("this", exp.to_identifier(name, quoted=True))

    # Expressions

    def _rewritten(self, node: exp.Expression) -> exp.Expression:
        new = self._node(node)
        for child in list(new.iter_expressions()):
            changed = self._rewritten(child)
            if changed is not child:
                child.replace(changed)
        return new

    def _node(self, node: exp.Expression) -> exp.Expression:
        match node:
            case exp.DataType():
                return exp.DataType.build(sql_type(node).kept_as, dialect="duckdb")
            case exp.National():
                return exp.Literal.string(node.name)
            case exp.Collate():
                return self._node(node.this)
            case exp.Parameter():
                return self._parameter(node)
            case exp.MD5():
                return self._known(lambda: functions.hashed(node))
            case exp.NumberToStr():
                return self._known(lambda: functions.formatted(node))
            case exp.DateDiff():
                return functions.difference(node)
            case exp.Convert():
                return self._known(lambda: functions.converted(node))
            case exp.Substring():
                start, length = node.args["start"], node.args["length"]
                return functions.call("part", node.this, start, length)
            case exp.Length():
                inner = node.this.this if isinstance(node.this, exp.Cast) else node.this
                return functions.call("text_length", inner)
            case exp.Boolean():
                return node
            case exp.Func() if not isinstance(node, functions.KNOWN) and not isinstance(node, exp.Anonymous):
                if isinstance(node, (exp.AggFunc, exp.CurrentTimestamp)) or node.is_type("unknown"):
                    return node
                return self._function(exp.Anonymous(this=node.sql_name(), expressions=list(node.iter_expressions())))
            case exp.Anonymous():
                return self._function(node)
        return node

    def _known(self, make: Callable[[], exp.Expression]) -> exp.Expression:
        try:
            return make()
        except NotImplementedError as e:
            raise Refused(195, f"The stand-in does not know {e}.") from e

    def _parameter(self, node: exp.Parameter) -> exp.Expression:
        name = node.this.name
        if not isinstance(node.this, exp.Parameter):
            return exp.Placeholder(this=name)
        value = self._around.known_value(f"@@{name}".upper(), [])
        if value is None:
            raise Refused(137, f'Must declare the scalar variable "@@{name}".', severity=15)
        return _literal(value)

    def _function(self, node: exp.Anonymous) -> exp.Expression:
        name = node.name.upper()
        if name in _OURS:
            return node
        value = self._around.known_value(name, [_text(a) for a in node.expressions])
        if value is not None:
            return _literal(value)
        if name in functions.PLAIN:
            return functions.call(functions.PLAIN[name], *node.expressions)
        raise Refused(195, f"'{node.name}' is not a recognized built-in function name.")

    # Text

    def _compare(self) -> None:
        """Blanks at the end of a text never count when it is compared, nor does case unless its collation says so."""
        for node in list(self.tree.find_all(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)):
            if isinstance(node.parent, exp.Update):
                continue  # SET a = b is no comparison
            sides = node.this, node.expression
            column = next((c for side in sides if (c := self._text_column(side))), None)
            if column is not None:
                for key, side in zip(("this", "expression"), sides, strict=True):
                    node.set(key, _as_compared(side, column))
        for among in list(self.tree.find_all(exp.In)):
            if (column := self._text_column(among.this)) is not None:
                among.set("this", _as_compared(among.this, column))
                among.set("expressions", [_as_compared(e, column) for e in among.expressions])
        for window in self.tree.find_all(exp.Window):
            parts = window.args.get("partition_by") or []
            window.set("partition_by", [_as_compared(p, c) if (c := self._text_column(p)) else p for p in parts])

    def _text_column(self, side: exp.Expression | None) -> Column | None:
        if not isinstance(side, exp.Column):
            return None
        found = self.column(side.name)
        return found if found is not None and found.type.is_text else None


_OURS = frozenset(
    "md5_bytes e14 date_diff part bytes_as_bigint data_length text_length utc_now style_3 style_121 pairs_of_bytes chr "
    "concat hex uuid repeat".upper().split()
)


def _as_compared(side: exp.Expression, column: Column) -> exp.Expression:
    trimmed = functions.call("rtrim", side.copy(), exp.Literal.string(" "))
    return trimmed if "_BIN" in (column.collation or "") else functions.call("lower", trimmed)


def name_of(table: exp.Expression) -> str:
    """The name of a table as it was written: sqlglot takes the # off a temporary one."""
    return f"#{table.name}" if table.this.args.get("temporary") else table.name


def _literal(text: str) -> exp.Expression:
    found: Any = sqlglot.parse_one(text, read="duckdb")
    assert isinstance(found, exp.Expression)
    return found


def _target(tree: exp.Expression) -> exp.Expression | None:
    """The table a statement writes to."""
    if isinstance(tree, exp.Insert):
        into: exp.Expression = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        return into
    if isinstance(tree, (exp.Update, exp.Delete)):
        found: exp.Expression = tree.this
        return found
    return None


def _text(argument: exp.Expression) -> str:
    return "" if isinstance(argument, exp.Null) else argument.name

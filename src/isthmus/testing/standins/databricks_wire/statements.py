"""One statement: what it is, whether it may be, and what it gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot
from sqlglot import exp

from isthmus.testing.standins.databricks_wire import columns, dialect, writing
from isthmus.testing.standins.databricks_wire.catalog import Granted, Parts, object_name
from isthmus.testing.standins.databricks_wire.data import HIVE, Data, Session, table_of
from isthmus.testing.standins.databricks_wire.failures import (
    Failure,
    no_relation,
    no_schema,
    not_understood,
)

BATCH_ROWS = 16_384
_NAME = r"(?:`(?:[^`]|``)+`|[^\s`.;]+)"
_NAMES = rf"{_NAME}(?:\.{_NAME})*"
_GRANT = re.compile(
    rf"(GRANT|REVOKE)\s+([A-Z ,]+?)\s+ON\s+(CATALOG|SCHEMA|DATABASE|TABLE|VIEW)?\s*({_NAMES})\s+(TO|FROM)\s+({_NAME})",
    re.I,
)
_SHOW_GRANTS = re.compile(rf"SHOW\s+GRANTS?(?:\s+({_NAME}))?\s+ON\s+(CATALOG|SCHEMA|TABLE)\s+({_NAMES})", re.I)
_DESCRIBE_QUERY = re.compile(r"DESC(?:RIBE)?\s+QUERY\s+(.+)", re.I | re.S)
_DESCRIBE_SCHEMA = re.compile(rf"DESC(?:RIBE)?\s+(?:SCHEMA|DATABASE)\s+({_NAMES})", re.I)
_USE = re.compile(rf"USE\s+(CATALOG|SCHEMA|DATABASE)?\s*({_NAMES})", re.I)
_CATALOG = re.compile(rf"CREATE\s+CATALOG\s+(IF\s+NOT\s+EXISTS\s+)?({_NAME})", re.I)
_TIME_ZONE = re.compile(r"SET\s+TIME\s+ZONE\s+'(?:Etc/)?UTC'", re.I)


@dataclass
class Result:
    """Columns (name and Databricks type), the Arrow schema they travel in, and the rows."""

    columns: list[tuple[str, str]]
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@dataclass
class Statements:
    """Runs statements on the data of all catalogs."""

    data: Data

    def execute(self, statement: str, session: Session) -> Result:
        """Run one statement. Raises Failure."""
        text = statement.strip().rstrip(";").strip()
        try:
            return self._run(text, session)
        except sqlglot.errors.SqlglotError as e:
            raise not_understood(text, str(e).splitlines()[0]) from e
        except duckdb.Error as e:
            raise _failure(e, text) from e

    def _run(self, text: str, session: Session) -> Result:
        if found := _DESCRIBE_QUERY.fullmatch(text):
            _, types, _ = self._bound(self._parsed(found[1]), session)
            return _rows(["col_name", "data_type", "comment"], [(n, t, None) for n, t in types])
        if found := _SHOW_GRANTS.fullmatch(text):
            return self._show_grants(found, session)
        if found := _GRANT.fullmatch(text):
            return self._grant(found, session)
        if found := _DESCRIBE_SCHEMA.fullmatch(text):
            on = self._schema(_split(found[1]), session)
            self.data.require_schema(on, session)
            return _rows(["info_name", "info_value"], [("Catalog Name", on[0]), ("Namespace Name", on[1])])
        if found := _CATALOG.fullmatch(text):
            writing.create_catalog(self.data, object_name(_split(found[2])[0]), bool(found[1]), session)
            return _rows([], [])
        if found := _USE.fullmatch(text):
            return self._use((found[1] or "SCHEMA").upper(), _split(found[2]), session)
        if _TIME_ZONE.fullmatch(text):
            return _rows([], [])
        tree = self._parsed(text)
        match tree:
            case exp.Query():
                return self._select(tree, session)
            case exp.Create() if tree.kind == "SCHEMA":
                writing.create_schema(self.data, tree, session)
            case exp.Create() if tree.kind in ("TABLE", "VIEW"):
                writing.create_relation(self.data, tree, session, self._names(session))
            case exp.Drop() if tree.kind in ("SCHEMA", "TABLE", "VIEW"):
                writing.drop(self.data, tree, session)
            case exp.Insert() | exp.Delete() | exp.Update():
                writing.modify(self.data, tree, session, self._names(session))
            case _:
                raise not_understood(text, "a statement this stand-in does not know")
        return _rows([], [])

    def _parsed(self, text: str) -> Any:
        trees = sqlglot.parse(text, read="databricks", error_level=sqlglot.ErrorLevel.RAISE)
        if len(trees) != 1 or trees[0] is None or isinstance(trees[0], exp.Command):
            raise not_understood(text)
        return trees[0]

    # Reading

    def _select(self, tree: Any, session: Session) -> Result:
        made, types, later = self._bound(tree, session)
        with self.data.lock:
            cursor = self.data.con.cursor()
        reader = cursor.execute(made).to_arrow_reader(BATCH_ROWS)
        fields = [
            pa.field(name, pa.string() if place in later else columns.arrow_type(reader.schema.field(place).type))
            for place, (name, _) in enumerate(types)
        ]
        schema = pa.schema(fields)
        return Result(types, schema, _finished(reader, schema, later))

    def _bound(self, tree: Any, session: Session) -> tuple[str, list[tuple[str, str]], dict[int, dialect.Later]]:
        """A query as DuckDB runs it, the types of its result, and what is done to which columns of it."""
        if not isinstance(tree, exp.Query):
            raise not_understood(tree.sql(dialect="databricks"))
        made, later = dialect.query(tree, self._names(session))
        with self.data.lock:
            relation = self.data.con.cursor().sql(made.sql(dialect="duckdb"))
            assert relation is not None
            theirs = list(relation.types)
        for place, each in list(later.items()):
            if each.what == "text" and theirs[place].id != "interval":
                del later[place]
                column = made.expressions[place]
                column.replace(exp.alias_(exp.cast(column.unalias(), "TEXT"), column.alias, quoted=True))
            elif each.what == "json":
                each.is_variant = str(theirs[place]) == "JSON"
        types = [
            (name, "string" if place in later else columns.type_name(kind))
            for place, (name, kind) in enumerate(zip(relation.columns, theirs, strict=True))
        ]
        return made.sql(dialect="duckdb"), types, later

    def _names(self, session: Session) -> dialect.Names:
        groups = self.data.access.names_of(session.user) - {session.user}
        return dialect.Names(
            session.user,
            session.catalog,
            session.schema,
            groups,
            lambda parts: self._readable(parts, session),
            self._file,
        )

    def _file(self, path: str) -> exp.Expression:
        if not Path(path).is_file():
            raise Failure("PATH_NOT_FOUND", f"Path does not exist: {path}.", "42K03")
        return exp.Table(this=exp.Anonymous(this="read_parquet", expressions=[exp.Literal.string(path)]))

    def _readable(self, given: Parts, session: Session) -> Any:
        parts = tuple(part.lower() for part in given)
        self.data.require_catalog(parts[0])
        if parts[1] == "information_schema" and parts[0] != HIVE:
            self.data.access.require(session.user, "USE CATALOG", parts[:1])
            return self._information(parts, session)
        if parts[0] != HIVE:
            self.data.require_schema(parts[:2], session)
        if not self.data.is_there(parts):
            raise no_relation(parts)
        if parts[0] != HIVE:
            self.data.access.require(session.user, "SELECT", parts)
        return table_of(parts)

    def _information(self, parts: Parts, session: Session) -> exp.Expression:
        """A view of the information schema, as values: what the one who asks may see."""
        catalog = parts[0]
        if parts[2] == "schemata":
            heads = ["catalog_name", "schema_name", "schema_owner"]
            access = self.data.access
            seen = [on for on in self.data.schemas(catalog) if access.sees(session.user, on)]
            rows = [(*on, access.owners.get(on, access.administrator)) for on in seen]
        elif parts[2] == "tables":
            heads = ["table_catalog", "table_schema", "table_name", "table_type"]
            rows = [(*on, kind) for on, kind in self.data.relations(catalog) if self.data.access.sees(session.user, on)]
        else:
            raise no_relation(parts)
        values: list[Any] = rows or [(None,) * len(heads)]
        literals = [tuple(exp.null() if v is None else exp.Literal.string(v) for v in row) for row in values]
        body = exp.values(literals)
        cast = ", ".join(f"c{n}::VARCHAR AS {head}" for n, head in enumerate(heads))
        names = ", ".join(f"c{n}" for n in range(len(heads)))
        text = f"SELECT {cast} FROM {exp.paren(body).sql('duckdb')} AS v({names}) WHERE c0 IS NOT NULL"
        return exp.Subquery(this=sqlglot.parse_one(text, read="duckdb"))

    def _schema(self, given: Sequence[str], session: Session) -> Parts:
        parts = tuple(part.lower() for part in given)
        return parts if len(parts) == 2 else (session.catalog, *parts)

    # Who and where

    def _use(self, kind: str, given: Sequence[str], session: Session) -> Result:
        if kind == "CATALOG":
            self.enter(given[0], "default", session)
        else:
            on = self._schema(given, session)
            self.data.require_schema(on, session)
            session.catalog, session.schema = on
        return _rows([], [])

    def enter(self, catalog: str, schema: str, session: Session) -> None:
        """Make a catalog the session's own. Raises if it is not there, or may not be used."""
        name = catalog.lower()
        self.data.require_catalog(name)
        if name != HIVE:
            self.data.access.require(session.user, "USE CATALOG", (name,))
        session.catalog, session.schema = name, schema.lower()

    def _object(self, kind: str, given: Sequence[str], session: Session) -> Parts:
        """The object a grant is about. Raises if it is not there."""
        parts = tuple(part.lower() for part in given)
        size = {"CATALOG": 1, "SCHEMA": 2, "DATABASE": 2}.get(kind, 3)
        on = (session.catalog, session.schema)[: size - len(parts)] + parts if len(parts) < size else parts
        self.data.require_catalog(on[0])
        if on[0] == HIVE:
            raise Failure("UC_HIVE_METASTORE_DISABLED_EXCEPTION", "Operation is not for Hive Metastore.", "0A000")
        if size == 2 and on not in self.data.schemas(on[0]):
            raise no_schema(on)
        if size == 3 and not self.data.is_there(on):
            raise no_relation(on)
        return on

    def _grant(self, found: re.Match[str], session: Session) -> Result:
        verb, actions, kind, names, preposition, principal = found.groups()
        if (verb.upper(), preposition.upper()) not in (("GRANT", "TO"), ("REVOKE", "FROM")):
            raise not_understood(preposition)
        on = self._object((kind or "TABLE").upper(), _split(names), session)
        if not self.data.access.owns(session.user, on) and not self.data.access.may(session.user, "MANAGE", on):
            self.data.access.require(session.user, "MANAGE", on)
        for action in actions.upper().split(","):
            granted = Granted(_split(principal)[0], " ".join(action.split()), on)
            self.data.access.grant(granted) if verb.upper() == "GRANT" else self.data.access.revoke(granted)
        return _rows([], [])

    def _show_grants(self, found: re.Match[str], session: Session) -> Result:
        asked = _split(found[1])[0] if found[1] else None
        on = self._object(found[2].upper(), _split(found[3]), session)
        if asked is not None:
            self.data.access.known(asked)
        if asked != session.user and not self.data.access.owns(session.user, on):
            self.data.access.require(session.user, "MANAGE", on)
        kinds = {1: "CATALOG", 2: "SCHEMA", 3: "TABLE"}
        rows = [(g.principal, g.action, kinds[len(g.on)], ".".join(g.on)) for g in self.data.access.shown(asked, on)]
        return _rows(["Principal", "ActionType", "ObjectType", "ObjectKey"], rows)


def _finished(reader: Any, schema: pa.Schema, later: dict[int, dialect.Later]) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        arrays = []
        for place, array in enumerate(batch.columns):
            each = later.get(place)
            if each is not None:
                write: Callable[[Any], str | None] = columns.interval_text
                if each.what == "json":
                    write = partial(columns.as_json, options=each.options, is_variant=each.is_variant)
                array = pa.array([write(value) for value in array.to_pylist()], pa.string())
            arrays.append(array.cast(schema.field(place).type))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _rows(heads: list[str], rows: Sequence[Sequence[str | None]]) -> Result:
    schema = pa.schema([pa.field(head, pa.string()) for head in heads])
    table = pa.table({head: pa.array([r[n] for r in rows], pa.string()) for n, head in enumerate(heads)}, schema=schema)
    return Result([(head, "string") for head in heads], schema, iter(table.to_batches()))


def _split(names: str) -> Parts:
    return tuple(p[1:-1].replace("``", "`") if p.startswith("`") else p for p in re.findall(_NAME, names))


def _failure(error: duckdb.Error, text: str) -> Failure:
    """DuckDB's refusal in Databricks' words, as near as can be."""
    said = str(error).splitlines()[0]
    match error:
        case duckdb.BinderException() if found := re.search(r'column "?([^" ]+)"? (not found|does not)', said):
            sentence = f"A column, variable, or function parameter with name `{found[1]}` cannot be resolved."
            return Failure("UNRESOLVED_COLUMN.WITHOUT_SUGGESTION", sentence, "42703")
        case duckdb.CatalogException() if found := re.search(r"Function with name (\S+) does not exist", said):
            return Failure("UNRESOLVED_ROUTINE", f"Cannot resolve routine `{found[1]}` on search path.", "42883")
        case duckdb.CatalogException() if "already exists" in said:
            return Failure("TABLE_OR_VIEW_ALREADY_EXISTS", said, "42P07")
        case duckdb.ConversionException() if "out of range" in said:
            return Failure("CAST_OVERFLOW", said, "22003")
        case duckdb.ConversionException():
            return Failure("CAST_INVALID_INPUT", said, "22018")
        case duckdb.OutOfRangeException():
            return Failure("ARITHMETIC_OVERFLOW", said, "22003")
        case duckdb.BinderException():
            return Failure("DATATYPE_MISMATCH", said, "42K09")
    return not_understood(text, said)

"""CREATE, ALTER, DROP and DESCRIBE of databases, schemas, tables, views and stages, by who may do so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sqlglot
from sqlglot import exp

from .answers import Answer, done
from .catalog import Catalog
from .naming import NAME, Name, Refused, insufficient, not_there, parts, shown
from .rewriting import full_name, with_tables
from .session import Session
from .stages import Stages

_TYPES = {
    "NUMBER": "NUMBER(38,0)",
    "INTEGER": "NUMBER(38,0)",
    "INT": "NUMBER(38,0)",
    "BIGINT": "NUMBER(38,0)",
    "STRING": "VARCHAR(16777216)",
    "TEXT": "VARCHAR(16777216)",
    "VARCHAR": "VARCHAR(16777216)",
    "DOUBLE": "FLOAT",
    "TIMESTAMP_NTZ": "TIMESTAMP_NTZ(9)",
    "TIMESTAMP_LTZ": "TIMESTAMP_LTZ(9)",
    "TIMESTAMP_TZ": "TIMESTAMP_TZ(9)",
    "TIMESTAMP": "TIMESTAMP_NTZ(9)",
    "DATETIME": "TIMESTAMP_NTZ(9)",
    "TIME": "TIME(9)",
    "BINARY": "BINARY(8388608)",
}

Run = Callable[[Session, exp.Expr], Any]


class Definitions:
    """Answers for one session."""

    def __init__(self, catalog: Catalog, session: Session, full: Callable[[str, Name], Name], stages: Stages) -> None:
        self._catalog, self._session, self._full, self._stages = catalog, session, full, stages

    def answer(self, text: str, run: Run, make_database: Callable[[Session, str], None]) -> Answer | None:
        """The answer to a statement that defines or describes something; None if it is none. DDL commits."""
        patterns: list[tuple[str, Callable[..., Answer]]] = [
            (
                rf"create\s+(?P<replace>or\s+replace\s+)?(?P<kind>database|schema)\s+(?P<exists>if\s+not\s+exists\s+)?(?P<name>{NAME})"
                r"(?:\s+comment\s*=.*)?",
                self._create_container,
            ),
            (
                rf"create\s+(?P<replace>or\s+replace\s+)?(?P<temporary>temp(?:orary)?\s+)?stage\s+(?P<exists>if\s+not\s+exists\s+)?"
                rf"(?P<name>{NAME})",
                self._create_stage,
            ),
            (
                rf"drop\s+(?P<kind>database|schema|table|view|stage)\s+(?P<exists>if\s+exists\s+)?(?P<name>{NAME})(?:\s+cascade)?",
                self._drop,
            ),
            (rf"desc(?:ribe)?\s+(?P<kind>table|view|schema|database|stage)\s+(?P<name>{NAME})", self._describe),
        ]
        for pattern, method in patterns:
            if match := re.fullmatch(pattern, text, re.I | re.S):
                self._commit(text)
                return method(match, run, make_database)
        if re.match(r"(?i)(create|alter)\s", text):
            tree = sqlglot.parse_one(text, read="snowflake")
            kind = str(tree.args.get("kind") or "").upper()
            if isinstance(tree, exp.Create | exp.Alter) and kind in ("TABLE", "VIEW"):
                self._commit(text)
                return self._create(tree, kind) if isinstance(tree, exp.Create) else self._alter(tree, kind)
        return None

    def _commit(self, text: str) -> None:
        if not re.match(r"(?i)desc", text) and not re.match(r"(?i)create\s+(or\s+replace\s+)?temp", text):
            self._session.end(commit=True)

    # Databases and schemas

    def _create_container(self, match: re.Match[str], run: Run, make: Callable[[Session, str], None]) -> Answer:
        kind = match["kind"].upper()
        name = self._full(kind, parts(match["name"]))
        role = self._session.role
        if kind == "DATABASE":
            if not {"SYSADMIN", "ACCOUNTADMIN"} & self._catalog.all_roles(role):
                raise Refused("SQL access control error:\nInsufficient privileges to operate on account", 3001, "42501")
        else:
            self._catalog.require_container(role, name[:1])
            if not self._catalog.has(role, "CREATE SCHEMA", "DATABASE", name[:1]):
                raise insufficient("Database", name[:1])
        if self._catalog.find(kind, name) and not match["replace"]:
            return self._already(name, match)
        if self._catalog.find(kind, name):
            run(self._session, exp.Drop(this=_table(name), kind=kind, exists=True, cascade=True))
        if kind == "DATABASE":
            make(self._session, name[0])
            self._catalog.make(kind, name, role)
            name = (*name, "PUBLIC")
        quoted = ".".join(exp.to_identifier(p, quoted=True).sql("duckdb") for p in name)
        self._session.duck.execute(f"CREATE SCHEMA {quoted}")
        self._catalog.make("SCHEMA", name, role)
        return done(f"{kind.title()} {shown(name)} successfully created.")

    def _already(self, name: Name, match: re.Match[str]) -> Answer:
        if not match["exists"]:
            raise Refused(f"SQL compilation error:\nObject '{shown(name)}' already exists.", 2002, "42710")
        return done(f"{shown(name)} already exists, statement succeeded.")

    def _create_stage(self, match: re.Match[str], run: Run, make: object) -> Answer:
        name = self._full("STAGE", parts(match["name"]))
        self._catalog.require_to_make(self._session.role, "STAGE", name)
        if (name in self._session.stages or self._catalog.find("STAGE", name)) and not match["replace"]:
            return self._already(name, match)
        if match["temporary"]:
            self._session.stages.add(name)
        else:
            self._catalog.make("STAGE", name, self._session.role)
        return done(f"Stage area {shown(name)} successfully created.")

    # Tables and views

    def _create(self, tree: exp.Create, kind: str) -> Answer:
        table = tree.find(exp.Table)
        assert table is not None
        session, role = self._session, self._session.role
        name = full_name(table, session.database, session.schema)
        properties = tree.args.get("properties")
        temporary = properties is not None and properties.find(exp.TemporaryProperty) is not None
        self._catalog.require_to_make(role, kind, name, temporary=temporary)
        there = self._catalog.find(kind, name)
        if (there or name in session.temporary) and tree.args.get("exists"):
            return done(f"{shown(name)} already exists, statement succeeded.")
        if there and not temporary and not tree.args.get("replace"):
            raise Refused(f"SQL compilation error:\nObject '{shown(name)}' already exists.", 2002, "42710")
        if there and not temporary and not self._catalog.has(role, "OWNERSHIP", kind, name):
            raise insufficient(kind, name)
        columns = declared(tree)
        for constraint in list(tree.find_all(exp.PrimaryKey, exp.PrimaryKeyColumnConstraint)):
            # Snowflake takes a primary key, and does not enforce it.
            inner = isinstance(constraint, exp.PrimaryKeyColumnConstraint) and constraint.parent is not None
            (constraint.parent if inner and constraint.parent is not None else constraint).pop()
        if properties is not None:
            kept = [exp.TemporaryProperty()] if temporary else []
            tree.set("properties", exp.Properties(expressions=kept) if kept else None)
        if temporary:
            self._make_temporary(tree, table, name)
            self._session.temporary_columns[name] = tuple(columns)
            return done(f"Table {shown(name)} successfully created.")
        self._run_as_it_is(self.with_what_is_seen(tree))
        self._catalog.make(kind, name, role, columns=columns)
        return done(f"{kind.title()} {shown(name)} successfully created.")

    def _make_temporary(self, tree: exp.Create, table: exp.Table, name: Name) -> None:
        """DuckDB's temporary tables have no schema: ours is told apart by its number."""
        there = self._session.temporary.pop(name, None)
        if there:
            self._session.duck.execute(f"DROP TABLE {there}")
        local = f"t{len(self._session.temporary)}_{abs(hash(name))}"
        table.replace(exp.table_(local, db="main", catalog="temp", quoted=True))
        tree.set("replace", False)
        self._run_as_it_is(self.with_what_is_seen(tree))
        self._session.temporary[name] = f'temp.main."{local}"'

    def _run_as_it_is(self, tree: exp.Expr) -> None:
        """Run what fakesnow makes of it, without its notes on lengths and comments: they trip over odd names."""
        self._session.duck.execute(self._session.con.cursor()._transform(tree, None).sql("duckdb"))

    def _alter(self, tree: exp.Alter, kind: str) -> Answer:
        table = tree.find(exp.Table)
        assert table is not None
        name = full_name(table, self._session.database, self._session.schema)
        self._owned(kind, name)
        self._session.take(name)
        try:
            self._run_as_it_is(tree)
        finally:
            self._session.end(commit=True)
        thing = self._catalog.find(kind, name)
        assert thing is not None
        for column in tree.find_all(exp.ColumnDef):
            thing.columns[_said(column.this)] = _type(column.args["kind"])
        return done()

    def _owned(self, kind: str, name: Name) -> None:
        if not self._catalog.sees(self._session.role, kind, name):
            raise not_there(kind.title(), name)
        if not self._catalog.has(self._session.role, "OWNERSHIP", kind, name):
            raise insufficient(kind, name)

    def _drop(self, match: re.Match[str], run: Run, make: object) -> Answer:
        kind = match["kind"].upper()
        name = self._full(kind, parts(match["name"]))
        if name in self._session.temporary:
            self._session.duck.execute(f"DROP TABLE {self._session.temporary.pop(name)}")
            return done(f"{name[-1]} successfully dropped.")
        if kind == "STAGE" and name in self._session.stages:
            self._session.stages.discard(name)
            return done(f"{name[-1]} successfully dropped.")
        if self._catalog.find(kind, name) is None and match["exists"]:
            return done("Drop statement executed successfully.")
        self._owned(kind, name)
        if kind == "STAGE":
            self._stages.drop(name)
        elif kind == "DATABASE":
            self._session.duck.execute(f'DETACH "{name[0]}"')
        else:
            quoted = ".".join(exp.to_identifier(p, quoted=True).sql("duckdb") for p in name)
            self._session.duck.execute(f"DROP {kind} {quoted}" + (" CASCADE" if kind == "SCHEMA" else ""))
        self._catalog.remove(kind, name)
        return done(f"{name[-1]} successfully dropped.")

    def _describe(self, match: re.Match[str], run: Run, make: object) -> Answer:
        kind = match["kind"].upper()
        name = self._full(kind, parts(match["name"]))
        if kind in ("DATABASE", "SCHEMA", "STAGE"):
            if not self._catalog.sees(self._session.role, kind, name):
                raise not_there(kind.title(), name)
            inside = [t for t in self._catalog.inside(name) if self._catalog.sees(self._session.role, t.kind, t.name)]
            return Answer(["created_on", "name", "kind"], [["", t.name[-1], t.kind] for t in inside])
        thing = self._catalog.find("TABLE", name)
        if thing is None or not self._catalog.sees(self._session.role, thing.kind, name):
            raise not_there(kind.title(), name)
        quoted = ".".join(exp.to_identifier(p, quoted=True).sql("duckdb") for p in name)
        rows = self._session.duck.execute(f"DESCRIBE {quoted}").fetchall()
        columns = ["name", "type", "kind", "null?", "default"]
        return Answer(
            columns,
            [
                [row[0], thing.columns.get(row[0], _of_duck(row[1])), "COLUMN", "Y" if row[2] == "YES" else "N", None]
                for row in rows
            ],
        )

    # What a statement sees

    def with_what_is_seen(self, tree: exp.Expr) -> exp.Expr:
        """The statement with temporary tables under DuckDB's names, and the catalog's views as the role sees them."""
        session = self._session

        def seen(table: exp.Table) -> exp.Expr:
            if not isinstance(table.this, exp.Identifier):
                return table
            try:
                name = full_name(table, session.database, session.schema)
            except Refused:
                return table
            if name in session.temporary:
                local = exp.to_table(session.temporary[name], dialect="duckdb")
                local.set(
                    "alias", table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name[-1], quoted=True))
                )
                return local
            if name[1] == "INFORMATION_SCHEMA" and name[2] in ("TABLES", "SCHEMATA", "COLUMNS"):
                return self._information(name, table)
            return table

        return with_tables(tree, seen)

    def _information(self, name: Name, table: exp.Table) -> exp.Expr:
        database, rows = name[0], list[tuple[str | None, ...]]()
        self._catalog.require_container(self._session.role, (database,))
        role = self._session.role
        if name[2] == "SCHEMATA":
            names: tuple[str, ...] = ("CATALOG_NAME", "SCHEMA_NAME")
            rows = [
                t.name
                for t in self._catalog.inside((database,), "SCHEMA")
                if self._catalog.sees(role, "SCHEMA", t.name)
            ]
        else:
            things = [t for k in ("TABLE", "VIEW") for t in self._catalog.inside((database,), k)]
            things = [t for t in things if self._catalog.sees(role, t.kind, t.name)]
            names = ("TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "TABLE_TYPE", "TABLE_OWNER")
            rows = [(*t.name, "BASE TABLE" if t.kind == "TABLE" else "VIEW", t.owner) for t in things]
            if name[2] == "COLUMNS":
                names = (*names[:3], "COLUMN_NAME")
                rows = [(*t.name, column) for t in things for column in t.columns]
        columns: Any = [exp.to_identifier(n, quoted=True) for n in names]
        values = exp.values(rows or [tuple([None] * len(names))], alias="v", columns=columns)
        query = exp.select("*").from_(values).where(f'v."{names[1]}" IS NOT NULL')
        return exp.Subquery(
            this=query, alias=table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name[2]))
        )


def declared(tree: exp.Expr) -> dict[str, str]:
    """The columns of a CREATE TABLE, with their types as Snowflake writes them back."""
    schema = tree.this
    if not isinstance(schema, exp.Schema):
        return {}
    return {_said(c.this): _type(c.args["kind"]) for c in schema.expressions if isinstance(c, exp.ColumnDef)}


def _said(identifier: exp.Expr) -> str:
    return identifier.name if identifier.args.get("quoted") else identifier.name.upper()


def _type(kind: exp.Expr) -> str:
    text = kind.sql("snowflake").upper().replace(", ", ",")
    text = {
        "DECIMAL": "NUMBER",
        "TIMESTAMPTZ": "TIMESTAMP_TZ",
        "TIMESTAMPNTZ": "TIMESTAMP_NTZ",
        "TIMESTAMPLTZ": "TIMESTAMP_LTZ",
    }.get(text, text)
    text = re.sub(r"^(DECIMAL|NUMERIC)\b", "NUMBER", re.sub(r"^TIMESTAMP(TZ|NTZ|LTZ)\b", r"TIMESTAMP_\1", text))
    return _TYPES.get(text, text)


def _of_duck(kind: str) -> str:
    kinds = {
        "VARCHAR": "VARCHAR(16777216)",
        "BIGINT": "NUMBER(38,0)",
        "DOUBLE": "FLOAT",
        "JSON": "VARIANT",
        "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_TZ(9)",
        "TIMESTAMP": "TIMESTAMP_NTZ(9)",
        "BLOB": "BINARY(8388608)",
    }
    return kinds.get(kind, re.sub("^DECIMAL", "NUMBER", kind))


def _table(name: Name) -> exp.Table:
    *outer, last = name
    db = outer[-1] if outer else None
    return exp.table_(last, db=db, catalog=outer[0] if len(outer) > 1 else None, quoted=True)

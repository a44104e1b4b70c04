"""Runs statements: the account's own from the catalog, stages from their folder, everything else by fakesnow."""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import snowflake.connector.errors as driver_errors
import sqlglot
from fakesnow import info_schema, macros  # type: ignore[import-not-found]
from fakesnow.instance import FakeSnow  # type: ignore[import-not-found]
from sqlglot import exp

from . import answers, rewriting, rights
from .account import Account
from .answers import Answer, counted, done
from .catalog import Catalog
from .definitions import Definitions
from .locks import Locks
from .naming import NAME, Name, Refused, not_there, parts, with_variables, without_comments
from .session import Session
from .stages import COPY, LIST, PUT, REMOVE, Stages

warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")

# What needs no warehouse that runs: metadata, and questions about the session itself.
_FREE = re.compile(
    r"(?is)\s*(show|describe|desc|use|set|unset|alter|create|drop|grant|revoke|begin|start|commit|rollback)\b"
)


class Engine:
    """One account: its catalog, its data, its sessions."""

    def __init__(self, folder: Path, idle_abort_s: float) -> None:
        self.catalog = Catalog()
        self.stages = Stages(folder)
        self.idle_abort_s = idle_abort_s
        self.locks = Locks(lambda: self.idle_abort_s)
        self.log: list[dict[str, Any]] = []
        self._fake = FakeSnow(create_database_on_connect=False, create_schema_on_connect=False)
        self._changing = threading.RLock()  # DDL, one at a time: DuckDB refuses two that meet
        self.url = ""

    # Sessions

    def open(self, token: str, user: str, role: str) -> Session:
        return Session(token, user, role, self._fake.connect(), self.locks)

    def use(self, session: Session, database: str | None, schema: str | None, warehouse: str | None) -> None:
        """What a sign-in asks for is used as far as it is there and may be used; nothing is said of the rest."""
        if warehouse and self.catalog.sees(session.role, "WAREHOUSE", parts(warehouse)):
            session.warehouse = parts(warehouse)[0]
        if database and self.catalog.enters(session.role, parts(database)):
            self._enter(session, parts(database))
            if schema and self.catalog.enters(session.role, (*parts(database), *parts(schema))):
                self._enter(session, (*parts(database), *parts(schema)))

    def _enter(self, session: Session, name: Name) -> None:
        quoted = ".".join(exp.to_identifier(part, quoted=True).sql("duckdb") for part in (*name, "main")[:2])
        session.duck.execute("SET schema = '" + quoted.replace("'", "''") + "'")
        session.con.database, session.con.database_set = name[0], True
        session.con._schema, session.con.schema_set = (name[1], True) if len(name) > 1 else (None, False)

    # Statements

    def run(self, session: Session, statement: str, *, describe_only: bool = False) -> Answer:
        """Run one statement. Raises Refused."""
        self.log.append(
            {
                "statement": statement,
                "user": session.user,
                "role": session.role,
                "at": time.time(),
                "tag": session.parameters["QUERY_TAG"],
                "describe": describe_only,
            }
        )
        try:
            with session.at_work():
                text = with_variables(without_comments(statement), session.variables)
                answer = self._about_the_session(session, text) or self._about_the_account(session, text)
                return answer or self._about_stages(session, text) or self._about_data(session, text, describe_only)
        except (driver_errors.Error, duckdb.Error, sqlglot.errors.SqlglotError) as e:
            raise _refused(e) from e

    def full(self, session: Session) -> Callable[[str, Name], Name]:
        """Completes the name of an object of a kind from the session."""

        def complete(kind: str, name: Name) -> Name:
            if kind in ("DATABASE", "WAREHOUSE", "ROLE", "USER"):
                return name
            wanted = 2 if kind == "SCHEMA" else 3
            here = (session.database or "", session.schema or "")
            return (*here[: max(0, wanted - len(name))], *name)[-wanted:]

        return complete

    def _about_the_account(self, session: Session, text: str) -> Answer | None:
        account = Account(self.catalog, session.user, session.role, self.full(session))
        return account.answer(text)

    def _about_the_session(self, session: Session, text: str) -> Answer | None:
        if re.fullmatch(r"(?i)(begin|start)(\s+(transaction|work))?(\s+name\s+\S+)?", text):
            session.begin()
        elif re.fullmatch(r"(?i)commit(\s+work)?", text):
            session.end(commit=True)
        elif re.fullmatch(r"(?i)rollback(\s+work)?", text):
            session.end(commit=False)
        elif match := re.fullmatch(r"(?is)alter\s+session\s+set\s+(.+)", text):
            for key, value in re.findall(r"(\w+)\s*=\s*('[^']*'|\w+)", match[1]):
                self.set_parameter(session, key, value.strip("'"))
        elif match := re.fullmatch(r"(?is)set\s+(\w+)\s*=\s*(.+)", text):
            session.variables[match[1].upper()] = str(session.duck.execute(f"SELECT {match[2]}").fetchall()[0][0])
        elif match := re.fullmatch(rf"(?i)use\s+(?:(role|warehouse|database|schema)\s+)?({NAME})", text):
            self._use(session, (match[1] or "database").upper(), parts(match[2]))
        else:
            return None
        return done()

    def set_parameter(self, session: Session, key: str, value: str) -> None:
        session.parameters[key.upper()] = value

    def _use(self, session: Session, kind: str, name: Name) -> None:
        if kind == "ROLE":
            held = self.catalog.user(session.user).roles
            if not any(name[0] in self.catalog.all_roles(role) for role in held):
                message = (
                    f"SQL access control error:\nRequested role '{name[0]}' is not assigned to the executing user."
                    "Specify another role to activate."
                )
                raise Refused(message, 3013, "42501")
            session.role = name[0]
            return
        if kind == "WAREHOUSE":
            if not self.catalog.sees(session.role, kind, name):
                raise not_there("Warehouse", name)
            session.warehouse = name[0]
            return
        full = self.full(session)(kind, name)
        self.catalog.require_container(session.role, full)
        self._enter(session, full)

    def _about_stages(self, session: Session, text: str) -> Answer | None:
        def stage(words: str, right: str) -> tuple[Name, str]:
            name, path = self.stages.resolve(words, lambda n: self.full(session)("STAGE", n))
            if name not in session.stages:
                found = self.catalog.find("STAGE", name)
                if found is None or not self.catalog.sees(session.role, "STAGE", name):
                    raise not_there("Stage", name)
                if not self.catalog.has(session.role, right, "STAGE", name):
                    raise Refused(f"Insufficient privileges to operate on stage '{name[-1]}'", 3001, "42501")
            return self._stage_key(session, name), path

        if match := PUT.fullmatch(text):
            return self.stages.put(match, *stage(match["stage"], "WRITE"), self.url)
        if match := LIST.fullmatch(text):
            return self.stages.list(*stage(match["stage"], "READ"))
        if match := REMOVE.fullmatch(text):
            return self.stages.remove(*stage(match["stage"], "WRITE"))
        if match := COPY.fullmatch(text):
            table = self.full(session)("TABLE", parts(match["table"]))
            rights.require(self.catalog, session, table, "INSERT")
            rights.require_warehouse(self.catalog, session)
            place = stage(match["stage"], "READ")
            with session.writing():
                target = session.temporary.get(table) or _quoted(table)
                return self.stages.copy(session.duck, table, target, *place, match["options"])
        return None

    def _stage_key(self, session: Session, name: Name) -> Name:
        return (*name, session.token[:8]) if name in session.stages else name

    def _about_data(self, session: Session, text: str, describe_only: bool) -> Answer:
        definitions = Definitions(self.catalog, session, self.full(session), self.stages)
        with self._changing:
            made = definitions.answer(text, self._fakesnow, self._make_database)
        if made is not None:
            return made
        tree = sqlglot.parse_one(text, read="snowflake")
        if not isinstance(tree, exp.Query | exp.Insert | exp.Update | exp.Delete | exp.Merge):
            raise Refused(f"SQL compilation error:\nthe stand-in does not know: {text[:200]}", 1003, "42000")
        for _, name, privilege in rights.tables(tree, session):
            rights.require(self.catalog, session, name, privilege)
        rights.require_case(self.catalog, session, tree)
        if tree.find(exp.Table):
            rights.require_warehouse(self.catalog, session)
        changed = rights.written(tree, session)
        tree = definitions.with_what_is_seen(tree)
        tree = rewriting.rewritten(tree)
        if isinstance(tree, exp.Query):
            return self._query(session, tree, describe_only)
        if changed is not None and not isinstance(tree, exp.Insert) and changed not in session.temporary:
            session.take(changed)
        with session.writing():
            return self._change(session, tree)

    def _query(self, session: Session, tree: exp.Expr, describe_only: bool) -> Answer:
        asked = tree
        if describe_only:
            tree = exp.select("*").from_(exp.Subquery(this=tree, alias="d")).limit(0)
        cursor = self._fakesnow(session, tree)
        table = cursor._arrow_table
        described = session.duck.execute(f"DESCRIBE {cursor._last_sql}").fetchall()
        json_columns = frozenset(row[0] for row in described if row[1] == "JSON")
        inner = asked if describe_only else tree
        columns = answers.described(table.schema, json_columns, rewriting.scales(inner, table.num_columns))
        return Answer(table=table, columns=columns)

    def _change(self, session: Session, tree: exp.Expr) -> Answer:
        if isinstance(tree, exp.Merge):
            (count,) = session.duck.execute(rewriting.merge(tree)).fetchall()[0]
            return counted(answers.MERGED, inserted=count)
        cursor = self._fakesnow(session, tree)
        count = int(cursor._rowcount or 0)
        match tree:
            case exp.Insert():
                return counted(answers.INSERTED, inserted=count)
            case exp.Update():
                return counted(answers.UPDATED, updated=count)
        return counted(answers.REMOVED, deleted=count)

    def _fakesnow(self, session: Session, tree: exp.Expr) -> Any:
        """Run a statement by fakesnow's translation."""
        cursor = session.con.cursor()
        for statement in cursor._transform_explode(tree.copy()):
            cursor._execute(cursor._transform(statement, None), None)
        return cursor

    def _make_database(self, session: Session, name: str) -> None:
        quoted = exp.to_identifier(name, quoted=True).sql("duckdb")
        session.duck.execute(f"ATTACH ':memory:' AS {quoted}")
        session.duck.execute(info_schema.per_db_creation_sql(name))
        session.duck.execute(macros.creation_sql(name))


def _quoted(name: Name) -> str:
    return ".".join(exp.to_identifier(part, quoted=True).sql("duckdb") for part in name)


def _refused(error: Exception) -> Refused:
    """What DuckDB, sqlglot or fakesnow say, as Snowflake would number it."""
    code, state = getattr(error, "errno", None), getattr(error, "sqlstate", None)
    message = str(getattr(error, "raw_msg", None) or getattr(error, "msg", None) or error)
    if isinstance(error, duckdb.Error):
        code, state = next((n for kind, n in _NUMBERS.items() if isinstance(error, kind)), (603, "XX000"))
        if isinstance(error, duckdb.TransactionException) and "onflict" in message:
            code, state = 625, "57014"
    elif isinstance(error, sqlglot.errors.SqlglotError):
        code, state = 1003, "42000"
    if code == 1003:
        message = f"SQL compilation error:\nsyntax error: {message}"
    elif code in (2003, 2043):
        message = f"SQL compilation error:\n{message}"
    return Refused(message, code or 603, state or "XX000")


_NUMBERS: dict[type[duckdb.Error], tuple[int, str]] = {
    duckdb.BinderException: (904, "42000"),
    duckdb.CatalogException: (2003, "42S02"),
    duckdb.ParserException: (1003, "42000"),
    duckdb.ConversionException: (100038, "22018"),
    duckdb.OutOfRangeException: (100132, "22003"),
    duckdb.ConstraintException: (100072, "22000"),
}

"""One connection: its statements, one after another, and the transaction they are in."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from sqlglot import exp

from isthmus.testing.standins.synapse_wire import batches, copying, definitions, language, views
from isthmus.testing.standins.synapse_wire.batches import Choice, Statement
from isthmus.testing.standins.synapse_wire.catalog import Database, Fault, Relation, Rights, Server, literal
from isthmus.testing.standins.synapse_wire.packets import Gone, Refused
from isthmus.testing.standins.synapse_wire.values import SqlType, of_arrow

_numbers = itertools.count(51)
_TRANSACTION = re.compile(r"(BEGIN|COMMIT|ROLLBACK)(?:\s+TRAN(?:SACTION)?)?\s*", re.IGNORECASE)
_CALL = re.compile(r"EXEC(?:UTE)?\s*\(\s*N?'((?:[^']|'')*)'\s*\)\s*", re.IGNORECASE | re.DOTALL)
_FAULT = re.compile(r"EXEC\s+isthmus_fault\s+N?'((?:[^']|'')*)'\s*", re.IGNORECASE | re.DOTALL)
_SETTINGS = frozenset(
    "ANSI_NULLS ANSI_NULL_DFLT_ON ANSI_PADDING ANSI_WARNINGS ARITHABORT CONCAT_NULL_YIELDS_NULL CURSOR_CLOSE_ON_COMMIT "
    "DATEFIRST DATEFORMAT IMPLICIT_TRANSACTIONS LANGUAGE NOCOUNT QUOTED_IDENTIFIER TEXTSIZE TRANSACTION "
    "XACT_ABORT".split()
)


@dataclass
class Result:
    """What one statement gave: rows, or how many it touched (None: it does not say)."""

    rows: pa.RecordBatchReader | None = None
    types: list[SqlType] | None = None
    touched: int | None = None


class Session:
    """A signed-in connection. `while_waiting` is called while it waits for a lock, and may raise."""

    def __init__(
        self, server: Server, database: Database, login: str, while_waiting: Callable[[], None] = lambda: None
    ) -> None:
        self.server, self.database = server, database
        self.number = next(_numbers)
        self.rights = Rights(database, login, is_admin=login == server.admin)
        self.counts = True
        self._duck = database.duck.cursor()
        self._duck.execute("SET TimeZone='UTC'")
        self._while_waiting = while_waiting
        self._temporary: dict[str, Relation] = {}
        self._offered: list[str] = []
        self._failed = False
        self.in_transaction = False
        self._implicit = False
        self._touched = 0

    # What is asked

    def run(self, text: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Result]:
        """Carry out a batch, giving the result of each statement as it is done."""
        number = next(self.server.order)
        self.database.log.append((number, self.rights.login, text))
        fault = self.server.fault(self.database.name, text)
        if fault is not None and fault.how != "drop after":
            self._meet(fault)
        yield from self._run(batches.split(text), parameters or {})
        if fault is not None:
            self._meet(fault)

    def _meet(self, fault: Fault) -> None:
        if fault.how == "refuse":
            raise Refused(fault.number, fault.message)
        raise Gone

    def _run(self, block: Sequence[Statement | Choice], parameters: Mapping[str, Any]) -> Iterator[Result]:
        for part in block:
            if isinstance(part, Choice):
                yield from self._run(part.then if self._holds(part.condition) else part.otherwise, parameters)
            elif match := _CALL.fullmatch(part.text):
                yield from self._run(batches.split(match[1].replace("''", "'")), parameters)
            else:
                try:
                    yield self._statement(part, parameters)
                except Exception:
                    self._failed = self.in_transaction
                    raise
                finally:
                    if not self.in_transaction:
                        self.database.locks.release(self.number)

    def _holds(self, condition: str) -> bool:
        reading = language.Reading(language.parse(f"SELECT CASE WHEN {condition} THEN 1 ELSE 0 END"), self)
        found = self.ask(reading.duckdb()).fetchone()
        return bool(found and found[0])

    def _statement(self, statement: Statement, parameters: Mapping[str, Any]) -> Result:
        first, text = statement.words[0], statement.text
        self._forget_offers()
        if match := _TRANSACTION.fullmatch(text):
            self.transact(match[1].upper())
            return Result()
        if self._failed:
            raise Refused(
                111233,
                "111233;The current transaction has aborted, and any pending changes have been rolled back. Cause: A "
                "transaction in a rollback-only state was not explicitly rolled back before a DDL, DML or SELECT "
                "statement.",
            )
        if first == "SET":
            return self._set(text)
        if first in ("SELECT", "WITH"):
            return self._select(text, parameters)
        if first in ("INSERT", "UPDATE", "DELETE"):
            return self._change(text, parameters)
        if first == "COPY":
            return self._counted(copying.copy_into(self, text))
        if match := _FAULT.fullmatch(text):
            self.rights.require_owner("isthmus_fault")
            self.server.faults = [Fault(**fault) for fault in json.loads(match[1].replace("''", "'"))]
            return Result()
        if definitions.carry_out(self, text):
            return Result()
        raise Refused(102, f"The stand-in does not know: {text[:300]}", severity=15)

    def _set(self, text: str) -> Result:
        parts = text.split()
        if parts[1].upper() not in _SETTINGS:
            raise Refused(195, f"'{parts[1]}' is not a recognized SET option.")
        if parts[1].upper() == "NOCOUNT":
            self.counts = parts[2].upper() != "ON"
        if parts[1].upper() == "IMPLICIT_TRANSACTIONS":
            self._implicit = parts[2].upper() == "ON"
        return Result()

    def _select(self, text: str, parameters: Mapping[str, Any]) -> Result:
        tree = language.parse(text)
        reading = language.Reading(tree, self)
        computed = {
            p.alias_or_name.lower()
            for p in (tree.selects if isinstance(tree, exp.Query) else [])
            if not isinstance(p, (exp.Column, exp.Star))
        }
        query = reading.duckdb()
        for relation in reading.read:
            self.rights.require("SELECT", relation)
        reader = self.ask(query, parameters).to_arrow_reader(20_000)
        types = []
        for field in reader.schema:
            known = None if field.name.lower() in computed else reading.column(field.name)
            types.append(known.type if known is not None else of_arrow(field.type))
        return Result(reader, types)

    def _change(self, text: str, parameters: Mapping[str, Any]) -> Result:
        tree = language.parse(text)
        reading = language.Reading(tree, self)
        statement = reading.duckdb()
        target = reading.written
        if target is None or target.is_view:
            raise Refused(102, "The stand-in changes tables only.")
        permission = type(tree).__name__.upper()
        self.rights.require(permission, target)
        if permission != "INSERT" and tree.args.get("where") is not None:
            self.rights.require("SELECT", target)
        for relation in reading.read:
            self.rights.require("SELECT", relation)
        self.lock(target, exclusive=permission != "INSERT")
        if self._implicit and not self.in_transaction:
            self.transact("BEGIN")
        try:
            found = self.ask(statement, parameters).fetchone()
        except duckdb.ConstraintException as e:
            if "CHECK" in str(e):
                raise Refused(8152, "String or binary data would be truncated.") from e
            raise Refused(515, f"Cannot insert the value NULL into a column. {e}") from e
        return self._counted(int(found[0]) if found else 0)

    def _counted(self, touched: int) -> Result:
        self._touched = touched
        return Result(touched=touched)

    # Transactions

    def transact(self, word: str) -> None:
        if word == "BEGIN":
            if self.in_transaction:
                raise Refused(3996, "Nested transactions are not supported.")
            self._duck.execute("BEGIN")
            self.in_transaction = True
            return
        if not self.in_transaction:
            said = f"The {word} TRANSACTION request has no corresponding BEGIN TRANSACTION."
            raise Refused(3902 if word == "COMMIT" else 3903, said)
        commits = word == "COMMIT" and not self._failed
        failed, self.in_transaction, self._failed = self._failed, False, False
        try:
            self._duck.execute("COMMIT" if commits else "ROLLBACK")
        except duckdb.TransactionException:  # DuckDB had given it up already
            if commits:
                raise
        finally:
            self.database.locks.release(self.number)
        if word == "COMMIT" and failed:
            raise Refused(111233, "111233;The current transaction has aborted, and any pending changes have been "
                                  "rolled back.")  # fmt: skip

    def lock(self, relation: Relation, *, exclusive: bool) -> None:
        if not relation.is_temporary:
            name = relation.place.lower()
            self.database.locks.take(self.number, name, exclusive=exclusive, while_waiting=self._while_waiting)

    # What a statement is read in

    def known(self, schema: str, name: str) -> Relation | None:
        if name.startswith("#"):
            return self._temporary.get(name.lower())
        return self.database.relation(schema, name)

    def find(self, schema: str, name: str) -> Relation:
        found = self.known(schema, name)
        if found is None:
            raise Refused(208, f"Invalid object name '{schema}.{name}'.")
        return found

    def add(self, relation: Relation) -> None:
        if relation.is_temporary:
            self._temporary[relation.name.lower()] = relation
        else:
            self.database.add(relation)

    def remove(self, relation: Relation) -> None:
        if relation.is_temporary:
            del self._temporary[relation.name.lower()]
        else:
            del self.database.relations[(relation.schema.lower(), relation.name.lower())]

    def system(self, schema: str, name: str) -> pa.Table | None:
        return views.table(schema, name, self.server, self.database, self.rights)

    def system_function(self, name: str, arguments: list[str]) -> pa.Table | None:
        if name.lower() in ("sys.fn_my_permissions", "fn_my_permissions"):
            return views.my_permissions(self.rights, *arguments)
        return None

    def known_value(self, name: str, arguments: list[str]) -> str | None:
        match name:
            case "DB_NAME":
                return literal(self.database.name)
            case "SUSER_SNAME" | "ORIGINAL_LOGIN":
                return literal(self.rights.login)
            case "USER_NAME":
                return literal(self.rights.user)
            case "SCHEMA_ID":
                found = self.database.schema_ids.get(arguments[0].lower())
                return "NULL" if found is None or arguments[0].lower() not in self.database.schemas else str(found)
            case "OBJECT_ID":
                parts = views.split_name(arguments[0])
                relation = self.known(parts[-2] if len(parts) > 1 else "dbo", parts[-1])
                return "NULL" if relation is None or not self.rights.sees(relation) else str(relation.object_id)
            case "HAS_PERMS_BY_NAME":
                on = views.securable(arguments[0], arguments[1])
                return str(int(self.rights.may(arguments[2], on.schema, on.name)))
            case "IS_ROLEMEMBER" | "IS_MEMBER":
                known = [r for r in self.database.roles if r.lower() == arguments[0].lower()]
                return str(int(self.rights.is_member(arguments[0]))) if known else "NULL"
            case "XACT_STATE":
                return "-2" if self._failed else str(int(self.in_transaction))
            case "@@TRANCOUNT":
                return str(int(self.in_transaction))
            case "@@ROWCOUNT":
                return str(self._touched)
            case "@@SPID":
                return str(self.number)
            case "@@VERSION":
                return "'Microsoft Azure SQL Data Warehouse - 10.0.0 (stand-in)'"
        return None

    def offer(self, rows: pa.Table) -> str:
        name = f"_offered_{len(self._offered)}"
        self._offered.append(name)
        self._duck.register(name, rows)
        return name

    def _forget_offers(self) -> None:
        for name in self._offered:
            self._duck.unregister(name)
        self._offered.clear()

    # DuckDB

    def ask(self, statement: str, parameters: Mapping[str, Any] | None = None) -> duckdb.DuckDBPyConnection:
        """Run a statement of DuckDB's; what it says no to comes as T-SQL would say it."""
        used = {k: v for k, v in (parameters or {}).items() if f"${k}" in statement}
        try:
            return self._duck.execute(statement, used) if used else self._duck.execute(statement)
        except duckdb.ConstraintException:
            raise
        except duckdb.Error as e:
            raise refusal(e) from e

    def take(self, table: str, rows: pa.Table) -> int:
        """Rows of INSERT BULK."""
        parts = views.split_name(table)
        relation = self.find(parts[-2] if len(parts) > 1 else "dbo", parts[-1])
        self.rights.require("INSERT", relation)
        self.lock(relation, exclusive=False)
        name = self.offer(rows)
        self.ask(f"INSERT INTO {relation.place} BY NAME SELECT * FROM {name}")
        if not self.in_transaction:
            self.database.locks.release(self.number)
        return int(rows.num_rows)

    def close(self) -> None:
        """The client is gone: what it had not committed is undone."""
        if self.in_transaction:
            self.transact("ROLLBACK")
        self.database.locks.release(self.number)
        self._duck.close()


def refusal(e: duckdb.Error) -> Refused:
    said = str(e).splitlines()[0]
    if found := re.search(r"Referenced column \"([^\"]+)\"|column \"([^\"]+)\"", said):
        if isinstance(e, duckdb.BinderException):
            return Refused(207, f"Invalid column name '{found[1] or found[2]}'.")
    if isinstance(e, (duckdb.ConversionException, duckdb.OutOfRangeException)):
        return Refused(8114, f"Error converting data type. {said}")
    if isinstance(e, duckdb.TransactionException):
        return Refused(1205, f"Transaction was deadlocked on lock resources with another process. {said}")
    return Refused(50000, f"The stand-in failed: {type(e).__name__}: {said}")

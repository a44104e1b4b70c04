"""The questions about a connection to a dedicated SQL pool, in order."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.duck import identifier
from isthmus.model.checks import Check
from isthmus.model.errors import Denied, WarehouseError
from isthmus.warehouses import sql
from isthmus.warehouses.synapse_script import BULK, TARGET_RIGHTS, TEMP_RIGHTS, sas_command
from isthmus.warehouses.synapse_sql import (
    STAGE,
    bracketed,
    copy_into,
    create_schema,
    has_schema,
    text,
)
from isthmus.warehouses.synapse_staging import FOLDER

if TYPE_CHECKING:
    from isthmus.warehouses.synapse import SynapseConfig

STAGING = "Can a file be staged?"
SOON = timedelta(days=14)
_NEEDED_OF_SAS = "rcwdl"
_HARMLESS = ("CONNECT", "VIEW ANY COLUMN ", "VIEW PUBLIC")
_ROLES = ("db_owner", "db_ddladmin", "db_datareader", "db_datawriter", "db_securityadmin", "db_accessadmin")


class Checking:
    """Asks about one connection through a session of it. Everything it makes has a name of its own, and goes again."""

    def __init__(self, config: SynapseConfig, execute: Callable[[str], list[tuple[Any, ...]]]) -> None:
        self._config, self._execute = config, execute
        self._user = bracketed(config.username)

    def questions(self) -> Iterator[Check]:
        config = self._config
        target, importing, temporary = config.schema, config.import_schema, config.temp_schema
        yield self._schemas((target, importing, temporary))
        yield sql.answer(
            "Can the import schema be read?",
            lambda: self._require("SELECT", importing),
            self._grant("SELECT", importing),
        )
        yield self._made_in(f"Can we create, write, read and drop a table in {temporary}?", temporary, TEMP_RIGHTS)
        for answer in self._storage():
            yield answer
            if answer.question == STAGING and not answer.passed:
                return  # with no way in for rows there is nothing more to ask
        yield self._made_in(f"Can we load into {target}?", target, TARGET_RIGHTS)
        yield self._lasts()
        yield self._isolated()
        yield self._surplus()

    # The pool

    def _schemas(self, wanted: tuple[str, ...]) -> Check:
        question = "Are the schemas there?"
        absent = [s for s in wanted if not self._execute(has_schema(s))]
        if not absent:
            return Check(question, True)
        hint = "make the missing schema; the set-up script makes all of them"
        statement = create_schema(absent[0])
        return Check(question, False, detail=f"not there: {', '.join(absent)}", hint=hint, statement=statement)

    def _grant(self, right: str, schema: str = "") -> str:
        on = f" ON SCHEMA::{bracketed(schema)}" if schema else ""
        return f"GRANT {right}{on} TO {self._user};"

    def _has(self, right: str, schema: str = "") -> bool:
        named = f"{text(bracketed(schema))}, 'SCHEMA'" if schema else "DB_NAME(), 'DATABASE'"
        return bool(self._execute(f"SELECT HAS_PERMS_BY_NAME({named}, '{right}')")[0][0])

    def _require(self, right: str, schema: str = "") -> None:
        if not self._has(right, schema):
            raise Denied("a right is missing", hint="run the set-up script again, or just the statement given here")

    def _made_in(self, question: str, schema: str, rights: tuple[str, ...]) -> Check:
        """Whether a table can be made in a schema, filled, read, changed and dropped; else which right lacks."""
        if not self._execute(has_schema(schema)):
            hint = "make the schema; the set-up script makes all of them"
            return Check(
                question, False, detail=f"there is no schema {schema}", hint=hint, statement=create_schema(schema)
            )
        probe = f"{identifier(schema)}.{identifier(f'_isthmus_probe_{uuid4().hex}')}"
        steps = (
            f"CREATE TABLE {probe} (n INT NULL) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN)",
            f"ALTER TABLE {probe} ADD m INT NULL",
            f"INSERT INTO {probe} (n) SELECT 1",
            f"UPDATE {probe} SET m = 2 WHERE n = 1",
            f"SELECT n FROM {probe}",
            f"DELETE FROM {probe} WHERE n = 1",
        )

        def attempt() -> None:
            missing = self._missing(schema, rights)
            try:
                for step in steps:
                    self._execute(step)
            finally:
                with suppress(WarehouseError):
                    self._execute(f"DROP TABLE {probe}")
            if missing:
                self._require(*missing)

        missing = self._missing(schema, rights)
        return sql.answer(question, attempt, self._grant(*missing) if missing else "")

    def _missing(self, schema: str, rights: tuple[str, ...]) -> tuple[str, ...] | None:
        if not self._has("CREATE TABLE"):
            return ("CREATE TABLE",)
        return next(((right, schema) for right in rights if not self._has(right, schema)), None)

    # The storage

    def _storage(self) -> Iterator[Check]:
        """Put a file there, see it, load it, take it away: each asks for a right of its own."""
        config = self._config
        command = sas_command(config.storage_account, config.container)
        name = f"{FOLDER}/probe-{uuid4().hex}.parquet"
        try:
            container = config.staging()
        except WarehouseError as e:
            yield Check(STAGING, False, detail=e.vendor or e.summary, hint=e.hint)
            return
        with closing(container):
            yield sql.answer(STAGING, lambda: container.put_in_blocks(name, _probe()), command)
            yield sql.answer("Can staged files be listed?", lambda: container.names(f"{FOLDER}/probe-"), command)
            yield self._loaded(container.url(name), command)
            yield sql.answer("Can staged files be removed?", lambda: container.remove(name), command)

    def _loaded(self, url: str, command: str) -> Check:
        """Whether the pool loads what is staged."""
        question = "Can the pool load a staged file?"
        if not self._has(BULK):
            hint = "run the set-up script again, or just the statement given here"
            return Check(question, False, detail=f"missing: {BULK}", hint=hint, statement=self._grant(BULK))
        stage = f"{identifier(self._config.temp_schema)}.{identifier(f'{STAGE}probe_{uuid4().hex}')}"

        def attempt() -> None:
            self._execute(f"CREATE TABLE {stage} (n BIGINT NULL) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN)")
            try:
                self._execute(copy_into(stage, [url], self._config.sas_token.reveal().lstrip("?")))
            finally:
                with suppress(WarehouseError):
                    self._execute(f"DROP TABLE {stage}")

        # What a table lacks was answered before; here it is the file, or its reading.
        temporary = self._config.temp_schema
        missing = self._missing(temporary, TEMP_RIGHTS)
        lacks = self._grant(*missing) if missing else ""
        if not self._execute(has_schema(temporary)):  # an owner has every right on it, too
            lacks = create_schema(temporary)
        if lacks:
            detail, hint = "no table can be made to load it into", "see to the temporary schema first"
            return Check(question, False, detail=detail, hint=hint, statement=lacks)
        return sql.answer(question, attempt, command)

    def _lasts(self) -> Check:
        """When the SAS token ends is written in it, unless a policy of the container says it."""
        question = "Does the SAS token last?"
        given = _parts(self._config.sas_token.reveal())
        command = sas_command(self._config.storage_account, self._config.container)
        if "se" not in given:
            return Check(question, True, detail="its end is not in the token: a policy of the container sets it")
        try:
            end = datetime.fromisoformat(given["se"].replace("Z", "+00:00"))
        except ValueError:
            return Check(question, True, detail=f"its end cannot be read: {given['se'][:40]}")
        end = end if end.tzinfo else end.replace(tzinfo=UTC)
        left = end - datetime.now(UTC)
        detail = f"it ends on {end:%Y-%m-%d %H:%M} UTC"
        if left <= timedelta(0):
            hint = "make a new token and give it to the connection"
            return Check(question, False, detail=detail, hint=hint, statement=command)
        if left < SOON:
            hint = f"make a new token before that: in {left.days} days nothing can be delivered any more"
            return Check(question, True, detail=detail, hint=hint, statement=command, warns=True)
        return Check(question, True, detail=detail)

    # What could be better

    def _isolated(self) -> Check:
        question = "Are only committed rows read?"
        found = self._execute("SELECT is_read_committed_snapshot_on FROM sys.databases WHERE name = DB_NAME()")
        if found and found[0][0]:
            return Check(question, True)
        return Check(
            question,
            True,
            detail="READ_COMMITTED_SNAPSHOT is off: a row somebody writes can be imported although it is taken back",
            hint="turn it on in the database master, while nobody else uses the pool",
            statement=f"ALTER DATABASE {bracketed(self._config.database)} SET READ_COMMITTED_SNAPSHOT ON;",
            warns=True,
        )

    def _surplus(self) -> Check:
        """Rights that nothing here needs, and the statement that takes the first of them back."""
        question = "Are there rights it does not need?"
        config = self._config
        roles = [role for role in _ROLES if self._execute(f"SELECT IS_ROLEMEMBER('{role}')")[0][0]]
        found = [(f"member of {r}", f"EXEC sp_droprolemember {text(r)}, {text(config.username)};") for r in roles]
        if not roles:  # else there is no end of them
            found += self._surplus_of("", ("CREATE TABLE", BULK))
            found += self._surplus_of(config.import_schema, ("SELECT",))
        of_sas = _parts(config.sas_token.reveal())
        more = [letter for letter in of_sas.get("sp", "") if letter not in _NEEDED_OF_SAS]
        if more or "srt" in of_sas:
            what = f"the SAS token's {', '.join(more)}" if more else "a SAS token for the whole account"
            found.append((what, sas_command(config.storage_account, config.container)))
        if not found:
            return Check(question, True, detail="no")
        return Check(
            question,
            True,
            detail="; ".join(what for what, _ in found),
            hint="take them back: whoever gets hold of this connection could do more than it must",
            statement=found[0][1],
            warns=True,
        )

    def _surplus_of(self, schema: str, needed: tuple[str, ...]) -> list[tuple[str, str]]:
        if schema in (self._config.schema, self._config.temp_schema) and schema:
            return []
        named = f"{text(bracketed(schema))}, 'SCHEMA'" if schema else "NULL, 'DATABASE'"
        rows = self._execute(f"SELECT permission_name FROM sys.fn_my_permissions({named})")
        on, where = (f" ON SCHEMA::{bracketed(schema)}", f" on {schema}") if schema else ("", "")
        return [
            (f"{right}{where}", f"REVOKE {right}{on} FROM {self._user};")
            for (right,) in rows
            if right not in needed and not right.startswith(_HARMLESS)
        ]


def _probe() -> bytes:
    with TemporaryFile() as file:
        pq.write_table(pa.table({"n": pa.array([1], pa.int64())}), file, compression="snappy")
        file.seek(0)
        return file.read()


def _parts(sas: str) -> dict[str, str]:
    return {name: values[0] for name, values in urllib.parse.parse_qs(sas.lstrip("?")).items()}

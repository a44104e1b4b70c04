"""The questions of a Snowflake connection that a session can answer, and the rights it has too many.

Snowflake says the same of an object that is not there and of one that may not be seen; so a "no" prints what gives the
right, behind what makes the object where that is safe to say twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.model.checks import Check
from isthmus.model.errors import Missing, WarehouseError
from isthmus.model.table import RECEIPTS, SEQ
from isthmus.warehouses import snowflake_sql, sql
from isthmus.warehouses.protocol import Relation
from isthmus.warehouses.snowflake_sql import folded, quoted

if TYPE_CHECKING:
    from isthmus.warehouses.snowflake import SnowflakeConfig
    from isthmus.warehouses.snowflake_session import SnowflakeWarehouse

_PROBE = "_ISTHMUS_PROBE"
_ADMINISTRATORS = ("ACCOUNTADMIN", "SECURITYADMIN", "SYSADMIN", "USERADMIN", "ORGADMIN", "GLOBALORGADMIN")
_READABLE_TRIED = 20
"""So many tables and views of the import schema are tried; a right is usually there for all of them, or for none."""


def to_sign_in(error: WarehouseError, config: SnowflakeConfig) -> str:
    """The statement that lets the user in, where there is one."""
    if error.code == "390189" or "is not granted to this user" in error.vendor:
        return f"GRANT ROLE {quoted(config.role)} TO USER {quoted(config.username)};"
    if error.code == "390101":
        return f"ALTER USER {quoted(config.username)} SET DISABLED = FALSE;"
    return ""


def to_read(config: SnowflakeConfig, relation: Relation) -> str:
    """The statement that gives the right to read a table or view."""
    kind = "VIEW" if relation.kind == "view" else "TABLE"
    name = quoted(config.database, relation.schema, relation.name)
    return f"GRANT SELECT ON {kind} {name} TO ROLE {quoted(config.role)};"


def questions(config: SnowflakeConfig, warehouse: SnowflakeWarehouse) -> Iterator[Check]:
    """The checks of an open session, in order. Without warehouse, database and schemas the rest has no answer."""
    role, database = quoted(config.role), quoted(config.database)
    run = warehouse._execute

    def to_role(right: str, what: str) -> str:
        return f"GRANT {right} ON {what} TO ROLE {role};"

    needed = [
        (
            f"Can the warehouse {folded(config.warehouse)} be used?",
            lambda: run(f"USE WAREHOUSE {quoted(config.warehouse)}"),
            to_role("USAGE", f"WAREHOUSE {quoted(config.warehouse)}"),
        ),
        (
            f"Can the database {folded(config.database)} be used?",
            lambda: run(f"USE DATABASE {database}"),
            to_role("USAGE", f"DATABASE {database}"),
        ),
    ]
    for question, attempt, statement in needed:
        answer = sql.answer(question, attempt, statement)
        yield answer
        if not answer.passed:
            return
    answer = _schemas(config, warehouse)
    yield answer
    if not answer.passed:
        return
    yield from _reading(config, warehouse)
    yield from _writing(config, warehouse, to_role)
    yield _surplus(config, warehouse)


def _schemas(config: SnowflakeConfig, warehouse: SnowflakeWarehouse) -> Check:
    question = "Are the schemas there?"
    rights = (
        (config.schema, "USAGE, CREATE TABLE"),
        (config.import_schema, "USAGE"),
        (config.temp_schema, "USAGE, CREATE STAGE"),
    )
    for schema, right in rights:
        name = quoted(config.database, schema)
        try:
            # DESCRIBE answers to who may monitor it only: USE needs the very right that all else needs.
            warehouse._execute(f"USE SCHEMA {name}")
        except WarehouseError as e:
            making = (
                f"CREATE SCHEMA IF NOT EXISTS {name};\nGRANT {right} ON SCHEMA {name} TO ROLE {quoted(config.role)};"
            )
            return Check(
                question,
                False,
                detail=f"{schema} is not there, or the role {folded(config.role)} may not use it: {e.vendor}",
                hint="run the set-up script again, or just the statements given here",
                statement=making,
            )
    return Check(question, True)


def _reading(config: SnowflakeConfig, warehouse: SnowflakeWarehouse) -> Iterator[Check]:
    question = f"Can the tables and views of {config.import_schema} be read?"
    schema = quoted(config.database, config.import_schema)
    try:
        found = list(warehouse.relations())
    except WarehouseError as e:
        yield Check(question, False, detail=e.vendor or e.summary, hint=e.hint)
        return
    for relation in found[:_READABLE_TRIED]:
        try:
            warehouse._execute(f"SELECT 1 FROM {quoted(config.database, relation.schema)}.{_exact(relation)} LIMIT 0")
        except WarehouseError as e:
            yield Check(question, False, detail=e.vendor, hint=e.hint, statement=to_read(config, relation))
            return
    tables = sum(r.kind == "table" for r in found)
    detail = f"{tables} tables and {len(found) - tables} views"
    if found:
        yield Check(question, True, detail=detail)
    else:  # Snowflake does not show what may not be read
        grant = f"GRANT SELECT ON ALL {{}} IN SCHEMA {schema} TO ROLE {quoted(config.role)};"
        hint = "if there are any, the role lacks the right to read them"
        statement = "\n".join(grant.format(kind) for kind in ("TABLES", "VIEWS"))
        yield Check(question, True, detail=detail, hint=hint, statement=statement, warns=True)
    yield _future(config, warehouse)


def _exact(relation: Relation) -> str:
    return sql.names([relation.name])


def _future(config: SnowflakeConfig, warehouse: SnowflakeWarehouse) -> Check:
    """Whether tables and views of the import schema that are made later can be read too. Not having it is no fault:
    somebody may grant each by hand."""
    question = "Can those that are made later be read?"
    schema = quoted(config.database, config.import_schema)
    try:
        rows = warehouse._execute(f"SHOW FUTURE GRANTS TO ROLE {quoted(config.role)}")
    except WarehouseError as e:  # who may ask is the account's own business
        return Check(question, True, detail=f"could not be asked: {e.vendor}", warns=True)
    container = f"{folded(config.database)}.{folded(config.import_schema)}"
    granted = {row[2] for row in rows if row[1] == "SELECT" and _bare(row[3]).startswith(container)}
    missing = [kind for kind in ("TABLE", "VIEW") if kind not in granted]
    if not missing:
        return Check(question, True)
    statement = "\n".join(
        f"GRANT SELECT ON FUTURE {kind}S IN SCHEMA {schema} TO ROLE {quoted(config.role)};" for kind in missing
    )
    detail = f"not {' nor '.join(f'{kind.lower()}s' for kind in missing)}"
    return Check(question, True, detail=detail, hint="give the right once for all", statement=statement, warns=True)


def _bare(name: Any) -> str:
    return str(name).replace('"', "")


def _writing(
    config: SnowflakeConfig, warehouse: SnowflakeWarehouse, to_role: Callable[[str, str], str]
) -> Iterator[Check]:
    run = warehouse._execute
    temporary = quoted(config.database, config.temp_schema)
    probe = f"{temporary}.{quoted(_PROBE)}"
    yield sql.answer(
        f"Can we create, write, read and drop a table in {config.temp_schema}?",
        lambda: [
            run(s)
            for s in (
                f"CREATE OR REPLACE TEMPORARY TABLE {probe} (N INTEGER)",
                f"INSERT INTO {probe} SELECT 1",
                f"SELECT N FROM {probe}",
                "COMMIT",
                f"DROP TABLE {probe}",
            )
        ],
        to_role("USAGE", f"SCHEMA {temporary}"),
    )
    yield sql.answer(
        "Can we stage a file?",
        lambda: _stage_a_file(warehouse, probe),
        to_role("CREATE STAGE", f"SCHEMA {temporary}"),
    )
    target = quoted(config.database, config.schema)
    probe = f"{target}.{quoted(_PROBE)}"
    answer = sql.answer(
        f"Can we load a row into {config.schema}?",
        lambda: [
            run(s)
            for s in (
                f"CREATE TRANSIENT TABLE IF NOT EXISTS {probe} (N INTEGER)",
                f"INSERT INTO {probe} SELECT 1",
                "ROLLBACK",
                f"DROP TABLE {probe}",
            )
        ],
        to_role("CREATE TABLE", f"SCHEMA {target}"),
    )
    yield answer
    if not answer.passed:
        return
    receipts = f"{target}.{quoted(RECEIPTS)}"
    owning = f"GRANT OWNERSHIP ON TABLE {{}} TO ROLE {quoted(config.role)} COPY CURRENT GRANTS;"
    yield sql.answer(
        "Can we write receipts?",
        lambda: _write_receipts(warehouse, receipts),
        owning.format(receipts),
    )
    yield _owned(config, warehouse, owning)


def _stage_a_file(warehouse: SnowflakeWarehouse, probe: str) -> None:
    warehouse._execute(f"CREATE OR REPLACE TEMPORARY STAGE {probe}")
    with TemporaryDirectory(prefix="isthmus-") as folder:
        file = Path(folder) / "probe.parquet"
        pq.write_table(pa.table({"n": [1]}), file)
        warehouse._put(file, snowflake_sql.text(f"@{probe}/"))
    listed = warehouse._execute(f"LIST {snowflake_sql.text(f'@{probe}/')}")
    warehouse._execute(f"DROP STAGE {probe}")
    if len(listed) != 1:
        raise Missing("the file that was put into the stage is not in it", hint="report this")


def _write_receipts(warehouse: SnowflakeWarehouse, receipts: str) -> None:
    """Make the table as `create` does, then look whether it is ours: one we may not see is not made again."""
    run = warehouse._execute
    run(snowflake_sql.create_table(receipts, snowflake_sql.RECEIPT_COLUMNS))
    try:
        values = f"SELECT {snowflake_sql.text('probe')}"
        run(f"INSERT INTO {receipts} ({quoted('batch_id')}) {values}")
        run(f"UPDATE {receipts} SET {quoted('rows')} = 0 WHERE {quoted('batch_id')} = 'probe'")
    finally:
        run("ROLLBACK")


def _owned(config: SnowflakeConfig, warehouse: SnowflakeWarehouse, owning: str) -> Check:
    """Whether the exported tables that can be seen are the role's own: only an owner adds a column."""
    question = "Are the exported tables ours to change?"
    schema = snowflake_sql.text(folded(config.schema))
    catalog = f"{quoted(config.database)}.INFORMATION_SCHEMA"
    try:
        rows = warehouse._execute(
            f'SELECT "TABLE_NAME", "TABLE_OWNER" FROM {catalog}.TABLES WHERE "TABLE_SCHEMA" = {schema} '
            f'AND "TABLE_NAME" IN '
            f'(SELECT "TABLE_NAME" FROM {catalog}.COLUMNS WHERE "TABLE_SCHEMA" = {schema} AND "COLUMN_NAME" = '
            f"{snowflake_sql.text(folded(SEQ))}) ORDER BY 1"
        )
        roles = {folded(config.role), *_inherited(config, warehouse)}
    except WarehouseError as e:
        return Check(question, False, detail=e.vendor or e.summary, hint=e.hint)
    for table, owner in rows:
        if owner not in roles:
            name = f"{quoted(config.database, config.schema)}.{sql.names([table])}"
            hint = "columns that are new in Isthmus cannot be added to it"
            detail = f"{table} belongs to the role {owner}"
            return Check(question, False, detail=detail, hint=hint, statement=owning.format(name))
    return Check(question, True)


def _inherited(config: SnowflakeConfig, warehouse: SnowflakeWarehouse) -> Iterator[str]:
    for row in warehouse._execute(f"SHOW GRANTS TO ROLE {quoted(config.role)}"):
        if row[2] == "ROLE":
            yield str(row[3])


def _surplus(config: SnowflakeConfig, warehouse: SnowflakeWarehouse) -> Check:
    """Rights the role has and does not need, named, with the statements that take them."""
    question = "Are there rights it does not need?"
    role, user = folded(config.role), folded(config.username)
    if role in _ADMINISTRATORS:
        hint = "run the set-up script, and give the connection the role it makes"
        return Check(question, True, detail=f"the role {role} may do nearly anything", hint=hint, warns=True)
    try:
        granted = warehouse._execute(f"SHOW GRANTS TO ROLE {quoted(role)}")
        held = warehouse._execute(f"SHOW GRANTS TO USER {quoted(user)}")
    except WarehouseError as e:
        return Check(question, True, detail=f"could not be asked: {e.vendor}", warns=True)
    surplus = [_revoked(row, config) for row in granted if not _is_needed(row, config)]
    others = [str(row[1]) for row in held if str(row[1]) not in (role, "PUBLIC")]
    surplus += [(f"role {other}", f"REVOKE ROLE {quoted(other)} FROM USER {quoted(user)};") for other in others]
    if not surplus:
        return Check(question, True, detail="none")
    return Check(
        question,
        True,
        detail=", ".join(what for what, _ in surplus),
        hint="take them away, or leave them if they are meant",
        statement="\n".join(statement for _, statement in surplus),
        warns=True,
    )


def _is_needed(row: tuple[Any, ...], config: SnowflakeConfig) -> bool:
    """Whether a row of SHOW GRANTS is one that the set-up script gives, in whichever direction."""
    privilege, kind, name = str(row[1]), str(row[2]).replace("_", " "), _bare(row[3])
    database = folded(config.database)
    target, importing, temporary = (
        f"{database}.{folded(s)}" for s in (config.schema, config.import_schema, config.temp_schema)
    )
    if kind == "WAREHOUSE":
        return (privilege, name) == ("USAGE", folded(config.warehouse))
    if kind == "DATABASE":
        return (privilege, name) == ("USAGE", database)
    if kind == "SCHEMA":
        needed = {target: ("USAGE", "CREATE TABLE"), importing: ("USAGE",), temporary: ("USAGE", "CREATE STAGE")}
        return privilege in needed.get(name, ())
    if name.startswith(f"{importing}.") and kind in (
        "TABLE",
        "VIEW",
        "MATERIALIZED VIEW",
        "EXTERNAL TABLE",
        "DYNAMIC TABLE",
    ):
        return privilege == "SELECT"
    return name.startswith((f"{target}.", f"{temporary}."))


def _revoked(row: tuple[Any, ...], config: SnowflakeConfig) -> tuple[str, str]:
    privilege, kind, name = str(row[1]), str(row[2]).replace("_", " "), str(row[3])
    role = quoted(config.role)
    if kind == "ROLE":
        return f"role {name}", f"REVOKE ROLE {name} FROM ROLE {role};"
    if privilege == "OWNERSHIP":
        owning = f"GRANT OWNERSHIP ON {kind} {name} TO ROLE SYSADMIN COPY CURRENT GRANTS;"
        return f"OWNERSHIP of {kind.lower()} {name}", owning
    on = "ACCOUNT" if kind == "ACCOUNT" else f"{kind} {name}"
    return f"{privilege} on {on}", f"REVOKE {privilege} ON {on} FROM ROLE {role};"

"""CREATE, ALTER, DROP, GRANT, REVOKE: what changes the catalog. None of it inside a transaction, as with the vendor."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlglot import exp

from isthmus.testing.standins.synapse_wire import language
from isthmus.testing.standins.synapse_wire.catalog import (
    MASTER,
    Column,
    Grant,
    Relation,
    Securable,
    quoted,
)
from isthmus.testing.standins.synapse_wire.packets import Refused
from isthmus.testing.standins.synapse_wire.values import DEFAULT_COLLATION, of_arrow
from isthmus.testing.standins.synapse_wire.views import split_name

if TYPE_CHECKING:
    from isthmus.testing.standins.synapse_wire.session import Session

_NAME = (
    r"((?:\[(?:[^\]]|\]\])*\]|\"(?:[^\"]|\"\")*\"|[\w#@$]+)(?:\.(?:\[(?:[^\]]|\]\])*\]|\"(?:[^\"]|\"\")*\"|[\w#@$]+))*)"
)
_TEXT = r"N?'((?:[^']|'')*)'"
_OPTIONS = re.compile(
    r"\bWITH\s*\(\s*((?:HEAP|CLUSTERED|DISTRIBUTION)\b.*?)\)\s*(?=$|AS\b|;)", re.IGNORECASE | re.DOTALL
)
_PERMISSIONS = (
    "SELECT", "INSERT", "UPDATE", "DELETE", "ALTER", "CONTROL", "CREATE TABLE", "CREATE VIEW", "CREATE SCHEMA",
    "ADMINISTER DATABASE BULK OPERATIONS", "VIEW DATABASE STATE", "VIEW DEFINITION", "ALTER ANY SCHEMA", "EXECUTE",
    "CONNECT", "KILL DATABASE CONNECTION",
)  # fmt: skip


def carry_out(session: Session, text: str) -> bool:
    """Carry the statement out if it is one of these. Returns whether it was."""
    for pattern, act in _ACTS:
        if match := re.fullmatch(pattern + r"\s*;?\s*", text, re.IGNORECASE | re.DOTALL):
            if session.in_transaction:
                first = " ".join(text.split()[:2]).upper()
                raise Refused(226, f"{first} statement not allowed within multi-statement transaction.")
            with session.database.defining:
                act(session, match)
            return True
    return False


def _one(text: str) -> str:
    return split_name(text)[-1]


def _create_table(session: Session, match: re.Match[str]) -> None:
    text = match[0]
    options = _OPTIONS.search(text)
    if options:
        text = text[: options.start()] + text[options.end() :]
    tree = language.parse(text)
    if not isinstance(tree, exp.Create):
        raise Refused(102, "Incorrect syntax in CREATE TABLE.", severity=15)
    of = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    name = language.name_of(of)
    schema = _new(session, of.db or "dbo", name, "CREATE TABLE")
    if tree.expression is not None:
        _create_table_as(session, tree, schema, name, options[1] if options else "")
        return
    columns = [_column(d) for d in tree.this.expressions if isinstance(d, exp.ColumnDef)]
    if len(columns) != len(tree.this.expressions):
        raise Refused(102, "The stand-in does not know this constraint.")
    relation = Relation(schema, name, columns, options=options[1] if options else "")
    _check_options(relation)
    kind = "TEMP TABLE" if relation.is_temporary else "TABLE"
    session.ask(f"CREATE {kind} {relation.place} ({', '.join(_kept(c) for c in columns)})")
    session.add(relation)


def _check_options(relation: Relation) -> None:
    """The rules of the vendor that bite: no columnstore over (max), no hash over it either."""
    is_max = [c.name for c in relation.columns if c.type.length == -1]
    options = relation.options.upper()
    if is_max and "HEAP" not in options and "CLUSTERED INDEX" not in options:
        raise Refused(
            35343,
            f"The statement failed. Column '{is_max[0]}' has a data type that cannot participate in a columnstore "
            "index.",
        )
    if hashed := re.search(r"DISTRIBUTION\s*=\s*HASH\s*\(\s*" + _NAME + r"\s*\)", relation.options, re.IGNORECASE):
        name = _one(hashed[1])
        if name.lower() not in [c.name.lower() for c in relation.columns] or name in is_max:
            raise Refused(104417, f"The column {name} cannot be used to distribute the table.")


def _create_table_as(session: Session, tree: exp.Create, schema: str, name: str, options: str) -> None:
    reading = language.Reading(tree.expression, session)
    query = reading.duckdb()
    for relation in reading.read:
        session.rights.require("SELECT", relation)
    made = Relation(schema, name, [], options=options)
    shown = session.ask(f"SELECT * FROM ({query}) LIMIT 0").to_arrow_table().schema
    for field in shown:
        known = reading.column(field.name)
        column = Column(field.name, known.type if known else of_arrow(field.type))
        column.collation = known.collation if known else DEFAULT_COLLATION if column.type.is_text else None
        made.columns.append(column)
    _check_options(made)
    kind = "TEMP TABLE" if made.is_temporary else "TABLE"
    session.ask(f"CREATE {kind} {made.place} AS {query}")
    session.add(made)


def _new(session: Session, schema: str, name: str, permission: str) -> str:
    """The schema of something that is to be made, if the user may make it there and nothing has its name."""
    if not name.startswith("#"):
        session.rights.require_here(permission)
        schema = session.rights.require_schema(schema)
    if session.known(schema, name) is not None:
        raise Refused(2714, f"There is already an object named '{name}' in the database.")
    return schema


def _column(definition: exp.ColumnDef) -> Column:
    column = Column(definition.name, language.sql_type(definition.args["kind"]))
    column.collation = DEFAULT_COLLATION if column.type.is_text else None
    for constraint in definition.args.get("constraints") or []:
        match constraint.kind:
            case exp.CollateColumnConstraint():
                column.collation = constraint.kind.this.name
            case exp.NotNullColumnConstraint():
                column.is_nullable = bool(constraint.kind.args.get("allow_null"))
            case _:
                raise Refused(102, f"The stand-in does not know {constraint.sql()}.")
    return column


def _kept(column: Column) -> str:
    name = quoted(column.name)
    checked = f" CHECK ({fits})" if (fits := column.type.fits(name)) else ""
    return f"{name} {column.type.kept_as}{'' if column.is_nullable else ' NOT NULL'}{checked}"


def _add_columns(session: Session, match: re.Match[str]) -> None:
    relation = session.find(*_schema_and_name(match[1]))
    if not session.rights.may("ALTER", relation.schema, relation.name):
        raise Refused(1088, f'Cannot find the object "{relation.name}" because it does not exist or you do not have '
                            "permissions.")  # fmt: skip
    tree = language.parse(f"CREATE TABLE x ({match[2]})")
    added = [_column(d) for d in tree.this.expressions]
    for column in added:
        if any(c.name.lower() == column.name.lower() for c in relation.columns):
            said = f"Column names in each table must be unique. Column name '{column.name}' in table "
            raise Refused(2705, said + f"'{relation.name}' is specified more than once.")
    for column in added:
        # DuckDB adds no column with a CHECK: the length of a column added later is not enforced here.
        session.ask(f"ALTER TABLE {relation.place} ADD COLUMN {quoted(column.name)} {column.type.kept_as}")
        relation.columns.append(column)


def _drop_relation(session: Session, match: re.Match[str]) -> None:
    kind, only_if_there, name = match[1].upper(), match[2], match[3]
    schema, name = _schema_and_name(name)
    relation = session.known(schema, name)
    if relation is None and only_if_there:
        return
    if relation is None or not (relation.is_temporary or session.rights.may("ALTER", relation.schema, relation.name)):
        said = f"Cannot drop the {kind.lower()} '{name}', because it does not exist or you do not have permission."
        raise Refused(3701, said, severity=11)
    session.ask(f"DROP {kind} {relation.place}")
    session.remove(relation)


def _create_view(session: Session, match: re.Match[str]) -> None:
    schema, name = _schema_and_name(match[1])
    schema = _new(session, schema, name, "CREATE VIEW")
    reading = language.Reading(language.parse(match[2]), session)
    query = reading.duckdb()
    for relation in reading.read:
        session.rights.require("SELECT", relation)
    view = Relation(schema, name, [], is_view=True)
    session.ask(f"CREATE VIEW {view.place} AS {query}")
    for field in session.ask(f"SELECT * FROM {view.place} LIMIT 0").to_arrow_table().schema:
        known = reading.column(field.name)
        kind = known.type if known else of_arrow(field.type)
        collation = known.collation if known else DEFAULT_COLLATION if kind.is_text else None
        view.columns.append(Column(field.name, kind, collation=collation))
    session.add(view)


def _create_schema(session: Session, match: re.Match[str]) -> None:
    session.rights.require_here("CREATE SCHEMA")
    name = _one(match[1])
    if name.lower() in session.database.schemas:
        raise Refused(2714, f"There is already an object named '{name}' in the database.")
    session.database.add_schema(name)


def _drop_schema(session: Session, match: re.Match[str]) -> None:
    session.rights.require_owner("DROP SCHEMA")
    name = _one(match[1])
    if any(schema == name.lower() for schema, _ in session.database.relations):
        raise Refused(3729, f"Cannot drop schema '{name}' because it is being referenced by an object.")
    if session.database.schemas.pop(name.lower(), None) is None:
        raise Refused(
            15151, f"Cannot drop the schema '{name}', because it does not exist or you do not have permission."
        )
    session.ask(f"DROP SCHEMA {quoted(name)}")


def _create_login(session: Session, match: re.Match[str]) -> None:
    _in_master(session)
    name = _one(match[1])
    if name in session.server.logins:
        raise Refused(15025, f"The server principal '{name}' already exists.")
    session.server.logins[name] = match[2].replace("''", "'")


def _alter_login(session: Session, match: re.Match[str]) -> None:
    _in_master(session)
    name = _one(match[1])
    if name not in session.server.logins:
        raise Refused(
            15151, f"Cannot alter the login '{name}', because it does not exist or you do not have permission."
        )
    session.server.logins[name] = match[2].replace("''", "'")


def _in_master(session: Session) -> None:
    session.rights.require_owner("logins")
    if session.database.name != MASTER:
        raise Refused(5001, "User must be in the master database.")


def _create_user(session: Session, match: re.Match[str]) -> None:
    session.rights.require_owner("CREATE USER")
    user, login = _one(match[1]), _one(match[2])
    if login not in session.server.logins:
        raise Refused(15007, f"'{login}' is not a valid login or you do not have permission.")
    if user in session.database.users or user in session.database.roles:
        raise Refused(15023, f"User, group, or role '{user}' already exists in the current database.")
    session.database.users[user] = login


def _drop_user(session: Session, match: re.Match[str]) -> None:
    session.rights.require_owner("DROP USER")
    user = _one(match[1])
    if session.database.users.pop(user, None) is None:
        raise Refused(15151, f"Cannot drop the user '{user}', because it does not exist or you do not have permission.")
    session.database.grants = {g for g in session.database.grants if g.principal != user}


def _create_role(session: Session, match: re.Match[str]) -> None:
    session.rights.require_owner("CREATE ROLE")
    role = _one(match[1])
    if role in session.database.roles or role in session.database.users:
        raise Refused(15023, f"User, group, or role '{role}' already exists in the current database.")
    session.database.roles[role] = set()


def _add_member(session: Session, role: str, member: str, *, added: bool = True) -> None:
    session.rights.require_owner("ALTER ROLE")
    if role not in session.database.roles:
        raise Refused(
            15151, f"Cannot alter the role '{role}', because it does not exist or you do not have permission."
        )
    if member not in session.database.users and member not in session.database.roles:
        raise Refused(
            15151, f"Cannot find the user '{member}', because it does not exist or you do not have permission."
        )
    (session.database.roles[role].add if added else session.database.roles[role].discard)(member)


def _alter_role(session: Session, match: re.Match[str]) -> None:
    _add_member(session, _one(match[1]), _one(match[3]), added=match[2].upper() == "ADD")


def _procedure_member(session: Session, match: re.Match[str]) -> None:
    _add_member(session, match[2].replace("''", "'"), match[3].replace("''", "'"), added=match[1].lower() == "add")


def _alter_database(session: Session, match: re.Match[str]) -> None:
    _in_master(session)
    found = session.server.databases.get(_one(match[1]).lower())
    if found is None:
        raise Refused(15151, f"Cannot alter the database '{_one(match[1])}', because it does not exist.")
    found.reads_committed = match[2].upper() == "ON"


def _create_database(session: Session, match: re.Match[str]) -> None:
    _in_master(session)
    session.server.add_database(_one(match[1]))


def _drop_database(session: Session, match: re.Match[str]) -> None:
    _in_master(session)
    session.server.drop_database(_one(match[1]))


def _grant(session: Session, match: re.Match[str]) -> None:
    session.rights.require_owner("GRANT")
    gives, permissions, on, principal = match[1].upper() == "GRANT", match[2], match[3], _one(match[4])
    if principal not in session.database.users and principal not in session.database.roles:
        said = f"Cannot find the user '{principal}', because it does not exist or you do not have permission."
        raise Refused(15151, said)
    securable = _securable(session, on)
    for permission in permissions.split(","):
        name = " ".join(permission.upper().split())
        if name not in _PERMISSIONS:
            raise Refused(102, f"Incorrect syntax near '{name}'.", severity=15)
        grant = Grant(principal, name, securable)
        (session.database.grants.add if gives else session.database.grants.discard)(grant)


def _securable(session: Session, on: str | None) -> Securable:
    if not on:
        return Securable()
    kind, _, name = on.strip().rpartition("::")
    if kind.strip().upper() == "SCHEMA":
        schema = _one(name.strip())
        if schema.lower() not in session.database.schemas:
            said = f"Cannot find the schema '{schema}', because it does not exist or you do not have permission."
            raise Refused(15151, said)
        return Securable(schema.lower())
    if kind.strip().upper() == "DATABASE":
        return Securable()
    relation = session.find(*_schema_and_name(name.strip()))
    return Securable(relation.schema.lower(), relation.name.lower())


def _schema_and_name(text: str) -> tuple[str, str]:
    parts = split_name(text)
    return (parts[-2] if len(parts) > 1 else "dbo"), parts[-1]


_ACTS: Sequence[tuple[str, Callable[[Session, re.Match[str]], None]]] = (
    (r"CREATE\s+TABLE\s+.*", _create_table),
    (rf"ALTER\s+TABLE\s+{_NAME}\s+ADD\s+(.*)", _add_columns),
    (rf"DROP\s+(TABLE|VIEW)\s+(IF\s+EXISTS\s+)?{_NAME}", _drop_relation),
    (rf"CREATE\s+VIEW\s+{_NAME}\s+AS\s+(.*)", _create_view),
    (rf"CREATE\s+SCHEMA\s+{_NAME}", _create_schema),
    (rf"DROP\s+SCHEMA\s+{_NAME}", _drop_schema),
    (rf"CREATE\s+LOGIN\s+{_NAME}\s+WITH\s+PASSWORD\s*=\s*{_TEXT}", _create_login),
    (rf"ALTER\s+LOGIN\s+{_NAME}\s+WITH\s+PASSWORD\s*=\s*{_TEXT}", _alter_login),
    (rf"CREATE\s+USER\s+{_NAME}\s+(?:FOR|FROM)\s+LOGIN\s+{_NAME}(?:\s+WITH\s+DEFAULT_SCHEMA\s*=\s*\S+)?", _create_user),
    (rf"DROP\s+USER\s+{_NAME}", _drop_user),
    (rf"CREATE\s+ROLE\s+{_NAME}", _create_role),
    (rf"ALTER\s+ROLE\s+{_NAME}\s+(ADD|DROP)\s+MEMBER\s+{_NAME}", _alter_role),
    (rf"EXEC(?:UTE)?\s+sp_(add|drop)rolemember\s+{_TEXT}\s*,\s*{_TEXT}", _procedure_member),
    (rf"ALTER\s+DATABASE\s+{_NAME}\s+SET\s+READ_COMMITTED_SNAPSHOT\s+(ON|OFF)", _alter_database),
    (rf"CREATE\s+DATABASE\s+{_NAME}", _create_database),
    (rf"DROP\s+DATABASE\s+{_NAME}", _drop_database),
    (r"(GRANT|REVOKE)\s+([A-Za-z ,\s]+?)"
     rf"(?:\s+ON\s+((?:(?:SCHEMA|DATABASE|OBJECT)\s*::\s*)?{_NAME.replace('(', '(?:', 1)}))?"
     rf"\s+(?:TO|FROM)\s+{_NAME}", _grant),
)  # fmt: skip
"""What each looks like. All of a statement must fit: a clause that is not known here is not passed over."""

"""The catalog as T-SQL shows it: sys.… and INFORMATION_SCHEMA.…, each only as far as the asking user may see."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from isthmus.testing.standins.synapse_wire.catalog import Column, Database, Relation, Rights, Securable, Server
from isthmus.testing.standins.synapse_wire.values import MAX

_TEXT, _INT, _BIT, _TIME = pa.string(), pa.int32(), pa.bool_(), pa.timestamp("us")

Rows = list[tuple[Any, ...]]
View = tuple[tuple[tuple[str, pa.DataType], ...], Callable[[Server, Database, Rights], Rows]]


def _seen(database: Database, rights: Rights) -> list[Relation]:
    return [r for r in list(database.relations.values()) if rights.sees(r)]


def _schemas(server: Server, database: Database, rights: Rights) -> Rows:
    return [(name, database.schema_ids[low], 1) for low, name in database.schemas.items()]


def _objects(database: Database, rights: Rights, *, views: bool | None) -> Rows:
    return [
        (
            r.name,
            r.object_id,
            database.schema_ids[r.schema.lower()],
            "V" if r.is_view else "U",
            "VIEW" if r.is_view else "USER_TABLE",
            r.created,
        )
        for r in _seen(database, rights)
        if views is None or r.is_view == views
    ]


_OBJECT = (
    ("name", _TEXT),
    ("object_id", _INT),
    ("schema_id", _INT),
    ("type", _TEXT),
    ("type_desc", _TEXT),
    ("create_date", _TIME),
)


def _columns(server: Server, database: Database, rights: Rights) -> Rows:
    return [
        (r.object_id, c.name, n, str(c.type), c.collation, c.is_nullable)
        for r in _seen(database, rights)
        for n, c in enumerate(r.columns, 1)
    ]


def _described(column: Column) -> tuple[Any, ...]:
    kind = column.type
    length = kind.length if kind.length is not None else 128 if kind.name == "sysname" else None
    numeric: dict[str, tuple[int, int | None]] = {"bigint": (19, 0), "int": (10, 0), "smallint": (5, 0)}
    numeric |= {"tinyint": (3, 0), "money": (19, 4), "smallmoney": (10, 4), "float": (53, None), "real": (24, None)}
    precision, scale = numeric.get(kind.name, (kind.precision, kind.scale if kind.name == "decimal" else None))
    of_time = {"datetime": 3, "smalldatetime": 0, "date": 0}.get(kind.name)
    if kind.name in ("time", "datetime2", "datetimeoffset"):
        of_time = 7 if kind.scale is None else kind.scale
    octets = None if length is None else MAX if length == MAX else length * (2 if kind.name.startswith("n") else 1)
    return kind.name, length, octets, precision, scale, of_time, column.collation


def _information_columns(server: Server, database: Database, rights: Rights) -> Rows:
    return [
        (database.name, r.schema, r.name, c.name, n, "YES" if c.is_nullable else "NO", *_described(c))
        for r in _seen(database, rights)
        for n, c in enumerate(r.columns, 1)
    ]


def _information_tables(server: Server, database: Database, rights: Rights) -> Rows:
    return [(database.name, r.schema, r.name, "VIEW" if r.is_view else "BASE TABLE") for r in _seen(database, rights)]


def _principal_ids(database: Database) -> dict[str, int]:
    names = ["public", "dbo", *sorted(database.users), *sorted(r for r in database.roles if r != "public")]
    return {name: n for n, name in enumerate(dict.fromkeys(names))}


def _principals(server: Server, database: Database, rights: Rights) -> Rows:
    rows = []
    for name, number in _principal_ids(database).items():
        is_role = name in database.roles
        kind = ("R", "DATABASE_ROLE") if is_role else ("S", "SQL_USER")
        rows.append((name, number, *kind, None if is_role else "dbo"))
    return rows


def _members(server: Server, database: Database, rights: Rights) -> Rows:
    ids = _principal_ids(database)
    return [(ids[role], ids[m]) for role, members in database.roles.items() for m in members if m in ids]


def _permissions(server: Server, database: Database, rights: Rights) -> Rows:
    ids, rows = _principal_ids(database), []
    for grant in database.grants:
        on = grant.securable
        major = 0
        if on.name:
            relation = database.relation(on.schema, on.name)
            major = relation.object_id if relation else 0
        elif on.schema:
            major = database.schema_ids[on.schema]
        number = {"DATABASE": 0, "OBJECT_OR_COLUMN": 1, "SCHEMA": 3}[on.kind]
        rows.append((number, on.kind, major, 0, ids[grant.principal], grant.permission, "G", "GRANT"))
    return rows


def _logins(server: Server, database: Database, rights: Rights) -> Rows:
    return [(name, n) for n, name in enumerate(server.logins, 1)]


def _databases(server: Server, database: Database, rights: Rights) -> Rows:
    shown = server.databases.values() if database.name == "master" else (database,)
    return [(d.name, n, d.reads_committed, "SQL_Latin1_General_CP1_CI_AS") for n, d in enumerate(shown, 1)]


def _requests(server: Server, database: Database, rights: Rights) -> Rows:
    return [(f"QID{n}", login, text, datetime.datetime.now()) for n, login, text in database.log]


VIEWS: Mapping[tuple[str, str], View] = {
    ("sys", "schemas"): ((("name", _TEXT), ("schema_id", _INT), ("principal_id", _INT)), _schemas),
    ("sys", "tables"): (_OBJECT, lambda s, d, r: _objects(d, r, views=False)),
    ("sys", "views"): (_OBJECT, lambda s, d, r: _objects(d, r, views=True)),
    ("sys", "objects"): (_OBJECT, lambda s, d, r: _objects(d, r, views=None)),
    ("sys", "columns"): (
        (
            ("object_id", _INT),
            ("name", _TEXT),
            ("column_id", _INT),
            ("type_name", _TEXT),
            ("collation_name", _TEXT),
            ("is_nullable", _BIT),
        ),
        _columns,
    ),
    ("sys", "database_principals"): (
        (
            ("name", _TEXT),
            ("principal_id", _INT),
            ("type", _TEXT),
            ("type_desc", _TEXT),
            ("default_schema_name", _TEXT),
        ),
        _principals,
    ),
    ("sys", "database_role_members"): (
        (("role_principal_id", _INT), ("member_principal_id", _INT)),
        _members,
    ),
    ("sys", "database_permissions"): (
        (
            ("class", _INT),
            ("class_desc", _TEXT),
            ("major_id", _INT),
            ("minor_id", _INT),
            ("grantee_principal_id", _INT),
            ("permission_name", _TEXT),
            ("state", _TEXT),
            ("state_desc", _TEXT),
        ),
        _permissions,
    ),
    ("sys", "sql_logins"): ((("name", _TEXT), ("principal_id", _INT)), _logins),
    ("sys", "databases"): (
        (("name", _TEXT), ("database_id", _INT), ("is_read_committed_snapshot_on", _BIT), ("collation_name", _TEXT)),
        _databases,
    ),
    ("sys", "dm_pdw_exec_requests"): (
        (("request_id", _TEXT), ("login_name", _TEXT), ("command", _TEXT), ("submit_time", _TIME)),
        _requests,
    ),
    ("information_schema", "columns"): (
        (
            ("TABLE_CATALOG", _TEXT),
            ("TABLE_SCHEMA", _TEXT),
            ("TABLE_NAME", _TEXT),
            ("COLUMN_NAME", _TEXT),
            ("ORDINAL_POSITION", _INT),
            ("IS_NULLABLE", _TEXT),
            ("DATA_TYPE", _TEXT),
            ("CHARACTER_MAXIMUM_LENGTH", _INT),
            ("CHARACTER_OCTET_LENGTH", _INT),
            ("NUMERIC_PRECISION", _INT),
            ("NUMERIC_SCALE", _INT),
            ("DATETIME_PRECISION", _INT),
            ("COLLATION_NAME", _TEXT),
        ),
        _information_columns,
    ),
    ("information_schema", "tables"): (
        (("TABLE_CATALOG", _TEXT), ("TABLE_SCHEMA", _TEXT), ("TABLE_NAME", _TEXT), ("TABLE_TYPE", _TEXT)),
        _information_tables,
    ),
}


def table(schema: str, name: str, server: Server, database: Database, rights: Rights) -> pa.Table | None:
    """A system view's rows now, or None if there is no such view here."""
    found = VIEWS.get((schema.lower(), name.lower()))
    if found is None:
        return None
    columns, fill = found
    rows = fill(server, database, rights)
    arrays = [pa.array([row[i] for row in rows], kind) for i, (_, kind) in enumerate(columns)]
    return pa.table(arrays, names=[n for n, _ in columns])


_ON_DATABASE = (
    "CONNECT", "CREATE TABLE", "CREATE VIEW", "CREATE SCHEMA", "CREATE ROLE", "ALTER", "ALTER ANY SCHEMA",
    "ALTER ANY USER", "ALTER ANY ROLE", "CONTROL", "SELECT", "INSERT", "UPDATE", "DELETE", "EXECUTE",
    "VIEW DATABASE STATE", "VIEW DEFINITION", "ADMINISTER DATABASE BULK OPERATIONS", "KILL DATABASE CONNECTION",
)  # fmt: skip
_ON_SCHEMA = ("SELECT", "INSERT", "UPDATE", "DELETE", "ALTER", "CONTROL", "EXECUTE", "REFERENCES", "TAKE OWNERSHIP")


def my_permissions(rights: Rights, name: str, kind: str) -> pa.Table:
    """sys.fn_my_permissions: what the asking user may do to the database or a schema."""
    schema = name.strip("[]").replace("]]", "]") if kind.upper() == "SCHEMA" else ""
    known = _ON_SCHEMA if schema else _ON_DATABASE
    has = [p for p in known if p == "CONNECT" or (rights.may(p, schema) if schema else rights.may(p))]
    entity = schema or "database"
    return pa.table(
        {
            "entity_name": pa.array([entity] * len(has), _TEXT),
            "subentity_name": pa.array([""] * len(has), _TEXT),
            "permission_name": pa.array(has, _TEXT),
        }
    )


def securable(name: str, kind: str) -> Securable:
    """What the arguments of HAS_PERMS_BY_NAME name."""
    parts = split_name(name) if name else []
    if kind.upper() == "DATABASE" or not parts:
        return Securable()
    if kind.upper() == "SCHEMA":
        return Securable(parts[-1])
    return Securable(parts[0] if len(parts) > 1 else "dbo", parts[-1])


def split_name(text: str) -> list[str]:
    """The parts of a name with dots, brackets and quotes taken off."""
    parts, at = [], 0
    while at < len(text):
        if text[at] in '["':
            close = "]" if text[at] == "[" else '"'
            end, part = at + 1, ""
            while end < len(text):
                if text[end] == close:
                    if text[end : end + 2] == close * 2:
                        end += 1
                    else:
                        break
                part += text[end]
                end += 1
            parts.append(part)
            at = end + 2
        else:
            end = text.find(".", at)
            end = len(text) if end < 0 else end
            parts.append(text[at:end])
            at = end + 1
    return parts

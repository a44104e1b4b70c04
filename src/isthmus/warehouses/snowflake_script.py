"""The set-up script: what an administrator of a Snowflake account runs once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isthmus.duck import identifier
from isthmus.model.table import RECEIPTS, Table
from isthmus.warehouses import snowflake_sql
from isthmus.warehouses.protocol import Direction
from isthmus.warehouses.snowflake_sql import folded, text


@dataclass(frozen=True)
class Names:
    """Everything a script names, as the person gave it."""

    user: str
    role: str
    warehouse: str
    database: str
    schema: str
    import_schema: str
    temp_schema: str


def setup_script(
    tables: Sequence[Table], names: Names, *, public_key: str, direction: Direction, egress: Sequence[str]
) -> str:
    """See `SnowflakeConfig.setup_script`. All names but those of tables and the policy stand at the top."""
    parts = [_variables(names), _user(public_key), _containers()]
    if direction.exports:
        parts.append("\n".join(_tables(tables, names)))
    parts.append(_grants(direction))
    if egress:
        parts.append(_network(names, egress))
    return "\n".join(parts)


def _variables(names: Names) -> str:
    def variable(name: str, *values: str) -> str:
        return f"SET {name} = {text('.'.join(_bare(v) for v in values))};"

    database = names.database
    lines = [
        "-- Run all of it in a worksheet, as a user with the roles SECURITYADMIN and SYSADMIN. Safe to run twice.",
        "-- There is no secret in it. Rename things here, and in the connection:",
        variable("isthmus_role", names.role),
        variable("isthmus_user", names.user),
        variable("isthmus_warehouse", names.warehouse),
        variable("isthmus_database", database),
        variable("isthmus_schema", database, names.schema),
        variable("isthmus_import", database, names.import_schema),
        variable("isthmus_temp", database, names.temp_schema),
    ]
    return "\n".join(lines) + "\n"


def _bare(name: str) -> str:
    """A name, in quotes only where it needs them: DEFAULT_ROLE takes it as it stands."""
    there = folded(name)
    return there if re.fullmatch(r"[A-Z_][A-Z0-9_$]*", there) else identifier(there)


def _user(public_key: str) -> str:
    if public_key:
        how = f"""\
-- The public key that belongs to the connection's private key. It is no secret.
ALTER USER IDENTIFIER($isthmus_user) SET RSA_PUBLIC_KEY = '{public_key}';
"""
    else:
        how = """\
-- A service signs in with a key pair. Make one:
--   openssl genrsa 2048 | openssl pkcs8 -topk8 -inform PEM -out key.p8 -nocrypt
--   openssl rsa -in key.p8 -pubout -out key.pub
-- give key.p8 to the connection, and register what is between the dashed lines of key.pub:
--   ALTER USER IDENTIFIER($isthmus_user) SET RSA_PUBLIC_KEY = '…';
"""
    return f"""\
-- The role and the user.
USE ROLE SECURITYADMIN;
CREATE ROLE IF NOT EXISTS IDENTIFIER($isthmus_role);
GRANT ROLE IDENTIFIER($isthmus_role) TO ROLE SYSADMIN;
CREATE USER IF NOT EXISTS IDENTIFIER($isthmus_user) TYPE = SERVICE DEFAULT_ROLE = $isthmus_role
    DEFAULT_WAREHOUSE = $isthmus_warehouse COMMENT = 'Isthmus';
GRANT ROLE IDENTIFIER($isthmus_role) TO USER IDENTIFIER($isthmus_user);
{how}"""


def _containers() -> str:
    return """\
-- The warehouse that statements run on, the database, and three schemas: for what is exported, for what may be
-- imported, and for Isthmus's own short-lived things.
USE ROLE SYSADMIN;
CREATE WAREHOUSE IF NOT EXISTS IDENTIFIER($isthmus_warehouse) WAREHOUSE_SIZE = XSMALL AUTO_SUSPEND = 60
    AUTO_RESUME = TRUE INITIALLY_SUSPENDED = TRUE;
CREATE DATABASE IF NOT EXISTS IDENTIFIER($isthmus_database);
CREATE SCHEMA IF NOT EXISTS IDENTIFIER($isthmus_schema);
CREATE SCHEMA IF NOT EXISTS IDENTIFIER($isthmus_import);
CREATE SCHEMA IF NOT EXISTS IDENTIFIER($isthmus_temp);
"""


def _tables(tables: Sequence[Table], names: Names) -> Iterator[str]:
    yield "-- The exported tables. Isthmus owns them, so that it can add a column. Roles above its own can read them."
    yield "USE SCHEMA IDENTIFIER($isthmus_schema);"
    for table in (Table(RECEIPTS, snowflake_sql.RECEIPT_COLUMNS), *tables):
        name = snowflake_sql.quoted(table.name)
        yield f"{snowflake_sql.create_table(name, table.columns)};"
        yield f"GRANT OWNERSHIP ON TABLE {name} TO ROLE IDENTIFIER($isthmus_role) COPY CURRENT GRANTS;"
    yield ""


def _grants(direction: Direction) -> str:
    """By SECURITYADMIN, who may grant on what others own too, where a database was there before."""
    lines = [
        "-- The rights of the role.",
        "USE ROLE SECURITYADMIN;",
        _grant("USAGE", "WAREHOUSE IDENTIFIER($isthmus_warehouse)"),
        _grant("USAGE", "DATABASE IDENTIFIER($isthmus_database)"),
        _grant("USAGE", "SCHEMA IDENTIFIER($isthmus_schema)"),
        _grant("USAGE", "SCHEMA IDENTIFIER($isthmus_import)"),
        _grant("USAGE", "SCHEMA IDENTIFIER($isthmus_temp)"),
    ]
    if direction.exports:
        lines += [
            _grant("CREATE TABLE", "SCHEMA IDENTIFIER($isthmus_schema)"),
            "-- To put files for a load into a stage that ends with the session.",
            _grant("CREATE STAGE", "SCHEMA IDENTIFIER($isthmus_temp)"),
        ]
    if direction.imports:
        lines.append("-- What may be imported: the tables and views that are there, and those to come.")
        lines += [
            _grant("SELECT", f"{which} {kind} IN SCHEMA IDENTIFIER($isthmus_import)")
            for which in ("ALL", "FUTURE")
            for kind in ("TABLES", "VIEWS")
        ]
    return "\n".join(lines) + "\n"


def _grant(privilege: str, what: str) -> str:
    return f"GRANT {privilege} ON {what} TO ROLE IDENTIFIER($isthmus_role);"


def _network(names: Names, egress: Sequence[str]) -> str:
    addresses = ", ".join(text(address) for address in egress)
    policy = _bare(f"{folded(names.user)}_POLICY")
    return f"""\
-- The addresses Isthmus comes from: its user may come from there, and from nowhere else.
CREATE NETWORK POLICY IF NOT EXISTS {policy} ALLOWED_IP_LIST = ({addresses});
ALTER NETWORK POLICY {policy} SET ALLOWED_IP_LIST = ({addresses});
ALTER USER IDENTIFIER($isthmus_user) SET NETWORK_POLICY = {policy};
"""

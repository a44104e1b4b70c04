"""The set-up script of Redshift, which an administrator runs once."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.duck import identifier, literal
from isthmus.model.table import RECEIPTS, Table
from isthmus.warehouses import sql
from isthmus.warehouses.protocol import Direction
from isthmus.warehouses.redshift_sql import create_table, kept

SESSION_TIMEOUT_S = 3600
"""A session that says nothing for so long is ended: a process that hangs must not keep its locks."""


def setup_script(
    tables: Sequence[Table],
    *,
    database: str,
    username: str,
    port: int,
    schema: str,
    import_schema: str,
    temp_schema: str,
    direction: Direction,
    egress: Sequence[str],
) -> str:
    """See `RedshiftConfig.setup_script`."""
    user, target, importing, temporary = map(identifier, (username, schema, import_schema, temp_schema))
    parts = ["-- Run in the database that Isthmus is to work in, as a superuser. Safe to run twice.\n"]
    if egress:
        rules = "".join(
            f"--   aws ec2 authorize-security-group-ingress --group-id sg-… --protocol tcp --port {port} "
            f"--cidr {_range(address)}\n"
            for address in egress
        )
        parts.append(
            "-- Isthmus comes from these addresses. SQL cannot let them in: the security group of the cluster or\n"
            f"-- workgroup does (which also has to be publicly accessible, or reached through a tunnel):\n{rules}"
        )
    parts.append(f"""\
CREATE SCHEMA IF NOT EXISTS {temporary};

CREATE OR REPLACE PROCEDURE {temporary}._isthmus_user() AS $isthmus$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_user WHERE usename = {literal(username)}) THEN
        EXECUTE {literal(f"CREATE USER {user} PASSWORD DISABLE")};
    END IF;
END;
$isthmus$ LANGUAGE plpgsql;
CALL {temporary}._isthmus_user();
DROP PROCEDURE {temporary}._isthmus_user();
-- The password is not in this script. Set it yourself:
--   ALTER USER {user} PASSWORD '…';
ALTER USER {user} SESSION TIMEOUT {SESSION_TIMEOUT_S};
""")
    exporting = ""
    if direction.exports:
        # A right to temporary tables is all the staging needs.
        exporting = f"GRANT TEMPORARY ON DATABASE {identifier(database)} TO {user};\n"
        exporting += f"GRANT USAGE, CREATE ON SCHEMA {target} TO {user};\n"
        receipts = Table(RECEIPTS, sql.RECEIPT_COLUMNS)
        for table in (receipts, *map(kept, tables)):
            name = f"{target}.{identifier(table.name)}"
            exporting += f"{create_table(table, name)};\nALTER TABLE {name} OWNER TO {user};\n"
    parts.append(
        "-- Where exported tables go: Isthmus owns them, so that it can add a column.\n"
        f"CREATE SCHEMA IF NOT EXISTS {target};\n{exporting}"
    )
    exposing = f"CREATE SCHEMA IF NOT EXISTS {importing};\n"
    if direction.imports:
        exposing = f"""\
-- What Isthmus may read: the tables and views here, now and in future. Future ones are those made by the user that
-- runs this; for another one add: ALTER DEFAULT PRIVILEGES FOR USER its_name IN SCHEMA …
{exposing}GRANT USAGE ON SCHEMA {importing} TO {user};
GRANT SELECT ON ALL TABLES IN SCHEMA {importing} TO {user};
ALTER DEFAULT PRIVILEGES IN SCHEMA {importing} GRANT SELECT ON TABLES TO {user};
"""
    parts.append(exposing)
    parts.append(f"-- Isthmus's own short-lived tables.\nGRANT USAGE, CREATE ON SCHEMA {temporary} TO {user};\n")
    return "\n".join(parts)


def _range(address: str) -> str:
    return address if "/" in address else f"{address}/{128 if ':' in address else 32}"

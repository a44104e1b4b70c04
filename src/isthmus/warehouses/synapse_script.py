"""The set-up script of a dedicated SQL pool: what administrators run once."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from isthmus.duck import identifier
from isthmus.model.table import RECEIPTS, Table
from isthmus.warehouses.protocol import Direction
from isthmus.warehouses.synapse_sql import bracketed, create_receipts, create_schema, create_table, make_turn, text

BULK = "ADMINISTER DATABASE BULK OPERATIONS"
TARGET_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "ALTER")
TEMP_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "ALTER")


def setup_script(
    tables: Sequence[Table],
    *,
    workspace: str,
    database: str,
    username: str,
    schema: str,
    import_schema: str,
    temp_schema: str,
    storage_account: str,
    container: str,
    direction: Direction,
    egress: Sequence[str],
) -> str:
    """See `SynapseConfig.setup_script`. Batches end with GO, as sqlcmd, SSMS and Synapse Studio want it."""
    role = f"{username}_role"
    parts = [_master(workspace, database, username, egress)]
    parts.append(
        f"-- Part 2 of 2: in the pool {database}, as somebody who owns it (db_owner).\n"
        + _unless(_principal(username), f"CREATE USER {bracketed(username)} FOR LOGIN {bracketed(username)}")
        + _unless(_principal(role), f"CREATE ROLE {bracketed(role)}")
        + f"EXEC sp_addrolemember {text(role)}, {text(username)};\nGO\n"
    )
    to = f"TO {bracketed(role)}"
    exporting = f"-- Where exported tables go.\n{create_schema(schema)}\nGO\n"
    if direction.exports:
        exporting += f"GRANT {', '.join(TARGET_RIGHTS)} ON SCHEMA::{bracketed(schema)} {to};\n"
        exporting += (
            f"-- COPY INTO asks for this right on the whole pool; it gives none on any table.\nGRANT {BULK} {to};\n"
        )
    exporting += f"GRANT CREATE TABLE {to};\nGO\n"
    if direction.exports:
        exporting += "".join(_tables(tables, schema))
    parts.append(exporting)
    exposing = f"{create_schema(import_schema)}\nGO\n"
    if direction.imports:
        exposing = (
            "-- What Isthmus may read: the tables and views in this schema, those of today and those of tomorrow.\n"
            f"{exposing}GRANT SELECT ON SCHEMA::{bracketed(import_schema)} {to};\nGO\n"
        )
    parts.append(exposing)
    parts.append(
        f"-- Isthmus's own short-lived tables.\n{create_schema(temp_schema)}\nGO\n"
        f"GRANT {', '.join(TEMP_RIGHTS)} ON SCHEMA::{bracketed(temp_schema)} {to};\nGO\n"
    )
    if direction.exports:
        parts.append(
            "-- The container for staging and its SAS token, by somebody who owns the storage account:\n"
            f"--   az storage container create --account-name {storage_account} --name {container}\n"
            f"--   {sas_command(storage_account, container)}\n"
        )
    return "\n".join(parts)


def sas_command(account: str, container: str) -> str:
    """Makes a token with exactly the rights that are needed."""
    return (
        f"az storage container generate-sas --account-name {account} --name {container} "
        "--permissions rcwdl --https-only --expiry YYYY-MM-DDT00:00Z"
    )


def _master(workspace: str, database: str, username: str, egress: Sequence[str]) -> str:
    login = f"CREATE LOGIN {bracketed(username)} WITH PASSWORD = N'$(ISTHMUS_PASSWORD)'"
    lines = [
        f"-- For the dedicated SQL pool {database} of the workspace {workspace}. Safe to run twice.\n"
        "-- Part 1 of 2: in the database master, as the workspace's SQL administrator. The password is not in here:\n"
        "-- sqlcmd takes it from the environment variable ISTHMUS_PASSWORD; elsewhere write it in place of $(…).\n"
        + _unless(f"SELECT 1 FROM sys.sql_logins WHERE name = {text(username)}", login)
        + "GO\n"
    ]
    rules = list(_firewall(workspace, egress))
    if rules:
        lines.append("-- Isthmus comes from these addresses: let them in, with the Azure CLI.\n" + "".join(rules))
    return "".join(lines)


def _firewall(workspace: str, egress: Sequence[str]) -> Iterator[str]:
    for number, address in enumerate(egress, 1):
        network = ipaddress.ip_network(address, strict=False)
        if network.version == 6:
            yield f"--   {address}: a workspace's firewall knows IPv4 only\n"
            continue
        first, last = network.network_address, network.broadcast_address
        yield (
            f"--   az synapse workspace firewall-rule create --workspace-name {workspace} --resource-group … "
            f"--name isthmus-{number} --start-ip-address {first} --end-ip-address {last}\n"
        )


def _principal(name: str) -> str:
    return f"SELECT 1 FROM sys.database_principals WHERE name = {text(name)}"


def _unless(found: str, statement: str) -> str:
    """CREATE LOGIN and the like stand alone in a batch, hence the EXEC."""
    return f"IF NOT EXISTS ({found})\n    EXEC ({text(statement)});\n"


def _tables(tables: Sequence[Table], schema: str) -> Iterator[str]:
    place = identifier(schema)
    receipts = f"{place}.{identifier(RECEIPTS)}"
    yield _unless_there(receipts, create_receipts(receipts))
    yield f"{make_turn(receipts)};\nGO\n"
    for table in tables:
        name = f"{place}.{identifier(table.name)}"
        yield _unless_there(name, create_table(table, name))


def _unless_there(name: str, statement: str) -> str:
    return f"IF OBJECT_ID({text(name)}) IS NULL\nEXEC ({text(statement)});\nGO\n"

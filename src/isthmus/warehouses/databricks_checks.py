"""What is asked of a Databricks connection, in order: every right by what needs it, and what is there too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from isthmus.model.checks import Check
from isthmus.model.errors import Denied, Missing, WarehouseError
from isthmus.warehouses import databricks_sql, sql
from isthmus.warehouses.databricks_sql import identifier

if TYPE_CHECKING:
    from isthmus.warehouses.databricks import DatabricksConfig, DatabricksWarehouse

_Grant = tuple[str, str, str, str]
"""Who, which right, on what kind of object, of what name."""
_TRIED = 100  # relations that are read from, at most


def questions(config: DatabricksConfig, warehouse: DatabricksWarehouse, me: str) -> Iterator[Check]:
    """The checks of a session without a catalog, in order. `me` is who signed in."""
    to = config.principal if me == config.principal or _is_in(warehouse, config.principal) else me
    catalog = identifier(config.catalog)
    importing, temporary = (identifier(config.catalog, s) for s in (config.import_schema, config.temp_schema))
    way_in = sql.answer(
        "May the catalog be used?",
        lambda: warehouse.ask(f"USE CATALOG {catalog}"),
        databricks_sql.grant("USE CATALOG", "CATALOG", catalog, to),
    )
    yield way_in
    if not way_in.passed:
        return
    absent = [s for s in (config.import_schema, config.temp_schema) if not _is_there(warehouse, s)]
    yield _all_there(config, absent)
    opened = False
    if config.import_schema not in absent:
        may = sql.answer(
            "May the import schema be used?",
            lambda: warehouse.require(config.import_schema),
            databricks_sql.grant("USE SCHEMA", "SCHEMA", importing, to),
        )
        yield may
        opened = may.passed
    grants = {principal: _grants(config, warehouse, principal) for principal in dict.fromkeys((me, to))}
    known = [g for found in grants.values() for g in found or ()]
    # What a group may is not always told to its members.
    perhaps = None in grants.values() or any(g[1] in ("SELECT", "ALL PRIVILEGES") for g in known)
    if opened:
        yield sql.answer(
            "Can its tables and views be read?",
            lambda: _require_readable(config, warehouse, me, perhaps_granted=perhaps),
            databricks_sql.grant("SELECT", "SCHEMA", importing, to),
        )
    if config.temp_schema not in absent:
        yield sql.answer(
            "May the temporary schema be used?",
            lambda: warehouse.require(config.temp_schema),
            databricks_sql.grant("USE SCHEMA", "SCHEMA", temporary, to),
        )
    yield _surplus(config, known)


def _is_there(warehouse: DatabricksWarehouse, schema: str) -> bool:
    try:
        warehouse.require(schema)
    except Missing:
        return False
    except WarehouseError:
        pass  # whether it may be used is another question
    return True


def _all_there(config: DatabricksConfig, absent: Sequence[str]) -> Check:
    question = "Are the schemas there?"
    if not absent:
        return Check(question, True)
    return Check(
        question,
        False,
        detail=f"not there: {', '.join(absent)}",
        hint="make the missing schema; the set-up script makes both, with the rights",
        statement=f"CREATE SCHEMA IF NOT EXISTS {identifier(config.catalog, absent[0])};",
    )


def _require_readable(
    config: DatabricksConfig, warehouse: DatabricksWarehouse, me: str, *, perhaps_granted: bool
) -> None:
    """Raise Denied unless everything that is there can be read, and what will be is not left out for sure."""
    found = list(warehouse.relations())
    for relation in found[:_TRIED]:
        warehouse.ask(f"SELECT 1 AS n FROM {databricks_sql.origin(config.catalog, relation)} LIMIT 0")
    if not found and not perhaps_granted:
        owners = [row[0] for row in warehouse.ask(databricks_sql.owner(config.catalog, config.import_schema))]
        if not any(owner == me or _is_in(warehouse, owner) for owner in owners):  # an owner needs no right
            raise Denied("nobody gave a right to read what will be there", hint="run the statement given here")


def _is_in(warehouse: DatabricksWarehouse, group: str) -> bool:
    try:
        return bool(warehouse.ask(f"SELECT is_account_group_member({databricks_sql.literal(group)}) AS yes")[0][0])
    except WarehouseError:
        return False


def _grants(config: DatabricksConfig, warehouse: DatabricksWarehouse, principal: str) -> list[_Grant] | None:
    """Who may do what on what kind of object of what name; None if we may not know."""
    found: set[_Grant] = set()
    for on in (
        f"CATALOG {identifier(config.catalog)}",
        f"SCHEMA {identifier(config.catalog, config.import_schema)}",
        f"SCHEMA {identifier(config.catalog, config.temp_schema)}",
    ):
        try:
            rows = warehouse.ask(f"SHOW GRANTS {identifier(principal)} ON {on}")
        except Missing:
            continue
        except WarehouseError:
            return None
        found |= {(who, action, kind.upper(), key) for who, action, kind, key, *_ in rows}
    return sorted(found)


def _surplus(config: DatabricksConfig, grants: Sequence[_Grant]) -> Check:
    question = "Are there rights it does not need?"
    needed = {("USE CATALOG", "CATALOG", config.catalog.lower())}
    importing, temporary = (f"{config.catalog}.{s}".lower() for s in (config.import_schema, config.temp_schema))
    needed |= {("USE SCHEMA", "SCHEMA", importing), ("SELECT", "SCHEMA", importing)}
    needed.add(("USE SCHEMA", "SCHEMA", temporary))
    surplus = [g for g in grants if g[1] != "BROWSE" and (g[1], g[2], g[3].lower()) not in needed]
    if not surplus:
        return Check(question, True, detail="none that we can see")
    who, action, kind, key = surplus[0]
    return Check(
        question,
        True,
        warns=True,
        detail="not needed: " + ", ".join(f"{a} on {k.lower()} {name}" for _, a, k, name in surplus),
        hint="take them away: a token that leaks opens less; after ALL PRIVILEGES run the set-up script again",
        statement=databricks_sql.revoke(action, kind, identifier(*key.split(".")), who),
    )

"""What a statement needs to be allowed, and whether its role has it."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from .catalog import Catalog
from .naming import Name, Refused, insufficient, not_there
from .rewriting import full_name
from .session import Session

SYSTEM = ("INFORMATION_SCHEMA",)


def tables(tree: exp.Expr, session: Session) -> Iterator[tuple[exp.Table, Name, str]]:
    """Every table and view a statement names, with the privilege it needs on it."""
    known = {cte.alias_or_name.upper() for cte in tree.find_all(exp.CTE)}
    written = _written(tree)
    for table in tree.find_all(exp.Table):
        if (
            not table.name
            or (not table.db and table.name.upper() in known)
            or not isinstance(table.this, exp.Identifier)
        ):
            continue
        name = full_name(table, session.database, session.schema)
        if name[1] in SYSTEM:
            continue
        if table is written:
            for privilege in _privileges(tree):
                yield table, name, privilege
        else:
            yield table, name, "SELECT"


def _written(tree: exp.Expr) -> exp.Table | None:
    target = tree.this if isinstance(tree, exp.Insert | exp.Update | exp.Delete | exp.Merge) else None
    if isinstance(target, exp.Schema):
        target = target.this
    return target if isinstance(target, exp.Table) else None


def _privileges(tree: exp.Expr) -> list[str]:
    match tree:
        case exp.Insert():
            return ["INSERT"]
        case exp.Update():
            return ["UPDATE"]
        case exp.Delete():
            return ["DELETE"]
        case exp.Merge():
            verbs = {exp.Insert: "INSERT", exp.Update: "UPDATE"}
            return sorted({verbs.get(type(w.args["then"]), "DELETE") for w in tree.args["whens"].expressions})
    return ["SELECT"]


def require(catalog: Catalog, session: Session, name: Name, privilege: str) -> None:
    """Raise unless the session's role may do that with a table or view."""
    if name in session.temporary:
        return
    thing = catalog.find("TABLE", name)
    if thing is None or not catalog.sees(session.role, thing.kind, name):
        raise not_there("Object", name)
    if not catalog.has(session.role, privilege, thing.kind, name):
        raise insufficient(thing.kind, name)


def require_warehouse(catalog: Catalog, session: Session) -> None:
    """Raise unless the session has a warehouse that its role may use."""
    name = (session.warehouse or "",)
    if not catalog.find("WAREHOUSE", name) or not catalog.has(session.role, "USAGE", "WAREHOUSE", name):
        raise Refused(
            "No active warehouse selected in the current session.  Select an active warehouse with the "
            "'use warehouse' command.",
            606,
            "57P03",
        )


def written(tree: exp.Expr, session: Session) -> Name | None:
    """The table that a statement changes."""
    table = _written(tree)
    return None if table is None else full_name(table, session.database, session.schema)


def require_case(catalog: Catalog, session: Session, tree: exp.Expr) -> None:
    """Raise for a column written in another case than its own: DuckDB would not mind, Snowflake does."""
    known: set[str] = set()
    said: set[str] = set()
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier):
            said |= {part.name for part in table.parts}
            full = full_name(table, session.database or "", session.schema or "")
            thing = catalog.find("TABLE", full)
            known |= set(session.temporary_columns.get(full, ()) or (thing.columns if thing is not None else ()))
    for alias in tree.find_all(exp.Alias, exp.TableAlias):
        said.add(alias.alias if isinstance(alias, exp.Alias) else alias.name)
    folded = {name.lower() for name in known}
    for identifier in tree.find_all(exp.Identifier):
        name = identifier.name if identifier.args.get("quoted") else identifier.name.upper()
        if name not in known and identifier.name not in said and name.lower() in folded:
            message = (
                f"SQL compilation error: error line 1 at position 0\ninvalid identifier '{identifier.sql('snowflake')}'"
            )
            raise Refused(message, 904, "42000")

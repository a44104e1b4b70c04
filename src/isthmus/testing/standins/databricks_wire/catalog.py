"""What Unity Catalog knows beside the data: who is who, who owns what, and who may do what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from isthmus.testing.standins.databricks_wire.failures import Failure, bad_name, no_principal, no_right

Parts = tuple[str, ...]
"""A catalog, a schema in it, or a relation in that: one name, two or three."""

KINDS = {1: "Catalog", 2: "Schema", 3: "Table"}

PRIVILEGES = {
    1: {"USE CATALOG", "USE SCHEMA", "SELECT", "MODIFY", "CREATE SCHEMA", "CREATE TABLE", "BROWSE", "EXECUTE",
        "READ VOLUME", "WRITE VOLUME", "CREATE VOLUME", "CREATE FUNCTION", "CREATE MATERIALIZED VIEW", "MANAGE",
        "ALL PRIVILEGES"},
}  # fmt: skip
"""The privileges that may be granted on each kind of object; those on a catalog hold for everything in it."""
PRIVILEGES[2] = PRIVILEGES[1] - {"USE CATALOG", "CREATE SCHEMA", "BROWSE"}
PRIVILEGES[3] = {"SELECT", "MODIFY", "MANAGE", "ALL PRIVILEGES"}

_NOT_ALL = {"MANAGE"}  # what ALL PRIVILEGES does not hold


@dataclass(frozen=True, order=True)
class Granted:
    principal: str
    action: str
    on: Parts


@dataclass
class Access:
    """Principals with their groups, owners, and grants. An administrator may do everything."""

    administrator: str
    principals: dict[str, set[str]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    owners: dict[Parts, str] = field(default_factory=dict)
    grants: set[Granted] = field(default_factory=set)

    def known(self, principal: str) -> str:
        """A principal's name as it is kept. Raises for one that is not there."""
        everybody = {self.administrator, "account users", *self.principals, *self.groups}
        if principal not in everybody:
            raise no_principal(principal)
        return principal

    def names_of(self, principal: str) -> set[str]:
        """What grants to a principal may be written to: itself, its groups, and everybody."""
        return {principal, "account users", *self.principals.get(principal, ())}

    def grant(self, granted: Granted) -> None:
        if granted.action not in PRIVILEGES[len(granted.on)]:
            sentence = f"Privilege {granted.action} is not applicable to {KINDS[len(granted.on)].upper()}."
            raise Failure("INVALID_PARAMETER_VALUE", sentence, "22023")
        self.known(granted.principal)
        self.grants.add(granted)

    def revoke(self, granted: Granted) -> None:
        self.known(granted.principal)
        self.grants.discard(granted)

    def shown(self, principal: str | None, on: Parts) -> list[Granted]:
        """The grants that hold on an object: its own, and those of what it lies in."""
        above = {on[:n] for n in range(1, len(on) + 1)}
        applicable = PRIVILEGES[len(on)]
        return sorted(
            g for g in self.grants
            if g.on in above and principal in (None, g.principal) and (g.on == on or g.action in applicable)
        )  # fmt: skip

    def owns(self, principal: str, on: Parts) -> bool:
        if principal == self.administrator:
            return True
        above = [on[:n] for n in range(1, len(on) + 1)]
        return any(self.owners.get(each) == principal for each in above)

    def may(self, principal: str, action: str, on: Parts) -> bool:
        if self.owns(principal, on):
            return True
        names, above = self.names_of(principal), {on[:n] for n in range(1, len(on) + 1)}
        held = {g.action for g in self.grants if g.principal in names and g.on in above}
        return action in held or ("ALL PRIVILEGES" in held and action not in _NOT_ALL)

    def sees(self, principal: str, on: Parts) -> bool:
        """Whether the information schema shows an object: the way to it is open, and some right on it is held."""
        if self.owns(principal, on):
            return True
        if not self.may(principal, "USE CATALOG", on[:1]):
            return False
        if len(on) == 3 and not self.may(principal, "USE SCHEMA", on[:2]):
            return False
        names, above = self.names_of(principal), {on[:n] for n in range(1, len(on) + 1)}
        return any(g.principal in names and g.on in above and g.action != "USE CATALOG" for g in self.grants)

    def require(self, principal: str, action: str, on: Parts) -> None:
        """Raise unless the principal may do this, the way to the object included, the outermost wall first."""
        for n, way in ((1, "USE CATALOG"), (2, "USE SCHEMA")):
            if len(on) > n and not self.may(principal, way, on[:n]):
                raise no_right(way, KINDS[n], on[:n])
        if not self.may(principal, action, on):
            raise no_right(action, KINDS[len(on)], on)

    def forget(self, gone: Parts) -> None:
        """An object was dropped: its grants and owners go with it, and those of all in it."""
        self.grants = {g for g in self.grants if g.on[: len(gone)] != gone}
        self.owners = {parts: owner for parts, owner in self.owners.items() if parts[: len(gone)] != gone}


def object_name(name: str) -> str:
    """A name as Unity Catalog keeps it: in lower case. Raises for one it would refuse."""
    if not name or len(name) > 255 or re.search(r"[\s./\x00-\x1f\x7f]", name):
        raise bad_name(name)
    return name.lower()

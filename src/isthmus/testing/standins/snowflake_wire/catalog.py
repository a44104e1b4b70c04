"""Who there is, what there is, and who may do what with it: the account without its data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .naming import Name, Refused, not_there, shown

ADMINISTRATORS = ("ACCOUNTADMIN", "SECURITYADMIN", "SYSADMIN", "USERADMIN", "PUBLIC")
IN_SCHEMA = ("TABLE", "VIEW", "STAGE")

_MAKES = {"TABLE": "CREATE TABLE", "VIEW": "CREATE VIEW", "STAGE": "CREATE STAGE"}


@dataclass
class User:
    """`keys` are public ones, in PEM or bare base64, as the statement gave them."""

    name: str
    password: str | None = None
    keys: list[str] = field(default_factory=list)
    roles: set[str] = field(default_factory=lambda: {"PUBLIC"})
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grant:
    """A privilege on an object, or (`future`) on those of a kind that are made in a schema or database."""

    privilege: str
    kind: str
    name: Name
    role: str
    future: str = ""  # the kind of container, SCHEMA or DATABASE, whose name this is then


@dataclass
class Thing:
    """An object with an owner. `columns` are declared types of a table's columns, by name."""

    kind: str
    name: Name
    owner: str
    temporary: bool = False
    columns: dict[str, str] = field(default_factory=dict)


class Catalog:
    """Roles, users, objects and grants. Not locked: the server asks it one statement at a time."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.roles: dict[str, set[str]] = {name: set() for name in ADMINISTRATORS}  # the roles granted to each
        self.owners_of_roles: dict[str, str] = dict.fromkeys(ADMINISTRATORS, "")
        self.things: dict[tuple[str, Name], Thing] = {}
        self.grants: list[Grant] = []
        self.policies: dict[str, list[str]] = {}
        self.roles["ACCOUNTADMIN"] = {"SECURITYADMIN", "SYSADMIN"}
        self.roles["SECURITYADMIN"] = {"USERADMIN"}

    # Roles

    def role(self, name: str) -> str:
        if name not in self.roles:
            raise not_there("Role", (name,))
        return name

    def user(self, name: str) -> User:
        if name not in self.users:
            raise not_there("User", (name,))
        return self.users[name]

    def all_roles(self, role: str) -> set[str]:
        """The role with those it has, directly or not."""
        found, left = {"PUBLIC"}, [role]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += self.roles.get(name, ())
        return found

    # Objects

    def group(self, kind: str) -> str:
        return "TABLE" if kind == "VIEW" else kind  # tables and views share their names

    def find(self, kind: str, name: Name) -> Thing | None:
        return self.things.get((self.group(kind), name))

    def inside(self, container: Name, kind: str = "") -> Iterator[Thing]:
        """The objects of a kind below a database or schema."""
        for thing in list(self.things.values()):
            if len(thing.name) > len(container) and thing.name[: len(container)] == container:
                if not kind or thing.kind == kind:
                    yield thing

    def make(self, kind: str, name: Name, owner: str, *, columns: dict[str, str] | None = None) -> Thing:
        """Take up an object that was made, in the stead of one of that name, and give the grants kept for it."""
        self.remove(kind, name)
        thing = self.things[self.group(kind), name] = Thing(kind, name, owner, columns=columns or {})
        for grant in list(self.grants):
            if grant.future and grant.kind == kind and name[: len(grant.name)] == grant.name:
                self.give(Grant(grant.privilege, kind, name, grant.role))
        return thing

    def remove(self, kind: str, name: Name) -> None:
        """Forget an object, with all in it, and every grant on them."""
        self.things.pop((self.group(kind), name), None)
        gone = [thing for thing in self.inside(name) if kind in ("DATABASE", "SCHEMA")]
        for thing in gone:
            self.things.pop((self.group(thing.kind), thing.name), None)
        names = {(self.group(kind), name)} | {(self.group(thing.kind), thing.name) for thing in gone}
        self.grants = [g for g in self.grants if (self.group(g.future or g.kind), g.name) not in names]

    # Grants

    def give(self, grant: Grant) -> None:
        if grant not in self.grants:
            self.grants.append(grant)

    def take(self, grant: Grant) -> None:
        if grant in self.grants:
            self.grants.remove(grant)

    def granted(self, role: str, kind: str, name: Name) -> set[str]:
        """Every privilege of a role on an object; OWNERSHIP stands for all of them."""
        roles = self.all_roles(role)
        found = {
            g.privilege
            for g in self.grants
            if not g.future and g.role in roles and g.name == name and self.group(g.kind) == self.group(kind)
        }
        thing = self.find(kind, name)
        if "ACCOUNTADMIN" in roles or (thing is not None and thing.owner in roles):
            found.add("OWNERSHIP")
        return found

    def has(self, role: str, privilege: str, kind: str, name: Name) -> bool:
        granted = self.granted(role, kind, name)
        return "OWNERSHIP" in granted or privilege in granted

    def sees(self, role: str, kind: str, name: Name) -> bool:
        """Whether a role may know that an object is there: it has any privilege on it, and may enter where it is."""
        if self.find(kind, name) is None or not self.granted(role, kind, name):
            return False
        return self.enters(role, name[:-1]) if len(name) > 1 else True

    def enters(self, role: str, container: Name) -> bool:
        """Whether a role may use a database, or a schema and its database."""
        kinds = ("DATABASE", "SCHEMA")
        return all(
            self.find(kinds[n], container[: n + 1]) is not None
            and self.has(role, "USAGE", kinds[n], container[: n + 1])
            for n in range(len(container))
        )

    def require_container(self, role: str, container: Name) -> None:
        kinds = ("DATABASE", "SCHEMA")
        for n in range(len(container)):
            name = container[: n + 1]
            if self.find(kinds[n], name) is None or not self.has(role, "USAGE", kinds[n], name):
                raise not_there(kinds[n].title(), name)

    def require_to_make(self, role: str, kind: str, name: Name, *, temporary: bool = False) -> None:
        """Raise unless the role may make such an object there. A temporary table needs no right but to be there."""
        self.require_container(role, name[:-1])
        if temporary and kind == "TABLE":
            return
        privilege = _MAKES.get(kind, f"CREATE {kind}")
        if not self.has(role, privilege, "SCHEMA", name[:-1]):
            message = f"SQL access control error:\nInsufficient privileges to operate on schema '{name[-2]}'"
            raise Refused(message, 3001, "42501")

    def require_to_grant(self, role: str, kind: str, name: Name) -> None:
        """Raise unless the role owns the object, or may manage all grants."""
        thing = self.find(kind, name)
        roles = self.all_roles(role)
        if thing is None or not ({"SECURITYADMIN", thing.owner} & roles):
            raise (
                not_there(kind.title(), name)
                if thing is None
                else Refused(
                    f"SQL access control error:\nInsufficient privileges to operate on {kind.lower()} '{shown(name)}'",
                    3001,
                    "42501",
                )
            )

    def grants_to(self, role: str) -> Iterable[tuple[str, str, Name]]:
        """Privilege, kind and name of everything granted to a role itself, what it owns with it."""
        for grant in self.grants:
            if grant.role == role and not grant.future:
                yield grant.privilege, grant.kind, grant.name
        for thing in self.things.values():
            if thing.owner == role:
                yield "OWNERSHIP", thing.kind, thing.name
        for name in sorted(self.roles[role]):
            yield "USAGE", "ROLE", (name,)


def key_of(text: str) -> str:
    """A public key as a PEM, whichever way it was given."""
    bare = re.sub(r"-----[A-Z ]+-----|\s", "", text)
    return f"-----BEGIN PUBLIC KEY-----\n{bare}\n-----END PUBLIC KEY-----\n"

"""Statements about roles, users, warehouses, network policies and grants: answered from the catalog alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .answers import Answer, done
from .catalog import ADMINISTRATORS, IN_SCHEMA, Catalog, Grant, User
from .naming import NAME, Name, Refused, not_there, parts, shown, word

_NOW = "2026-01-01 00:00:00.000 Z"
_KINDS = r"database|schema|table|view|stage|warehouse|role|user|file\s+format|network\s+policy"
_GRANT_COLUMNS = (
    "created_on",
    "privilege",
    "granted_on",
    "name",
    "granted_to",
    "grantee_name",
    "grant_option",
    "granted_by",
)

_PRIVILEGES = {
    "DATABASE": {"USAGE", "MONITOR", "MODIFY", "CREATE SCHEMA"},
    "SCHEMA": {"USAGE", "MONITOR", "MODIFY", "CREATE TABLE", "CREATE VIEW", "CREATE STAGE", "CREATE NETWORK RULE"},
    "TABLE": {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES"},
    "VIEW": {"SELECT", "REFERENCES"},
    "STAGE": {"READ", "WRITE", "USAGE"},
    "WAREHOUSE": {"USAGE", "OPERATE", "MONITOR", "MODIFY"},
}


class Account:
    """Answers for one session: `role` and `user` are who asks, `full` completes the name of an object."""

    def __init__(self, catalog: Catalog, user: str, role: str, full: Callable[[str, Name], Name]) -> None:
        self._catalog, self._user, self._role, self._full = catalog, user, role, full

    def answer(self, statement: str) -> Answer | None:
        """The answer to a statement about the account; None if it is about something else."""
        for pattern, method in _STATEMENTS:
            if match := re.fullmatch(pattern, statement, re.I | re.S):
                answer: Answer = method(self, match)
                return answer
        return None

    def _require(self, administrator: str) -> None:
        if not {administrator, "ACCOUNTADMIN"} & self._catalog.all_roles(self._role):
            message = f"SQL access control error:\nInsufficient privileges to operate on account; needs {administrator}"
            raise Refused(message, 3001, "42501")

    # Roles and users

    def create_role(self, match: re.Match[str]) -> Answer:
        self._require("USERADMIN")
        name = word(match["name"])
        if name in self._catalog.roles:
            return self._already("Role", name, match)
        self._catalog.roles[name] = set()
        self._catalog.owners_of_roles[name] = self._role
        return done(f"Role {name} successfully created.")

    def _already(self, kind: str, name: str, match: re.Match[str]) -> Answer:
        if not match["exists"]:
            raise Refused(f"SQL compilation error:\nObject '{name}' already exists.", 2002, "42710")
        return done(f"{name} already exists, statement succeeded.")

    def drop_role(self, match: re.Match[str]) -> Answer:
        self._require("USERADMIN")
        name = word(match["name"])
        if name not in self._catalog.roles and not match["exists"]:
            raise not_there("Role", (name,))
        self._catalog.roles.pop(name, None)
        self._catalog.grants = [g for g in self._catalog.grants if g.role != name]
        for holder in (*self._catalog.users.values(),):
            holder.roles.discard(name)
        return done(f"{name} successfully dropped.")

    def create_user(self, match: re.Match[str]) -> Answer:
        self._require("USERADMIN")
        name = word(match["name"])
        if name in self._catalog.users:
            return self._already("User", name, match)
        user = User(name)
        self._set(user, match["rest"])
        self._catalog.users[name] = user
        return done(f"User {name} successfully created.")

    def alter_user(self, match: re.Match[str]) -> Answer:
        name = word(match["name"])
        if name not in self._catalog.users and match["exists"]:
            return done()
        if name != self._user:
            self._require("USERADMIN")
        self._set(self._catalog.user(name), match["rest"])
        return done()

    def _set(self, user: User, text: str) -> None:
        unset = re.match(r"(?i)\s*unset\s+(\w+)", text)
        if unset:
            user.properties.pop(unset[1].upper(), None)
            if unset[1].upper().startswith("RSA_PUBLIC_KEY"):
                user.keys.clear()
            return
        for key, value in re.findall(rf"(\w+)\s*=\s*('(?:[^']|'')*'|{NAME})", text):
            plain = value[1:-1].replace("''", "'") if value.startswith("'") else word(value)
            match key.upper():
                case "PASSWORD":
                    if user.properties.get("TYPE") == "SERVICE":
                        raise Refused("Cannot set PASSWORD on a user with TYPE = SERVICE", 1420, "22023")
                    user.password = plain
                case "RSA_PUBLIC_KEY" | "RSA_PUBLIC_KEY_2":
                    self._keep_key(user, key.upper(), plain)
                case "NETWORK_POLICY":
                    if word(value.strip("'")) not in self._catalog.policies:
                        raise not_there("Network policy", (word(value.strip("'")),))
                    user.properties[key.upper()] = word(value.strip("'"))
                case "DEFAULT_ROLE":
                    user.properties[key.upper()] = word(plain)
                case _:
                    user.properties[key.upper()] = plain

    def _keep_key(self, user: User, which: str, key: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9+/=\s]{200,}", re.sub(r"-----[A-Z ]+-----", "", key)):
            raise Refused("New public key rejected by current policy. Reason: 'Invalid public key'", 3549, "22023")
        old = user.properties.get(which)
        user.keys = [k for k in user.keys if k != old] + [key]
        user.properties[which] = key

    def use_role(self, match: re.Match[str]) -> Answer:
        raise AssertionError("the session does that")  # pragma: no cover

    # Warehouses and policies

    def create_warehouse(self, match: re.Match[str]) -> Answer:
        self._require("SYSADMIN")
        name = word(match["name"])
        if self._catalog.find("WAREHOUSE", (name,)):
            return self._already("Warehouse", name, match)
        self._catalog.make("WAREHOUSE", (name,), self._role)
        return done(f"Warehouse {name} successfully created.")

    def alter_warehouse(self, match: re.Match[str]) -> Answer:
        name = (word(match["name"]),)
        if not self._catalog.granted(self._role, "WAREHOUSE", name) or not self._catalog.find("WAREHOUSE", name):
            raise not_there("Warehouse", name)
        return done()

    def create_policy(self, match: re.Match[str]) -> Answer:
        self._require("SECURITYADMIN")
        name = word(match["name"])
        if name in self._catalog.policies:
            return self._already("Network policy", name, match)
        self._catalog.policies[name] = re.findall(r"'([^']*)'", match["rest"])
        return done(f"Network policy {name} successfully created.")

    def alter_policy(self, match: re.Match[str]) -> Answer:
        self._require("SECURITYADMIN")
        name = word(match["name"])
        if name not in self._catalog.policies:
            raise not_there("Network policy", (name,))
        self._catalog.policies[name] = re.findall(r"'([^']*)'", match["rest"])
        return done()

    # Grants

    def grant_role(self, match: re.Match[str]) -> Answer:
        self._require("USERADMIN")
        role, to = self._catalog.role(word(match["name"])), word(match["to"])
        if match["kind"].upper() == "USER":
            held = self._catalog.user(to).roles
        else:
            held = self._catalog.roles[self._catalog.role(to)]
        (held.add if match["verb"].upper() == "GRANT" else held.discard)(role)
        return done()

    def grant(self, match: re.Match[str]) -> Answer:
        kind = re.sub(r"\s+", " ", match["kind"].upper())
        role = self._catalog.role(word(match["to"]))
        gives = match["verb"].upper() == "GRANT"
        for grant in self._meant(match, kind, role):
            (self._catalog.give if gives else self._catalog.take)(grant)
        return done()

    def _meant(self, match: re.Match[str], kind: str, role: str) -> Iterator[Grant]:
        """The single grants that a statement is about."""
        many, where = (match["many"] or "").upper().strip(), (match["where"] or "").upper().strip()
        if many:
            kind = kind.removesuffix("S")
        privileges = [re.sub(r"\s+", " ", p.strip().upper()) for p in match["privileges"].split(",")]
        known = _PRIVILEGES.get(kind, set())
        for privilege in privileges:
            if privilege not in known | {"ALL", "ALL PRIVILEGES", "OWNERSHIP"}:
                message = f"SQL compilation error:\nsyntax error: no privilege {privilege} on {kind}"
                raise Refused(message, 1003, "42000")
        if privileges[0].startswith("ALL"):
            privileges = sorted(known)
        container = where.removeprefix("IN ").strip()
        name = self._full(container or kind, parts(match["name"]))
        self._catalog.require_to_grant(self._role, container or kind, name)
        for privilege in privileges:
            if many == "FUTURE":
                yield Grant(privilege, kind, name, role, container)
            elif many == "ALL":
                yield from (Grant(privilege, kind, t.name, role) for t in self._catalog.inside(name, kind))
            else:
                found = self._catalog.find(kind, name)
                if found is None or found.kind != kind:
                    raise not_there(kind.title(), name)
                yield Grant(privilege, kind, name, role)

    def own(self, match: re.Match[str]) -> Answer:
        """GRANT OWNERSHIP: the object changes hands; other grants on it go, unless they are copied."""
        kind, role = re.sub(r"\s+", " ", match["kind"].upper()), self._catalog.role(word(match["to"]))
        many = match["many"] is not None
        kind = kind.removesuffix("S") if many else kind
        where = (match["where"] or "").upper().removeprefix("IN").strip()
        name = self._full(where or kind, parts(match["name"]))
        things = list(self._catalog.inside(name, kind)) if many else [self._catalog.find(kind, name)]
        for thing in things:
            if thing is None:
                raise not_there(kind.title(), name)
            self._catalog.require_to_grant(self._role, kind, thing.name)
            others = [g for g in self._catalog.grants if g.name == thing.name and g.kind == kind and not g.future]
            if others and not match["copy"]:
                message = (
                    f"SQL execution error:\nDependent grant of privilege on {shown(thing.name)} exists. "
                    "It must be revoked first."
                )
                raise Refused(message, 3036, "0LP01")
            thing.owner = role
        return done()

    # Showing

    def show_grants(self, match: re.Match[str]) -> Answer:
        what, name = re.sub(r"\s+", " ", (match["what"] or "").upper()), match["name"]
        rows: list[list[str]] = []
        if what == "TO ROLE":
            role = self._seen_role(word(name))
            rows = [self._row(*given, role) for given in self._catalog.grants_to(role)]
        elif what == "TO USER":
            user = self._catalog.user(word(name))
            if user.name != self._user:
                self._require("SECURITYADMIN")
            columns = ("created_on", "role", "granted_to", "grantee_name", "granted_by")
            held = sorted(user.roles - {"PUBLIC"})
            return Answer(columns, [[_NOW, role, "USER", user.name, "USERADMIN"] for role in held])
        elif what.startswith("ON "):
            kind = what.removeprefix("ON ")
            full = self._full(kind, parts(name))
            if not self._catalog.sees(self._role, kind, full):
                raise not_there(kind.title(), full)
            for role in self._catalog.roles:
                given = self._catalog.grants_to(role)
                rows += [self._row(p, k, n, role) for p, k, n in given if (k, n) == (kind, full)]
        else:
            raise Refused(f"SQL compilation error:\nsyntax error: SHOW GRANTS {what}", 1003, "42000")
        return Answer(_GRANT_COLUMNS, rows)

    def _seen_role(self, name: str) -> str:
        if name not in self._catalog.all_roles(self._role):
            self._require("SECURITYADMIN")
        return self._catalog.role(name)

    def _row(self, privilege: str, kind: str, name: Name, role: str) -> list[str]:
        return [_NOW, privilege, kind, shown(name), "ROLE", role, "false", "SECURITYADMIN"]

    def show_future_grants(self, match: re.Match[str]) -> Answer:
        what, name = re.sub(r"\s+", " ", match["what"].upper()), parts(match["name"])
        columns = ("created_on", "privilege", "grant_on", "name", "grant_to", "grantee_name", "grant_option")
        found = [g for g in self._catalog.grants if g.future]
        if what == "TO ROLE":
            role = self._seen_role(name[0])
            found = [g for g in found if g.role == role]
        else:
            full = self._full(what.removeprefix("IN "), name)
            found = [g for g in found if (g.future, g.name) == (what.removeprefix("IN "), full)]
        rows = [[_NOW, g.privilege, g.kind, f"{shown(g.name)}.<{g.kind}>", "ROLE", g.role, "false"] for g in found]
        return Answer(columns, rows)

    def show_named(self, match: re.Match[str]) -> Answer:
        """SHOW WAREHOUSES, DATABASES, SCHEMAS and TABLES, as far as the role sees them."""
        kind = match["kind"].upper().removesuffix("S")
        container: Name = ()
        if match["name"]:
            container = self._full({"SCHEMA": "DATABASE", "TABLE": "SCHEMA"}.get(kind, kind), parts(match["name"]))
            self._catalog.require_container(self._role, container)
        like = (match["like"] or "%").replace("\\\\", "\\")
        escaped = re.sub(
            r"\\(.)|%|_|.",
            lambda m: re.escape(m[1]) if m[1] else {"%": ".*", "_": "."}.get(m[0], re.escape(m[0])),
            like,
            flags=re.S,
        )
        found = [
            t
            for t in self._catalog.things.values()
            if t.kind == kind
            and t.name[: len(container)] == container
            and self._catalog.sees(self._role, kind, t.name)
            and re.fullmatch(escaped, t.name[-1], re.I | re.S)
        ]
        found.sort(key=lambda t: t.name)
        columns = ("created_on", "name", "database_name", "schema_name", "owner", "kind")
        return Answer(
            columns,
            [[_NOW, t.name[-1], t.name[0], t.name[1] if len(t.name) > 2 else "", t.owner, t.kind] for t in found],
        )


_EXISTS = r"(?P<exists>if\s+(?:not\s+)?exists\s+)?"
_N = rf"(?P<name>{NAME})"
_TO = rf"(?:to|from)\s+(?:role\s+)?(?P<to>{NAME})"
_ANY = r"(?P<rest>.*)"
_WHERE = r"(?P<where>in\s+(?:schema|database)\s+)?"
_MANY = r"(?P<many>(?:all|future)\s+)?"
_THINGS = "|".join(f"{kind}s?" for kind in (*IN_SCHEMA, "schema", "database", "warehouse"))

_STATEMENTS: list[tuple[str, Callable[..., Answer]]] = [
    (rf"create\s+role\s+{_EXISTS}{_N}(?:\s+comment\s*=.*)?", Account.create_role),
    (rf"drop\s+role\s+{_EXISTS}{_N}", Account.drop_role),
    (rf"create\s+user\s+{_EXISTS}{_N}{_ANY}", Account.create_user),
    (rf"alter\s+user\s+{_EXISTS}{_N}{_ANY}", Account.alter_user),
    (rf"create\s+warehouse\s+{_EXISTS}{_N}{_ANY}", Account.create_warehouse),
    (rf"alter\s+warehouse\s+{_EXISTS}{_N}{_ANY}", Account.alter_warehouse),
    (rf"create\s+network\s+policy\s+{_EXISTS}{_N}{_ANY}", Account.create_policy),
    (rf"alter\s+network\s+policy\s+{_EXISTS}{_N}{_ANY}", Account.alter_policy),
    (rf"(?P<verb>grant|revoke)\s+role\s+{_N}\s+(?:to|from)\s+(?P<kind>user|role)\s+(?P<to>{NAME})", Account.grant_role),
    (
        rf"grant\s+ownership\s+on\s+{_MANY}(?P<kind>{_THINGS})\s+{_WHERE}{_N}\s+{_TO}"
        r"(?P<copy>\s+copy\s+current\s+grants)?",
        Account.own,
    ),
    (
        rf"(?P<verb>grant|revoke)\s+(?P<privileges>[\w\s,]+?)\s+on\s+{_MANY}(?P<kind>{_THINGS})\s+{_WHERE}{_N}\s+{_TO}",
        Account.grant,
    ),
    (rf"show\s+grants\s+(?P<what>to\s+role|to\s+user|on\s+(?:{_KINDS}))\s+{_N}", Account.show_grants),
    (rf"show\s+future\s+grants\s+(?P<what>to\s+role|in\s+schema|in\s+database)\s+{_N}", Account.show_future_grants),
    (
        rf"show\s+(?P<kind>warehouses|databases|schemas|tables|views)(?:\s+like\s+'(?P<like>[^']*)')?"
        rf"(?:\s+in\s+(?:database\s+|schema\s+)?{_N})?",
        Account.show_named,
    ),
]

__all__ = ["ADMINISTRATORS", "Account"]

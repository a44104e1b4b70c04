"""Databases, their tables, and who may do what. Names are found whatever their case, as by the default collation."""

from __future__ import annotations

import datetime
import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import duckdb

from isthmus.testing.standins.synapse_wire.functions import MACROS
from isthmus.testing.standins.synapse_wire.locks import Locks
from isthmus.testing.standins.synapse_wire.packets import Refused
from isthmus.testing.standins.synapse_wire.values import SqlType

MASTER = "master"
OWNER, READER, WRITER, DEFINER = "db_owner", "db_datareader", "db_datawriter", "db_ddladmin"
_FIXED_ROLES = (OWNER, READER, WRITER, DEFINER, "public")
_numbers = itertools.count(1000)


@dataclass
class Column:
    name: str
    type: SqlType
    is_nullable: bool = True
    collation: str | None = None


@dataclass
class Relation:
    """A table or a view. `options` is what its WITH said: where rows lie and in what order."""

    schema: str
    name: str
    columns: list[Column]
    is_view: bool = False
    options: str = ""
    object_id: int = field(default_factory=lambda: next(_numbers))
    created: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None))

    @property
    def is_temporary(self) -> bool:
        return self.name.startswith("#")

    @property
    def place(self) -> str:
        """Where DuckDB keeps it."""
        return f"temp.main.{quoted(self.name)}" if self.is_temporary else f"{quoted(self.schema)}.{quoted(self.name)}"


@dataclass(frozen=True)
class Securable:
    """What a right is for: the database (no name), a schema, or one object in it."""

    schema: str = ""
    name: str = ""

    @property
    def kind(self) -> str:
        return "OBJECT_OR_COLUMN" if self.name else "SCHEMA" if self.schema else "DATABASE"


@dataclass(frozen=True)
class Grant:
    principal: str
    permission: str
    securable: Securable


class Database:
    """One pool (or `master`): a DuckDB of its own, users, roles, grants, and a log of everything asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.duck = duckdb.connect(":memory:", config={"threads": "2", "preserve_insertion_order": "true"})
        self.duck.execute("SET TimeZone='UTC'")
        for macro in MACROS:
            self.duck.execute(macro)
        self.locks = Locks()
        self.defining = threading.RLock()
        self.schemas: dict[str, str] = {}
        self.schema_ids: dict[str, int] = {}
        self.relations: dict[tuple[str, str], Relation] = {}
        self.users: dict[str, str] = {}  # user → login
        self.roles: dict[str, set[str]] = {role: set() for role in _FIXED_ROLES}
        self.grants: set[Grant] = set()
        self.reads_committed = False
        self.log: list[tuple[int, str, str]] = []
        self.add_schema("dbo")

    def add_schema(self, name: str) -> None:
        self.schemas[name.lower()] = name
        self.schema_ids[name.lower()] = next(_numbers)
        self.duck.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(name)}")

    def relation(self, schema: str, name: str) -> Relation | None:
        return self.relations.get((schema.lower(), name.lower()))

    def add(self, relation: Relation) -> None:
        self.relations[(relation.schema.lower(), relation.name.lower())] = relation

    def user_of(self, login: str) -> str | None:
        return next((user for user, owner in self.users.items() if owner.lower() == login.lower()), None)

    def groups(self, user: str) -> set[str]:
        """The user and every role it is in, at first or second hand."""
        found, grown = {"public", user}, True
        while grown:
            new = {role for role, members in self.roles.items() if members & found} - found
            found |= new
            grown = bool(new)
        return found

    def close(self) -> None:
        self.duck.close()


@dataclass
class Fault:
    """Something that goes wrong at the next `times` statements of `database` in which `words` are found.

    `how`: "refuse" gives error `number` instead of carrying out; "drop before" and "drop after" hang up without an
    answer, before the statement or when it is done. Signing in is the statement "LOGIN name".
    """

    database: str
    words: str
    how: str
    number: int = 0
    message: str = ""
    times: int = 1
    skip: int = 0


class Server:
    """All databases of one workspace and the logins that lead to them."""

    def __init__(self, admin: str, password: str, blob_endpoint: str) -> None:
        self.admin, self.blob_endpoint = admin, blob_endpoint
        self.logins: dict[str, str] = {admin: password}
        self.databases: dict[str, Database] = {}
        self.faults: list[Fault] = []
        self.order = itertools.count(1)
        self.add_database(MASTER)

    def add_database(self, name: str) -> Database:
        if name.lower() in self.databases:
            raise Refused(1801, f"Database '{name}' already exists. Choose a different database name.")
        made = self.databases[name.lower()] = Database(name)
        return made

    def drop_database(self, name: str) -> None:
        found = self.databases.pop(name.lower(), None)
        if found is None:
            raise Refused(3701, f"Cannot drop the database '{name}', because it does not exist.")
        found.close()

    def sign_in(self, login: str, password: str, database: str) -> Database:
        """The database a login wants, if its password is right and it is a user there."""
        known = next((name for name in self.logins if name.lower() == login.lower()), None)
        if known is None or self.logins[known] != password:
            raise Refused(18456, f"Login failed for user '{login}'.", severity=14)
        found = self.databases.get((database or MASTER).lower())
        if found is None or (known != self.admin and found.name != MASTER and found.user_of(known) is None):
            said = f'Cannot open database "{database}" requested by the login. The login failed.'
            raise Refused(4060, said, severity=11)
        return found

    def fault(self, database: str, text: str) -> Fault | None:
        """The fault that this statement meets, if any."""
        for fault in self.faults:
            if fault.database.lower() == database.lower() and fault.words.lower() in text.lower() and fault.times > 0:
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None


class Rights:
    """What one login may do in one database."""

    def __init__(self, database: Database, login: str, is_admin: bool) -> None:
        self._database = database
        self.user = "dbo" if is_admin else (database.user_of(login) or login)
        self.login = login
        self._is_admin = is_admin

    @property
    def owns(self) -> bool:
        return self._is_admin or self.is_member(OWNER)

    def is_member(self, role: str) -> bool:
        lowered = {group.lower() for group in self._database.groups(self.user)}
        return (self._is_admin and role.lower() == OWNER) or role.lower() in lowered

    def given(self) -> Iterator[Grant]:
        groups = self._database.groups(self.user)
        return (grant for grant in self._database.grants if grant.principal in groups)

    def may(self, permission: str, schema: str = "", name: str = "") -> bool:
        if self.owns:
            return True
        wanted = permission.upper()
        if wanted == "SELECT" and self.is_member(READER):
            return True
        if wanted in ("INSERT", "UPDATE", "DELETE") and self.is_member(WRITER):
            return True
        if wanted in ("CREATE TABLE", "CREATE VIEW", "CREATE SCHEMA", "ALTER") and self.is_member(DEFINER):
            return True
        over = {Securable(), Securable(schema.lower()), Securable(schema.lower(), name.lower())}
        if not schema:
            over = {Securable()}
        return any(g.securable in over and g.permission in (wanted, "CONTROL") for g in self.given())

    def sees(self, relation: Relation) -> bool:
        """Whether metadata shows it: with any right on it."""
        if self.owns or self.is_member(READER) or self.is_member(WRITER) or self.is_member(DEFINER):
            return True
        return any(
            self.may(p, relation.schema, relation.name) for p in ("SELECT", "INSERT", "UPDATE", "DELETE", "ALTER")
        )

    def require(self, permission: str, relation: Relation) -> None:
        if relation.is_temporary or self.may(permission, relation.schema, relation.name):
            return
        raise Refused(
            229,
            f"The {permission} permission was denied on the object '{relation.name}', database "
            f"'{self._database.name}', schema '{relation.schema}'.",
            severity=14,
        )

    def require_here(self, permission: str) -> None:
        if not self.may(permission):
            raise Refused(262, f"{permission} permission denied in database '{self._database.name}'.", severity=14)

    def require_schema(self, schema: str) -> str:
        """The schema as its name is written, if it is there and may be altered."""
        found = self._database.schemas.get(schema.lower())
        if found is None or not self.may("ALTER", found):
            raise Refused(
                2760,
                f'The specified schema name "{schema}" either does not exist or you do not have permission to use it.',
            )
        return found

    def require_owner(self, said: str) -> None:
        if not self.owns:
            raise Refused(15247, f"User does not have permission to perform this action. ({said})")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def listed(names: Iterable[str]) -> str:
    return ", ".join(quoted(n) for n in names)

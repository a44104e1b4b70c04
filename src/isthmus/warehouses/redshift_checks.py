"""What a check of a Redshift connection asks once it is signed in, and the one statement that mends each no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol
from uuid import uuid4

from isthmus.duck import identifier, literal
from isthmus.model.checks import Check
from isthmus.model.errors import Denied, WarehouseError
from isthmus.warehouses import sql
from isthmus.warehouses.redshift_bucket import StagingBucket

_PROBE = "_isthmus_probe"
_HINT = "run the set-up script again, or just the statement given here"


class Places(Protocol):
    """The fields of a connection that the questions are about."""

    @property
    def database(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def schema(self) -> str: ...
    @property
    def import_schema(self) -> str: ...
    @property
    def temp_schema(self) -> str: ...
    @property
    def bucket(self) -> str: ...
    @property
    def prefix(self) -> str: ...
    @property
    def iam_role(self) -> str: ...


_Execute = Callable[[str], list[Any]]


def questions(places: Places, execute: _Execute, staging: StagingBucket | None) -> Iterator[Check]:
    """The checks of an open session, in order. The probes are rolled back or removed."""
    user = identifier(places.username)
    target, importing, temporary = map(identifier, (places.schema, places.import_schema, places.temp_schema))
    wanted = (places.schema, places.import_schema, places.temp_schema)
    there = sql.schemas_there(wanted, lambda schema: _has_schema(execute, schema))
    yield there
    if _has_schema(execute, places.import_schema):
        yield from _importing(places, execute, user, importing)
    probe = f"{temporary}.{_PROBE}"
    written = [f"CREATE TABLE {probe} (n integer)", f"INSERT INTO {probe} VALUES (1)", f"SELECT n FROM {probe}"]
    yield sql.answer(
        f"Can we create, write, read and drop a table in {places.temp_schema}?",
        lambda: sql.undone(execute, [*written, f"DROP TABLE {probe}"]),
        _schema_grant(execute, places.temp_schema, temporary, user),
    )
    staged = f"CREATE TEMP TABLE {_PROBE} (n integer)"
    yield sql.answer(
        "Can we stage rows in a temporary table?",
        lambda: sql.undone(execute, [staged]),
        f"GRANT TEMPORARY ON DATABASE {identifier(places.database)} TO {user};",
    )
    if staging is not None:
        yield from _bucket(places, execute, staging)
    loaded = f"{target}.{_PROBE}"
    yield sql.answer(
        f"Can we load a row into {places.schema}?",
        lambda: sql.undone(execute, [f"CREATE TABLE {loaded} (n integer)", f"INSERT INTO {loaded} VALUES (1)"]),
        _schema_grant(execute, places.schema, target, user),
    )
    yield _surplus(places, execute, user, importing)


def _importing(places: Places, execute: _Execute, user: str, importing: str) -> Iterator[Check]:
    schema = literal(places.import_schema)
    yield sql.answer(
        "Can the import schema be used?",
        lambda: _require(execute, f"has_schema_privilege({schema}, 'usage')", f"USAGE on {places.import_schema}"),
        f"GRANT USAGE ON SCHEMA {importing} TO {user};",
    )
    name = "quote_ident(nspname::varchar) || '.' || quote_ident(relname::varchar)"
    hidden = (
        "SELECT relname::varchar FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE nspname = {schema} AND relkind IN ('r', 'v', 'm', 'p') AND NOT has_table_privilege({name}, 'select') "
        "ORDER BY 1 LIMIT 1"
    )
    question = "Can its tables and views be read?"
    grant = f"GRANT SELECT ON ALL TABLES IN SCHEMA {importing} TO {user};"
    try:
        found = execute(hidden)
    except WarehouseError as e:
        yield Check(question, False, detail=e.vendor or e.summary, hint=e.hint, statement=grant)
        return
    detail = f"SELECT is missing on {found[0][0]}" if found else ""
    yield Check(question, not found, detail=detail, hint=_HINT if found else "", statement=grant if found else "")
    question = "Will future tables and views be readable too?"
    default = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {importing} GRANT SELECT ON TABLES TO {user};"
    asked = (
        f"SELECT 1 FROM svv_default_privileges WHERE schema_name = {schema} AND privilege_type = 'SELECT' "
        f"AND grantee_name IN ({literal(places.username)}, 'public') LIMIT 1"
    )
    try:
        is_given = bool(execute(asked))
    except WarehouseError as e:
        yield Check(question, True, detail=f"not known: {e.vendor or e.summary}", warns=True)
        return
    if is_given:
        yield Check(question, True)
    else:
        detail = "a table made later can be read only once it is granted by itself"
        yield Check(question, True, detail=detail, hint=_HINT, statement=default, warns=True)


def _bucket(places: Places, execute: _Execute, staging: StagingBucket) -> Iterator[Check]:
    folder = f"{places.prefix.strip('/')}/check-{uuid4().hex}/".lstrip("/")
    key = f"{folder}probe.csv"
    ours = _policy(places, ("s3:PutObject", "s3:GetObject", "s3:DeleteObject"), "put-user-policy --user-name ITS_USER")
    yield sql.answer(f"Can we put files into the bucket {places.bucket}?", lambda: staging.put(key, b"1\n"), ours)
    role = places.iam_role.rpartition("/")[2]
    whose = f"put-role-policy --role-name {role}" if role else "put-user-policy --user-name ITS_USER"
    copied = [
        f"CREATE TEMP TABLE {_PROBE} (n integer)",
        f"COPY {_PROBE} FROM {literal(staging.url(key))} {staging.credentials} FORMAT AS CSV",
    ]
    yield sql.answer(
        "Can Redshift read them from there?",
        lambda: sql.undone(execute, copied),
        _policy(places, ("s3:GetObject",), whose),
    )
    yield sql.answer("Can we remove them again?", lambda: staging.clear(folder), ours)


def _policy(places: Places, actions: tuple[str, ...], whose: str) -> str:
    """The command that gives rights in the bucket to a user or role of IAM."""
    objects = f"arn:aws:s3:::{places.bucket}/{places.prefix.strip('/')}*"
    allowed = ",".join(f'"{a}"' for a in actions)
    document = (
        f'{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":[{allowed}],"Resource":"{objects}"}},'
        f'{{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::{places.bucket}"}}]}}'
    )
    return f"aws iam {whose} --policy-name isthmus-staging --policy-document '{document}'"


def _surplus(places: Places, execute: _Execute, user: str, importing: str) -> Check:
    """Rights nobody asked for, and the statement that takes the first of them away."""
    question = "Are there rights it does not need?"
    schema = literal(places.import_schema)
    name = "quote_ident(nspname::varchar) || '.' || quote_ident(relname::varchar)"
    written = " OR ".join(f"has_table_privilege({name}, '{r}')" for r in ("insert", "update", "delete"))
    one = f"FROM pg_user WHERE usename = {literal(places.username)}"
    asked = {
        "it is a superuser": (f"SELECT 1 {one} AND usesuper", f"ALTER USER {user} NOCREATEUSER;"),
        "it may create databases": (f"SELECT 1 {one} AND usecreatedb", f"ALTER USER {user} NOCREATEDB;"),
        "it may create schemas in this database": (
            f"SELECT 1 FROM pg_database WHERE datname = {literal(places.database)} "
            f"AND has_database_privilege({literal(places.database)}, 'create')",
            f"REVOKE CREATE ON DATABASE {identifier(places.database)} FROM {user};",
        ),
        f"it may create tables in {places.import_schema}": (
            f"SELECT 1 FROM pg_namespace WHERE nspname = {schema} AND has_schema_privilege({schema}, 'create')",
            f"REVOKE CREATE ON SCHEMA {importing} FROM {user};",
        ),
        f"it may change rows in {places.import_schema}": (
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE nspname = {schema} AND relkind = 'r' AND ({written}) LIMIT 1",
            f"REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {importing} FROM {user};",
        ),
    }
    found = []
    for what, (query, statement) in asked.items():
        try:
            if execute(query):
                found.append((what, statement))
        except WarehouseError:  # a schema without the right to use it has been told of already
            continue
        if found and what == "it is a superuser":
            break  # all else follows from it
    if not found:
        return Check(question, True)
    detail = ", ".join(what for what, _ in found)
    return Check(question, True, detail=detail, hint="take it away", statement=found[0][1], warns=True)


def _schema_grant(execute: _Execute, schema: str, quoted: str, user: str) -> str:
    if not _has_schema(execute, schema):
        return f"CREATE SCHEMA IF NOT EXISTS {quoted};"
    return f"GRANT USAGE, CREATE ON SCHEMA {quoted} TO {user};"


def _require(execute: _Execute, condition: str, what: str) -> None:
    if execute(f"SELECT {condition}")[0][0] is not True:
        raise Denied(f"a right is missing: {what}", hint=_HINT)


def _has_schema(execute: _Execute, name: str) -> bool:
    return bool(execute(f"SELECT 1 FROM pg_namespace WHERE nspname = {literal(name)}"))

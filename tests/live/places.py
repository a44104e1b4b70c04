"""Places in a real account for one test: made when it begins, gone when it ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from isthmus.model.table import Table, Type
from isthmus.secrets import Secret
from isthmus.testing.conformance.situations import Situations
from isthmus.warehouses import databricks_sql, kinds
from isthmus.warehouses.protocol import Relation

PREFIX = "ISTHMUS_LIVE_"


def given(kind: str) -> Any:
    """The config of the account whose fields are in the environment. Skips, and says what is missing."""
    fields = kinds.fields(kind)
    values = {f.name: os.environ.get(PREFIX + f.name.upper()) for f in fields}
    missing = [PREFIX + f.name.upper() for f in fields if f.required and not values[f.name]]
    if missing:
        pytest.skip(f"no account for {kind}: set {', '.join(missing)}")
    made = {f.name: _value(f, value) for f in fields if (value := values[f.name])}
    return kinds.build(kind, made)


def _value(field: kinds.Field, value: str) -> object:
    if field.type is Secret:
        return Secret(value)
    return value.lower() in ("1", "true", "yes") if field.type is bool else value


@contextmanager
def fresh(config: Any, suite: type[Situations]) -> Iterator[Any]:
    """The config with a place of its own for each of the fields that say where things lie."""
    name = f"isthmus_live_{uuid4().hex[:10]}"
    named = {
        field: spelt(config.kind, f"{name}_{part}")
        for field, part in ((suite.target_field, "to"), (suite.import_field, "from"), (suite.temp_field, "tmp"))
        if hasattr(config, field)
    }
    make, drop = PLACES.get(config.kind, (_make_schema, _drop_schema))
    placed = replace(config, **named)
    try:
        for place in named.values():
            make(placed, place)
        yield placed
    finally:
        for place in named.values():
            drop(placed, place)


def spelt(kind: str, name: str) -> str:
    """A name as the kind keeps it, so that it is the same quoted and not."""
    return {"snowflake": name.upper(), "s3": f"{name}/"}.get(kind, name)


def _say(config: Any, statement: str) -> None:
    with closing(config.open()) as warehouse:
        warehouse._execute(statement)


def _make_schema(config: Any, place: str) -> None:
    _say(config, f"CREATE SCHEMA IF NOT EXISTS {place}")


def _drop_schema(config: Any, place: str) -> None:
    _say(config, f"DROP SCHEMA IF EXISTS {place} CASCADE")


def _make_in_pool(config: Any, place: str) -> None:
    _say(config, f"CREATE SCHEMA {_quoted(place)}")


def _drop_emptied(config: Any, place: str) -> None:
    """T-SQL drops no schema with something in it."""
    with closing(replace(config, import_schema=place).open()) as warehouse:
        for relation in list(warehouse.relations()):
            warehouse._execute(f"DROP {_what(relation)} {_quoted(place)}.{_quoted(relation.name)}")
        warehouse._execute(f"DROP SCHEMA {_quoted(place)}")


def _what(relation: Relation) -> str:
    return "VIEW" if relation.kind == "view" else "TABLE"


def _quoted(name: str) -> str:
    return "[" + name.replace("]", "]]") + "]"


def _make_dataset(config: Any, place: str) -> None:
    _say(config, f"CREATE SCHEMA `{config.project_id}`.`{place}`")


def _drop_dataset(config: Any, place: str) -> None:
    _say(config, f"DROP SCHEMA IF EXISTS `{config.project_id}`.`{place}` CASCADE")


def _nothing(config: Any, place: str) -> None:
    pass


def _drop_prefix(config: Any, place: str) -> None:
    import boto3

    client = boto3.client(
        "s3",
        region_name=config.region,
        endpoint_url=config.endpoint_url or None,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key.reveal(),
    )
    for found in client.get_paginator("list_objects_v2").paginate(Bucket=config.bucket, Prefix=place):
        for each in found.get("Contents", ()):
            client.delete_object(Bucket=config.bucket, Key=each["Key"])
    client.close()


def _make_in_catalog(config: Any, place: str) -> None:
    with closing(config.open()) as warehouse:
        warehouse.ask(f"CREATE SCHEMA `{config.catalog}`.`{place}`")


def _drop_in_catalog(config: Any, place: str) -> None:
    with closing(config.open()) as warehouse:
        warehouse.ask(f"DROP SCHEMA IF EXISTS `{config.catalog}`.`{place}` CASCADE")


PLACES: dict[str, tuple[Callable[[Any, str], None], Callable[[Any, str], None]]] = {
    "s3": (_nothing, _drop_prefix),
    "bigquery": (_make_dataset, _drop_dataset),
    "synapse": (_make_in_pool, _drop_emptied),
    "databricks": (_make_in_catalog, _drop_in_catalog),
}
"""How a place is made and dropped, where it is no schema of plain SQL."""


def filled(config: Any, table: Table, rows: list[dict[str, Any]]) -> Relation:
    """A table with these rows in Databricks, where we do not load: made and filled by SQL."""
    name = databricks_sql.identifier(config.catalog, config.import_schema, table.name)
    columns = ", ".join(f"{databricks_sql.identifier(c.name)} {_TYPES[c.type]}" for c in table.columns)
    with closing(config.open()) as warehouse:
        warehouse.ask(f"CREATE TABLE {name} ({columns})")
        for start in range(0, len(rows), 5000):
            values = ", ".join(
                f"({', '.join(_literal(row.get(c.name)) for c in table.columns)})" for row in rows[start : start + 5000]
            )
            warehouse.ask(f"INSERT INTO {name} VALUES {values}")
    return Relation(config.import_schema, table.name.lower())


_TYPES = {
    Type.TEXT: "STRING", Type.JSON: "STRING", Type.TIMESTAMP: "TIMESTAMP", Type.DOUBLE: "DOUBLE",
    Type.BIGINT: "BIGINT", Type.BOOLEAN: "BOOLEAN",
}  # fmt: skip


def _literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).upper()
        case float():
            return f"CAST('{value!r}' AS DOUBLE)"
        case int():
            return f"CAST('{value}' AS BIGINT)"
        case datetime():
            return f"TIMESTAMP'{value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}+00:00'"
    return databricks_sql.literal(str(value))

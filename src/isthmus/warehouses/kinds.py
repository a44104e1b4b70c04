"""Every kind of warehouse there is, and how a config is made from plain values."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from isthmus.model.errors import InvalidInput
from isthmus.secrets import Secret
from isthmus.warehouses.bigquery import BigQueryConfig
from isthmus.warehouses.databricks import DatabricksConfig
from isthmus.warehouses.duckdb import DuckDBConfig
from isthmus.warehouses.postgres import PostgresConfig
from isthmus.warehouses.protocol import Config
from isthmus.warehouses.redshift import RedshiftConfig
from isthmus.warehouses.s3 import S3Config
from isthmus.warehouses.snowflake import SnowflakeConfig
from isthmus.warehouses.synapse import SynapseConfig

KINDS: Mapping[str, type[Config]] = {
    "duckdb": DuckDBConfig,
    "postgres": PostgresConfig,
    "redshift": RedshiftConfig,
    "s3": S3Config,
    "bigquery": BigQueryConfig,
    "synapse": SynapseConfig,
    "snowflake": SnowflakeConfig,
    "databricks": DatabricksConfig,
}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a kind, for forms, prompts, validation and the documentation."""

    name: str
    type: type
    label: str
    help: str
    example: str
    secret: bool
    advanced: bool
    incidental: bool
    required: bool
    default: object = None


def fields(kind: str) -> tuple[Field, ...]:
    """The fields of a kind, in the order in which a person is asked. Raises InvalidInput for an unknown kind."""
    config = _config(kind)
    hints = typing.get_type_hints(config)
    found = []
    for f in dataclasses.fields(typing.cast(typing.Any, config)):
        required = f.default is dataclasses.MISSING
        default = None if required else f.default
        found.append(Field(f.name, _plain(hints[f.name]), **f.metadata, required=required, default=default))
    return tuple(found)


def incidental(kind: str) -> frozenset[str]:
    """The fields of a kind that may change without the tables being others."""
    return frozenset(f.name for f in fields(kind) if f.incidental)


def loads_at_once(kind: str, given: int | None) -> int:
    """How many chunks a connection of that kind takes at once, if `given` is what a person set for it."""
    usual = _config(kind).traits.loads_at_once
    return usual if usual == 1 or given is None else given


def with_whole_paths(kind: str, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The plain values with paths of files made whole: a relative one is relative to `folder`."""
    found = dict(values)
    if kind == "duckdb" and isinstance(found.get("path"), str) and found["path"]:
        found["path"] = str((folder / Path(found["path"]).expanduser()).resolve())
    return found


def build(kind: str, values: Mapping[str, object]) -> Config:
    """The config of a kind from plain values; secrets are given as `Secret`. Touches no network.

    Raises InvalidInput for an unknown kind or field, a missing field, or a value of another type.
    """
    config = _config(kind)
    known = {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            raise InvalidInput(f"a {kind} connection has no field {name}", hint=_nearest(name, known))
    for field in known.values():
        if field.required and values.get(field.name) in (None, "", Secret("")):
            hint = f"{field.label}: {field.help}" + (f", for example {field.example}" if field.example else "")
            raise InvalidInput(f"a {kind} connection needs the field {field.name}", hint=hint)
    # A field given as nothing is a field left out: that is how forms and YAML say it.
    return config(**{name: _checked(kind, known[name], v) for name, v in values.items() if v is not None})


def _checked(kind: str, field: Field, value: object) -> object:
    # bool is an int to Python, but never a port to a person; a number for a text is a YAML habit and harmless.
    if field.type is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, field.type) and (field.type is bool or not isinstance(value, bool)):
        return value
    if field.type is int and isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    wanted = {str: "a text", int: "a whole number", bool: "true or false", Secret: "a secret"}[field.type]
    raise InvalidInput(
        f"the field {field.name} of a {kind} connection is {wanted}, not {type(value).__name__}",
        hint=f"{field.label}: {field.help}",
    )


def _config(kind: str) -> type[Config]:
    try:
        return KINDS[kind]
    except KeyError:
        raise InvalidInput(f"there is no kind of connection {kind}", hint=_nearest(kind, KINDS)) from None


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = get_close_matches(name, known, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"known are: {', '.join(known)}"


def _plain(hint: object) -> type:
    """The type of a field without the None of an optional one."""
    if isinstance(hint, types.UnionType):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    assert isinstance(hint, type)
    return hint

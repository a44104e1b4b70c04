"""A config is made from plain values, and what is wrong with them is said in words."""

from __future__ import annotations

import dataclasses

import pytest

from isthmus.model.errors import InvalidInput
from isthmus.secrets import Secret
from isthmus.warehouses.duckdb import DuckDBConfig
from isthmus.warehouses.kinds import KINDS, build, fields
from isthmus.warehouses.postgres import PostgresConfig

POSTGRES = {"host": "db", "database": "d", "username": "u", "password": Secret("p")}


def test_values_make_a_config() -> None:
    assert build("duckdb", {"path": "a.duckdb", "schema": "s"}) == DuckDBConfig("a.duckdb", "s")
    made = build("postgres", POSTGRES)
    assert isinstance(made, PostgresConfig)
    assert (made.port, made.schema, made.sslmode) == (5432, "public", "prefer")


def test_numbers_may_be_written_as_text_and_left_out_as_nothing() -> None:
    made = build("postgres", {**POSTGRES, "port": "5433", "schema": None, "database": 7})
    assert isinstance(made, PostgresConfig)
    assert (made.port, made.schema, made.database) == (5433, "public", "7")


@pytest.mark.parametrize(
    ("kind", "values", "said", "hint"),
    [
        ("duckbd", {}, "no kind of connection duckbd", "did you mean duckdb?"),
        ("postgres", {**POSTGRES, "pasword": Secret("x")}, "no field pasword", "did you mean password?"),
        ("duckdb", {"path": "x", "zzz": 1}, "no field zzz", "known are: path, schema"),
        ("duckdb", {}, "needs the field path", "./dwh.duckdb"),
        ("postgres", {**POSTGRES, "host": ""}, "needs the field host", "db.example.com"),
        ("postgres", {**POSTGRES, "password": Secret("")}, "needs the field password", "Password: "),
        ("postgres", {**POSTGRES, "port": "many"}, "port of a postgres connection is a whole number, not str", "Port"),
        ("postgres", {**POSTGRES, "port": True}, "whole number, not bool", "Port"),
        ("postgres", {**POSTGRES, "password": "plain"}, "password of a postgres connection is a secret", "Password"),
        ("duckdb", {"path": ["x"]}, "path of a duckdb connection is a text, not list", "File"),
    ],
)
def test_what_is_wrong_is_said(kind: str, values: dict[str, object], said: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        build(kind, values)
    assert hint in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_explains_itself(kind: str) -> None:
    for field in fields(kind):
        assert field.label and field.help, field.name
        assert field.example or field.secret or not field.required, field.name
        assert field.secret == (field.type is Secret), field.name
        assert field.required or field.default is not None or field.secret  # no secret is a default
    assert KINDS[kind].kind == kind
    assert [f.name for f in fields(kind)] == [f.name for f in dataclasses.fields(KINDS[kind])]  # type: ignore[arg-type]


def test_a_secret_is_never_printed() -> None:
    assert "p4ssw0rd" not in repr(build("postgres", {**POSTGRES, "password": Secret("p4ssw0rd")}))

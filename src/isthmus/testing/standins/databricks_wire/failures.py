"""Errors as Databricks says them: a condition in brackets, a sentence, and the SQLSTATE."""

from __future__ import annotations


class Failure(Exception):
    """A statement that Databricks would refuse."""

    def __init__(self, condition: str, sentence: str, sqlstate: str) -> None:
        super().__init__(f"[{condition}] {sentence} SQLSTATE: {sqlstate}")
        self.condition, self.sqlstate = condition, sqlstate


_VERIFY = "Verify the spelling and correctness of the schema and catalog."


def dotted(parts: tuple[str, ...]) -> str:
    return ".".join(f"`{part}`" for part in parts)


def no_catalog(name: str) -> Failure:
    return Failure("NO_SUCH_CATALOG_EXCEPTION", f"Catalog '{name}' was not found.", "42704")


def no_schema(parts: tuple[str, ...]) -> Failure:
    return Failure("SCHEMA_NOT_FOUND", f"The schema {dotted(parts)} cannot be found. {_VERIFY}", "42704")


def no_relation(parts: tuple[str, ...]) -> Failure:
    return Failure("TABLE_OR_VIEW_NOT_FOUND", f"The table or view {dotted(parts)} cannot be found. {_VERIFY}", "42P01")


def no_principal(name: str) -> Failure:
    return Failure("PRINCIPAL_DOES_NOT_EXIST", f"Could not find principal with name {name}.", "42704")


def no_right(action: str, kind: str, parts: tuple[str, ...]) -> Failure:
    sentence = f"Insufficient privileges: User does not have {action} on {kind} '{'.'.join(parts)}'."
    return Failure("INSUFFICIENT_PERMISSIONS", sentence, "42501")


def not_understood(near: str, why: str = "") -> Failure:
    return Failure("PARSE_SYNTAX_ERROR", f"Syntax error at or near '{near[:60]}'{': ' + why if why else ''}.", "42601")


def no_function(name: str) -> Failure:
    return Failure("UNRESOLVED_ROUTINE", f"Cannot resolve routine `{name}` on search path.", "42883")


def bad_name(name: str) -> Failure:
    sentence = f"'{name}' is not a valid name: no dots, blanks, slashes or control characters."
    return Failure("INVALID_PARAMETER_VALUE", sentence, "22023")

"""Snowflake's names: how they are read from SQL, and how an object is told from another one."""

from __future__ import annotations

import re
from collections.abc import Mapping

Name = tuple[str, ...]
"""The full name of an object: database, schema and name of a table; a database's is one word."""

PART = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
NAME = rf"(?:{PART}(?:\.{PART}){{0,2}})"


class Refused(Exception):
    """A statement that Snowflake would refuse, with its error number and SQLSTATE."""

    def __init__(self, message: str, code: int = 2003, state: str = "02000") -> None:
        super().__init__(message)
        self.code, self.state = code, state


def not_there(kind: str, name: Name) -> Refused:
    """Snowflake says the same of what is not there and of what one may not see."""
    return Refused(f"SQL compilation error:\n{kind} '{shown(name)}' does not exist or not authorized.")


def insufficient(kind: str, name: Name) -> Refused:
    message = f"SQL access control error:\nInsufficient privileges to operate on {kind.lower()} '{name[-1]}'"
    return Refused(message, 3001, "42501")


def shown(name: Name) -> str:
    return ".".join(part if re.fullmatch(r"[A-Z_][A-Z0-9_$]*", part) else f'"{part}"' for part in name)


def word(text: str) -> str:
    """One part of a name as Snowflake keeps it: upper case, or what is between the quotes."""
    text = text.strip()
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.upper()


def parts(text: str) -> Name:
    """The words of a dotted name."""
    found = re.findall(PART, text.strip())
    if ".".join(found) != text.strip():
        raise Refused(f"SQL compilation error:\nsyntax error: {text!r} is no name", 1003, "42000")
    return tuple(word(part) for part in found)


def with_variables(statement: str, variables: Mapping[str, str]) -> str:
    """A statement with `IDENTIFIER($x)` and `IDENTIFIER('x')` as the names they stand for, `$x` as a literal."""

    def value(match: re.Match[str]) -> str:
        name = match[1].upper()
        if name not in variables:
            raise Refused(f"SQL compilation error:\nSession variable '${name}' does not exist", 2211, "42601")
        return variables[name]

    statement = re.sub(r"(?i)\bidentifier\s*\(\s*\$(\w+)\s*\)", value, statement)
    statement = re.sub(r"(?i)\bidentifier\s*\(\s*'([^']*)'\s*\)", lambda m: m[1], statement)
    pieces = re.split(r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$\$.*?\$\$)", statement, flags=re.S)
    for n in range(0, len(pieces), 2):  # outside of texts and quoted names
        pieces[n] = re.sub(r"\$([A-Za-z_]\w*)", lambda m: "'" + value(m).replace("'", "''") + "'", pieces[n])
    return "".join(pieces)


def without_comments(statement: str) -> str:
    """A statement without comments and its last semicolon."""
    kept = re.split(r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$\$.*?\$\$)", statement, flags=re.S)
    kept[::2] = [re.sub(r"--[^\n]*|/\*.*?\*/|(?<![:/])//[^\n]*", " ", piece, flags=re.S) for piece in kept[::2]]
    return "".join(kept).strip().rstrip(";").strip()

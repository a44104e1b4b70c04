"""What an SQL text touches, by its words: enough to know which rights it needs, and to take GRANT and REVOKE out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_OF_VERB = {"CREATE": "bigquery.tables.create", "DROP": "bigquery.tables.delete", "ALTER": "bigquery.tables.update"}
_READS = "bigquery.tables.getData"
_WRITES = "bigquery.tables.updateData"


@dataclass(frozen=True)
class Need:
    """A permission and the dataset it is needed on; None: on the project. `table` is for the words of a refusal."""

    permission: str
    dataset: str | None
    table: str = ""


@dataclass(frozen=True)
class Grant:
    """One GRANT or REVOKE of roles on a dataset."""

    gives: bool
    roles: tuple[str, ...]
    dataset: str
    emails: tuple[str, ...]


def needs(text: str) -> list[Need]:
    """The permissions an SQL text needs. Names of one part are none of ours: aliases, variables, WITH."""
    tokens = _tokens(text)
    found = []
    for i, token in enumerate(tokens):
        word, before = _word(token), _word(tokens[i - 1]) if i else ""
        at, permission = i + 1, ""
        match word:
            case "FROM":
                permission = _WRITES if before == "DELETE" else _READS
            case "JOIN":
                permission = _READS
            case "INTO":
                permission = _WRITES
            case "UPDATE" | "MERGE" if before in ("", ";", "THEN", "ELSE", "BEGIN"):
                permission = _WRITES
            case "DELETE" if i + 1 < len(tokens) and _is_name(tokens[i + 1]):
                permission = _WRITES
            case "INSERT" if i + 1 < len(tokens) and _is_name(tokens[i + 1]):
                permission = _WRITES
            case "TABLE" | "VIEW" | "SCHEMA":
                verb = next((w for t in reversed(tokens[max(0, i - 4) : i]) if (w := _word(t)) in _OF_VERB), "")
                permission = _OF_VERB.get(verb, _WRITES if before == "TRUNCATE" else "")
                while at < len(tokens) and _word(tokens[at]) in ("IF", "NOT", "EXISTS"):
                    at += 1
        parts = _path(tokens, at) if permission else []
        if word == "SCHEMA" and parts:
            of_dataset = permission.replace("tables", "datasets")
            found.append(Need(of_dataset, None if of_dataset.endswith("create") else parts[-1]))
        elif len(parts) >= 2 and "INFORMATION_SCHEMA" not in (p.upper() for p in parts):
            found.append(Need(permission, parts[-2], parts[-1]))
    return found


def without_grants(text: str) -> tuple[str, list[Grant]]:
    """The text without its GRANT and REVOKE statements, and these. Raises ValueError for one it does not understand."""
    kept, grants = [], []
    for statement, tokens in _statements(text):
        if tokens and _word(tokens[0]) in ("GRANT", "REVOKE"):
            grants.append(_grant(tokens))
        else:
            kept.append(statement)
    return (";\n".join(kept) if grants else text), grants


def _grant(tokens: Sequence[Any]) -> Grant:
    words = [_word(t) for t in tokens]
    gives = words[0] == "GRANT"
    try:
        on, to = words.index("ON"), words.index("TO" if gives else "FROM")
    except ValueError:
        raise ValueError("a GRANT without ON or TO") from None
    if words[on + 1] != "SCHEMA":
        raise ValueError(f"roles are granted on datasets here, not on a {words[on + 1]}")
    roles = tuple(t.text for t in tokens[1:on] if t.text != ",")
    members = [t.text for t in tokens[to + 1 :] if t.text != ","]
    if not roles or not members or not all(m.startswith("serviceAccount:") for m in members):
        raise ValueError("members are service accounts here")
    path = _path(tokens, on + 2)
    return Grant(gives, roles, path[-1], tuple(m.removeprefix("serviceAccount:") for m in members))


def _statements(text: str) -> Iterator[tuple[str, list[Any]]]:
    inside: list[Any] = []
    for token in [*_tokens(text), None]:
        if token is not None and token.text != ";":
            inside.append(token)
        elif inside:
            yield text[inside[0].start : inside[-1].end + 1], inside
            inside = []


def _tokens(text: str) -> list[Any]:
    from sqlglot.dialects.bigquery import BigQuery

    return list(BigQuery().tokenize(text))


def _word(token: Any) -> str:
    return "" if token.token_type.name in ("IDENTIFIER", "STRING") else str(token.text).upper()


def _is_name(token: Any) -> bool:
    return bool(token.token_type.name == "IDENTIFIER")


def _path(tokens: Sequence[Any], at: int) -> list[str]:
    parts: list[str] = []
    while at < len(tokens) and (_is_name(tokens[at]) or str(tokens[at].text).replace("_", "a").isalnum()):
        parts += tokens[at].text.split(".") if _is_name(tokens[at]) else [tokens[at].text]
        if at + 1 >= len(tokens) or tokens[at + 1].text != ".":
            break
        at += 2
    return parts

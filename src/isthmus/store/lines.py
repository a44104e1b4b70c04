"""JSON lines as SQL: of each line its `text`, `x` (what the mapping names) and `rest` (what becomes properties)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from isthmus.duck import literal
from isthmus.model import intake
from isthmus.model.intake import Reason
from isthmus.model.mapping import Mapping, levels
from isthmus.store import cells
from isthmus.store.properties import Part, Tree


def limit(mapping: Mapping) -> int:
    """How many bytes a line may have."""
    return intake.MAX_EVENT_BYTES if mapping.data == "events" else intake.MAX_PROFILE_BYTES


def tree(mapping: Mapping) -> Tree:
    """The properties that the mapping names. Without a list of them a line's own objects say how values nest."""
    clear = mapping.cleared_properties()
    parts = []
    for name, column in mapping.properties or ():
        value = f"json_extract(text, {literal(cells.pointer(column))})::VARCHAR"
        there = f"coalesce({value} <> 'null', false)"
        parts.append(Part(levels(name), value, there, column, name in clear))
    return Tree.of(parts)


def incoming(mapping: Mapping, paths: Sequence[str]) -> str:
    """The FROM of a mapping over `incoming(n, line)`."""
    top = limit(mapping)
    picked = "[" + ", ".join(literal(cells.pointer(p)) for p in paths) + "]"
    extract = f"json_extract_string(text, {picked})" if paths else "[]::VARCHAR[]"
    rest = "rest"
    if mapping.properties is None:
        rest = (
            "CASE WHEN has_null(rest) THEN "
            "without_nulls(TRY(rest::JSON::MAP(VARCHAR, JSON)))::JSON::VARCHAR ELSE rest END"
        )
        if clear := mapping.cleared_properties():
            rest = _with_nulls(rest, clear)
    return (
        f"(SELECT n, big, text, fine, keys, x, {rest} AS rest FROM "
        f"(SELECT *, CASE WHEN fine THEN {extract} END AS x, CASE WHEN fine THEN {_rest(mapping)} END AS rest, "
        "CASE WHEN fine THEN json_keys(text) END AS keys FROM "
        "(SELECT *, coalesce(CASE WHEN json_valid(text) THEN json_type(text) = 'OBJECT' END, false) AS fine FROM "
        f"(SELECT n, octet_length(line) > {top} AS big, "
        f"CASE WHEN octet_length(line) <= {top} THEN TRY(decode(line)) END AS text FROM incoming))))"
    )


def _rest(mapping: Mapping) -> str:
    """What of a line becomes properties: the object without its mapped keys, or only the properties named."""
    if mapping.properties is None:
        drop = {column: None for _, column in mapping.used()} | {c: None for c in mapping.ignore}
        return f"json_merge_patch(text, {literal(json.dumps(drop))})::VARCHAR"
    named = tree(mapping)
    return f"concat('{{', {named.members()}, '}}')" if named.below else "'{}'"


def _with_nulls(rest: str, clear: Sequence[str]) -> str:
    """The object with a null for each property to clear that it has not."""
    nulls = ", ".join(
        f"CASE WHEN coalesce(json_extract(text, {literal(cells.pointer(name))})::VARCHAR, 'null') = 'null' "
        f"THEN {literal(cells.key(name) + 'null')} END"
        for name in clear
    )
    return f"concat('{{', concat_ws(',', nullif(trim_braces({rest}), ''), nullif(concat_ws(',', {nulls}), '')), '}}')"


def faults(mapping: Mapping) -> list[tuple[str, Reason, str]]:
    """What can be wrong with a line as a whole: (condition, reason, message)."""
    words = "5 MB" if mapping.data == "events" else "100 KB"
    return [
        ("big", Reason.TOO_LARGE, f"the line is larger than {words}"),
        ("text IS NULL", Reason.BAD_ENCODING, "the line is not valid UTF-8"),
        ("NOT fine", Reason.BAD_JSON, "the line is not one JSON object"),
        ("len(keys) <> len(list_distinct(keys))", Reason.BAD_JSON, "a key stands twice in the object"),
    ]

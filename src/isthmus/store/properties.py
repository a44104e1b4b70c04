"""Properties as SQL: a row's columns as one JSON object, and the objects of a profile joined.

`parent___child` names nest. A row that has both a value and parts under one name is no guess of ours: it breaks a rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from isthmus.duck import literal
from isthmus.model import intake
from isthmus.model.intake import IncomingColumn, Reason, Shape
from isthmus.store import cells

Branches: TypeAlias = "dict[str, Branches]"
"""The objects that names made, by key, outermost first."""


@dataclass(frozen=True)
class Part:
    """One value on its way into the object: where it lies, its JSON, and the condition that there is one.

    A part that clears is written as null where there is none, so that what is kept can be taken away.
    """

    path: tuple[str, ...]
    value: str
    there: str
    column: str
    clears: bool = False

    @property
    def written(self) -> str:
        """The condition that something of it is in the object."""
        return "true" if self.clears else self.there

    @property
    def json(self) -> str:
        return f"CASE WHEN {self.there} THEN {self.value} ELSE 'null' END" if self.clears else self.value


@dataclass
class Tree:
    """Parts by their keys, in the order in which they came. A key may have a value and parts below it."""

    part: Part | None = None
    below: dict[str, Tree] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Tree:
        tree = cls()
        for part in parts:
            at = tree
            for key in part.path:
                at = at.below.setdefault(key, Tree())
            at.part = part
        return tree

    def parts(self) -> Iterator[Part]:
        """Every part at or below this point."""
        if self.part:
            yield self.part
        for each in self.below.values():
            yield from each.parts()

    def inner(self) -> list[Part]:
        """Every part below this point."""
        return [part for each in self.below.values() for part in each.parts()]

    def branches(self) -> Branches:
        return {key: each.branches() for key, each in self.below.items() if each.below}

    def torn(self) -> Iterator[tuple[Part, list[Part]]]:
        """Where a value and parts below it share a name."""
        for each in self.below.values():
            if each.part and each.below:
                yield each.part, each.inner()
            yield from each.torn()

    def members(self) -> str:
        """The members of the object as text, of those parts that are there; empty if none is."""
        items = []
        for key, each in self.below.items():
            name = literal(cells.key(key))
            cases = []
            inner = f"{name} || '{{' || {each.members()} || '}}'" if each.below else ""
            if each.part and each.below:
                cases.append(f"WHEN {each.part.there} THEN {name} || {each.part.value}")
                cases.append(f"WHEN {_any(p.there for p in each.inner())} THEN {inner}")
            if each.part:
                cases.append(f"WHEN {each.part.written} THEN {name} || {each.part.json}")
            if each.below:
                cases.append(f"WHEN {_any(p.written for p in each.inner())} THEN {inner}")
            items.append(f"CASE {' '.join(cases)} END")
        return f"concat_ws(',', {', '.join(items)})"

    def whole(self) -> list[str]:
        """The members as texts to be joined, when every part is there."""
        pieces: list[str] = []
        for i, (key, each) in enumerate(self.below.items()):
            name = ("," if i else "") + cells.key(key)
            if each.part:
                pieces += [literal(name), each.part.value]
            else:
                pieces += [literal(name + "{"), *each.whole(), "'}'"]
        return pieces

    def object(self) -> str:
        """The whole object as text."""
        if not self.below:
            return "'{}'"
        # Most rows of most files are full: for them one concatenation, without looking for gaps.
        full = " AND ".join(part.there for part in self.parts())
        members = f"CASE WHEN {full} THEN concat({', '.join(self.whole())}) ELSE {self.members()} END"
        return f"concat('{{', guard_json({members}), '}}')"

    def count(self) -> str:
        """How many members the object has."""
        return " + ".join(f"({_any(p.written for p in each.parts())})::INTEGER" for each in self.below.values())


def _any(conditions: Iterable[str]) -> str:
    return "(" + " OR ".join(dict.fromkeys(conditions)) + ")"


def both(part: Part, inner: Sequence[Part]) -> str:
    """The condition that a row has a value and parts of an object under one name."""
    return f"{part.there} AND {_any(p.there for p in inner)}"


def joined(older: str, newer: str, branches: Branches, depth: int = 0) -> str:
    """Two objects as one: the newer one's members win. Objects that names made are joined member by member as well;
    any other value is replaced as a whole."""
    if not branches:
        return f"merge_objects({older}, {newer})" if depth == 0 else _members(older, newer)
    at = f"s{depth}"
    inner = []
    for key, below in branches.items():
        o, n = (f"json_extract({at}.{side}, {literal(cells.pointer(key))})" for side in ("o", "n"))
        inner.append(
            f", map_from_entries(CASE WHEN json_type({o}) = 'OBJECT' AND json_type({n}) = 'OBJECT' THEN "
            f"[{{'key': {literal(key)}, 'value': {joined(o, n, below, depth + 1)}}}] "
            "ELSE []::STRUCT(key VARCHAR, value JSON)[] END)"
        )
    members = f"map_concat({at}.o::MAP(VARCHAR, JSON), {at}.n::MAP(VARCHAR, JSON){''.join(inner)})::JSON"
    sql = (
        f"list_transform([{{'o': coalesce({older}, '{{}}')::JSON, 'n': coalesce({newer}, '{{}}')::JSON}}], "
        f"lambda {at}: {members})[1]"
    )
    return f"guard_json({sql}::VARCHAR)::JSON" if depth == 0 else sql


def _members(older: str, newer: str) -> str:
    return f"map_concat({older}::MAP(VARCHAR, JSON), {newer}::MAP(VARCHAR, JSON))::JSON"


def cleared(sql: str, branches: Branches) -> str:
    """The object without what was cleared (its nulls), nor objects of which nothing is left."""
    return f"guard_json({_cleared(sql, branches, 0)}::VARCHAR)::JSON"


def _cleared(sql: str, branches: Branches, depth: int) -> str:
    at = f"e{depth}"
    inner = "".join(
        f"WHEN {at}.key = {literal(key)} AND json_type({at}.value) = 'OBJECT' "
        f"THEN coalesce(nullif(({_cleared(f'{at}.value', below, depth + 1)})::VARCHAR, '{{}}'), 'null')::JSON "
        for key, below in branches.items()
    )
    entries = f"map_entries(({sql})::MAP(VARCHAR, JSON))"
    if inner:
        value = f"CASE {inner}ELSE {at}.value END"
        entries = f"list_transform({entries}, lambda {at}: {{'key': {at}.key, 'value': {value}}})"
    return f"map_from_entries(list_filter({entries}, lambda {at}: {at}.value::VARCHAR <> 'null'))::JSON"


def shape_faults(column: IncomingColumn) -> list[tuple[str, str, Reason, str]]:
    """What can be wrong with a property of this shape: (name of the flag, its condition, reason, message)."""
    ref = column.ref
    match column.shape:
        case Shape.FLOAT:
            return [(f"fault_{ref}", f"NOT isfinite({ref})", Reason.BAD_NUMBER, "NaN and Infinity cannot be kept")]
        case Shape.HUGE:
            wide = f"{ref} IS NOT NULL AND TRY_CAST({ref} AS BIGINT) IS NULL"
            return [(f"fault_{ref}", wide, Reason.BAD_NUMBER, "an integer of more than 64 bits; send it as text")]
        case Shape.TIMESTAMP:
            outside = f"{ref} IS NOT NULL AND in_range({ref}::TIMESTAMPTZ) IS NULL"
            return [(f"fault_{ref}", outside, Reason.BAD_TIME, "a time outside the years 1 to 9999")]
        case Shape.TEXT | Shape.STRING:
            too_long = (
                f"length({ref}) > 25600 AND {ref}[1] NOT IN ('{{', '[') "
                f"AND octet_length(encode({ref})) > {intake.MAX_STRING_BYTES}"
            )
            return [
                (f"fault_{ref}", f"contains({ref}, chr(0))", Reason.NUL, "the text holds the NUL character U+0000"),
                (f"long_{ref}", too_long, Reason.TOO_LONG, "a text has up to 100 KB"),
            ]
        case _:
            return []

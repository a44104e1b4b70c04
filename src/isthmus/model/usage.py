"""Usage: what a mapping makes of each column of a relation or file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from isthmus.model.mapping import CONSENT_FIELDS, FIELD_NAMES, IDENTIFIER_KINDS, Mapping, levels

Role = Literal["field", "identifier", "consent", "property", "nested property", "ignored", "not used"]


@dataclass(frozen=True)
class Use:
    """One use of a column. `name` is what it fills: `event_time`, an identifier's kind, a property. Empty if it fills
    nothing; the parts of a nested property are joined by dots."""

    role: Role
    name: str = ""
    clears: bool = False

    def __str__(self) -> str:
        words = self.name if self.role == "field" else f"{self.role} {self.name}".strip()
        return f"{words}, cleared if empty" if self.clears else words


def uses(mapping: Mapping, columns: Sequence[str], *, lines: bool = False) -> dict[str, tuple[Use, ...]]:
    """What each column is used for. The keys of JSON `lines` nest only where the mapping names their properties."""
    found: dict[str, list[Use]] = {name: [] for name in columns}
    for name, column in mapping.used():
        role: Role = "field"
        if (name, column) in mapping.identifiers and name in IDENTIFIER_KINDS:
            role = "identifier"
        elif name in CONSENT_FIELDS and name not in FIELD_NAMES:
            role = "consent"
        clears = (name, column) in mapping.fields and name in mapping.clear
        found.setdefault(column, []).append(Use(role, name, clears))
    nests = not lines or mapping.properties is not None
    for name, column in mapping.property_columns(list(columns)):
        parts = levels(name) if nests else (name,)
        if name in mapping.own_properties():
            continue
        role = "nested property" if len(parts) > 1 else "property"
        found.setdefault(column, []).append(Use(role, ".".join(parts), name in mapping.cleared_properties()))
    ignored = (Use("ignored"),)
    return {
        column: tuple(its) or (ignored if column in mapping.ignore else (Use("not used"),))
        for column, its in found.items()
    }

"""What a mapping needs when it is an import's, beside the rules that every mapping keeps."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence

from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Mapping


def check_import(mapping: Mapping, key: Sequence[str] = ()) -> None:
    """What a mapping needs beside the rules of `check` when it is a relation's: a column that says when a row was
    changed, or the `key` by which all rows are compared. Raises InvalidInput."""
    if mapping.changed_at is None and not key:
        raise InvalidInput(
            "the mapping has no changed_at",
            hint="name the column that says when a row was last changed (such as loaded_at): only newer rows are read. "
            "If there is none, give the import a `key`, the columns that tell rows apart: all rows are compared",
        )
    if mapping.changed_at is not None and key:
        raise InvalidInput(
            f"there are two ways to find what is new, changed_at ({mapping.changed_at}) and key ({', '.join(key)})",
            hint="with changed_at only newer rows are read, with a key all are compared: take one of the two out",
        )
    if twice := next((column for column in key if key.count(column) > 1), None):
        raise InvalidInput(f"key names the column {twice!r} twice")


def check_together(mappings: Dict[str, Mapping], columns: Dict[str, Sequence[str]] | None = None) -> None:
    """The rule between the imports of profiles, by name: a field or property has one of them as its source.

    Properties under their columns' own names can be compared only of imports whose `columns` are given."""
    known = columns or {}
    taken: dict[tuple[str, str], tuple[str, str]] = {}
    for name, mapping in mappings.items():
        if mapping.data != "profiles":
            continue
        wanted = [("field", *pair) for pair in mapping.fields]
        named = mapping.property_columns(known[name]) if name in known else mapping.properties or ()
        wanted += [("property", *pair) for pair in named]
        for kind, field, column in wanted:
            other, its = taken.setdefault((kind, field), (name, column))
            if other != name:
                raise InvalidInput(
                    f"the {kind} {field!r} comes from the column {its!r} of the import {other!r} "
                    f"and from the column {column!r} of the import {name!r}",
                    hint="what is known of a profile has one source: take it out of one of the two mappings (`ignore`)",
                )

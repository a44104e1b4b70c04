"""What a row gave a profile, kept so that it can be taken back when the row is gone: fields and properties, never
identifiers or consent. Works inside a write transaction."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.duck import literal
from isthmus.model.mapping import Mapping, levels
from isthmus.model.table import Type
from isthmus.model.tables import PROFILE_FIELDS
from isthmus.store import cells, profiles, properties
from isthmus.store.lake import Write
from isthmus.store.properties import Part, Tree

_TYPES = dict(PROFILE_FIELDS)


def said(mapping: Mapping) -> str:
    """What a row of `mapped` (m) gives, as JSON."""
    fields = ", ".join(f"{name} := m.{name}" for name, _ in mapping.fields)
    given = f"without_nulls(to_json(struct_pack({fields}))::MAP(VARCHAR, JSON))::JSON" if fields else "'{}'::JSON"
    return f"guard_json(json_object('fields', {given}, 'properties', m.properties::JSON)::VARCHAR)::JSON"


def take_back(write: Write, mapping: Mapping, columns: Sequence[str]) -> int:
    """Clear what `taking(profile_id, said)` gave, where it is still so; how many profiles that changed.

    `columns` are those of the relation, from which properties may have their names.
    """
    parts = []
    for name, column in mapping.property_columns(columns):
        path = levels(name)
        at = literal("".join(cells.pointer(key) for key in path))
        same = f"json_extract(p.properties, {at})::VARCHAR = json_extract(t.said, '/properties' || {at})::VARCHAR"
        parts.append(Part(path, "'null'", f"coalesce({same}, false)", column))
    tree = Tree.of(parts)
    values = {name: _without(name) for name, _ in mapping.fields}
    if parts:
        both = properties.joined("p.properties", f"{tree.object()}::JSON", tree.branches())
        values["properties"] = properties.cleared(both, tree.branches())
    if not values:
        return 0
    put = ", ".join(f"{sql} AS {name}" for name, sql in values.items())
    different = " OR ".join(f"({sql})::VARCHAR IS DISTINCT FROM p.{name}::VARCHAR" for name, sql in values.items())
    write.con.execute(
        f"CREATE OR REPLACE TEMP TABLE changed AS SELECT p.* REPLACE ({write.seq}::BIGINT AS seq, now() AS updated, "
        f"{put}), true AS existed FROM lake.profiles p JOIN taking t ON t.profile_id = p.profile_id WHERE {different}"
    )
    profiles.replace_with_changed(write)
    row = write.con.execute("SELECT count(*) FROM changed").fetchone()
    return int(row[0]) if row else 0


def _without(field: str) -> str:
    text = f"json_extract_string(t.said, '/fields/{field}')"
    given = f"guard({text})" if _TYPES[field] is Type.TEXT else f"TRY_CAST({text} AS DOUBLE)"
    return f"CASE WHEN p.{field} = {given} THEN NULL ELSE p.{field} END"

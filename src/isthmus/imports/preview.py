"""Preview: the first rows of a relation or file through its mapping, as they would land, and nothing kept.

The rows are the first that the warehouse gives, in no particular order: the newest ones would have it sort the whole
relation.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.imports import files, load
from isthmus.imports.compare import require_key
from isthmus.imports.files import IncomingFile
from isthmus.imports.relation import columns_of, numbered, relation_of, require_one_origin
from isthmus.imports.shapes import words
from isthmus.model.errors import InvalidInput, Mismatch, Missing, WarehouseError
from isthmus.model.guess import guess
from isthmus.model.import_rules import check_import
from isthmus.model.intake import IncomingColumn
from isthmus.model.mapping import Data, Mapping, bind
from isthmus.model.usage import Use, uses
from isthmus.model.work import Intake, Sync
from isthmus.store.lake import Lake
from isthmus.store.rehearsal import Rehearsal, Rehearsed
from isthmus.warehouses.protocol import Config, Relation, Warehouse

ROWS, LIMIT = 1000, 20
"""How many rows are looked at, and how many of them shown, unless a person says otherwise."""


@dataclass(frozen=True)
class Column:
    """One column of what would be imported: its type in words, and what the mapping makes of it."""

    name: str
    type: str
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class Preview:
    """What an import, or a load of a file, would do. `guessed`: nobody gave a mapping, so this one was offered.
    `whole`: all of its rows were looked at."""

    name: str
    what: str
    data: Data
    mapping: Mapping
    guessed: bool
    columns: tuple[Column, ...]
    rehearsed: Rehearsed
    whole: bool


@dataclass(frozen=True)
class Wanted:
    """An import that may not be applied yet. Without a `mapping` one is guessed; its `metric` is then of every row.
    `beside` are the other syncs of its connection. With a `key` all rows are compared."""

    name: str
    data: Data
    relation: str
    query: str
    config: Config
    mapping: Mapping | None = None
    metric: str | None = None
    sync_id: str | None = None
    beside: tuple[Sync, ...] = ()
    key: tuple[str, ...] = ()


def of_import(
    lake: Lake, wanted: Wanted, *, rows: int = ROWS, limit: int = LIMIT, phone_region: str | None = None
) -> Preview:
    """Look at up to `rows` rows of the relation; show up to `limit` of each outcome.

    Raises Missing, with the relations there are, if this one is not; InvalidInput if the mapping does not fit or none
    can be guessed; Mismatch for a column that cannot be read.
    """
    _require_database(wanted.config)
    with closing(wanted.config.open()) as warehouse:
        intake = Intake(wanted.data, wanted.relation, wanted.mapping or Mapping(wanted.data, ()), wanted.query)
        relation = _found(warehouse, wanted, intake)
        schema = warehouse.schema(relation)
        columns = columns_of(schema, intake)
        types = {f.name: words(f.type) for f in schema}
        mapping = wanted.mapping
        if mapping is None:
            mapping = _guessed(columns, types, wanted, str(intake.what))
        else:
            bind(mapping, schema.names, where=str(intake.what))
        require_key(schema.names, wanted.key, str(intake.what))
        require_one_origin(warehouse, wanted.config, wanted.name, mapping, schema.names, wanted.beside)
        _require_time(schema, mapping, str(intake.what))
        batches = list(warehouse.read(relation, limit=rows + 1))
    there = pa.Table.from_batches(batches) if batches else schema.empty_table()
    rehearsal = Rehearsal(
        lake,
        mapping,
        columns,
        lines=False,
        label=wanted.name,
        key="",
        phone_region=phone_region,
        numbered=False,
        origin=wanted.sync_id or "preview",
        needs_changed_at=not wanted.key,
    )
    rehearsed = rehearsal.rehearse(numbered(there.slice(0, rows), columns, 1), limit=limit)
    shown = _described(mapping, types, lines=False)
    guessed = wanted.mapping is None
    return Preview(
        wanted.name, str(intake.what), wanted.data, mapping, guessed, shown, rehearsed, there.num_rows <= rows
    )


def of_file(
    lake: Lake,
    path: Path,
    data: Data,
    *,
    mapping: Mapping | None = None,
    metric: str | None = None,
    delimiter: str | None = None,
    rows: int = ROWS,
    limit: int = LIMIT,
    phone_region: str | None = None,
) -> Preview:
    """What `load` would do with a file, as far as its first `rows` rows tell. Raises as `load` does."""
    source = files.open_file(path, delimiter=delimiter, temp_dir=lake.temp / "files")
    with closing(source):
        batch = next(iter(source.batches()), source.nothing())
        types = _types(source, batch)
        try:
            found = load.mapping_for(source, path, data, mapping, metric)
        except InvalidInput as e:
            raise e if mapping else _with_columns(e, types) from e
        looked_at = batch.slice(0, rows)
        refused, whole = source.refused(), batch.num_rows <= rows
        if refused is not None and not whole:
            last = looked_at["n"][-1].as_py()
            refused = refused.filter(pc.less_equal(refused["row_number"], last))
        rehearsal = Rehearsal(
            lake,
            found,
            source.columns,
            lines=source.lines,
            label=path.name,
            key="",
            phone_region=phone_region,
            origin=load.origin(found),
        )
        rehearsed = rehearsal.rehearse(looked_at, refused=refused, limit=limit)
    shown = _described(found, types, lines=source.lines)
    return Preview(path.name, str(path), data, found, mapping is None, shown, rehearsed, whole)


def _described(mapping: Mapping, types: dict[str, str], *, lines: bool) -> tuple[Column, ...]:
    used = uses(mapping, list(types), lines=lines)
    return tuple(Column(name, types.get(name, "not seen yet"), its) for name, its in used.items())


def _types(source: IncomingFile, batch: pa.Table) -> dict[str, str]:
    return {c.name: "JSON" if source.lines else words(batch.schema.field(c.ref).type) for c in source.columns}


def _require_database(config: Config) -> None:
    """Opening a DuckDB connection makes its file, and a preview makes nothing."""
    file = getattr(config, "file", None)
    if isinstance(file, Path) and not file.exists():
        raise Missing(f"there is no database file {file}", hint="check the path of the connection")


def _found(warehouse: Warehouse, wanted: Wanted, intake: Intake) -> Relation:
    """The relation, if it is there. Raises Missing that says which there are."""
    relation = relation_of(wanted.config, intake)
    if relation.kind == "query":
        return relation
    if not relation.name:
        raise Missing(f"the import {wanted.name!r} names no relation", hint=_relations(warehouse, ""))
    try:
        warehouse.schema(relation)
    except Missing as e:
        known = [str(each) for each in _listed(warehouse)]
        if str(relation) in known:  # it is another thing that is not there
            raise
        raise Missing(
            f"the import {wanted.name!r} reads {wanted.relation}, which is not there, or we may not read it",
            hint=_relations(warehouse, relation.name),
            code=e.code,
            vendor=e.vendor,
        ) from e
    return relation


def _listed(warehouse: Warehouse) -> list[Relation]:
    with suppress(WarehouseError):
        return list(warehouse.relations())
    return []


def _relations(warehouse: Warehouse, name: str) -> str:
    there = _listed(warehouse)
    if not there:
        return "the import schema has no table or view that we may read: see `isthmus connection script NAME`"
    names = [each.name for each in there]
    by_lower = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name.lower(), list(by_lower), 3, 0.6) if name else []
    told = ", ".join(names[:50]) + (" …" if len(names) > 50 else "")
    did_you_mean = f"did you mean {' or '.join(by_lower[each] for each in close)}? " if close else ""
    return f"{did_you_mean}{there[0].schema} has: {told}"


def _guessed(columns: Sequence[IncomingColumn], types: dict[str, str], wanted: Wanted, where: str) -> Mapping:
    try:
        mapping = guess(columns, wanted.data, where=where, metric=wanted.metric)
        if wanted.key:  # it says by itself what is new
            mapping = replace(mapping, changed_at=None)
        check_import(mapping, wanted.key)
    except InvalidInput as e:
        named = InvalidInput(f"no mapping can be guessed for the import {wanted.name!r}: {e.summary}", hint=e.hint)
        raise _with_columns(named, types) from e
    return mapping


def _with_columns(e: InvalidInput, types: dict[str, str]) -> InvalidInput:
    listed = [f"{name} ({kind})" for name, kind in types.items()]
    told = ", ".join(listed[:100]) + (" …" if len(listed) > 100 else "")
    return InvalidInput(e.summary, hint=f"{e.hint}; the columns are: {told}")


def _require_time(schema: pa.Schema, mapping: Mapping, where: str) -> None:
    """What a run asks of the column of changed_at. Raises Mismatch."""
    if mapping.changed_at is None:
        return
    kind = schema.field(mapping.changed_at).type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise Mismatch(
            f"changed_at is the column {mapping.changed_at!r} of {where}, and that is {words(kind)}, not a date or a "
            "timestamp",
            column=mapping.changed_at,
            ours="timestamp",
            theirs=words(kind),
            hint="map a date or timestamp column as changed_at, or make a view that converts it",
        )

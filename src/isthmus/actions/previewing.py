"""Looking before anything is saved: what an import, or a file, would become. Nothing here writes anything anywhere."""

from __future__ import annotations

from pathlib import Path

import yaml

from isthmus.actions.applying import wanted_imports
from isthmus.actions.people import read_mapping
from isthmus.app import App
from isthmus.imports import preview
from isthmus.imports.preview import LIMIT, ROWS, Preview, Wanted
from isthmus.imports.relation import older
from isthmus.ledger import connections
from isthmus.model.errors import InvalidInput
from isthmus.model.import_rules import check_together
from isthmus.model.mapping import Data, Mapping, as_document, parse


def preview_import(app: App, name: str, *, rows: int = ROWS, limit: int = LIMIT) -> Preview:
    """What an applied import makes of the first rows of its relation. See `imports.preview.of_import`.

    Raises InvalidInput if the sync is an export.
    """
    sync = app.sync(name)
    if sync.intake is None:
        raise InvalidInput(f"{name!r} is an export", hint=f"isthmus sync preview {name} says what it would send")
    with app.ledger.reading() as tx:
        connection = connections.by_id(tx, sync.connection_id)
        beside = tuple(older(tx, sync))
    its, config = sync.intake, app.config(connection)
    wanted = Wanted(
        name,
        its.data,
        its.relation,
        its.query,
        config,
        its.mapping,
        sync_id=sync.sync_id,
        beside=beside,
        key=its.key,
    )
    return preview.of_import(app.lake, wanted, rows=rows, limit=limit, phone_region=app.settings.phone_region)


def preview_file(
    app: App,
    file: Path,
    *,
    environ: dict[str, str],
    only: str | None = None,
    metric: str | None = None,
    rows: int = ROWS,
    limit: int = LIMIT,
) -> list[Preview]:
    """What the imports of an apply file would make of the first rows of their relations, or the one called `only`.

    Where there is no mapping one is guessed, with `metric` as the metric of every row. Raises as `apply` does, and as
    `imports.preview.of_import`.
    """
    region = app.settings.phone_region
    wanted = wanted_imports(app, file, only=only, metric=metric, environ=environ)
    found = [preview.of_import(app.lake, each, rows=rows, limit=limit, phone_region=region) for each in wanted]
    check_together({f.name: f.mapping for f in found}, {f.name: [c.name for c in f.columns] for f in found})
    return found


def preview_data(
    app: App,
    file: Path,
    data: Data,
    *,
    mapping_file: Path | None = None,
    metric: str | None = None,
    delimiter: str | None = None,
    rows: int = ROWS,
    limit: int = LIMIT,
) -> Preview:
    """What `load_file` would do with the first rows of a file."""
    return preview.of_file(
        app.lake,
        file,
        data,
        mapping=read_mapping(mapping_file, data) if mapping_file else None,
        metric=metric,
        delimiter=delimiter,
        rows=rows,
        limit=limit,
        phone_region=app.settings.phone_region,
    )


def as_yaml(mapping: Mapping) -> str:
    """The mapping as it goes into an apply file or a mapping file. Read again it is the same mapping, whatever the
    names of its columns hold, and it can be printed on any terminal."""
    document = {"mapping": as_document(mapping)}
    # YAML takes some characters for line breaks (U+0085), and a terminal shows others not at all: those are escaped.
    text: str = yaml.safe_dump(document, sort_keys=False, width=1_000_000, allow_unicode=True)
    if not all(line.isprintable() for line in text.split("\n")) or yaml.safe_load(text) != document:
        text = yaml.safe_dump(document, sort_keys=False, width=1_000_000)
    assert parse(yaml.safe_load(text)["mapping"], mapping.data) == mapping
    return text

"""What a person does about people: find one, show what is known, erase; and load files of them and their events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from isthmus.actions.syncing import tidy_if_free
from isthmus.app import App
from isthmus.imports import load as files
from isthmus.imports.compare import known_of
from isthmus.imports.load import Report
from isthmus.imports.replay import replay
from isthmus.ledger import syncs
from isthmus.model.errors import InvalidInput
from isthmus.model.intake import Counts
from isthmus.model.mapping import Data, Mapping, parse
from isthmus.store import people, rejections
from isthmus.store.people import Person


def load_file(
    app: App,
    file: Path,
    data: Data,
    *,
    mapping_file: Path | None = None,
    metric: str | None = None,
    delimiter: str | None = None,
    report: Report = lambda done, total: None,
) -> Counts:
    """Land a local file. See `imports.load.load`."""
    mapping = read_mapping(mapping_file, data) if mapping_file else None
    counts = files.load(
        app.lake,
        file,
        data,
        mapping=mapping,
        metric=metric,
        delimiter=delimiter,
        phone_region=app.settings.phone_region,
        report=report,
    )
    tidy_if_free(app)
    return counts


def read_mapping(file: Path, data: Data) -> Mapping:
    """A mapping file: the mapping alone, or below the word `mapping`. Raises InvalidInput."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise InvalidInput(f"the mapping {file} cannot be read: {e}") from e
    except yaml.YAMLError as e:
        raise InvalidInput(f"the mapping {file} is not valid YAML: {e}") from e
    if isinstance(document, dict) and set(document) == {"mapping"}:
        document = document["mapping"]
    try:
        return parse(document, data)
    except InvalidInput as e:
        raise InvalidInput(f"the mapping {file}: {e.summary}", hint=e.hint) from e


def show_person(app: App, key: str) -> tuple[Person, list[dict[str, Any]]]:
    """Everything known of a person, and which exports have delivered their present profile."""
    profile_id = people.find(app.lake, key, phone_region=app.settings.phone_region)
    person = people.show(app.lake, profile_id)
    with app.ledger.reading() as tx:
        delivered = [
            {"sync": s.name, "delivered": s.selection.profiles and s.watermark >= person.profile["seq"]}
            for s in syncs.every(tx)
            if s.intake is None
        ]
    return person, delivered


def erase_person(app: App, key: str) -> dict[str, int]:
    """Erase a person here; every warehouse follows with the next run of its sync.

    The files are rewritten without the person at once. Those of past states of the store go when these expire: after
    the snapshot retention, with the next upkeep.
    """
    profile_id = people.find(app.lake, key, phone_region=app.settings.phone_region)
    removed = people.erase(app.lake, profile_id)
    tidy_if_free(app, erase_now=True)
    return removed


def list_rejections(app: App, *, source: str | None, limit: int | None) -> list[dict[str, Any]]:
    """Rows that were not taken, newest first, of one source (a file's or sync's name) or of all."""
    return rejections.listed(app.lake, source=source, limit=limit)


def replay_rejections(
    app: App,
    label: str,
    *,
    mapping_file: Path,
    data: Data | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Land the rows of a file that were not taken, through a mended mapping. See `imports.replay.replay`.

    `data` is needed only where a file was loaded both as events and as profiles.
    """
    there = rejections.kinds(app.lake, label)
    if not there:
        raise InvalidInput(f"no row of {label!r} was rejected", hint="see `isthmus rejections list`")
    if data is None and len(there) > 1:
        raise InvalidInput(f"{label!r} was loaded as {' and as '.join(there)}", hint="say which with --data")
    mapping = read_mapping(mapping_file, data or there[0])
    counts = replay(
        app.lake,
        mapping,
        label=label,
        origin=files.origin(mapping),
        phone_region=app.settings.phone_region,
        report=report,
    )
    tidy_if_free(app)
    return counts


def replay_import(app: App, name: str, *, report: Callable[[int], None] = lambda done: None) -> Counts:
    """Land the rows of an import that were not taken, through its mapping as it is applied now.

    Raises InvalidInput if the sync is no import.
    """
    sync = app.sync(name)
    if sync.intake is None:
        raise InvalidInput(f"{name!r} is an export: it rejects no rows")
    counts = replay(
        app.lake,
        sync.intake.mapping,
        label=sync.name,
        origin=None if sync.intake.key else sync.sync_id,
        connection=sync.connection_id,
        phone_region=app.settings.phone_region,
        needs_changed_at=not sync.intake.key,
        known=known_of(sync, sync.intake) if sync.intake.key else None,
        report=report,
    )
    tidy_if_free(app)
    return counts


def export_rejections(app: App, file: Path, *, source: str | None) -> int:
    """Write rejections to a JSON lines file, the original rows included. How many there were."""
    return rejections.write_to(app.lake, file, source=source)

"""A local file through the import path, into the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isthmus.imports import files
from isthmus.model.guess import guess
from isthmus.model.intake import Counts
from isthmus.model.mapping import Data, Mapping, bind, fingerprint
from isthmus.store.lake import Lake
from isthmus.store.landing import Landing, Progress, progress

Report = Callable[[int, int | None], None]
"""Told after each batch: rows landed or refused so far, and how many there are (None: not known)."""


def load(
    lake: Lake,
    path: Path,
    data: Data,
    *,
    mapping: Mapping | None = None,
    metric: str | None = None,
    delimiter: str | None = None,
    phone_region: str | None = None,
    report: Report = lambda done, total: None,
) -> Counts:
    """Land a file: CSV, JSON lines or Parquet. Without a mapping one is guessed from the columns' names.

    Rows that cannot be taken become rejections; the others land. The same file again changes nothing; a load that was
    cut off goes on behind its last whole batch. Raises InvalidInput for a file or mapping that cannot be used at all.
    """
    source = files.open_file(path, delimiter=delimiter, temp_dir=lake.temp / "files")
    try:
        mapping = mapping_for(source, path, data, mapping, metric)
        label = path.name
        key = f"file {files.fingerprint(path)} {fingerprint(mapping)}"
        before = progress(lake, key)
        record = before is None or not before.done
        begun = before.begun if before else None
        so_far = before if before and not before.done else Progress(0, False, Counts(), begun=begun)
        landing = Landing(
            lake,
            mapping,
            source.columns,
            lines=source.lines,
            label=label,
            key=key,
            phone_region=phone_region,
            origin=origin(mapping),
        )
        refused = source.refused() if so_far.rows == 0 else None
        skip = so_far.rows
        held = None
        for batch in source.batches():
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            batch, skip = batch.slice(skip), 0
            if held is not None:
                so_far = landing.land(held, so_far, refused=refused, done=False, record=record)
                refused = None
                report(so_far.counts.read, _total(source, so_far))
            held = batch
        if held is None and not so_far.done:
            held = source.nothing()
        if held is not None:
            so_far = landing.land(held, so_far, refused=refused, done=True, record=record)
        report(so_far.counts.read, so_far.counts.read)
        return so_far.counts
    finally:
        source.close()


def mapping_for(
    source: files.IncomingFile, path: Path, data: Data, given: Mapping | None, metric: str | None
) -> Mapping:
    """The given mapping, if the file has its columns, or one guessed from their names. Raises InvalidInput."""
    names = [c.name for c in source.columns]
    if given is None:
        return guess(names, data, where=str(path), metric=metric)
    if not source.lines:  # a JSON object may lack a key that later ones have
        bind(given, names, where=str(path))
    return given


def origin(mapping: Mapping) -> str | None:
    """What rows of a file are news of: files with one mapping, if it says when a row was changed."""
    return f"file mapping {fingerprint(mapping)}" if mapping.changed_at else None


def _total(source: files.IncomingFile, so_far: Progress) -> int | None:
    return None if source.rows is None else source.rows + so_far.counts.read - so_far.rows

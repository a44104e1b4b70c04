"""Rejections tried again: the kept rows of one import or file, through its mapping as it is now."""

from __future__ import annotations

from collections.abc import Callable

from isthmus.model.errors import InvalidInput
from isthmus.model.intake import Counts
from isthmus.model.mapping import Mapping, bind
from isthmus.store import rejections
from isthmus.store.known import Known
from isthmus.store.lake import Lake
from isthmus.store.landing import Landing

Report = Callable[[int], None]
"""Told after each batch how many rows were tried."""


def replay(
    lake: Lake,
    mapping: Mapping,
    *,
    label: str,
    origin: str | None = None,
    connection: str | None = None,
    phone_region: str | None = None,
    needs_changed_at: bool = False,
    known: Known | None = None,
    report: Report = lambda done: None,
) -> Counts:
    """Land the rejections kept under a label. Those that land now are rejections no more, in the same transaction; the
    others stay, once each, with their present reason. Again, or after a kill, it goes on where it was.

    `origin`, `connection`, `needs_changed_at` and `known` as the landing that rejected them had them. Rows whose
    columns the mapping does not fit any more stay as they are; raises InvalidInput if it fits none.
    """
    counts, misfits = Counts(), []
    misfit: InvalidInput | None = None
    found = rejections.groups(lake, label=label, data=mapping.data)
    for group in found:
        if group.columns:
            try:
                bind(mapping, [c.name for c in group.columns], where=f"a rejected row of {label}")
            except InvalidInput as e:
                misfit = e
                misfits.append(group)
                continue
        landing = Landing(
            lake,
            mapping,
            group.columns,
            lines=not group.columns,
            label=label,
            key="",
            phone_region=phone_region,
            origin=origin,
            connection=connection,
            needs_changed_at=needs_changed_at,
            known=known,
        )
        for batch in rejections.batches(lake, group):
            counts.add(landing.replay(batch))
            report(counts.read)
    if misfit is not None and len(misfits) == len(found):
        raise misfit
    counts.add(rejections.left_alone(lake, label=label, data=mapping.data, groups=misfits))
    return counts

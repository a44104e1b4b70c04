"""Where an event was read from: kept with it through merges and erasures, and left out of what goes back there."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pytest
from store_cast import Cast

from isthmus.model.intake import Counts, IncomingColumn, Shape
from isthmus.model.mapping import Given, Mapping
from isthmus.model.table import SeqRange
from isthmus.model.tables import EVENT
from isthmus.model.work import Scope, Selection
from isthmus.store import schema
from isthmus.store.changes import Changes
from isthmus.store.lake import Lake
from isthmus.store.landing import Landing, Progress
from isthmus.store.place import Place

MAPPING = Mapping(
    data="events",
    identifiers=(("external_id", "who"), ("email", "mail")),
    event_time="at",
    metric=Given(constant="Bought"),
    unique_id="id",
)
COLUMNS = [IncomingColumn(name, f"c{i}", Shape.STRING) for i, name in enumerate(("who", "mail", "at", "id"))]
ALL = SeqRange(None, None)


def land(cast: Cast, connection: str | None, *rows: tuple[str | None, str | None, str]) -> Counts:
    """Rows of (external id, e-mail, unique id)."""
    whos, mails, ids = zip(*rows, strict=True)
    n = len(rows)
    table = pa.table({"n": range(n), "c0": whos, "c1": mails, "c2": ["2026-01-01"] * n, "c3": ids})
    table = table.cast(pa.schema([("n", pa.int64())] + [(c.ref, pa.string()) for c in COLUMNS]))
    landing = Landing(cast.lake, MAPPING, COLUMNS, lines=False, label="x", key=uuid4().hex, connection=connection)
    return landing.land(table, Progress(0, False, Counts()), done=True).counts


def changes(cast: Cast, exclude: str | None) -> Changes:
    at = cast.lake.snapshot()
    return Changes(cast.lake, at.snapshot_id, Selection(), Scope(None, 0), exclude_origin=exclude)


def seen(cast: Cast, exclude: str | None) -> tuple[Any, ...]:
    """(rows by commits, rows extracted, rows tallied, deletions, deletions extracted)."""
    of = changes(cast, exclude)
    file = cast.folder / f"{uuid4().hex}.parquet"
    rows = sum(c.rows for c in of.commits(EVENT, ALL))
    extracted = of.extract(EVENT, ALL, file, deletes=False)
    tallied = sum(t.rows for t in of.tally(EVENT, ALL))
    gone = of.deletions(EVENT, ALL)
    return rows, extracted, tallied, gone, of.extract(EVENT, ALL, file, deletes=True)


def test_events_of_a_connection_are_left_out_of_everything_that_goes_back(alone: Cast) -> None:
    land(alone, "con_1", ("a", None, "1"), ("a", None, "2"))
    land(alone, "con_2", (None, "a@example.com", "1"), ("b", None, "3"))
    land(alone, None, ("b", None, "4"))
    assert [seen(alone, each)[:3] for each in (None, "con_1", "con_2", "con_3")] == [
        (5,) * 3,
        (3,) * 3,
        (3,) * 3,
        (5,) * 3,
    ]
    land(alone, None, ("a", "a@example.com", "5"))  # the two are one: event 1 of the e-mail is there twice
    assert [seen(alone, each) for each in (None, "con_1", "con_2")] == [
        (5, 5, 5, 1, 1),
        (3, 3, 3, 1, 1),
        (4, 4, 4, 0, 0),
    ]
    alone.erase("a")
    assert [seen(alone, each) for each in (None, "con_1", "con_2")] == [
        (2, 2, 2, 4, 4),
        (2, 2, 2, 2, 2),
        (1, 1, 1, 3, 3),
    ]


def test_a_store_of_before_opens_with_what_was_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(root=tmp_path)
    with monkeypatch.context() as m:
        m.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        m.setattr(schema, "session", lambda con: None)  # the views of now want the columns of now
        with Lake.open(place) as lake:
            at = lake.snapshot()
            with pytest.raises(duckdb.Error):
                lake.con.execute("SELECT origin FROM lake.events")
            lake.con.execute(
                "INSERT INTO lake.rejections (source, reason, payload, landed) VALUES ('f', 'r', '{}', false)"
            )
    with Lake.open(place) as lake:
        cast = Cast(lake, tmp_path)
        assert lake.query("SELECT source FROM rejections") == [("f",)]
        land(cast, "con_1", ("a", None, "1"))
        assert seen(cast, "con_1")[:3] == (0, 0, 0)
        before = Changes(lake, at.snapshot_id, Selection(), Scope(None, 0), exclude_origin="con_1")
        assert before.commits(EVENT, ALL) == []

"""The story of one home: files land, people merge and are erased, exports run. And what must be true after it.

What must be true is worked out from the files alone, by SQL that shares nothing with the store: each event is of one
known person, and is there once if it came in a file after that person was last erased. It happens after that too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

KINDS = ("external_id", "email", "phone_number", "anonymous_id")
METRICS = ("Placed Order", "Opened {DATA_PATH}", "Clicked ‘é’")
EXPORT = "everything"
ASIDE = "aside "
"""How names of people and metrics begin that come from elsewhere: what must be true of a story is so without them."""

_BEGINNING = datetime(2124, 1, 1, tzinfo=UTC)  # yet to come when people are erased: what happened before stays away


@dataclass(frozen=True)
class Step:
    """One thing that a person does, or the schedule. Doing it again does nothing more.

    `kind` is make, land (events), merge (profiles whose rows join people), erase, upkeep, history, periodic or
    reactivate. `number` is its place in the story.
    """

    kind: str
    file: Path | None = None
    person: int | None = None
    number: int = 0


@dataclass(frozen=True)
class Scale:
    """How much of everything there is."""

    people: int = 300
    events: int = 2_000  # of each small file
    large: int = 200_000  # rows of the one large file; 0: there is none


@dataclass(frozen=True)
class Story:
    """Its steps, and the folder with its files and the tables of the truth."""

    folder: Path
    steps: tuple[Step, ...]

    @property
    def truth(self) -> Path:
        return self.folder / "truth"


def identifier(kind: str, person: int) -> str:
    """What a person is known by."""
    return {
        "external_id": f"x-{person}",
        "email": f"person.{person}@example.com",
        "phone_number": f"+1415555{person:05}",
        "anonymous_id": f"anonymous {person}",
    }[kind]


def happened(event: int) -> datetime:
    return _BEGINNING + timedelta(seconds=137 * event)


class Writer:
    """Writes the files of a story and, beside them, what is in them."""

    def __init__(self, folder: Path, seed: int, scale: Scale) -> None:
        self.folder, self.scale = folder, scale
        self._random = random.Random(seed)
        self._events: list[int] = []  # person of each event there was so far
        self._seen: list[tuple[int, int]] = []  # (step, event)
        self._named: list[tuple[int, int]] = []  # (step, person): files of profiles
        self._erased: list[tuple[int, int]] = []  # (step, person)
        self._rejected: list[tuple[str, int, str]] = []  # (file, row number, reason)
        self._steps: list[Step] = []
        folder.mkdir(parents=True)

    def step(self, kind: str, **what: object) -> Step:
        self._steps.append(replace(Step(kind, **what), number=len(self._steps)))  # type: ignore[arg-type]
        return self._steps[-1]

    def events(self, ending: str, *, rows: int, again: float = 0.3, kinds: Sequence[str] = KINDS) -> None:
        """Land a file of events. Each names its person by one or two identifiers; some came in earlier files, by other
        identifiers of the same person."""
        chance = self._random
        number, name = len(self._steps), f"events-{len(self._steps)}{ending}"
        cells: list[dict[str, str | None]] = []
        for at in range(rows):
            row: dict[str, str | None]
            if at % 211 == 97:
                bad = "no identifier" if at % 2 else "bad time"
                row = dict.fromkeys(KINDS) | {"metric": METRICS[0], "at": "2024-05-05", "id": f"bad {at}", "note": "-"}
                row |= {"value": "1", "currency": "USD"}
                if bad == "bad time":
                    row |= {"external_id": "x-bad", "at": "yesterday"}
                self._rejected.append((name, at + 1 + (ending == ".csv"), bad))
            else:
                if self._events and chance.random() < again:
                    event = chance.randrange(len(self._events))
                else:
                    event = len(self._events)
                    self._events.append(chance.randrange(self.scale.people))
                self._seen.append((number, event))
                given = chance.sample(kinds, 2 if chance.random() < 0.1 and len(kinds) > 1 else 1)
                row = {k: identifier(k, self._events[event]) if k in given else None for k in KINDS}
                row |= told(event)
            cells.append(row)
        self._write(name, cells)
        self.step("land", file=self.folder / name)

    def people(self, *, whom: Sequence[int] | None = None, whole: bool) -> None:
        """Land a file of profiles: all four identifiers of each person, or two neighbours of the four."""
        chance = self._random
        number, name = len(self._steps), f"people-{len(self._steps)}.csv"
        cells: list[dict[str, str | None]] = []
        for person in whom if whom is not None else chance.sample(range(self.scale.people), self.scale.people):
            first = chance.randrange(len(KINDS) - 1)
            given = KINDS if whole else KINDS[first : first + 2]
            row: dict[str, str | None] = {k: identifier(k, person) if k in given else None for k in KINDS}
            cells.append(row | {"given": f"Name {person}", "tier": str(person % 5)})
            self._named.append((number, person))
        self._write(name, cells)
        self.step("merge", file=self.folder / name)

    def erase(self, count: int) -> None:
        """Erase people; they are made known by all their identifiers first, so that nothing of them is left behind."""
        whom = self._random.sample(range(self.scale.people), count)
        self.people(whom=whom, whole=True)
        for person in whom:
            self._erased.append((self.step("erase", person=person).number, person))

    def finished(self) -> Story:
        truth = self.folder / "truth"
        truth.mkdir()

        def keep(name: str, rows: Sequence[Sequence[object]], **columns: pa.DataType) -> None:
            cells = list(zip(*rows, strict=True)) or [()] * len(columns)
            arrays = [pa.array(list(c), t) for c, t in zip(cells, columns.values(), strict=True)]
            pq.write_table(pa.table(dict(zip(columns, arrays, strict=True))), truth / f"{name}.parquet")

        n, text = pa.int64(), pa.string()
        keep("seen", self._seen, step=n, event=n)
        keep("named", self._named, step=n, person=n)
        keep("erased", self._erased, step=n, person=n)
        keep("rejected", self._rejected, file=text, number=n, reason=text)
        told_of = [(i, p, *told(i).values(), happened(i)) for i, p in enumerate(self._events)]
        names = {name: text for name in told(0)}
        keep("events", told_of, event=n, person=n, **names, moment=pa.timestamp("us", tz="UTC"))
        return Story(self.folder, tuple(self._steps))

    def _write(self, name: str, cells: Sequence[dict[str, str | None]]) -> None:
        table = pa.Table.from_pylist(list(cells), schema=pa.schema([(c, pa.string()) for c in cells[0]]))
        path = self.folder / name
        match path.suffix:
            case ".parquet":
                pq.write_table(table, path)
            case ".jsonl":
                path.write_text("".join(json.dumps({k: v for k, v in row.items() if v}) + "\n" for row in cells))
            case _:
                pc.write_csv(table, path)


def told(event: int) -> dict[str, str | None]:
    """What a row says of an event, besides whose it is."""
    return {
        "id": f"event {event}",
        "at": happened(event).isoformat(),
        "metric": METRICS[event % len(METRICS)],
        "value": f"{event / 8:.3f}",
        "currency": "EUR",
        "note": f"{{DATA_PATH}} {event}" if event % 499 == 0 else f"note ‘{event}’",
    }


EVENTS_MAPPING = {
    "identifiers": {k: k for k in KINDS},
    "event_time": "at",
    "metric": {"column": "metric"},
    "unique_id": "id",
    "value": "value",
    "value_currency": {"column": "currency"},
    "properties": {"note": "note"},
}
PEOPLE_MAPPING = {
    "identifiers": {k: k for k in KINDS},
    "fields": {"first_name": "given"},
    "properties": {"tier": "tier"},
}


def write(folder: Path, *, seed: int, scale: Scale) -> Story:
    """The whole story: every kind of step, some of them several times."""
    w = Writer(folder, seed, scale)
    rows = scale.events
    w.step("make")
    w.events(".csv", rows=rows)
    w.step("history")
    w.people(whole=False)
    w.events(".jsonl", rows=rows)
    w.step("periodic")
    w.step("upkeep")
    if scale.large:
        w.events(".parquet", rows=scale.large, again=0.01, kinds=("external_id", "email"))
        w.step("periodic")
    w.people(whole=False)
    w.events(".parquet", rows=rows)
    w.erase(2)
    w.step("periodic")
    w.step("upkeep")
    w.events(".csv", rows=rows)
    w.people(whole=False)
    w.step("reactivate")
    w.step("history")
    w.events(".jsonl", rows=rows)
    w.erase(2)
    w.step("periodic")
    w.step("upkeep")
    w.people(whole=True)
    w.step("periodic")
    return w.finished()


def brief(folder: Path, *, seed: int, scale: Scale) -> Story:
    """A story of the fewest steps."""
    w = Writer(folder, seed, scale)
    w.step("make")
    w.events(".csv", rows=scale.events)
    w.people(whole=False)
    w.step("history")
    w.erase(1)
    w.people(whole=True)
    w.step("periodic")
    return w.finished()


def differences(store: duckdb.DuckDBPyConnection, story: Story) -> Iterator[str]:
    """What the views of the store say otherwise than the files, one line a kind of difference; nothing if all is well.

    The story must end with every person named by all identifiers.
    """
    for name in ("seen", "named", "erased", "rejected", "events"):
        path = str(story.truth / f"{name}.parquet").replace("'", "''")
        store.execute(f"CREATE OR REPLACE TEMP VIEW truth_{name} AS FROM read_parquet('{path}')")
    store.execute(
        "CREATE OR REPLACE TEMP TABLE there AS SELECT e.* FROM truth_events e "
        "JOIN (SELECT event, max(step) AS last FROM truth_seen GROUP BY event) s USING (event) "
        "LEFT JOIN (SELECT person, max(step) AS gone FROM truth_erased GROUP BY person) g USING (person) "
        "WHERE s.last > coalesce(g.gone, -1)"
    )
    store.execute("CREATE OR REPLACE TEMP TABLE people AS SELECT DISTINCT person FROM truth_named")
    known = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, {_sql_identifier(kind)} AS value, person FROM people" for kind in KINDS
    )
    store.execute(f"CREATE OR REPLACE TEMP TABLE known AS {known}")
    store.execute(
        "CREATE OR REPLACE TEMP TABLE placed AS SELECT k.person, i.kind, i.profile_id FROM identifiers i "
        "LEFT JOIN known k USING (kind, value) "
        f"WHERE i.kind <> 'profile_id' AND {_told_of('i.value')}"
    )
    store.execute("CREATE OR REPLACE TEMP TABLE homes AS SELECT DISTINCT person, profile_id FROM placed")
    compared = {
        "events": (
            "SELECT unique_id, datetime, metric_name, value, value_currency, event_properties->>'note' AS note, "
            "(SELECT any_value(person) FROM homes h WHERE h.profile_id = e.profile_id) AS person FROM events e "
            f"WHERE {_told_of('e.metric_name')}",
            "SELECT id, moment, metric, value::DOUBLE, currency, note, person FROM there",
        ),
        "event ids": (
            f"SELECT count(*), count(DISTINCT id) FROM events WHERE {_told_of('metric_name')}",
            "SELECT count(*), count(*) FROM there",
        ),
        "identifiers": (
            f"SELECT kind, value FROM identifiers WHERE kind <> 'profile_id' AND {_told_of('value')}",
            "SELECT kind, value FROM known",
        ),
        "one profile a person": (
            "SELECT person, count(DISTINCT profile_id) FROM placed GROUP BY person",
            "SELECT person, 1 FROM people",
        ),
        "one person a profile": (
            "SELECT max(n) FROM (SELECT count(DISTINCT person) AS n FROM placed GROUP BY profile_id)",
            "SELECT 1",
        ),
        "profiles": (
            "SELECT external_id, email, phone_number, first_name, properties->>'tier', last_event_date FROM profiles "
            f"WHERE {_told_of('external_id')}",
            f"SELECT {', '.join(_sql_identifier(k) for k in KINDS[:3])}, 'Name ' || person, (person % 5)::VARCHAR, "
            "(SELECT max(moment) FROM there t WHERE t.person = p.person) FROM people p",
        ),
        "metrics": (
            f"SELECT name FROM metrics WHERE {_told_of('name')}",
            "SELECT DISTINCT metric FROM truth_events",
        ),
        "rejections": (
            "SELECT source, row_number, reason FROM rejections",
            "SELECT file, number, reason FROM truth_rejected",
        ),
    }
    for what, (ours, theirs) in compared.items():
        yield from unequal(store, what, ours, theirs)


def _told_of(name: str) -> str:
    return f"NOT starts_with(coalesce({name}, ''), '{ASIDE}')"


def unequal(con: duckdb.DuckDBPyConnection, what: str, left: str, right: str) -> Iterator[str]:
    """Compare two queries as bags of rows, row by row."""
    for name, a, b in ((f"{what}: too much", left, right), (f"{what}: lost", right, left)):
        rows = con.execute(f"SELECT *, count(*) OVER () FROM (({a}) EXCEPT ALL ({b})) LIMIT 3").fetchall()
        if rows:
            yield f"{name}: {rows[0][-1]} rows, such as {[row[:-1] for row in rows]}"


def _sql_identifier(kind: str) -> str:
    return {
        "external_id": "'x-' || person",
        "email": "'person.' || person || '@example.com'",
        "phone_number": "'+1415555' || lpad(person::VARCHAR, 5, '0')",
        "anonymous_id": "'anonymous ' || person",
    }[kind]

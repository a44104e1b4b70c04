"""One person in the store: finding, showing, erasing."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import IDENTIFIER_KINDS
from isthmus.store import erased
from isthmus.store.lake import Lake, Write
from isthmus.store.landing import read_phone


@dataclass(frozen=True)
class Person:
    """What we know of one person: the profile, every identifier, merges, and the events of each metric."""

    profile: dict[str, Any]
    identifiers: list[tuple[str, str]]
    merges: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    latest: list[dict[str, Any]]


def find(lake: Lake, key: str, *, phone_region: str | None = None) -> str:
    """The profile id behind an e-mail, phone, external id, anonymous id or profile id (also one that was merged away).

    Where one text is several identifiers, the higher kind decides. Raises InvalidInput if nobody has it.
    """
    text = key.strip()
    spellings = {
        "profile_id": _as_uuid(text) or text,
        "external_id": text,
        "email": text.lower(),
        "phone_number": read_phone(text, phone_region) or text,
        "anonymous_id": text,
    }
    found = {
        str(kind): str(profile_id)
        for kind, profile_id in lake.query(
            "SELECT kind, profile_id FROM lake.identifiers WHERE "
            + " OR ".join(f"(kind = '{kind}' AND value = guard(?))" for kind in IDENTIFIER_KINDS),
            [spellings[kind] for kind in IDENTIFIER_KINDS],
        )
    }
    profile_id = _as_uuid(text)
    if profile_id and lake.query("SELECT 1 FROM lake.profiles WHERE profile_id = ?", [profile_id]):
        found["profile_id"] = profile_id
    for kind in IDENTIFIER_KINDS:
        if kind in found:
            return found[kind]
    raise InvalidInput(
        f"nobody is known by {key!r}",
        hint="give an e-mail, a phone number as +14155550123, an external id or a profile id",
    )


def show(lake: Lake, profile_id: str, *, events: int = 10) -> Person:
    """Everything the store has about a profile."""
    profile = _rows(lake, "SELECT * FROM profiles WHERE id = ?", profile_id)
    identifiers = lake.query(
        "SELECT kind, value FROM identifiers WHERE profile_id = ? ORDER BY kind, value", [profile_id]
    )
    merges = _rows(
        lake,
        "SELECT id, source_profile_id, cause, merged_at, events_moved FROM merges WHERE destination_profile_id = ? "
        "ORDER BY seq",
        profile_id,
    )
    metrics = _rows(
        lake,
        "SELECT metric_name, integration_name, count(*) AS events, sum(value) AS value, min(datetime) AS first, "
        "max(datetime) AS last, count(*) FILTER (backfill) AS backfill FROM events WHERE profile_id = ? "
        "GROUP BY ALL ORDER BY events DESC, metric_name",
        profile_id,
    )
    latest = _rows(
        lake,
        "SELECT id, datetime, metric_name, value, value_currency, backfill, event_properties FROM "
        f"(SELECT * FROM events WHERE profile_id = ?) ORDER BY datetime DESC, id LIMIT {int(events)}",
        profile_id,
    )
    return Person(profile[0], [(str(k), str(v)) for k, v in identifiers], merges, metrics, latest)


def erase(lake: Lake, profile_id: str) -> dict[str, int]:
    """Remove a person: profile, identifiers, events, what merges remember of them, rejected rows that name them.

    Digests stay, so that rows from before are not taken when they are read again (`store.erased`), and what is kept of
    compared rows (MD5s). Tombstones without personal data stay, so that every warehouse removes the same rows at its
    next run. The bytes are gone from disk when upkeep has rewritten the files and the past states of the store have
    expired. Erasing again changes nothing. Returns what was removed.
    """

    def do(write: Write) -> dict[str, int]:
        con, at = write.con, [profile_id]
        if not con.execute("SELECT 1 FROM lake.profiles WHERE profile_id = ?", at).fetchone():
            return {"profiles": 0, "events": 0, "identifiers": 0, "rejections": 0}
        write.touched = True
        con.execute(
            "CREATE OR REPLACE TEMP TABLE gone AS SELECT event_id, metric_id, event_time, landed_seq, origin "
            "FROM lake.events WHERE profile_id = ?",
            at,
        )
        con.execute("DELETE FROM lake.events WHERE profile_id = ?", at)
        con.execute(
            f"INSERT INTO lake.tombstones SELECT 'event', event_id, 'erased', {write.seq}, "
            "metric_id, event_time, landed_seq, origin FROM gone"
        )
        con.execute(
            "CREATE OR REPLACE TEMP TABLE names AS SELECT kind, unguard(value) AS value FROM lake.identifiers "
            "WHERE profile_id = ?",
            at,
        )
        con.execute(f"CREATE OR REPLACE TEMP TABLE naming AS {_NAMING}")
        erased.remember(write, profile_id)
        con.execute("DELETE FROM lake.rejections WHERE rejection_id IN (SELECT rejection_id FROM naming)")
        # Of a row that was merged away, too: news are kept under the profile they were heard of.
        con.execute(
            "DELETE FROM lake.profile_news WHERE profile_id = $id OR profile_id IN "
            "(SELECT value::UUID FROM names WHERE kind = 'profile_id')",
            {"id": profile_id},
        )
        con.execute("DELETE FROM lake.identifiers WHERE profile_id = ?", at)
        con.execute("DELETE FROM lake.profiles WHERE profile_id = ?", at)
        con.execute(
            "INSERT INTO lake.tombstones VALUES ('profile', ?, 'erased', ?, NULL, NULL, NULL, NULL)",
            [profile_id, write.seq],
        )
        # Merges into this profile, and those that had gone into the ones merged into it.
        con.execute(
            "CREATE OR REPLACE TEMP TABLE remembered AS SELECT * REPLACE (NULL::JSON AS source) FROM lake.merges "
            "WHERE destination_profile_id = $id OR destination_profile_id IN "
            "(SELECT value::UUID FROM names WHERE kind = 'profile_id')",
            {"id": profile_id},
        )
        con.execute("DELETE FROM lake.merges WHERE merge_id IN (SELECT merge_id FROM remembered)")
        con.execute("INSERT INTO lake.merges SELECT * FROM remembered")
        counts = {"profiles": 1}
        for name, table in (("events", "gone"), ("identifiers", "names"), ("rejections", "naming")):
            row = con.execute(f"SELECT count(*) FROM {table}").fetchone()
            counts[name] = int(row[0]) if row else 0
        return counts

    return lake.write(do)


# Rejected rows that name the person: the identifier as a whole cell or word (a short one would be found inside other
# people's rows), as it is or as JSON spells it; a phone number by its last digits, however it is written there.
_NAMING = """
WITH r AS (SELECT rejection_id, lower(unguard(payload)) AS text FROM lake.rejections),
     i AS (SELECT DISTINCT unnest([lower(value), lower(json_value[2:length(json_value) - 1])]) AS value
           FROM (SELECT value, to_json(value)::VARCHAR AS json_value FROM names WHERE kind <> 'profile_id')),
     p AS (SELECT right(value, 9) AS digits FROM names WHERE kind = 'phone_number')
SELECT rejection_id FROM r JOIN i ON contains(text, value)
    AND regexp_matches(text, '(^|[^a-z0-9])' || regexp_escape(value) || '([^a-z0-9]|$)')
UNION SELECT rejection_id FROM r JOIN p ON contains(regexp_replace(text, '[^0-9]', '', 'g'), digits)
"""


def _rows(lake: Lake, sql: str, profile_id: str) -> list[dict[str, Any]]:
    cursor = lake.con.execute(sql, [profile_id])
    names = [d[0] for d in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _as_uuid(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None

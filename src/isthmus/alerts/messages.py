"""What a channel says: one message about an incident, as JSON for programs and as text for people.

A message has an id that stays the same however often it is sent: the incident, and what is told of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from isthmus.alerts.watch import span
from isthmus.ledger.incidents import Incident, News

VERSION = 1
"""Of the JSON document. It rises when a field goes or changes its meaning; new fields may come at any time."""

TEST = "test"


@dataclass(frozen=True)
class Message:
    """`event` is "opened", "cleared" or "test"; `at` is when that happened."""

    message_id: str
    event: str
    at: datetime
    subject: str
    text: str
    incident: Incident | None = None

    def document(self) -> dict[str, Any]:
        """What a webhook is sent. See docs/alerts.md."""
        about = self.incident
        return {
            "version": VERSION,
            "id": self.message_id,
            "event": self.event,
            "at": self.at.isoformat(),
            "text": self.subject,
            "sync": about and about.sync_name,
            "connection": about and about.connection_name,
            "incident": about
            and {
                "id": about.incident_id,
                "kind": about.kind.value,
                "summary": about.summary,
                "hint": about.hint,
                "run_id": about.details.get("run_id"),
                "opened_at": about.opened_at.isoformat(),
                "cleared_at": about.cleared_at and about.cleared_at.isoformat(),
            },
            "freshness": about
            and about.sync_name
            and {
                "complete_up_to": about.complete_up_to and about.complete_up_to.isoformat(),
                "limit_s": about.details.get("limit_s"),
            },
        }


def about(incident: Incident, news: News) -> Message:
    """The message that tells the news of an incident."""
    at = incident.opened_at
    lines = [f"{incident.about}: {incident.summary}.", ""]
    if news is News.OPENED:
        subject = f"[Isthmus] {incident.about}: {incident.summary}"
        if incident.hint:
            lines += [f"What to do: {incident.hint}", ""]
    else:
        at = incident.cleared_at or at
        subject = f"[Isthmus] {incident.about}: {incident.kind.value} cleared after {span(at - incident.opened_at)}"
        lines.insert(0, f"Cleared after {span(at - incident.opened_at)}. It was:")
    lines += [f"Kind:            {incident.kind.value}", f"Opened:          {_time(incident.opened_at)}"]
    if incident.cleared_at is not None:
        lines.append(f"Cleared:         {_time(incident.cleared_at)}")
    if incident.sync_name is not None:
        lines.append(f"Complete up to:  {_time(incident.complete_up_to)}")
    if run_id := incident.details.get("run_id"):
        lines.append(f"Run:             {run_id}")
    return Message(f"{incident.incident_id}.{news.value}", news.value, at, subject, "\n".join(lines) + "\n", incident)


def test(message_id: str, at: datetime) -> Message:
    """A message that only proves that a channel works."""
    text = "This is a test: `isthmus alert test` was run. Nothing is wrong.\n"
    return Message(message_id, TEST, at, "[Isthmus] test: alerts arrive here", text)


def _time(moment: datetime | None) -> str:
    return "nothing yet" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"

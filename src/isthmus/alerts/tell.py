"""Telling: every channel gets what it has not been told yet.

**At least once, and practically once.** Whoever tells first *claims* the message in the ledger, then sends it, then
keeps that it was told. Processes that tell at the same time do not double it. A process that dies between sending and
keeping leaves its claim behind; after `LEASE` another one sends the message again, with the same id: only what had an
unknown outcome can arrive twice, and nothing is lost. (Keeping it first would lose it instead.)

**A channel is told of an incident that was open when somebody told.** One that opens and clears between two looks is
not told at all. One that cleared while the channel was down is told as one message: that it cleared, and what it was.

**Each channel on its own.** After an error a channel is left alone for this round, and that message is due again after
30 s, then 1, 2, 4 and at most 5 minutes; another message goes first then, so that one that is always refused does not
stop the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from threading import Thread

from isthmus.alerts import messages
from isthmus.alerts.channels import Channel, Untold
from isthmus.alerts.messages import Message
from isthmus.ledger import incidents
from isthmus.ledger.database import Ledger
from isthmus.ledger.incidents import Incident

DEADLINE_S = 30
"""How long one message may take altogether, names that do not resolve and servers that drip included."""

LEASE = timedelta(seconds=120)
"""How long a claim holds. Longer than the deadline, so that it only lapses when its process died."""

AGAIN, AT_MOST = timedelta(seconds=30), timedelta(minutes=5)


@dataclass(frozen=True)
class Told:
    """One message to one channel: whether it arrived, or why not. `remark` is what is worth knowing though it did."""

    channel: str
    message: Message
    error: Untold | None = None
    remark: str = ""


def tell(ledger: Ledger, channels: Sequence[Channel], now: datetime) -> list[Told]:
    """Send every channel what is due. Returns what was sent or tried."""
    began = time.monotonic()
    done = []
    for channel in channels:
        for incident in _due(ledger, channels, channel, now):
            at = now + timedelta(seconds=time.monotonic() - began)
            with ledger.transaction() as tx:
                claimed = incidents.claim(tx, incident.incident_id, channel.name, at=at, until=at + LEASE)
            if claimed is None:
                continue  # another process was first
            told = send(channel, messages.about(*claimed))
            done.append(told)
            at = now + timedelta(seconds=time.monotonic() - began)
            with ledger.transaction() as tx:
                if told.error is None:
                    incidents.mark_told(tx, incident.incident_id, channel.name, claimed[1], at, remark=told.remark)
                else:
                    error, retry_at = told.error.summary, at + pause(_tries(incident, channel))
                    incidents.mark_untold(tx, incident.incident_id, channel.name, error, at=at, retry_at=retry_at)
            if told.error is not None:
                break
    return done


def send(channel: Channel, message: Message) -> Told:
    """Send one message, within the deadline, whatever the channel does."""
    answer: SimpleQueue[Told] = SimpleQueue()

    def attempt() -> None:
        try:
            answer.put(Told(channel.name, message, remark=channel.send(message)))
        except Untold as e:
            answer.put(Told(channel.name, message, e))
        except Exception as e:  # the others have to be told all the same; its words may hold a secret
            answer.put(Told(channel.name, message, Untold(f"the channel broke: {type(e).__name__}")))

    Thread(target=attempt, name=f"alert-{channel.name}", daemon=True).start()
    try:
        return answer.get(timeout=DEADLINE_S)
    except Empty:
        return Told(channel.name, message, Untold(f"no answer within {DEADLINE_S} s"))


def pause(tries: int) -> timedelta:
    """How long to wait after that many errors before this one."""
    return min(AGAIN * (1 << min(tries, 10)), AT_MOST)


def _due(ledger: Ledger, channels: Sequence[Channel], channel: Channel, now: datetime) -> list[Incident]:
    names = [each.name for each in channels]
    with ledger.reading() as tx:
        waiting = incidents.unsettled(tx)
    if any(incident.open and name not in incident.told for incident in waiting for name in names):
        with ledger.transaction() as tx:
            incidents.expect(tx, names)
            waiting = incidents.unsettled(tx)
    due = [incident for incident in waiting if incident.due(channel.name, now)]
    return sorted(due, key=lambda incident: _tries(incident, channel))  # and the oldest first, as they came


def _tries(incident: Incident, channel: Channel) -> int:
    return int(incident.told.get(channel.name, {}).get("tries", 0))

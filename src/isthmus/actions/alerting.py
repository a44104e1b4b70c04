"""What a person does with alerts: look for trouble now, list it, prove that messages arrive."""

from __future__ import annotations

import secrets

from isthmus.alerts import channels, messages, tell, watch
from isthmus.alerts.channels import Channel
from isthmus.alerts.tell import Told
from isthmus.app import App
from isthmus.ledger import incidents, syncs
from isthmus.ledger.incidents import Incident
from isthmus.model.errors import InvalidInput


def check_alerts(app: App) -> tuple[list[Incident], list[Told]]:
    """Look at every sync now and tell the channels what is due: the incidents that are open, and what was sent.

    Needs no other process of ours. Says nothing twice, however many look.
    """
    found = watch.watch(app.ledger, app.now())
    return found, tell.tell(app.ledger, channels_of(app), app.now())


def list_incidents(
    app: App, *, sync: str | None = None, open_only: bool = False, limit: int | None = 50
) -> list[Incident]:
    """The newest incidents, newest first, as they were when somebody last looked."""
    with app.ledger.reading() as tx:
        sync_id = syncs.named(tx, sync).sync_id if sync else None
        return incidents.newest(tx, limit, sync_id=sync_id, open_only=open_only)


def test_alerts(app: App) -> list[Told]:
    """Send a test message through every channel. Raises InvalidInput if there is none."""
    found = channels_of(app)
    if not found:
        raise InvalidInput(
            "there is no channel for alerts",
            hint="set ISTHMUS_ALERT_WEBHOOK_URL, or ISTHMUS_ALERT_EMAIL_TO, ISTHMUS_ALERT_EMAIL_FROM and "
            "ISTHMUS_SMTP_URL",
        )
    message = messages.test(f"test_{secrets.token_hex(10)}", app.now())
    return [tell.send(channel, message) for channel in found]


def channels_of(app: App) -> tuple[Channel, ...]:
    """The channels that the settings ask for."""
    s = app.settings
    return channels.configured(
        webhook_url=s.alert_webhook_url,
        webhook_secret=s.alert_webhook_secret,
        smtp_url=s.smtp_url,
        email_from=s.alert_email_from,
        email_to=s.alert_email_to,
    )

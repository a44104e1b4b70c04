"""`isthmus alert`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from isthmus.actions import alerting
from isthmus.alerts.tell import Told
from isthmus.cli.common import Home, Json, opened, print_json, print_rows, say
from isthmus.ledger.incidents import Incident, News

commands = typer.Typer(no_args_is_help=True)


def described(incident: Incident) -> dict[str, Any]:
    """An incident as plain values, for JSON."""
    return {
        "incident_id": incident.incident_id,
        "sync": incident.sync_name,
        "connection": incident.connection_name,
        "kind": incident.kind,
        "summary": incident.summary,
        "hint": incident.hint,
        "run_id": incident.details.get("run_id"),
        "opened_at": incident.opened_at,
        "cleared_at": incident.cleared_at,
        "complete_up_to": incident.complete_up_to,
        "told": incident.told,
        "settled": incident.settled,
    }


@commands.command("list")
def list_(
    sync: Annotated[str | None, typer.Option("--sync", help="Only of this sync.")] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that are open.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the newest incidents and who has been told of them."""
    with opened(home, as_json) as app:
        found = alerting.list_incidents(app, sync=sync, open_only=open_only, limit=limit)
        if as_json:
            print_json([described(i) for i in found])
        else:
            print_rows(
                ("opened", "cleared", "about", "what", "told"),
                [(i.opened_at, i.cleared_at, i.about, i.summary, _told(i)) for i in found],
                empty="No incidents.",
            )


@commands.command()
def check(home: Home = None, as_json: Json = False) -> None:
    """Look at every sync now, tell who is to be told, and exit with 1 when any incident is open.

    Needs no `isthmus serve`: run it from your own cron or monitoring to learn of it when that is down.
    """
    with opened(home, as_json) as app:
        found, told = alerting.check_alerts(app)
        if as_json:
            print_json({"open": [described(i) for i in found], "sent": _sent(told)})
        else:
            for incident in found:
                say(f"{incident.about}: {incident.summary}")
                if incident.hint:
                    say(f"    {incident.hint}")
            for each in told:
                _print_sent(each)
            if not found:
                say("No incident is open.")
        if found:
            raise typer.Exit(1)


@commands.command()
def test(home: Home = None, as_json: Json = False) -> None:
    """Send a test message to everyone who would be told. Exit code 1 when one did not arrive."""
    with opened(home, as_json) as app:
        told = alerting.test_alerts(app)
        if as_json:
            print_json(_sent(told))
        else:
            for each in told:
                _print_sent(each)
        if any(each.error for each in told):
            raise typer.Exit(1)


def _sent(told: Iterable[Told]) -> list[dict[str, Any]]:
    return [
        {
            "channel": each.channel,
            "id": each.message.message_id,
            "event": each.message.event,
            "sent": each.error is None,
            "error": each.error.summary if each.error else each.remark,
            "hint": each.error.hint if each.error else "",
        }
        for each in told
    ]


def _print_sent(told: Told) -> None:
    if told.error is None:
        say(f"✓ {told.channel}: {told.message.event} told" + (f" ({told.remark})" if told.remark else ""))
        return
    say(f"✗ {told.channel}: {told.error.summary}")
    if told.error.hint:
        say(f"    {told.error.hint}")


def _told(incident: Incident) -> str:
    """For each channel what it knows, and what stands in the way of the rest."""
    parts = []
    for channel, note in sorted(incident.told.items()):
        known = ", ".join(news.value for news in News if news in note) or "not yet"
        parts.append(f"{channel}: {known}" + (f" ({note['error']})" if "error" in note else ""))
    return "; ".join(parts) or "nobody"

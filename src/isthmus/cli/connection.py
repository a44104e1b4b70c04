"""`isthmus connection`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from isthmus.actions import connecting
from isthmus.actions.connecting import Shown
from isthmus.cli.common import Home, Json, Name, opened, out, print_json, print_rows, say, shown
from isthmus.cli.secrets import FromEnv, FromFile, SecretNames, SetFields, given_fields, given_secrets
from isthmus.ledger.connections import StoredConnection
from isthmus.model import status
from isthmus.model.checks import Check
from isthmus.model.errors import InvalidInput
from isthmus.model.work import ConnectionState
from isthmus.warehouses.protocol import Direction

commands = typer.Typer(no_args_is_help=True)


def described(connection: StoredConnection) -> dict[str, Any]:
    """A connection as plain values, for JSON. Of its secrets only their names."""
    return {
        "name": connection.name,
        "kind": connection.kind,
        "state": connection.state,
        "since": connection.since,
        "reason": connection.finding and dataclasses.asdict(connection.finding),
        "next_try_at": connection.next_try_at,
        "checked_at": connection.checked_at,
        "nightly_checks": connection.nightly,
        "concurrency": connection.concurrency,
        "fields": connection.fields,
        "secrets": sorted(connection.sealed),
    }


@commands.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List the connections with their states."""
    with opened(home, as_json) as app:
        found = connecting.list_connections(app)
        if as_json:
            print_json([described(c) for c in found])
        else:
            print_rows(
                ("name", "kind", "state", "since", "checked", "why"),
                [
                    (c.name, c.kind, c.state, c.since, c.checked_at, c.finding.summary if c.finding else "")
                    for c in found
                ],
                empty="No connections yet. Describe one in a file and `isthmus apply` it.",
            )


@commands.command()
def show(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Show a connection: its state and why, its fields without secrets, its last checks and its syncs."""
    with opened(home, as_json) as app:
        found = connecting.show_connection(app, name)
        if as_json:
            last = found.last
            print_json(
                {
                    **described(found.connection),
                    "checks": last and {"at": last.at, "asked": last.asked, "answers": _plain(last.answers)},
                    "syncs": [
                        {
                            "name": sync.name,
                            "direction": sync.direction,
                            "state": sync.state,
                            "status": status.of_sync(sync, run),
                            "complete_up_to": sync.fresh_at,
                        }
                        for sync, run in found.syncs
                    ],
                }
            )
        else:
            _show(found)


def _show(found: Shown) -> None:
    connection, finding = found.connection, found.connection.finding
    say(f"{connection.name}: {connection.kind}, {connection.state.value} since {shown(connection.since)}")
    if finding is not None:
        by = f"a run of {finding.sync} ({finding.run_id})" if finding.sync else f"the check “{finding.question}”"
        say(f"    {finding.summary}" + (f" [{finding.code}]" if finding.code else ""))
        for line in (finding.vendor if finding.vendor != finding.summary else "", finding.hint, finding.statement):
            if line:
                say(f"    {line}")
        say(f"    found out at {shown(finding.at)} by {by}")
        if connection.next_try_at is not None:
            at = shown(connection.next_try_at)
            say(f"    its syncs wait; one of them tries again at {at}. At once: {_check(connection)}")
    say("")
    for field, value in connection.fields.items():
        say(f"  {field}: {shown(value)}")
    for field in sorted(connection.sealed):
        say(f"  {field}: •••")
    nightly = "repeated every night" if connection.nightly else "not repeated at night"
    if found.last is None:
        say(f"\nNever checked; {nightly}. Ask now: {_check(connection)}")
    else:
        say(f"\nChecked at {shown(found.last.at)} ({found.last.asked.value}); {nightly}")
        for answer in found.last.answers:
            _say_answer(answer)
    say("")
    print_rows(
        ("sync", "", "status", "complete up to"),
        [(s.name, s.direction, status.of_sync(s, run), s.fresh_at) for s, run in found.syncs],
        empty="No sync uses it.",
    )


def _check(connection: StoredConnection) -> str:
    return f"isthmus connection check {connection.name}"


@commands.command()
def check(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Ask, question by question, whether a connection can do its work.

    The answers decide its state. When all are a yes, syncs that failed or wait because of it go on at once.
    """
    with opened(home, as_json) as app:
        answers = []
        for answer in connecting.check_connection(app, name):
            answers.append(answer)
            if not as_json:
                _say_answer(answer)
        if as_json:
            print_json(_plain(answers))
        if not all(a.passed for a in answers):
            raise typer.Exit(1)


@commands.command()
def checks(
    name: Name,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List what a connection has answered, to a person and at night, newest first. Nothing is asked."""
    with opened(home, as_json) as app:
        found = connecting.past_checks(app, name, limit=limit)
        if as_json:
            print_json(
                [{"at": c.at, "asked": c.asked, "passed": c.passed, "answers": _plain(c.answers)} for c in found]
            )
            return
        for one in found:
            say(f"{shown(one.at)} ({one.asked.value}): {_counted(one.answers)}")
            for answer in one.answers:
                if answer.warns or not answer.passed:
                    _say_answer(answer)
        if not found:
            say(f"Never asked. isthmus connection check {name}")


def _counted(answers: tuple[Check, ...]) -> str:
    no, warns = sum(not a.passed for a in answers), sum(a.warns for a in answers)
    parts = [f"{len(answers) - no} yes", f"{no} no" if no else "", f"{warns} of them warn" if warns else ""]
    return ", ".join(part for part in parts if part)


def _plain(answers: Any) -> list[dict[str, Any]]:
    return [dataclasses.asdict(a) for a in answers]


def _say_answer(answer: Check) -> None:
    colour, mark = ("yellow", "!") if answer.warns else ("green", "✓") if answer.passed else ("red", "✗")
    out.print(f"[{colour}]{mark}[/] ", end="")
    say(answer.question)
    for line in (answer.detail, answer.hint, answer.statement) if answer.warns or not answer.passed else ():
        if line:
            say(f"    {line}")


@commands.command()
def edit(
    name: Name,
    fields: SetFields = None,
    secrets: SecretNames = None,
    from_env: FromEnv = None,
    from_file: FromFile = None,
    force: Annotated[bool, typer.Option("--force", help="Take them whatever the checks say.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Also if it is another place then, and the history is delivered again.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Give a connection other fields or secrets, such as a new password. They are checked first.

    When the answer is a no, the old ones stay. Else they hold at once: runs under way sign in anew at their next chunk,
    and syncs that failed or wait because of the old ones go on. A secret never stands on the command line: it is asked
    for, or read from an environment variable or a file.
    """
    with opened(home, as_json) as app:
        plain, secret = given_fields(fields), given_secrets(secrets, from_env, from_file)
        if not plain and not secret:
            raise InvalidInput("nothing to change", hint="--set FIELD=VALUE for a field, --secret FIELD for a secret")
        edit = connecting.edit_connection(app, name, fields=plain, secrets=secret)
        if edit.moves and not restart:
            raise InvalidInput(
                "this would be another place: its syncs would begin again and deliver their history there",
                hint="say --restart if that is meant",
            )
        for answer in edit.ask():
            if not as_json:
                _say_answer(answer)
        refused = edit.refused
        going: list[str] = []
        taken = force or not refused
        if taken:
            _, going = edit.take()
        if as_json:
            print_json({"name": name, "taken": taken, "answers": _plain(edit.answers), "going_on": going})
        elif taken:
            say("Taken." + (f" These go on: {', '.join(going)}." if going else ""))
        else:
            say("Not taken: the old ones stay. --force takes them all the same.")
        if not taken:
            raise typer.Exit(1)


@commands.command()
def script(
    name: Name,
    direction: Annotated[
        Direction | None,
        typer.Option(help="Rights for this alone: export, import, or both (all the kind can do, if left out)."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print the set-up script for the warehouse's administrator. It holds no secret and may be run twice."""
    with opened(home, as_json) as app:
        text = connecting.setup_script(app, name, direction)
        if as_json:
            print_json({"name": name, "script": text})
        else:
            print(text)


@commands.command()
def remove(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Disable a connection and its syncs, and forget its secrets.

    Loads under way stop at their next chunk. The history stays, and nothing in the warehouse is touched. Applying the
    connection and its syncs again brings them back where they were.
    """
    with opened(home, as_json) as app:
        connecting.remove_connection(app, name)
        if as_json:
            print_json({"name": name, "state": ConnectionState.DISABLED})
        else:
            out.print(f"Removed. The syncs of {name} are disabled; applying the connection again brings it back.")

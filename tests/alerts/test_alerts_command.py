"""`isthmus alert`: what a person, or their cron, sees of it. No `serve` runs anywhere here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alerts_cast import Desk, postman, receiver
from typer.testing import CliRunner

from isthmus.cli.main import app
from isthmus.ledger.database import open_ledger
from isthmus.model.errors import InvalidInput
from isthmus.secrets import Secret
from isthmus.settings import Settings
from isthmus.testing.standins import free_ports

Command = Callable[..., str]
MAIL = {
    "ISTHMUS_ALERT_EMAIL_TO": "me@example.com, you@example.com",
    "ISTHMUS_ALERT_EMAIL_FROM": "isthmus@example.com",
    "ISTHMUS_SMTP_URL": "smtp://ann:hunter2@localhost:2525",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def isthmus(home: Path) -> Command:
    def run(*words: str, code: int = 0, **env: str) -> str:
        done = CliRunner().invoke(app, [*words, "--home", str(home)], env=env, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output

    return run


@pytest.fixture
def past(home: Path) -> Iterator[Desk]:
    """Somebody made an hourly sync a minute ago, and a run of it failed."""
    desk = Desk(open_ledger(home / "ledger.sqlite"), now=datetime.now(UTC) - timedelta(minutes=1))
    desk.apply()
    desk.fail_one()
    yield desk
    desk.ledger.close()


def test_with_nothing_open_the_check_passes(isthmus: Command) -> None:
    assert isthmus("alert", "check") == "No incident is open.\n"
    assert isthmus("alert", "list") == "No incidents.\n"
    assert json.loads(isthmus("alert", "check", "--json")) == {"open": [], "sent": []}
    assert json.loads(isthmus("alert", "list", "--json")) == []


def test_the_check_says_what_is_open_tells_once_and_fails_until_it_is_over(isthmus: Command, past: Desk) -> None:
    with receiver() as hook, postman() as mail:
        env = {
            **MAIL,
            "ISTHMUS_ALERT_WEBHOOK_URL": hook.url,
            "ISTHMUS_ALERT_WEBHOOK_SECRET": "hunter3",
            "ISTHMUS_SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
        }
        said = isthmus("alert", "check", code=1, **env)
        assert said.splitlines() == [
            "everything: a historical run failed: the role may not create tables",
            "    run the set-up script again",
            "✓ webhook: opened told",
            "✓ email: opened told",
        ]
        said = isthmus("alert", "check", code=1, **env)
        assert "everything: a historical run failed" in said and "told" not in said
        shown = json.loads(isthmus("alert", "check", "--json", code=1, **env))
        assert shown["open"][0]["sync"] == "everything" and shown["sent"] == []
        listed = isthmus("alert", "list", "--open", "--sync", "everything")
        assert "email: opened; webhook: opened" in listed
        past.now = datetime.now(UTC)
        past.deliver()
        assert isthmus("alert", "check", **env).splitlines()[-1] == "No incident is open."
        assert hook.events == ["opened", "cleared"] and len(mail.letters) == 2
        assert isthmus("alert", "list", "--open") == "No incidents.\n"
        (incident,) = json.loads(isthmus("alert", "list", "--json"))
        assert incident["settled"] and incident["cleared_at"]


def test_what_stands_in_the_way_is_shown_and_holds_no_secret(isthmus: Command, past: Desk) -> None:
    port = free_ports(1)[0]
    with receiver() as hook:
        hook.status, hook.words = 404, f"no {hook.url}"
        env = {
            **MAIL,
            "ISTHMUS_ALERT_WEBHOOK_URL": hook.url,
            "ISTHMUS_SMTP_URL": f"smtp://ann:hunter2@127.0.0.1:{port}",
        }
        said = isthmus("alert", "check", code=1, **env)
        assert f"✗ email: 127.0.0.1:{port} refuses connections" in said
        assert "✗ webhook: the webhook at 127.0.0.1 answered 404: no •••" in said
        said += isthmus("alert", "list") + isthmus("alert", "list", "--json")
        said += isthmus("alert", "test", code=1, **env) + isthmus("alert", "test", "--json", code=1, **env)
    assert "refuses connections" in isthmus("alert", "list")
    assert "hunter2" not in said and "T0KEN" not in said


def test_a_test_message_arrives_everywhere(isthmus: Command) -> None:
    said = isthmus("alert", "test", code=1)
    assert "there is no channel for alerts" in said
    with receiver() as hook, postman() as mail:
        env = {
            **MAIL,
            "ISTHMUS_ALERT_WEBHOOK_URL": hook.url,
            "ISTHMUS_SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
        }
        assert isthmus("alert", "test", **env) == "✓ webhook: test told\n✓ email: test told\n"
        sent = json.loads(isthmus("alert", "test", "--json", **env))
        assert [each["sent"] for each in sent] == [True, True]
        assert hook.events == ["test", "test"]
        assert mail.letters[0]["Subject"] == "[Isthmus] test: alerts arrive here"
        mail.refuses = ("you@example.com",)
        assert "email: test told (refused for you@example.com)" in isthmus("alert", "test", **env)


def test_an_unknown_sync_is_an_error(isthmus: Command) -> None:
    assert "nobody" in isthmus("alert", "list", "--sync", "nobody", code=1)


def test_the_settings_are_read() -> None:
    settings = Settings.load(
        {**MAIL, "ISTHMUS_ALERT_WEBHOOK_URL": "https://example.com/T0KEN/", "ISTHMUS_ALERT_WEBHOOK_SECRET": "hunter3"}
    )
    assert settings.alert_webhook_url == Secret("https://example.com/T0KEN/")
    assert settings.alert_email_to == ("me@example.com", "you@example.com")
    assert (settings.alert_email_from, settings.smtp_url) == (
        "isthmus@example.com",
        Secret("smtp://ann:hunter2@localhost:2525"),
    )
    assert not any(secret in repr(settings) for secret in ("hunter", "T0KEN"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALERT_WEBHOOK_URL", "hunter2"),
        ("ALERT_WEBHOOK_URL", "ftp://example.com/hunter2"),
        ("ALERT_WEBHOOK_URL", "https://exa mple.com/hunter2"),
        ("ALERT_WEBHOOK_URL", "https://example.com:99999/hunter2"),
        ("ALERT_EMAIL_TO", "me"),
        ("ALERT_EMAIL_TO", "me@example.com,"),
        ("ALERT_EMAIL_TO", "Me <me@example.com>"),
        ("ALERT_EMAIL_FROM", "a@b, c@d"),
        ("SMTP_URL", "mail.example.com:587"),
        ("SMTP_URL", "smtp://ann:hunter2@mail/path"),
        ("SMTP_URL", "http://ann:hunter2@mail"),
        ("SMTP_URL", "smtp://ann:hunter2@mail:port"),
    ],
)
def test_a_setting_that_is_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"ISTHMUS_{name}.* cannot be read") as caught:
        Settings.load({f"ISTHMUS_{name}": value})
    assert "hunter2" not in str(caught.value.as_dict())


@pytest.mark.parametrize("left_out", list(MAIL))
def test_half_a_channel_is_refused(left_out: str) -> None:
    with pytest.raises(InvalidInput, match=f"alerts by mail lack {left_out}"):
        Settings.load({name: value for name, value in MAIL.items() if name != left_out})
    with pytest.raises(InvalidInput, match=r"alerts by mail lack \w+ and "):
        Settings.load({left_out: MAIL[left_out]})
    with pytest.raises(InvalidInput, match="SECRET is set without"):
        Settings.load({"ISTHMUS_ALERT_WEBHOOK_SECRET": "hunter2"})


def test_what_cron_would_run_needs_nothing_but_the_home(isthmus: Command, past: Desk, home: Path) -> None:
    """Not even the store is opened: whatever is wrong with it, somebody is told."""
    isthmus("alert", "check", code=1)
    assert all(path.name.startswith("ledger.sqlite") for path in home.iterdir())

"""A person looks after connections on the command line. No secret is ever on it, or in what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_answers import Shell, runner
from typer.testing import Result

from isthmus.cli import secrets
from isthmus.cli.main import app
from isthmus.testing.builders import fresh_home
from isthmus.testing.standins import PostgresServer, free_ports


class Counter(Shell):
    """A home with a connection to a database, as a role of its own whose password is "old-one", and an export to it."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        super().__init__(folder, fresh_home(folder / "home"))
        self.server, self.database = server, server.fresh_database()
        self.role = f"isthmus_{self.database}"
        for statement in (
            f"CREATE ROLE {self.role} LOGIN SUPERUSER PASSWORD 'old-one'",
            "CREATE SCHEMA klaviyo_tmp",
            "CREATE SCHEMA klaviyo_import_from_dwh",
        ):
            server.execute(statement, database=self.database)
        self.put("old-one")

    def put(self, password: str) -> None:
        where = f"host: 127.0.0.1, port: {self.server.port}, database: {self.database}, username: {self.role}"
        text = (
            f"connections: [{{name: dwh, kind: postgres, {where}, password: {{env: SECRET}}}}]\n"
            "exports: [{name: everything, connection: dwh, schedule: manual}]\n"
        )
        self.run("apply", self.write("isthmus.yaml", text), env={"SECRET": password})

    def alter(self, how: str) -> None:
        self.server.execute(f"ALTER ROLE {self.role} {how}")


@pytest.fixture
def shell(tmp_path: Path, postgres_server: PostgresServer) -> Counter:
    return Counter(tmp_path, postgres_server)


def asked(
    shell: Counter, *words: str, typed: str | None = None, code: int = 0, env: dict[str, str] | None = None
) -> str:
    result: Result = runner.invoke(
        app, ["connection", *words, "--home", str(shell.home)], input=typed, env=env, catch_exceptions=False
    )
    assert result.exit_code == code, result.output + result.stderr
    return result.stdout + result.stderr


def test_a_connection_is_shown_with_its_state_and_all_but_its_secrets(shell: Counter) -> None:
    text = shell.run("connection", "show", "dwh")
    assert "dwh: postgres, enabled since" in text and "Never checked; repeated every night." in text
    assert "password: •••" in text and "everything" in text and "old-one" not in text
    found = shell.json("connection", "show", "dwh")
    assert (found["state"], found["reason"], found["checks"], found["secrets"]) == ("enabled", None, None, ["password"])
    assert [sync["name"] for sync in found["syncs"]] == ["everything"]
    assert "password" not in found["fields"]

    shell.run("connection", "check", "dwh")
    assert "Checked at" in shell.run("connection", "show", "dwh")
    found = shell.json("connection", "show", "dwh")
    assert found["checks"]["asked"] == "person" and all(a["passed"] for a in found["checks"]["answers"])


def test_why_it_is_unable_is_shown_in_the_warehouses_own_words(shell: Counter) -> None:
    shell.alter("PASSWORD 'new-one'")
    shell.run("connection", "check", "dwh", code=1)
    text = shell.run("connection", "show", "dwh")
    for words in (
        "unable to connect since",
        "PostgreSQL refused the password",
        "password authentication failed",
        "by the check “Can we sign in?”",
        "its syncs wait; one of them tries again at",
        "isthmus connection check dwh",
        "✗ Can we sign in?",
    ):
        assert words in text, words
    (listed,) = shell.json("connection", "list")
    assert listed["state"] == "unable to connect" and listed["since"] and listed["next_try_at"]
    assert "password authentication failed" in listed["reason"]["vendor"] and listed["reason"]["at"]
    assert "old-one" not in text + json.dumps(listed)
    assert "PostgreSQL refused the password" in shell.run("connection", "list")


def test_what_was_answered_is_listed_newest_first(shell: Counter) -> None:
    assert "Never asked" in shell.run("connection", "checks", "dwh")
    shell.run("connection", "check", "dwh")
    shell.alter("NOLOGIN")
    shell.run("connection", "check", "dwh", code=1)
    newest, oldest = shell.json("connection", "checks", "dwh")
    assert (newest["passed"], oldest["passed"], newest["asked"]) == (False, True, "person")
    assert newest["at"] > oldest["at"]
    assert len(shell.json("connection", "checks", "dwh", "--limit", "1")) == 1
    text = shell.run("connection", "checks", "dwh")
    assert "1 yes, 1 no" in text and "✗ Can we sign in?" in text and "✓" not in text, "only what is worth a look"


def test_a_new_password_from_the_environment_a_file_or_stdin(shell: Counter) -> None:
    shell.alter("PASSWORD 'second'")
    text = asked(shell, "edit", "dwh", "--secret", "password", "--from-env", "NEW", env={"NEW": "second"})
    assert "✓ Can we sign in?" in text and "Taken." in text and "second" not in text
    shell.alter("PASSWORD 'third'")
    file = shell.write("password", "third\n")
    found = json.loads(asked(shell, "edit", "dwh", "--secret", "password", "--from-file", file, "--json"))
    assert found["taken"] and all(a["passed"] for a in found["answers"])
    shell.alter("PASSWORD 'fourth'")
    asked(shell, "edit", "dwh", "--secret", "password", "--from-file", "-", typed="fourth\n")
    shell.run("connection", "check", "dwh")


def test_a_password_is_asked_for_where_there_is_a_terminal(shell: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    text = asked(shell, "edit", "dwh", "--secret", "password", code=1)
    assert "no terminal to ask for password" in text and "--from-env" in text

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(secrets.sys, "stdin", Terminal())
    prompts: list[dict[str, object]] = []

    def prompt(text: str, **how: object) -> str:
        prompts.append({"text": text, **how})
        return "typed"

    monkeypatch.setattr(secrets.typer, "prompt", prompt)
    (secret,) = secrets.given_secrets(["password"], None, None).values()
    assert secret.reveal() == "typed" and prompts[0]["hide_input"] is True


def test_a_wrong_password_is_not_taken(shell: Counter) -> None:
    words = ("edit", "dwh", "--secret", "password", "--from-env", "NEW")
    text = asked(shell, *words, code=1, env={"NEW": "mistyped"})
    assert "✗ Can we sign in?" in text and "Not taken: the old ones stay" in text and "mistyped" not in text
    shell.run("connection", "check", "dwh")
    text = asked(shell, *words, "--force", env={"NEW": "mistyped"})
    assert "Taken." in text
    assert shell.json("connection", "list")[0]["state"] == "unable to connect"


def test_another_place_is_only_taken_when_that_is_meant(shell: Counter) -> None:
    port = f"port={free_ports(1)[0]}"
    text = asked(shell, "edit", "dwh", "--set", port, code=1)
    assert "another place" in text and "--restart" in text
    asked(shell, "edit", "dwh", "--set", port, "--restart", code=1)  # nobody answers there
    assert shell.json("sync", "show", "everything")["generation"] == 1
    asked(shell, "edit", "dwh", "--set", port, "--restart", "--force")
    assert shell.json("sync", "show", "everything")["generation"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to change"),
        (("--set", "password=x"), "must not stand on a command line"),
        (("--secret", "password=x"), "must not stand on a command line"),
        (("--set", "username"), "FIELD=VALUE"),
        (("--set", "colour=blue"), "no field colour"),
        (("--secret", "username", "--from-env", "HOME"), "no secret field"),
        (("--secret", "password", "--from-env", "NOT_SET"), "NOT_SET is not set"),
        (("--secret", "password", "--from-file", "nowhere"), "cannot be read"),
        (("--secret", "password", "--from-file", "x", "--from-env", "Y"), "one secret"),
        (("--from-env", "HOME"), "one secret"),
    ],
)
def test_what_an_edit_does_not_understand_changes_nothing(shell: Counter, words: tuple[str, ...], said: str) -> None:
    before = shell.json("connection", "list")
    assert said in " ".join(asked(shell, "edit", "dwh", *words, code=1).split())
    assert shell.json("connection", "list") == before


def test_applying_a_file_with_a_new_password_opens_a_shut_connection(shell: Counter) -> None:
    shell.alter("PASSWORD 'new-one'")
    shell.run("connection", "check", "dwh", code=1)
    shell.put("old-one")
    assert shell.json("connection", "list")[0]["state"] == "unable to connect", "nothing is new about that"
    shell.put("new-one")
    assert shell.json("connection", "list")[0]["state"] == "enabled"


def test_a_removed_connection_is_shown_and_does_nothing(shell: Counter) -> None:
    shell.run("connection", "remove", "dwh")
    found = shell.json("connection", "show", "dwh")
    assert (found["state"], found["secrets"], found["syncs"][0]["state"]) == ("disabled", [], "disabled")
    for words in (("check", "dwh"), ("edit", "dwh", "--set", "username=x"), ("script", "dwh")):
        assert "was removed" in asked(shell, *words, code=1)

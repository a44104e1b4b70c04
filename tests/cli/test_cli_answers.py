"""The command line: exit codes, JSON from every command, and errors that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from isthmus.cli.main import app
from isthmus.ledger.database import open_ledger
from isthmus.testing.builders import fresh_home
from isthmus.testing.standins import PostgresServer, S3Server, free_ports

runner = CliRunner()


class Shell:
    """A home, and the command line on it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home

    def run(self, *words: str, code: int = 0, env: dict[str, str] | None = None, home: Path | None = None) -> str:
        result = runner.invoke(app, [*words, "--home", str(home or self.home)], env=env, catch_exceptions=False)
        assert result.exit_code == code, (words, result.output, result.stderr)
        assert "Traceback" not in result.output
        self.stderr = result.stderr
        return result.stdout

    def json(self, *words: str, **other: Any) -> Any:
        return json.loads(self.run(*words, "--json", **other), parse_constant=pytest.fail)

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A home with people, events, a rejection and one delivered export."""
    folder = tmp_path_factory.mktemp("shell")
    shell = Shell(folder, fresh_home(folder / "home"))
    lines = ["ExternalID,Email,Timestamp,Metric,$event_id,$value"]
    lines += [f"c{n},c{n}@example.com,2026-01-0{n + 1},Order,e{n},{n}" for n in range(5)]
    shell.run("load", "events", shell.write("events.csv", "\n".join([*lines, "c9,,never,Order,e9,1"]) + "\n"))
    shell.run("apply", shell.write("isthmus.yaml", APPLY))
    shell.run("sync", "run", "everything")
    return shell


APPLY = """
connections: [{name: dwh, kind: duckdb, path: ./dwh.duckdb}]
exports: [{name: everything, connection: dwh, schedule: manual}]
"""


def commands() -> dict[str, click.Command]:
    """Every command by its words."""
    found: dict[str, click.Command] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        if hasattr(command, "commands"):
            for name, each in command.commands.items():
                walk(each, (*words, name))
        else:
            found[" ".join(words)] = command

    walk(typer.main.get_command(app), ())
    return found


ARGUMENTS: dict[str, list[str]] = {
    "apply": ["{folder}/isthmus.yaml"],
    "connection check": ["dwh"],
    "connection script": ["dwh"],
    "connection show": ["dwh"],
    "connection checks": ["dwh"],
    "connection edit": ["spare", "--set", "temp_schema=tmp", "--force"],
    "connection remove": ["spare"],
    "load events": ["{folder}/events.csv"],
    "load profiles": ["{folder}/events.csv"],
    "preview": ["{folder}/events.csv", "--data", "events"],
    "person show": ["c1@example.com"],
    "person erase": ["c4"],
    "query": ["SELECT count(*) AS n FROM events"],
    "rejections export": ["{folder}/rejected.jsonl"],
    "run show": ["{run}"],
    "run cancel": ["{run}"],
    **{f"sync {verb}": ["everything"] for verb in ("show", "preview", "run", "verify", "repair")},
    "sync pause": ["everything"],
    "sync resume": ["everything"],
    "sync reactivate": ["spare"],
}
ELSEWHERE = {"alert test", "demo", "rejections replay", "serve", "worker", "console"}
"""Tested in files of their own."""


@pytest.mark.parametrize("name", sorted(set(commands()) - ELSEWHERE))
def test_every_command_answers_in_json(shell: Shell, name: str) -> None:
    if name in ("connection edit", "connection remove", "sync reactivate"):
        spare = APPLY.replace("everything", "spare").replace("dwh", "spare")
        shell.run("apply", shell.write("spare.yaml", spare))
    if name == "run cancel":
        found = shell.json(*name.split(), "nothing", code=1)
        assert set(found) == {"error", "summary", "hint", "code", "vendor", "retryable"}
        return
    run_id = shell.json("run", "list")[0]["run_id"]
    words = [w.format(folder=shell.folder, run=run_id) for w in ARGUMENTS.get(name, [])]
    assert shell.json(*name.split(), *words) is not None


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(set(commands()) - ELSEWHERE))
def test_every_command_answers_in_words(shell: Shell, name: str) -> None:
    if name in ("run cancel", "connection edit", "connection remove", "sync reactivate", "person erase"):
        return
    run_id = shell.json("run", "list")[0]["run_id"]
    words = [w.format(folder=shell.folder, run=run_id) for w in ARGUMENTS.get(name, [])]
    assert shell.run(*name.split(), *words).strip() or name == "sync resume"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_and_the_two_options(name: str) -> None:
    result = runner.invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    options = {o for p in commands()[name].params for o in p.opts}
    assert {"--home", "--json"} <= options


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["load"],
        ["load", "events"],
        ["sync", "run"],
        ["sync", "run", "everything", "--nothing"],
        ["query"],
        ["rejections", "list", "--limit", "0"],
        ["rejections", "list", "--limit", "many"],
        ["load", "events", "x.csv", "--delimiter", "ab"],
    ],
)
def test_bad_usage_ends_with_2(words: list[str]) -> None:
    assert runner.invoke(app, words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sync", "run", "everythin"], "everything"),
        (["sync", "show", "nothing"], "nothing"),
        (["connection", "check", "nothing"], "nothing"),
        (["run", "show", "nothing"], "nothing"),
        (["person", "show", "nobody@example.com"], "nobody@example.com"),
        (["person", "erase", "nobody@example.com", "--yes"], "nobody@example.com"),
        (["load", "events", "/nowhere/x.csv"], "/nowhere/x.csv"),
        (["load", "events", "{folder}/isthmus.yaml"], "isthmus.yaml"),
        (["load", "events", "{folder}/events.csv", "--mapping", "{folder}/events.csv"], "events.csv"),
        (["apply", "{folder}/nothing.yaml"], "nothing.yaml"),
        (["apply", "{folder}/events.csv"], "events.csv"),
        (["query", "DELETE FROM events"], "SELECT"),
        (["query", "SELECT * FROM nothing"], "nothing"),
        (["rejections", "export", "/nowhere/x.jsonl"], "/nowhere"),
    ],
)
def test_a_failure_ends_with_1_a_message_and_no_traceback(shell: Shell, words: list[str], said: str) -> None:
    words = [w.format(folder=shell.folder) for w in words]
    shell.run(*words, code=1)
    assert "Error:" in shell.stderr and said in shell.stderr
    if words[0] == "query":
        return  # opening a store twice more proves nothing new
    found = shell.json(*words, code=1)
    assert found["error"] and said in found["summary"] + found["hint"] + found["vendor"]


def test_a_difference_is_exit_code_1_and_repairing_it_0(shell: Shell) -> None:
    import duckdb

    with duckdb.connect(str(shell.folder / "dwh.duckdb")) as con:
        con.execute("DELETE FROM klaviyo_event")
    assert shell.json("sync", "verify", "everything", code=1)["equal"] is False
    assert shell.json("sync", "repair", "everything")["after"]["equal"] is True
    assert "Proven" in shell.run("sync", "verify", "everything")


def test_values_of_every_type_are_valid_json(shell: Shell) -> None:
    [row] = shell.json(
        "query",
        "SELECT DATE '2026-01-01' AS d, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS t, uuid() AS u, "
        "1.5::DECIMAL(9,2) AS n, [1, NULL] AS l, {'a': 1} AS s, MAP {'k': 'v'} AS m, 'nan'::DOUBLE AS nan, "
        "'inf'::FLOAT AS inf, INTERVAL 1 DAY AS i, '\\x00'::BLOB AS b, NULL AS nothing, TIME '01:02:03' AS c, "
        "2::HUGEINT ** 100 AS h, "
        "MAP {DATE '2026-01-01': 1} AS by_day",
    )
    assert (row["d"], row["l"], row["nothing"], row["nan"]) == ("2026-01-01", [1, None], None, "nan")
    assert row["by_day"] == {"2026-01-01": 1}


def test_control_characters_in_data_reach_no_terminal(shell: Shell) -> None:
    text = shell.run("query", r"SELECT chr(27) || '[31mred' AS a, '[bold]b[/bold]' AS b, ':smile:' AS c, '\[x]' AS d")
    assert "\x1b" not in text
    for shown in ("[bold]b[/bold]", ":smile:", r"\[x]"):
        assert shown in text


@pytest.mark.parametrize("name", ["ISTHMUS_HOEM", "ISTHMUS_MEMORY_MB", "ISTHMUS_DATABASE_URL"])
def test_a_setting_that_is_unknown_wrong_or_half_is_refused_first(shell: Shell, name: str) -> None:
    value = {"ISTHMUS_MEMORY_MB": "lots", "ISTHMUS_DATABASE_URL": "postgresql://u:hunter2@h/d"}.get(name, "x")
    shell.run("sync", "list", code=1, env={name: value})
    assert name in shell.stderr and "hunter2" not in shell.stderr


@pytest.mark.parametrize("command", ["sync list", "query SELECT_1", "load events {folder}/events.csv"])
def test_a_home_that_is_a_file_is_named(shell: Shell, tmp_path: Path, command: str) -> None:
    home = tmp_path / "home"
    home.write_text("")
    words = [w.format(folder=shell.folder).replace("_1", " 1") for w in command.split(" ")]
    shell.run(*words, code=1, home=home)
    assert "home" in shell.stderr


def test_a_store_of_a_newer_version_is_refused_by_every_door(shell: Shell, tmp_path: Path) -> None:
    from isthmus.store.lake import Lake
    from isthmus.store.place import Place

    home = fresh_home(tmp_path / "home")
    with Lake.open(Place(root=home)) as lake:
        lake.con.execute("INSERT INTO lake.store_version VALUES (99)")
    for words in (["load", "events", f"{shell.folder}/events.csv"], ["query", "SELECT 1"]):
        shell.run(*words, code=1, home=home)
        assert "version 99" in shell.stderr and "upgrade" in shell.stderr


def test_a_ledger_of_a_newer_version_is_refused(shell: Shell, tmp_path: Path) -> None:
    import sqlite3

    home = fresh_home(tmp_path / "home")
    open_ledger(home / "ledger.sqlite").close()
    with sqlite3.connect(home / "ledger.sqlite") as ledger:
        [(table,)] = ledger.execute("SELECT name FROM sqlite_master WHERE name LIKE '%version%' AND type = 'table'")
        ledger.execute(f"UPDATE {table} SET version_num = '9999'")
    ledger.close()
    shell.run("sync", "list", code=1, home=home)
    assert "newer" in shell.stderr


_HOLD = """
import sys, time
from pathlib import Path
from isthmus.store import lock
with lock.FileLock(Path(sys.argv[1]), 5).held():
    print("held", flush=True)
    time.sleep(120)
"""


def test_while_another_process_writes_reading_commands_answer_and_writing_ones_say_busy(shell: Shell) -> None:
    env = {"ISTHMUS_LOCK_TIMEOUT_S": "0"}
    more = shell.write("more.csv", "ExternalID,Timestamp,Metric\nc1,2026-02-01,Order\n")
    command = [sys.executable, "-c", _HOLD, str(shell.home / "store" / "writer.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        for words in (["sync", "list"], ["person", "show", "c1"], ["rejections", "list"], ["query", "FROM metrics"]):
            shell.run(*words, env=env)
        shell.run("load", "events", more, code=1, env=env)
        assert "locked" in shell.stderr and "try again" in shell.stderr
        other.kill()
    assert "landed" in shell.run("load", "events", more, env=env)


@pytest.mark.parametrize("wrong", ["password", "host", "port", "database"])
def test_a_database_that_does_not_let_us_in_is_named_without_its_password(
    shell: Shell, tmp_path: Path, postgres_server: PostgresServer, s3: S3Server, wrong: str
) -> None:
    right = {
        "password": postgres_server.password,
        "host": postgres_server.host,
        "port": str(postgres_server.port),
        "database": "postgres",
    }
    bad = {"password": "hunter2", "host": "nowhere.invalid", "port": str(free_ports(1)[0]), "database": "nothing"}
    p = right | {wrong: bad[wrong]}
    env = {
        "ISTHMUS_DATABASE_URL": f"postgresql://{postgres_server.username}:{p['password']}@{p['host']}:{p['port']}/{p['database']}",
        "ISTHMUS_STORAGE_URL": f"s3://{s3.bucket}/cli",
        "ISTHMUS_S3_ENDPOINT": s3.endpoint,
        "ISTHMUS_S3_ACCESS_KEY_ID": s3.access_key_id,
        "ISTHMUS_S3_SECRET_ACCESS_KEY": s3.secret_access_key,
    }
    for words in (["sync", "list"], ["query", "SELECT 1"]):
        shell.run(*words, code=1, env=env, home=tmp_path / "home")
        assert "ISTHMUS_DATABASE_URL" in shell.stderr
        assert p["password"] not in shell.stderr


@pytest.mark.parametrize("wrong", ["password", "port"])
def test_a_warehouse_that_does_not_let_us_in_fails_the_run_and_the_check(
    shell: Shell, tmp_path: Path, postgres_server: PostgresServer, wrong: str
) -> None:
    port = free_ports(1)[0] if wrong == "port" else postgres_server.port
    own = Shell(tmp_path, fresh_home(tmp_path / "home"))
    own.run(
        "apply",
        own.write(
            "isthmus.yaml",
            f"connections: [{{name: dwh, kind: postgres, host: 127.0.0.1, port: {port}, database: postgres, "
            f"username: {postgres_server.username}, password: {{env: SECRET}}}}]\n"
            "exports: [{name: everything, connection: dwh, schedule: manual}]",
        ),
        env={"SECRET": "hunter2"},
    )
    for words in (["sync", "run", "everything"], ["connection", "check", "dwh"]):
        text = own.run(*words, code=1) + own.stderr
        assert "hunter2" not in text
        assert ("password" if wrong == "password" else "host") in text
    assert own.json("connection", "list")[0]["state"] == "unable to connect"
    for words in (["sync", "list"], ["sync", "show", "everything"]):
        listed = own.run(*words)
        assert ("Error (retrying at" in listed) == (wrong == "port")
        assert ("No worker is at work" in listed) == (wrong == "port"), "and nobody is there to do so"
    own.run("sync", "run", "everything", code=1)
    said = " ".join(own.stderr.split())
    assert "when that is mended: isthmus connection check dwh" in said
    assert "run it again" not in said, "it is known by now that nobody gets in: there is no second try"
    own.json("sync", "run", "everything", code=1)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 6 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here, so a full disk is NOT tested: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_with_1_keeps_what_was_there_and_goes_on_when_there_is_room(
    shell: Shell, tmp_path: Path, tiny_disk: Path
) -> None:
    own = Shell(tmp_path, fresh_home(tiny_disk / "home"))
    head = "ExternalID,Timestamp,Metric,$event_id,note\n"
    own.run("load", "events", own.write("few.csv", head + "c1,2026-01-01,Order,e1,\n"))
    noise = "".join(
        f"c{n % 7},2026-01-02,Order,n{n},{os.urandom(300).hex()}\n" for n in range(20_000)
    )  # about 6 MB when compressed
    many = own.write("many.csv", head + noise)
    own.run("load", "events", many, code=1)
    assert "disk is full" in own.stderr or "no space" in own.stderr.lower()
    assert own.json("load", "events", many, code=1)["error"] == "StoreFull"
    assert own.json("query", "SELECT count(*) AS n FROM events") == [{"n": 1}]
    subprocess.run(["mount", "-o", "remount,size=60m", str(tiny_disk)], check=True)
    assert own.json("load", "events", many)["landed"] == 20_000
    assert own.json("query", "SELECT count(*) AS n FROM events") == [{"n": 20_001}]


def test_a_folder_that_may_not_be_read_is_named(shell: Shell, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        home = tmp_path / "home"
        home.mkdir(mode=0o000)
        shell.run("sync", "list", code=1, home=home)
        assert str(home) in shell.stderr.replace("\n", "")
        return
    home = fresh_home(tmp_path / "home")
    os.chmod(home, 0o700)
    code = (
        "import sys; from isthmus.cli.main import main; "
        "sys.argv = ['isthmus', 'query', 'SELECT 1', '--home', sys.argv[1]]; main()"
    )
    os.chmod(tmp_path, 0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(home)], user="nobody", cwd="/", capture_output=True, text=True, check=False
        )
    except PermissionError:
        pytest.skip("this interpreter cannot be run as another user, so an unreadable home is NOT tested")
    if "isthmus-home" not in done.stderr and "Error:" not in done.stderr:
        pytest.skip(f"this interpreter cannot be run as another user: {done.stderr[-300:]}")
    assert done.returncode == 1
    assert "home" in done.stderr and "Traceback" not in done.stderr

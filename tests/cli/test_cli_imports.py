"""An import by the commands: applied, run, its bad rows mended by a better mapping and replayed."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from isthmus.cli.main import app
from isthmus.testing.builders import fresh_home

FILE = """
connections:
  - {{name: dwh, kind: duckdb, path: ./dwh.duckdb}}
imports:
  - name: pos
    connection: dwh
    data: events
    relation: orders
    schedule: manual
    mapping:
      event_time: bought_at
      metric: {{constant: Placed Order}}
      identifiers: {identifiers}
      changed_at: loaded_at
      unique_id: order_id
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with closing(duckdb.connect(str(tmp_path / "dwh.duckdb"))) as con:
        con.execute('CREATE SCHEMA "KLAVIYO_IMPORT_FROM_DWH"')
        con.execute(
            'CREATE TABLE "KLAVIYO_IMPORT_FROM_DWH".orders AS SELECT * FROM (VALUES '
            "('o1', 'ann@example.com', 'c1', TIMESTAMPTZ '2026-01-01 10:00:00+00', TIMESTAMPTZ '2026-02-01'), "
            "('o2', 'no mail', 'c2', TIMESTAMPTZ '2026-01-02 10:00:00+00', TIMESTAMPTZ '2026-02-01')) "
            "t(order_id, mail, customer_id, bought_at, loaded_at)"
        )
    return fresh_home(tmp_path / "home")


def call(home: Path, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--home", str(home), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_row_that_was_rejected_lands_when_the_mapping_is_mended(home: Path) -> None:
    file = home.parent / "isthmus.yaml"
    file.write_text(FILE.format(identifiers="{email: mail}"))
    assert [d["change"] for d in call(home, "apply", str(file))] == ["created", "created"]
    run = call(home, "sync", "run", "pos")["run"]
    assert (run["status"], run["counts"]["landed"], run["counts"]["rejected"]) == ("Completed", 1, 1)
    (rejection,) = call(home, "rejections", "list", "--sync", "pos")
    assert (rejection["column"], rejection["reason"]) == ("mail", "bad email")
    assert call(home, "rejections", "replay", "--sync", "pos")["rejected"] == 1, "nothing was mended yet"
    file.write_text(FILE.format(identifiers="{external_id: customer_id}"))
    call(home, "apply", str(file))
    counts = call(home, "rejections", "replay", "--sync", "pos")
    assert (counts["read"], counts["landed"], counts["rejected"]) == (1, 1, 0)
    assert call(home, "rejections", "list", "--sync", "pos") == []
    shown = call(home, "sync", "show", "pos")
    assert (shown["direction"], shown["data"], shown["relation"]) == ("import", "events", "orders")
    assert call(home, "sync", "run", "pos")["changed"] is False


def test_a_person_reads_of_an_import_what_an_import_does(home: Path) -> None:
    def told(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--home", str(home)])
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    file = home.parent / "isthmus.yaml"
    file.write_text(FILE.format(identifiers="{external_id: customer_id}"))
    told("apply", str(file))
    assert "pos dwh – manual" in told("sync", "list"), "nobody has asked for a run: it is not scheduled"
    assert "status –" in told("sync", "show", "pos")
    assert call(home, "sync", "show", "pos")["status"] is None
    assert "pos: 2 rows read in a" in told("sync", "run", "pos")
    assert "nothing had changed, and no row was read" in told("sync", "run", "pos")
    listed = told("sync", "list")
    assert "Completed" in listed and "No worker" not in listed


@pytest.mark.parametrize("words", [["--sync", "pos", "--file", "a.csv"], [], ["--file", "a.csv"]])
def test_a_replay_is_of_an_import_or_of_a_file_with_its_mapping(home: Path, words: list[str]) -> None:
    result = CliRunner().invoke(app, ["rejections", "replay", *words, "--home", str(home)])
    assert result.exit_code == 2

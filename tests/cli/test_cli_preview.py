"""Somebody looks before anything is saved, at a terminal or with --json."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from typer.testing import CliRunner, Result

from isthmus.cli import common
from isthmus.cli.main import app
from isthmus.testing.builders import fresh_home

ORDERS = """
connections:
  - {name: dwh, kind: duckdb, path: ./dwh.duckdb}
imports:
  - name: pos
    connection: dwh
    data: events
    relation: orders
    schedule: manual
"""
MAPPING = """
    mapping:
      event_time: bought_at
      metric: {constant: Placed Order}
      identifiers: {email: mail, external_id: customer_id}
      changed_at: loaded_at
      unique_id: order_id
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with closing(duckdb.connect(str(tmp_path / "dwh.duckdb"))) as con:
        con.execute('CREATE SCHEMA "KLAVIYO_IMPORT_FROM_DWH"')
        con.execute(
            "CREATE TABLE \"KLAVIYO_IMPORT_FROM_DWH\".orders AS SELECT 'o' || i AS order_id, "
            "CASE WHEN i = 1 THEN '[b]no mail' ELSE 'p' || i || '@example.com' END AS mail, 'c' || i AS customer_id, "
            "TIMESTAMPTZ '2026-01-01 10:00:00+00' AS bought_at, TIMESTAMPTZ '2026-02-01 00:00:00+00' AS loaded_at, "
            "repeat('long ', 50) AS note, 'Köln' AS address___city FROM range(30) t(i)"
        )
    return fresh_home(tmp_path / "home")


def call(home: Path, *words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*words, "--home", str(home)])
    assert result.exit_code == code, result.output
    return result


def asked(home: Path, *words: str) -> Any:
    return json.loads(call(home, *words, "--json").stdout)


def file_of(home: Path, text: str) -> str:
    file = home.parent / "isthmus.yaml"
    file.write_text(text)
    return str(file)


def written(home: Path) -> list[Any]:
    """What is in the home and beside it, byte by byte, and the rows of the ledger."""
    files = [p for p in home.parent.rglob("*") if p.is_file() and p.suffix in (".parquet", ".duckdb", ".key")]
    with closing(sqlite3.connect(home / "ledger.sqlite")) as con:
        tables = [name for (name,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        rows = {table: con.execute(f'SELECT * FROM "{table}"').fetchall() for table in tables}
    seq = asked(home, "query", "SELECT max(seq) AS seq FROM profiles")
    return [sorted((str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files), rows, seq]


def test_a_file_is_previewed_and_nothing_is_written(home: Path) -> None:
    file = file_of(home, ORDERS + MAPPING)
    call(home, "apply", file)
    call(home, "sync", "run", "pos")
    before = written(home)
    (found,) = asked(home, "preview", file, "--limit", "2")
    assert asked(home, "sync", "preview", "pos", "--limit", "2") == found
    assert written(home) == before
    assert (found["counts"]["read"], found["counts"]["repeated"], found["counts"]["rejected"]) == (30, 29, 1)
    (rejection,) = found["rejections"]
    assert {k: rejection[k] for k in ("row", "column", "reason", "value")} == {
        **{"row": 2, "column": "mail", "reason": "bad email", "value": "[b]no mail"}
    }
    assert [r["properties"]["note"] for r in found["rows"]] == ["long " * 50] * 2, "nothing is shortened"
    assert found["rows"][0]["properties"]["address"] == {"city": "Köln"}
    assert {c["name"]: c["uses"][0]["name"] for c in found["columns"]}["mail"] == "email"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_text_fits_the_terminal(home: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(common.out, "width", width)
    text = call(home, "preview", file_of(home, ORDERS + MAPPING), "--limit", "2").stdout
    tables = text.split("as they would land:")[1]
    assert max(len(line) for line in tables.splitlines()) <= width
    assert "identifier email" in text and "nested property address.city" in text
    assert "29 would land, 1 would be rejected (bad email 1)" in text
    assert "[b]no mail" in text and "…" in text


def test_a_guess_is_printed_ready_to_paste(home: Path) -> None:
    text = call(home, "preview", file_of(home, ORDERS), "--metric", "Placed Order").stdout
    pasted = ORDERS + text.split("pasted:")[1]
    assert yaml.safe_load(pasted)["imports"][0]["mapping"]["event_time"] == "bought_at"
    call(home, "apply", file_of(home, pasted))
    assert asked(home, "sync", "run", "pos")["run"]["counts"]["landed"] == 29


def test_apply_does_not_guess_and_says_who_does(home: Path) -> None:
    file = file_of(home, ORDERS)
    result = call(home, "apply", file, code=1)
    assert "the import 'pos' has no mapping" in result.stderr
    assert f"isthmus preview {file}" in result.stderr
    assert asked(home, "sync", "list") == []


def test_rows_that_are_all_rejected_and_none_at_all_are_told(home: Path) -> None:
    bad = MAPPING.replace("{email: mail, external_id: customer_id}", "{email: order_id}")
    text = call(home, "preview", file_of(home, ORDERS + bad)).stdout
    assert "0 would land, 30 would be rejected (bad email 30)" in text and "as they would land" not in text
    with closing(duckdb.connect(str(home.parent / "dwh.duckdb"))) as con:
        con.execute('DELETE FROM "KLAVIYO_IMPORT_FROM_DWH".orders')
    assert "There are no rows." in call(home, "preview", file_of(home, ORDERS + MAPPING)).stdout


def test_a_file_of_rows_is_previewed_as_it_would_be_loaded(home: Path) -> None:
    file = home.parent / "people.csv"
    file.write_text("ExternalID,Email,Tier\n1,ann@example.com,gold\n2,no mail,\n")
    (found,) = asked(home, "preview", str(file), "--data", "profiles")
    assert (found["counts"]["landed"], found["counts"]["rejected"]) == (1, 1)
    assert found["mapping"] == {"identifiers": {"external_id": "ExternalID", "email": "Email"}}
    assert (found["rejections"][0]["row"], found["rejections"][0]["value"]) == (3, "no mail")
    assert asked(home, "load", "profiles", str(file))["landed"] == 1
    mapping = home.parent / "mapping.yaml"
    mapping.write_text("identifiers: {external_id: ExternalID}")
    (found,) = asked(home, "preview", str(file), "--data", "profiles", "--mapping", str(mapping))
    assert found["counts"]["landed"] == 2


@pytest.mark.parametrize(
    "words",
    [["rows.csv"], ["a.yaml", "--mapping", "m.yaml"], ["a.csv", "--data", "both"], ["a.csv", "--data", "events"]],
)
def test_options_that_do_not_go_together_are_bad_usage(home: Path, words: list[str]) -> None:
    more = ["--import", "x"] if words[-1] == "events" else []
    call(home, "preview", *words, *more, code=2)


def test_an_export_is_previewed_as_before(home: Path) -> None:
    call(home, "apply", file_of(home, ORDERS.split("imports:")[0] + "exports: [{name: out, connection: dwh}]"))
    assert [t["rows"] for t in asked(home, "sync", "preview", "out")] == [0, 0, 0]

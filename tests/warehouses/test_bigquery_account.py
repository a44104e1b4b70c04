"""BigQuery's accounts: the set-up script, the checks, keys, and what a person is told."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from bigquery_cast import described, emptied, made
from warehouses_cast import PEOPLE, refused, require_as_read, warnings

from isthmus.model.errors import Denied, WarehouseError
from isthmus.model.table import SEQ, Column, Table, Type
from isthmus.model.tables import ALL
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import BigQueryServer
from isthmus.warehouses import bigquery_session
from isthmus.warehouses.bigquery import BigQueryConfig
from isthmus.warehouses.protocol import Direction, Relation

SURPLUS = "Are there rights it does not need?"


@pytest.fixture(scope="module")
def place(bigquery_server: BigQueryServer) -> BigQueryConfig:
    return made(bigquery_server)


@pytest.fixture
def config(place: BigQueryConfig, bigquery_server: BigQueryServer) -> BigQueryConfig:
    return emptied(place, bigquery_server)


def account(config: BigQueryConfig) -> str:
    return bigquery_session.email(config.service_account_key)


def obey(server: BigQueryServer, statement: str) -> None:
    """What a person does with a statement of ours: a command goes to a shell, SQL to the console."""
    if statement.startswith("gcloud"):
        server.run(statement)
    else:
        server.execute(statement)


# The set-up script


@pytest.mark.parametrize("direction", Direction)
def test_the_script_is_as_it_was_read_last(direction: Direction) -> None:
    key = Secret(json.dumps({"client_email": "isthmus@my-shop-123456.iam.gserviceaccount.com"}))
    config = BigQueryConfig("my-shop-123456", "klaviyo", key, location="EU")
    script = config.setup_script(ALL, direction=direction, egress=["192.0.2.7", "198.51.100.0/24"])
    require_as_read(script, f"bigquery_{direction}.sh")


@pytest.mark.parametrize("direction", Direction)
def test_bash_and_a_parser_of_bigquerys_sql_take_the_script(direction: Direction) -> None:
    config = BigQueryConfig("my-shop-123456", "it_s", Secret(""), location="EU")
    script = config.setup_script(ALL, direction=direction, egress=["192.0.2.7"])
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (statements,) = re.findall(r"<<'SQL'\n(.*)^SQL$", script, re.M | re.S)
    kinds = [type(s).__name__ for s in sqlglot.parse(statements, read="bigquery") if s is not None]
    assert kinds.count("Create") >= 3 and kinds.count("Grant") >= 2
    assert "Command" not in kinds


def test_the_script_makes_tables_that_are_loaded_and_widened(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    config = described(bigquery_server)
    for _ in range(2):
        bigquery_server.run(config.setup_script([PEOPLE]))
    assert [c for c in config.check() if not c.passed or c.warns] == []
    with closing(config.open()) as warehouse:
        warehouse.create(Table("people", (*PEOPLE.columns, Column("born", Type.TIMESTAMP)), PEOPLE.key))
        for seq in (1, 2):
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "Ann", SEQ: seq}]))
    assert bigquery_server.execute(f"SELECT id, name, born FROM `{config.dataset}.people`") == [("1", "Ann", None)]


def test_a_script_to_import_gives_no_right_to_load(bigquery_server: BigQueryServer) -> None:
    config = described(bigquery_server)
    bigquery_server.run(config.setup_script([PEOPLE], direction=Direction.IMPORT))
    with closing(config.open()) as warehouse:
        assert list(warehouse.relations()) == []
        with pytest.raises(Denied):
            warehouse.create(PEOPLE)


def test_a_script_to_export_gives_no_right_to_read(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    config = described(bigquery_server)
    bigquery_server.run(config.setup_script([PEOPLE], direction=Direction.EXPORT))
    bigquery_server.execute(f"CREATE TABLE `{config.import_dataset}.orders` (n INT64)")
    with closing(config.open()) as warehouse:
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))
        with pytest.raises(Denied):
            list(warehouse.relations())
        with pytest.raises(Denied):
            warehouse.count(Relation(config.import_dataset, "orders"))


def test_the_account_of_the_script_may_do_no_more_than_it_must(
    config: BigQueryConfig, bigquery_server: BigQueryServer
) -> None:
    other = described(bigquery_server)
    bigquery_server.execute(f"CREATE SCHEMA `{other.dataset}`")
    bigquery_server.execute(f"CREATE TABLE `{other.dataset}.salaries` (n INT64)")
    bigquery_server.execute(f"CREATE TABLE `{config.import_dataset}.orders` AS SELECT 1 AS n")
    bigquery_server.execute(
        f"CREATE VIEW `{config.import_dataset}.big` AS SELECT * FROM `{config.import_dataset}.orders` WHERE n > 100"
    )
    with closing(config.open()) as warehouse:
        assert [(r.name, r.kind) for r in warehouse.relations()] == [("big", "view"), ("orders", "table")]
        with pytest.raises(WarehouseError, match=r"right|role|not"):
            warehouse.count(Relation(other.dataset, "salaries"))
        for statement in (
            f"DELETE FROM `{config.import_dataset}`.`orders` WHERE TRUE",
            f"DROP TABLE `{config.import_dataset}`.`orders`",
            "CREATE SCHEMA more",
        ):
            with pytest.raises(Denied):
                warehouse._execute(statement)


# Checks

GRANTS = [
    ("roles/bigquery.jobUser", "project_id"),
    ("roles/bigquery.readSessionUser", "project_id"),
    ("roles/bigquery.dataEditor", "dataset"),
    ("roles/bigquery.dataViewer", "import_dataset"),
    ("roles/bigquery.dataEditor", "temp_dataset"),
]


@pytest.mark.parametrize(("role", "where"), GRANTS)
def test_the_statement_of_a_no_makes_it_a_yes(
    config: BigQueryConfig, bigquery_server: BigQueryServer, role: str, where: str
) -> None:
    name = getattr(config, where)
    bigquery_server.access.revoke(role, name, account(config))
    no, *others = refused(config)
    assert no.detail and no.hint
    assert role in no.statement and name in no.statement
    assert all(role in other.statement for other in others), "one right is missing, and only that one is asked for"
    obey(bigquery_server, no.statement)
    assert refused(config) == []


def test_every_grant_of_the_script_was_revoked_in_turn(config: BigQueryConfig, bigquery_server: BigQueryServer) -> None:
    given = {(role, getattr(config, where)) for role, where in GRANTS}
    assert bigquery_server.access.roles(account(config)) == given


def test_a_dataset_that_is_not_there_is_told_with_what_makes_it(bigquery_server: BigQueryServer) -> None:
    config = made(bigquery_server)
    bigquery_server.execute(f"DROP SCHEMA `{config.temp_dataset}` CASCADE")
    no = refused(config)[0]
    assert no.question == "Are the datasets there?"
    assert config.temp_dataset in no.detail and no.statement.startswith("CREATE SCHEMA")
    bigquery_server.execute(no.statement)
    assert refused(config) == []


def test_rights_it_does_not_need_are_named_with_what_takes_them(
    config: BigQueryConfig, bigquery_server: BigQueryServer
) -> None:
    bigquery_server.access.grant("roles/bigquery.dataEditor", config.import_dataset, account(config))
    warning = warnings(config)[SURPLUS]
    assert config.import_dataset in warning.detail
    obey(bigquery_server, warning.statement)
    bigquery_server.access.grant("roles/bigquery.user", config.project_id, account(config))
    warning = warnings(config)[SURPLUS]
    assert config.import_dataset not in warning.detail
    assert "make datasets" in warning.detail and "see other datasets" in warning.detail
    obey(bigquery_server, warning.statement)
    assert SURPLUS not in warnings(config)


def test_the_checks_leave_nothing(config: BigQueryConfig, bigquery_server: BigQueryServer) -> None:
    assert refused(config) == []
    with closing(bigquery_server.client()) as client:
        for dataset in (config.dataset, config.import_dataset, config.temp_dataset):
            assert list(client.list_tables(dataset)) == []


# Keys


def test_a_key_is_rotated_without_a_gap(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    first = made(bigquery_server)
    content = json.loads(first.service_account_key.reveal())
    second_key = bigquery_server.access.new_key(account(first).partition("@")[0])
    second = replace(first, service_account_key=Secret(json.dumps(second_key)))
    with closing(first.open()) as warehouse:
        warehouse.create(PEOPLE)
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))
        bigquery_server.access.revoke_key(content["private_key_id"])
        with pytest.raises(Denied):
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "2", SEQ: 2}]))
    with pytest.raises(Denied) as caught:
        first.open()
    assert "key" in caught.value.summary and "gcloud iam service-accounts keys create" in caught.value.hint
    assert "PRIVATE KEY" not in repr(caught.value.as_dict())
    with closing(second.open()) as warehouse:
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "3", SEQ: 3}]))
    assert bigquery_server.execute(f"SELECT id FROM `{first.dataset}.people` ORDER BY id") == [("1",), ("3",)]


def test_a_token_that_ran_out_is_renewed_without_a_word(
    config: BigQueryConfig, bigquery_server: BigQueryServer, tmp_path: Path
) -> None:
    with closing(config.open()) as warehouse:
        warehouse.create(PEOPLE)
        bigquery_server.access.expire(account(config))
        assert not warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}])).repeated


@pytest.mark.parametrize(
    "key",
    ["not json", "[]", "{}", '{"type": "authorized_user"}', '{"type": "service_account", "client_email": "a@b"}'],
)
def test_what_is_no_key_file_is_refused_before_anything_is_asked(config: BigQueryConfig, key: str) -> None:
    with pytest.raises(Denied) as caught:
        replace(config, service_account_key=Secret(key)).open()
    assert caught.value.hint

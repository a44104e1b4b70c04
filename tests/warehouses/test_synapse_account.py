"""Synapse's logins and tokens: the set-up script, the checks, rotation, and what a person is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from synapse_cast import PASSWORD, described, made, run
from warehouses_cast import PEOPLE, refused, require_as_read, warnings

from isthmus.model.errors import Denied, Missing, WarehouseError
from isthmus.model.table import SEQ, Column, Table, Type
from isthmus.model.tables import ALL
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import SynapseServer
from isthmus.warehouses.protocol import Direction, Relation
from isthmus.warehouses.synapse import SynapseConfig

SURPLUS = "Are there rights it does not need?"


@pytest.fixture
def config(synapse_server: SynapseServer) -> Iterator[SynapseConfig]:
    config = made(synapse_server)
    synapse_server.execute(f"ALTER DATABASE [{config.database}] SET READ_COMMITTED_SNAPSHOT ON")
    yield config
    synapse_server.drop_database(config.database)


@pytest.fixture
def bare(synapse_server: SynapseServer) -> Iterator[SynapseConfig]:
    """A pool in which no script was run."""
    config = described(synapse_server)
    yield config
    synapse_server.drop_database(config.database)


# The set-up script


@pytest.mark.parametrize("direction", Direction)
def test_the_script_is_as_it_was_read_last(direction: Direction) -> None:
    config = SynapseConfig(
        "contoso-analytics", "dwh", "isthmus", Secret(""), "contosostaging", "isthmus", Secret(""), "klaviyo"
    )
    script = config.setup_script(ALL, direction=direction, egress=["192.0.2.7", "198.51.100.0/24", "2001:db8::/64"])
    require_as_read(script, f"synapse_{direction}.sql")


@pytest.mark.parametrize("direction", Direction)
def test_a_parser_of_t_sql_takes_the_script(direction: Direction) -> None:
    config = SynapseConfig("w", "d", "it's", Secret(""), "a", "c", Secret(""), "two words")
    script = config.setup_script(ALL, direction=direction, egress=["192.0.2.7"])
    batches = [b for b in re.split(r"^GO$", script, flags=re.M) if re.sub(r"--.*", "", b).strip()]
    assert len(batches) >= 8
    for batch in batches:
        assert sqlglot.parse(batch, read="tsql")
    # What stands in texts is SQL as well.
    for inner in re.findall(r"EXEC \(N'((?:[^']|'')*)'\)", script):
        assert sqlglot.parse_one(inner.replace("''", "'"), read="tsql")


def test_the_script_run_twice_makes_tables_that_are_loaded_and_widened(
    bare: SynapseConfig, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    for _ in range(2):
        run(synapse_server, bare, bare.setup_script([PEOPLE]))
    assert refused(bare) == []
    with closing(bare.open()) as warehouse:
        warehouse.create(Table("people", (*PEOPLE.columns, Column("born", Type.TIMESTAMP)), PEOPLE.key))
        for seq in (1, 2):
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "Ann", SEQ: seq}]))
    rows = synapse_server.execute("SELECT id, name, born FROM klaviyo.people", database=bare.database)
    assert rows == [("1", "Ann", None)]


def test_a_script_to_import_gives_no_right_to_load(bare: SynapseConfig, synapse_server: SynapseServer) -> None:
    run(synapse_server, bare, bare.setup_script([PEOPLE], direction=Direction.IMPORT))
    with closing(bare.open()) as warehouse:
        assert list(warehouse.relations()) == []
        with pytest.raises((Denied, Missing)):
            warehouse.create(PEOPLE)


def test_a_script_to_export_gives_no_right_to_read(
    bare: SynapseConfig, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    run(synapse_server, bare, bare.setup_script([PEOPLE], direction=Direction.EXPORT))
    exposed(synapse_server, bare, "CREATE TABLE {}.orders (n INT)")
    with closing(bare.open()) as warehouse:
        assert list(warehouse.relations()) == []
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))
        with pytest.raises((Denied, Missing)):
            warehouse.count(Relation(bare.import_schema, "orders"))


def exposed(server: SynapseServer, config: SynapseConfig, statement: str) -> None:
    server.execute(statement.format(config.import_schema), database=config.database)


def test_the_login_of_the_script_may_do_no_more_than_it_must(
    config: SynapseConfig, synapse_server: SynapseServer
) -> None:
    synapse_server.execute("CREATE SCHEMA private", database=config.database)
    synapse_server.execute("CREATE TABLE private.salaries (n INT)", database=config.database)
    exposed(synapse_server, config, "CREATE TABLE {}.orders (n INT)")
    with closing(config.open()) as warehouse:
        assert [r.name for r in warehouse.relations()] == ["orders"]
        with pytest.raises(WarehouseError):
            warehouse.count(Relation("private", "salaries"))
        for statement in (
            f"DELETE FROM {config.import_schema}.orders WHERE n = 1",
            f"DROP TABLE {config.import_schema}.orders",
            "CREATE SCHEMA more",
        ):
            with pytest.raises((Denied, Missing)):
                warehouse._execute(statement)


# Checks

GRANTS = [
    *((right, "schema") for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "ALTER")),
    *((right, "temp_schema") for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "ALTER")),
    ("SELECT", "import_schema"),
    ("ADMINISTER DATABASE BULK OPERATIONS", ""),
    ("CREATE TABLE", ""),
]


@pytest.mark.parametrize(("right", "where"), GRANTS)
def test_the_statement_of_a_no_makes_it_a_yes(
    config: SynapseConfig, synapse_server: SynapseServer, right: str, where: str
) -> None:
    assert refused(config) == []
    on = f" ON SCHEMA::[{getattr(config, where)}]" if where else ""
    synapse_server.execute(f"REVOKE {right}{on} FROM [{config.username}_role]", database=config.database)
    no, *others = refused(config)
    assert no.detail or no.hint
    assert no.statement == f"GRANT {right}{on} TO [{config.username}];"
    assert all(other.statement == no.statement for other in others), "only what is missing is asked for"
    synapse_server.execute(no.statement, database=config.database)
    assert refused(config) == []


def test_every_grant_of_the_script_was_revoked_in_turn() -> None:
    config = SynapseConfig("w", "d", "u", Secret(""), "a", "c", Secret(""))
    found = re.findall(r"^GRANT (.+?)(?: ON SCHEMA::\[(\w+)\])? TO", config.setup_script([]), re.M)
    given = {(right, schema) for rights, schema in found for right in rights.split(", ")}
    assert given == {(right, getattr(config, where) if where else "") for right, where in GRANTS}


def test_a_schema_that_is_not_there_is_told_with_what_makes_it(
    bare: SynapseConfig, synapse_server: SynapseServer
) -> None:
    script = bare.setup_script([]).replace(bare.temp_schema, "elsewhere")
    run(synapse_server, bare, script)
    no = refused(bare)[0]
    assert no.question == "Are the schemas there?" and bare.temp_schema in no.detail
    synapse_server.execute(no.statement, database=bare.database)
    assert refused(bare)[0].question != "Are the schemas there?"


@pytest.mark.parametrize("owns", [False, True], ids=["our user", "an owner, who has every right"])
def test_without_the_temporary_schema_nothing_else_is_blamed(
    config: SynapseConfig, synapse_server: SynapseServer, owns: bool
) -> None:
    signing_in = {"username": synapse_server.username, "password": Secret(synapse_server.password)} if owns else {}
    found = refused(replace(config, temp_schema="not made yet", **signing_in))
    assert len(found) == 3
    assert all("CREATE SCHEMA [not made yet]" in no.statement for no in found)


@pytest.mark.parametrize("letter", list("rcwdl"))
def test_a_token_that_lacks_one_right_is_told_with_the_command_that_makes_a_whole_one(
    config: SynapseConfig, synapse_server: SynapseServer, letter: str
) -> None:
    rights = "rcwdl".replace(letter, "")
    poor = replace(config, sas_token=Secret(synapse_server.blobs.sas(config.container, rights)))
    found = refused(poor)
    # Who may write may create: of these two, Azure asks for one.
    assert bool(found) == (letter != "c")
    for no in found:
        assert "generate-sas" in no.statement and "--permissions rcwdl" in no.statement
        assert "sig=" not in repr(no)


def test_a_token_that_ends_soon_is_a_warning_and_one_that_ended_a_no(
    config: SynapseConfig, synapse_server: SynapseServer
) -> None:
    question = "Does the SAS token last?"
    assert question not in warnings(config)
    soon = replace(config, sas_token=Secret(synapse_server.blobs.sas(config.container, hours=50)))
    warning = warnings(soon)[question]
    assert "2 days" in warning.hint and "generate-sas" in warning.statement
    ended = replace(config, sas_token=Secret(synapse_server.blobs.sas(config.container, hours=-1)))
    no = refused(ended)[0]
    assert no.question == "Can a file be staged?" and "generate-sas" in no.statement


def test_rights_it_does_not_need_are_named_with_what_takes_them(
    config: SynapseConfig, synapse_server: SynapseServer
) -> None:
    assert SURPLUS not in warnings(config)
    for given in (
        f"GRANT INSERT ON SCHEMA::[{config.import_schema}] TO [{config.username}]",
        f"EXEC sp_addrolemember 'db_owner', '{config.username}'",
    ):
        synapse_server.execute(given, database=config.database)
        warning = warnings(config)[SURPLUS]
        assert ("INSERT" if "INSERT" in given else "db_owner") in warning.detail
        synapse_server.execute(warning.statement, database=config.database)
        assert SURPLUS not in warnings(config)
    wide = synapse_server.blobs.sas(config.container, "racwdxltmei")
    warning = warnings(replace(config, sas_token=Secret(wide)))[SURPLUS]
    assert "SAS token" in warning.detail and "generate-sas" in warning.statement


def test_uncommitted_rows_that_could_be_read_are_a_warning(
    config: SynapseConfig, synapse_server: SynapseServer
) -> None:
    question = "Are only committed rows read?"
    assert question not in warnings(config)
    synapse_server.execute(f"ALTER DATABASE [{config.database}] SET READ_COMMITTED_SNAPSHOT OFF")
    synapse_server.execute(warnings(config)[question].statement)
    assert question not in warnings(config)


def test_the_checks_leave_nothing(config: SynapseConfig, synapse_server: SynapseServer) -> None:
    before = synapse_server.execute("SELECT name FROM sys.tables", database=config.database)
    assert refused(config) == []
    assert synapse_server.execute("SELECT name FROM sys.tables", database=config.database) == before
    assert synapse_server.blobs.names(config.container) == []


# Passwords and tokens


def test_a_password_is_rotated_without_a_gap(
    config: SynapseConfig, synapse_server: SynapseServer, tmp_path: Path
) -> None:
    with closing(config.open()) as running:
        running.create(PEOPLE)
        synapse_server.execute(f"ALTER LOGIN [{config.username}] WITH PASSWORD = N'another'")
        running.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))  # who is in stays in
    with pytest.raises(Denied) as caught:
        config.open()
    assert caught.value.code in ("18456", "28000") and caught.value.hint
    assert PASSWORD not in repr(caught.value.as_dict())
    with closing(replace(config, password=Secret("another")).open()) as warehouse:
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "2", SEQ: 2}]))
    rows = synapse_server.execute("SELECT id FROM klaviyo.people ORDER BY id", database=config.database)
    assert rows == [("1",), ("2",)]


@pytest.mark.parametrize("how", ["ended", "forged", "for reading only", "of another container"])
def test_a_token_that_does_not_do_is_denied_and_not_shown(
    config: SynapseConfig, synapse_server: SynapseServer, tmp_path: Path, how: str
) -> None:
    blobs = synapse_server.blobs
    tokens = {
        "ended": lambda: blobs.sas(config.container, hours=-1),
        "forged": lambda: blobs.sas(config.container, key="Zm9yZ2Vk" * 8),
        "for reading only": lambda: blobs.sas(config.container, "rl"),
        "of another container": lambda: blobs.sas(blobs.fresh_container()),
    }
    token = tokens[how]()
    poor = replace(config, sas_token=Secret(token))
    with pytest.raises(Denied) as caught:
        with closing(poor.open()) as warehouse:
            warehouse.create(PEOPLE)
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))
    assert "token" in caught.value.hint or "SAS" in caught.value.hint
    shown = repr(caught.value.as_dict())
    assert token not in shown and token.partition("sig=")[2][:20] not in shown
    with closing(config.open()) as warehouse:  # a new token, and all goes on
        warehouse.create(PEOPLE)
        assert not warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}])).repeated

"""Snowflake's account: the set-up script, the checks, keys, and what a person is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from snowflake_cast import IMPORT, described, key_pair, made, pem
from warehouses_cast import PEOPLE, refused, require_as_read, warnings

from isthmus.model.errors import Denied
from isthmus.model.table import SEQ, Column, Table, Type
from isthmus.model.tables import ALL
from isthmus.secrets import Secret
from isthmus.testing.builders import batch_of
from isthmus.testing.standins import SnowflakeServer
from isthmus.testing.standins.snowflake import statements_of
from isthmus.warehouses import snowflake_keys
from isthmus.warehouses.protocol import Direction, Relation
from isthmus.warehouses.snowflake import SnowflakeConfig

EGRESS = ("192.0.2.7", "198.51.100.0/24")


@pytest.fixture
def config(snowflake_server: SnowflakeServer) -> SnowflakeConfig:
    return made(snowflake_server)


# The set-up script


@pytest.mark.parametrize("direction", Direction)
def test_the_script_is_as_it_was_read_last(direction: Direction) -> None:
    config = SnowflakeConfig("myorg-analytics", "isthmus_user", "isthmus_wh", "analytics", "klaviyo")
    script = config.setup_script(ALL, direction=direction, egress=EGRESS)
    require_as_read(script, f"snowflake_{direction}.sql")


@pytest.mark.parametrize("direction", Direction)
def test_a_parser_of_snowflakes_sql_takes_the_script(direction: Direction) -> None:
    config = SnowflakeConfig("a", "u", "w", "d", "two words", private_key=Secret(pem()))
    for statement in statements_of(config.setup_script([PEOPLE], direction=direction, egress=EGRESS)):
        if not re.match(r"(CREATE|ALTER) (NETWORK POLICY|USER)|CREATE (ROLE|WAREHOUSE)", statement):
            assert sqlglot.parse_one(statement, read="snowflake")  # it has no words for those


def test_the_script_run_twice_makes_tables_that_are_loaded_and_widened(
    snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    config = described(snowflake_server)
    for _ in range(2):
        snowflake_server.script(config.setup_script([PEOPLE], egress=["127.0.0.1"]))
    assert refused(config) == []
    with closing(config.open()) as warehouse:
        warehouse.create(Table("people", (*PEOPLE.columns, Column("born", Type.TIMESTAMP)), PEOPLE.key))
        for seq in (1, 2):
            warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", "name": "Ann", SEQ: seq}]))
    # Whoever has the role SYSADMIN reads them, without quotes and in any case.
    rows = snowflake_server.execute("SELECT id, Name FROM Klaviyo.People", database=config.database)
    assert rows == [["1", "Ann"]]
    assert set(warnings(config)) == {f"Can the tables and views of {IMPORT} be read?"}


def test_only_the_addresses_of_the_script_may_come(snowflake_server: SnowflakeServer) -> None:
    config = described(snowflake_server)
    snowflake_server.script(config.setup_script([], egress=["192.0.2.7/32"]))
    with pytest.raises(Denied, match="network policy") as caught:
        config.open()
    assert "127.0.0.1" in caught.value.vendor
    snowflake_server.script(config.setup_script([], egress=["127.0.0.1/32"]))
    config.open().close()


def test_a_script_to_import_makes_nothing_that_loads(snowflake_server: SnowflakeServer, tmp_path: Path) -> None:
    config = described(snowflake_server)
    snowflake_server.script(config.setup_script([PEOPLE], direction=Direction.IMPORT))
    with closing(config.open()) as warehouse:
        assert list(warehouse.relations()) == []
        with pytest.raises(Denied):
            warehouse.create(PEOPLE)


def test_a_script_to_export_gives_no_right_to_read(snowflake_server: SnowflakeServer, tmp_path: Path) -> None:
    config = described(snowflake_server)
    snowflake_server.script(config.setup_script([PEOPLE], direction=Direction.EXPORT))
    table(snowflake_server, config, "orders")
    with closing(config.open()) as warehouse:
        assert list(warehouse.relations()) == []
        warehouse.load(batch_of(tmp_path, PEOPLE, [{"id": "1", SEQ: 1}]))


def table(server: SnowflakeServer, config: SnowflakeConfig, name: str) -> None:
    server.execute(f"CREATE TABLE {IMPORT}.{name} (N INTEGER)", database=config.database)


def test_the_user_of_the_script_may_do_no_more_than_it_must(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer
) -> None:
    snowflake_server.execute("CREATE SCHEMA PRIVATE", "CREATE TABLE PRIVATE.SALARIES (N INTEGER)",
                             database=config.database)  # fmt: skip
    table(snowflake_server, config, "ORDERS")
    snowflake_server.execute(
        f"CREATE VIEW {IMPORT}.BIG_ORDERS AS SELECT * FROM {config.database}.{IMPORT}.ORDERS WHERE N > 100",
        database=config.database,
    )
    with closing(config.open()) as warehouse:
        found = list(warehouse.relations())
        assert found == [Relation(IMPORT, "BIG_ORDERS", "view"), Relation(IMPORT, "ORDERS")]
        assert [warehouse.count(r).rows for r in found] == [0, 0]
        with pytest.raises(Exception, match=r"not there|right"):
            warehouse.count(Relation("PRIVATE", "SALARIES"))
        for statement in (f"DELETE FROM {IMPORT}.ORDERS", f"DROP TABLE {IMPORT}.ORDERS", "CREATE ROLE MORE"):
            with pytest.raises(Denied):
                warehouse._execute(statement)


# Checks

GRANTS = [
    "USAGE ON WAREHOUSE {warehouse}",
    "USAGE ON DATABASE {database}",
    "USAGE ON SCHEMA {database}.KLAVIYO",
    "USAGE ON SCHEMA {database}.{IMPORT}",
    "USAGE ON SCHEMA {database}.KLAVIYO_TMP",
    "CREATE TABLE ON SCHEMA {database}.KLAVIYO",
    "CREATE STAGE ON SCHEMA {database}.KLAVIYO_TMP",
]


@pytest.mark.parametrize("grant", GRANTS)
def test_the_statement_of_a_no_makes_it_a_yes(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer, grant: str
) -> None:
    what = grant.format(warehouse=config.warehouse, database=config.database, IMPORT=IMPORT)
    snowflake_server.execute(f"REVOKE {what} FROM ROLE {config.role}", role="SECURITYADMIN")
    (no,) = refused(config)
    assert no.detail and no.hint
    assert what.split()[0] in no.statement
    snowflake_server.script(no.statement)
    assert refused(config) == []


def test_every_grant_of_the_script_was_revoked_in_turn(snowflake_server: SnowflakeServer) -> None:
    """The list above, and the tests below, hold all that the script gives."""
    config = described(snowflake_server)
    given = re.findall(r"^GRANT (.+?) ON (\w+)", config.setup_script([]), re.M)
    revoked = [re.match(r"(.+?) ON (\w+)", grant).groups() for grant in GRANTS]  # type: ignore[union-attr]
    assert set(given) == {*revoked, ("SELECT", "ALL"), ("SELECT", "FUTURE"), ("OWNERSHIP", "TABLE")}


def test_the_role_taken_from_the_user_is_a_no(config: SnowflakeConfig, snowflake_server: SnowflakeServer) -> None:
    snowflake_server.execute(f"REVOKE ROLE {config.role} FROM USER {config.username}", role="SECURITYADMIN")
    (no,) = refused(config)
    assert no.question == "Can we sign in?"
    snowflake_server.script(no.statement, role="SECURITYADMIN")
    assert refused(config) == []


def test_a_table_that_may_not_be_read_is_told_by_its_kind(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer
) -> None:
    table(snowflake_server, config, "ORDERS")
    snowflake_server.execute(
        f"REVOKE SELECT ON ALL TABLES IN SCHEMA {IMPORT} FROM ROLE {config.role}",
        f"GRANT REFERENCES ON TABLE {IMPORT}.ORDERS TO ROLE {config.role}",
        role="ACCOUNTADMIN",
        database=config.database,
    )
    (no,) = refused(config)
    assert "ORDERS" in no.statement and "GRANT SELECT" in no.statement
    snowflake_server.script(no.statement)
    assert refused(config) == []


def test_tables_that_cannot_even_be_seen_are_a_warning(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer
) -> None:
    table(snowflake_server, config, "ORDERS")
    question = f"Can the tables and views of {IMPORT} be read?"
    assert question not in warnings(config)
    schema = f"{config.database}.{IMPORT}"
    snowflake_server.execute(f"REVOKE SELECT ON ALL TABLES IN SCHEMA {schema} FROM ROLE {config.role}")
    snowflake_server.script(warnings(config)[question].statement)
    assert question not in warnings(config)


@pytest.mark.parametrize("kind", ["TABLES", "VIEWS"])
def test_a_missing_right_to_what_will_be_is_a_warning(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer, kind: str
) -> None:
    schema = f"{config.database}.{IMPORT}"
    snowflake_server.execute(f"REVOKE SELECT ON FUTURE {kind} IN SCHEMA {schema} FROM ROLE {config.role}",
                             role="SECURITYADMIN")  # fmt: skip
    question = "Can those that are made later be read?"
    warning = warnings(config)[question]
    assert kind.lower() in warning.detail
    snowflake_server.script(warning.statement, role="SECURITYADMIN")
    assert question not in warnings(config)


@pytest.mark.parametrize("name", ["_ISTHMUS_RECEIPTS", "PEOPLE"])
def test_a_table_that_is_somebody_elses_is_a_no(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer, name: str
) -> None:
    with closing(config.open()) as warehouse:
        warehouse.create(PEOPLE)
    there = f"{config.database}.KLAVIYO.{name}"
    snowflake_server.execute(f"GRANT OWNERSHIP ON TABLE {there} TO ROLE SYSADMIN COPY CURRENT GRANTS")
    if name == "PEOPLE":  # a table that is not seen cannot be told from one that is not there
        assert refused(config) == []
        snowflake_server.execute(f"GRANT SELECT ON TABLE {there} TO ROLE {config.role}")
    (no,) = refused(config)
    snowflake_server.execute(*statements_of(no.statement), role="SECURITYADMIN")
    assert refused(config) == []


def test_rights_it_does_not_need_are_named_with_what_takes_them(
    config: SnowflakeConfig, snowflake_server: SnowflakeServer
) -> None:
    table(snowflake_server, config, "ORDERS")
    question = "Are there rights it does not need?"
    assert question not in warnings(config)
    snowflake_server.execute(
        f"GRANT INSERT ON TABLE {IMPORT}.ORDERS TO ROLE {config.role}",
        f"GRANT CREATE SCHEMA ON DATABASE {config.database} TO ROLE {config.role}",
        f"GRANT OPERATE ON WAREHOUSE {config.warehouse} TO ROLE {config.role}",
        f"GRANT ROLE USERADMIN TO ROLE {config.role}",
        f"GRANT ROLE SYSADMIN TO USER {config.username}",
        role="ACCOUNTADMIN",
        database=config.database,
    )
    warning = warnings(config)[question]
    for part in ("INSERT on TABLE", "CREATE SCHEMA on DATABASE", "OPERATE on WAREHOUSE", "USERADMIN", "SYSADMIN"):
        assert part in warning.detail
    snowflake_server.script(warning.statement, role="ACCOUNTADMIN")
    assert question not in warnings(config)


def test_the_checks_leave_nothing(config: SnowflakeConfig, snowflake_server: SnowflakeServer) -> None:
    with closing(config.open()) as warehouse:
        warehouse.create(PEOPLE)
    assert refused(config) == []
    rows = snowflake_server.execute("SHOW TABLES IN SCHEMA KLAVIYO", database=config.database)
    assert sorted(row[1] for row in rows) == ["PEOPLE", "_ISTHMUS_RECEIPTS"]
    assert snowflake_server.execute(
        'SELECT COUNT(*) FROM KLAVIYO."_ISTHMUS_RECEIPTS"', database=config.database
    ) == [[0]]  # fmt: skip


# Keys


def test_a_key_is_rotated_without_a_gap(snowflake_server: SnowflakeServer) -> None:
    config = made(snowflake_server)
    second = replace(config, private_key=Secret(pem(key_pair(2))))
    with pytest.raises(Denied) as caught:
        second.open()
    assert caught.value.code == "390144" and "RSA_PUBLIC_KEY" in caught.value.hint
    snowflake_server.script(second.setup_script([]))
    second.open().close()
    with pytest.raises(Denied):
        config.open()
    assert caught.value.vendor and "PRIVATE KEY" not in repr(caught.value.as_dict())


def test_a_password_is_taken_too(snowflake_server: SnowflakeServer) -> None:
    name = f"P{snowflake_server.fresh_database()}"
    snowflake_server.execute(f"CREATE USER {name} PASSWORD = 'it''s'", role="ACCOUNTADMIN")
    snowflake_server.execute(f"GRANT ROLE SYSADMIN TO USER {name}", role="ACCOUNTADMIN")
    config = described(snowflake_server, username=name, role="sysadmin", private_key=Secret(""),
                       password=Secret("it's"))  # fmt: skip
    config.open().close()
    with pytest.raises(Denied):
        replace(config, password=Secret("its")).open()


def test_an_encrypted_key_opens_with_its_passphrase(snowflake_server: SnowflakeServer) -> None:
    config = made(snowflake_server)
    locked = replace(config, private_key=Secret(pem(passphrase="open sesame")))
    replace(locked, private_key_passphrase=Secret("open sesame")).open().close()
    for wrong, said in (("", "no passphrase was given"), ("shut", "cannot be opened with this passphrase")):
        with pytest.raises(Denied, match=said):
            replace(locked, private_key_passphrase=Secret(wrong)).open()


def ways_to_paste_a_key() -> Iterator[tuple[str, str]]:
    whole = pem()
    yield "as it is", whole
    yield "Windows", whole.replace("\n", "\r\n")
    yield "one line", whole.replace("\n", " ")
    yield "breaks spelt out", whole.replace("\n", "\\n")
    yield "without its dashed lines", "".join(whole.splitlines()[1:-1])
    pkcs1 = key_pair().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    yield "PKCS#1", pkcs1.decode()


@pytest.mark.parametrize(("way", "text"), list(ways_to_paste_a_key()), ids=lambda v: v if len(v) < 30 else "")
def test_a_key_is_understood_however_it_was_pasted(way: str, text: str) -> None:
    der = snowflake_keys.private_key(Secret(text), Secret(""))
    assert serialization.load_der_private_key(der, None).private_numbers() == key_pair().private_numbers()  # type: ignore[union-attr]


def wrong_keys() -> Iterator[tuple[str, str]]:
    public = key_pair().public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    yield "public key", public.decode()
    yield "no line -----BEGIN", "hunter2"
    yield "damaged or cut short", pem()[:200] + "\n-----END PRIVATE KEY-----"
    yield "OpenSSH", key_pair().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()  # fmt: skip
    yield "not an RSA key", pem(ec.generate_private_key(ec.SECP256R1()))
    yield "1024 bits", pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    yield "certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


@pytest.mark.parametrize(("said", "text"), list(wrong_keys()), ids=lambda v: v if len(v) < 30 else "")
def test_what_is_wrong_with_a_key_is_said_and_nothing_of_it(said: str, text: str) -> None:
    with pytest.raises(Denied, match=said) as caught:
        snowflake_keys.private_key(Secret(text), Secret(""))
    assert caught.value.hint
    assert text[60:80] not in repr(caught.value.as_dict()) or "BEGIN" in text[60:80] or not text[60:80]


def test_one_of_key_and_password_is_wanted(snowflake_server: SnowflakeServer) -> None:
    config = described(snowflake_server)
    for wrong, said in (
        (replace(config, password=Secret("x")), "both"),
        (replace(config, private_key=Secret("")), "neither"),
        (replace(config, private_key=Secret(""), private_key_passphrase=Secret("x")), "no private key"),
        (replace(config, private_key_passphrase=Secret("x")), "not encrypted"),
    ):
        with pytest.raises(Denied, match=said):
            wrong.open()


@pytest.mark.parametrize(
    ("account", "address"),
    [
        ("myorg-analytics", "myorg-analytics.snowflakecomputing.com"),
        ("https://MyOrg-My_Account.snowflakecomputing.com/console", "myorg-my-account.snowflakecomputing.com"),
        ("ab12345.eu-central-1", "ab12345.eu-central-1.snowflakecomputing.com"),
        ("ab12345.cn-northwest-1.aws", "ab12345.cn-northwest-1.aws.snowflakecomputing.cn"),
    ],
)
def test_an_account_is_found_however_it_was_written(account: str, address: str) -> None:
    assert SnowflakeConfig(account, "u", "w", "d", "s").address == address

"""The Redshift connector against its stand-in: the conformance suite, with a bucket and without."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import RedshiftServer, S3Server
from isthmus.warehouses.redshift import RedshiftConfig

PASSWORD = "it's a \\ Secret1"


@pytest.fixture(scope="module")
def database(redshift_server: RedshiftServer) -> str:
    return redshift_server.fresh_database()


@pytest.fixture
def config(redshift_server: RedshiftServer, database: str) -> RedshiftConfig:
    """A database as good as new in which the set-up script was run twice, and the user it made with a password."""
    made = RedshiftConfig(
        host=redshift_server.host,
        port=redshift_server.port,
        database=database,
        username=f"user of {database}",
        password=Secret(PASSWORD),
        sslmode="disable",
    )
    schemas = f"public, private, exports, {made.import_schema}, {made.temp_schema}"
    redshift_server.execute(f"DROP SCHEMA IF EXISTS {schemas} CASCADE", database=database)
    for _ in range(2):
        redshift_server.execute(made.setup_script([]), database=database)
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "''")
    redshift_server.execute(f"ALTER USER \"{made.username}\" PASSWORD '{quoted}'", database=database)
    return made


def _exactly(text: str) -> Any:
    """JSON in which a number is what it says, however it is written."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


class _Redshift(Conformance):
    text_limit_bytes = 65_535
    checks_json = False  # what is no JSON is kept as a text in the SUPER
    folds_case = True

    @pytest.fixture
    def config(self, config: RedshiftConfig, redshift_server: RedshiftServer) -> RedshiftConfig:
        self.owner = {"username": redshift_server.username, "password": Secret(redshift_server.password)}
        return config

    def exposing(self, config: RedshiftConfig) -> RedshiftConfig:
        """The customer's own user: ours may only read there."""
        return replace(config, schema=config.import_schema, **self.owner)

    def named(self, name: str) -> str:
        return name.lower()

    def same_json(self, ours: str | None, theirs: str | None) -> bool:
        """SUPER keeps the meaning; or else the text, whole or in pieces."""
        if ours is None or theirs is None:
            return ours is theirs
        found: Any = _exactly(theirs)
        if isinstance(found, dict) and set(found) == {"_isthmus_text"}:
            found = "".join(found["_isthmus_text"])
        return found == ours if isinstance(found, str) else found == _exactly(ours)


class TestRedshiftWithoutBucket(_Redshift):
    statements = ("_execute",)


class TestRedshift(_Redshift):
    statements = ("_execute", "_upload", "_put")

    @pytest.fixture
    def config(self, config: RedshiftConfig, redshift_server: RedshiftServer, s3: S3Server) -> RedshiftConfig:
        self.owner = {"username": redshift_server.username, "password": Secret(redshift_server.password)}
        return replace(
            config,
            bucket=s3.bucket,
            region=s3.region,
            prefix="staging/redshift",
            access_key_id=s3.access_key_id,
            secret_access_key=Secret(s3.secret_access_key),
            endpoint_url=s3.endpoint,
        )

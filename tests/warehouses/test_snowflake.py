"""The Snowflake connector against our stand-in: the conformance suite, and what only Snowflake has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from snowflake_cast import made

from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import SnowflakeServer
from isthmus.warehouses import snowflake_sql
from isthmus.warehouses.snowflake import SnowflakeConfig


class TestSnowflake(Conformance):
    folds_case = True
    holds_nul = True
    checks_json = False
    statements = ("_execute", "_put")

    @pytest.fixture
    def config(self, snowflake_server: SnowflakeServer) -> SnowflakeConfig:
        self.owner = {
            "username": snowflake_server.username,
            "private_key": Secret(""),
            "password": Secret(snowflake_server.password),
            "role": "SYSADMIN",
            "warehouse": snowflake_server.warehouse,
        }
        return made(snowflake_server)

    def folded(self, name: str) -> str:
        return snowflake_sql.folded(name)

    def exposing(self, config: SnowflakeConfig) -> SnowflakeConfig:
        """The customer's own user: ours may only read there."""
        return replace(config, schema=config.import_schema, **self.owner)

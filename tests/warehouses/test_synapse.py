"""The Synapse connector against a wire server of our own and Azurite: the conformance suite, and what only it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from synapse_cast import made, run

from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import SynapseServer
from isthmus.warehouses.synapse import SynapseConfig


@pytest.fixture
def config(synapse_server: SynapseServer) -> Iterator[SynapseConfig]:
    """A new pool in which the set-up script was run twice, by its owner, and the login it made with a password."""
    config = made(synapse_server)
    run(synapse_server, config, config.setup_script([]))
    yield config
    synapse_server.drop_database(config.database)


class TestSynapse(Conformance):
    checks_json = False
    folds_case = True
    statements = ("_execute", "_upload", "_insert")

    @pytest.fixture
    def config(self, config: SynapseConfig, synapse_server: SynapseServer) -> SynapseConfig:
        self.owner = {"username": synapse_server.username, "password": Secret(synapse_server.password)}
        return config

    def exposing(self, config: SynapseConfig) -> SynapseConfig:
        """The customer's own user: ours may only read there."""
        return replace(config, schema=config.import_schema, **self.owner)

"""The Synapse connector against a wire server of our own and Azurite: the conformance suite, and what only it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from isthmus.secrets import Secret
from isthmus.testing.conformance import Conformance
from isthmus.testing.standins import SynapseServer
from isthmus.warehouses.synapse import SynapseConfig

PASSWORD = "it's a } se;cret"


@pytest.fixture
def config(synapse_server: SynapseServer) -> Iterator[SynapseConfig]:
    """A new pool in which the set-up script was run twice, by its owner, and the login it made with a password."""
    blobs = synapse_server.blobs
    database, container = synapse_server.fresh_database(), blobs.fresh_container()
    made = SynapseConfig(
        workspace="contoso",
        database=database,
        username=f"user of {database}",
        password=Secret(PASSWORD),
        storage_account=blobs.account,
        container=container,
        sas_token=Secret(blobs.sas(container)),
        host=synapse_server.host,
        port=synapse_server.port,
        blob_endpoint=f"{blobs.endpoint}/{blobs.account}",
        encrypt="no",
    )
    script = made.setup_script([]).replace("$(ISTHMUS_PASSWORD)", PASSWORD.replace("'", "''''"))
    for _ in range(2):
        synapse_server.script(script, database)
    yield made
    synapse_server.drop_database(database)


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

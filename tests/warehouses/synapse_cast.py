"""A connection to a dedicated SQL pool as our set-up script makes it, with what the tests share."""

from __future__ import annotations

from typing import Any

from isthmus.secrets import Secret
from isthmus.testing.standins import SynapseServer
from isthmus.warehouses.synapse import SynapseConfig

PASSWORD = "it's a } se;cret"


def described(server: SynapseServer, **fields: Any) -> SynapseConfig:
    """A connection to a pool of its own, before any script has run."""
    blobs = server.blobs
    database, container = server.fresh_database(), blobs.fresh_container()
    given: dict[str, Any] = {
        "workspace": "contoso",
        "database": database,
        "username": f"user of {database}",
        "password": Secret(PASSWORD),
        "storage_account": blobs.account,
        "container": container,
        "sas_token": Secret(blobs.sas(container)),
        "host": server.host,
        "port": server.port,
        "blob_endpoint": f"{blobs.endpoint}/{blobs.account}",
        "encrypt": "no",
    }
    return SynapseConfig(**{**given, **fields})


def run(server: SynapseServer, config: SynapseConfig, script: str) -> None:
    """What an administrator does, with sqlcmd and the password in its environment."""
    server.script(script.replace("$(ISTHMUS_PASSWORD)", PASSWORD.replace("'", "''''")), config.database)


def made(server: SynapseServer, **fields: Any) -> SynapseConfig:
    """The same after the script has run."""
    config = described(server, **fields)
    run(server, config, config.setup_script([]))
    return config

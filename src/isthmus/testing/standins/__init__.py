"""Real servers, and wire servers of our own, that stand in for the warehouses in tests; all on free local ports.

Each launcher is a context manager: the server is up inside it and gone, with its data, after it. Should the test
process be killed, the servers are told to end by the kernel (Linux).
"""

from isthmus.testing.standins.azurite import BlobServer, azurite
from isthmus.testing.standins.environments import Unavailable
from isthmus.testing.standins.launching import free_ports
from isthmus.testing.standins.postgres import PostgresServer, postgres
from isthmus.testing.standins.s3 import S3Server, s3
from isthmus.testing.standins.synapse import SynapseServer, synapse

__all__ = [
    "BlobServer",
    "PostgresServer",
    "S3Server",
    "SynapseServer",
    "Unavailable",
    "azurite",
    "free_ports",
    "postgres",
    "s3",
    "synapse",
]

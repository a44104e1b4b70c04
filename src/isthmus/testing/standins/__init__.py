"""Real servers, and wire servers of our own, that stand in for the warehouses in tests; all on free local ports.

Each launcher is a context manager: the server is up inside it and gone, with its data, after it. Should the test
process be killed, the servers are told to end by the kernel (Linux).
"""

from isthmus.testing.standins.azurite import BlobServer, azurite
from isthmus.testing.standins.bigquery import BigQueryServer, bigquery
from isthmus.testing.standins.databricks import DatabricksServer, databricks
from isthmus.testing.standins.environments import Unavailable
from isthmus.testing.standins.launching import free_ports
from isthmus.testing.standins.postgres import PostgresServer, postgres
from isthmus.testing.standins.redshift import ROLE as REDSHIFT_ROLE
from isthmus.testing.standins.redshift import RedshiftServer, redshift
from isthmus.testing.standins.s3 import S3Server, s3
from isthmus.testing.standins.snowflake import SnowflakeServer, snowflake
from isthmus.testing.standins.sts import StsServer, sts
from isthmus.testing.standins.synapse import SynapseServer, synapse

__all__ = [
    "REDSHIFT_ROLE",
    "BigQueryServer",
    "BlobServer",
    "DatabricksServer",
    "PostgresServer",
    "RedshiftServer",
    "S3Server",
    "SnowflakeServer",
    "StsServer",
    "SynapseServer",
    "Unavailable",
    "azurite",
    "bigquery",
    "databricks",
    "free_ports",
    "postgres",
    "redshift",
    "s3",
    "snowflake",
    "sts",
    "synapse",
]

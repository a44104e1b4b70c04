"""A Snowflake connection as our set-up script makes it, with what the tests share."""

from __future__ import annotations

from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from isthmus.secrets import Secret
from isthmus.testing.standins import SnowflakeServer
from isthmus.warehouses.snowflake import SnowflakeConfig

IMPORT = "KLAVIYO_IMPORT_FROM_DWH"


@cache
def key_pair(number: int = 0) -> rsa.RSAPrivateKey:
    """A private key, the same one for the same number: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: Any = None, passphrase: str = "") -> str:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    key = key or key_pair()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


def described(server: SnowflakeServer, **fields: Any) -> SnowflakeConfig:
    """A connection to a database of its own, before any script has run."""
    database = server.fresh_database()
    given: dict[str, Any] = {
        "account": server.account,
        "username": f"user_of_{database}",
        "warehouse": f"wh_of_{database}",
        "database": database,
        "schema": "klaviyo",
        "private_key": Secret(pem()),
        "role": f"role_of_{database}",
        "host": server.host,
        "port": server.port,
        "protocol": server.protocol,
    }
    return SnowflakeConfig(**{**given, **fields})


def made(server: SnowflakeServer, **fields: Any) -> SnowflakeConfig:
    """The same after the script has run."""
    config = described(server, **fields)
    server.script(config.setup_script([]))
    return config

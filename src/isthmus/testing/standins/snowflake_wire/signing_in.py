"""Who may sign in: passwords, and JSON web tokens signed with a key pair."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from .catalog import Catalog, User, key_of
from .naming import Refused


def who(catalog: Catalog, data: dict[str, Any]) -> User:
    """The user that signs in with this. Raises Refused with Snowflake's numbers."""
    authenticator = str(data.get("AUTHENTICATOR") or "SNOWFLAKE").upper()
    user = catalog.users.get(str(data.get("LOGIN_NAME") or "").upper())
    if authenticator == "SNOWFLAKE_JWT":
        return _by_key(catalog, str(data.get("TOKEN") or ""))
    if authenticator != "SNOWFLAKE":
        raise Refused(f"Authenticator {authenticator} is not accepted.", 390190, "08001")
    if user is None or user.password is None or user.password != data.get("PASSWORD"):
        raise Refused("Incorrect username or password was specified.", 390100, "08001")
    return _enabled(user)


def _enabled(user: User) -> User:
    if user.properties.get("DISABLED", "FALSE").upper() == "TRUE":
        raise Refused("User access disabled. Contact your local system administrator.", 390101, "08001")
    return user


def _by_key(catalog: Catalog, token: str) -> User:
    refused = Refused("JWT token is invalid.", 390144, "08001")
    try:
        head, body, signature = token.split(".")
        claims = json.loads(_decoded(body))
        name, expires, issuer = claims["sub"].split(".")[-1], claims["exp"], claims["iss"]
    except (ValueError, KeyError) as e:
        raise refused from e
    user = catalog.users.get(name)
    for text in user.keys if user is not None else ():
        key = serialization.load_pem_public_key(key_of(text).encode())
        if not isinstance(key, rsa.RSAPublicKey) or not issuer.endswith(f".{name}.{fingerprint(key)}"):
            continue
        try:
            key.verify(_decoded(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            continue
        if expires > time.time() and user is not None:
            return _enabled(user)
    raise refused


def fingerprint(key: rsa.RSAPublicKey) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

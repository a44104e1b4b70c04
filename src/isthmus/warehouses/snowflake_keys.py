"""Key pairs: a private key as a person pastes it, read or refused with the reason; and its public key."""

from __future__ import annotations

import base64
import binascii
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from isthmus.model.errors import Denied
from isthmus.secrets import Secret

LEAST_BITS = 2048

_MAKE = (
    "make a key pair: openssl genrsa 2048 | openssl pkcs8 -topk8 -inform PEM -out key.p8 -nocrypt; then give the whole "
    "text of key.p8"
)
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.S)

# What people paste in its place, by the words behind BEGIN.
_OTHERS = {
    "PUBLIC KEY": ("this is the public key; the private one is needed", _MAKE),
    "RSA PUBLIC KEY": ("this is the public key; the private one is needed", _MAKE),
    "CERTIFICATE": ("this is a certificate, not a private key", _MAKE),
    "CERTIFICATE REQUEST": ("this is a request for a certificate, not a private key", _MAKE),
    "OPENSSH PRIVATE KEY": (
        "this key is in OpenSSH's own format, which Snowflake does not use",
        "convert a copy of it: ssh-keygen -p -m PKCS8 -f key",
    ),
    "EC PRIVATE KEY": ("this is an EC key; Snowflake wants an RSA key", _MAKE),
}


def private_key(text: Secret, passphrase: Secret) -> bytes:
    """The key in DER, as the driver takes it. Raises Denied with what is wrong with it; never with any of it."""
    return _load(text.reveal(), passphrase.reveal()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key(text: Secret, passphrase: Secret) -> str:
    """The public key in base64, on one line, as ALTER USER takes it. Raises Denied like `private_key`."""
    der = (
        _load(text.reveal(), passphrase.reveal())
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return base64.b64encode(der).decode()


def _load(text: str, passphrase: str) -> RSAPrivateKey:
    pem, is_encrypted = _pem(text)
    if is_encrypted and not passphrase:
        hint = (
            "give its passphrase in private_key_passphrase, or make an unencrypted copy: openssl pkcs8 -in key.p8 "
            "-out plain.p8"
        )
        raise Denied("the private key is encrypted, and no passphrase was given", hint=hint)
    if passphrase and not is_encrypted:
        raise Denied(
            "a passphrase was given for a private key that is not encrypted",
            hint="leave private_key_passphrase out",
        )
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause is not kept: what a parser complains about may hold parts of the key.
        if is_encrypted:
            message, hint = "the private key cannot be opened with this passphrase", "check private_key_passphrase"
        else:
            message, hint = "the private key is damaged or cut short", "give the whole file, both dashed lines included"
        raise Denied(message, hint=hint) from None
    if not isinstance(key, RSAPrivateKey):
        raise Denied("this is not an RSA key; Snowflake wants one", hint=_MAKE)
    if key.key_size < LEAST_BITS:
        raise Denied(f"the RSA key has {key.key_size} bits; Snowflake wants {LEAST_BITS} or more", hint=_MAKE)
    return key


def _pem(text: str) -> tuple[bytes, bool]:
    """The key as a well-formed PEM, and whether it is encrypted. Line breaks may be blanks, or spelt out."""
    text = text.strip().replace("\\r", "").replace("\\n", "\n")
    match = _PEM.search(text)
    if match is None:
        return _bare(text), False
    label, body = match[1], match[2]
    if label in _OTHERS:
        summary, hint = _OTHERS[label]
        raise Denied(summary, hint=hint)
    if label not in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY"):
        raise Denied("this is not a private key", hint=_MAKE)
    if "Proc-Type:" in body:  # an old encrypted PEM has headers, so its lines matter
        return match[0].encode(), True
    return _wrapped(label, re.sub(r"\s", "", body)), label == "ENCRYPTED PRIVATE KEY"


def _bare(text: str) -> bytes:
    """A key without its dashed lines, if it is one."""
    body = re.sub(r"\s", "", text)
    try:
        der = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        der = b""
    if len(der) < 100 or not der.startswith(b"\x30"):
        raise Denied("the private key is not one: it has no line -----BEGIN PRIVATE KEY-----", hint=_MAKE)
    return _wrapped("PRIVATE KEY", body)


def _wrapped(label: str, body: str) -> bytes:
    lines = "\n".join(body[n : n + 64] for n in range(0, len(body), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()

"""A small IAM: keys of service accounts, their tokens, and who holds which role where."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

AUDIENCE = "https://oauth2.googleapis.com/token"
"""What a key's assertion is for, whatever its own token address: so does Google's library."""

_SEE = frozenset({"bigquery.datasets.get", "bigquery.tables.list", "bigquery.tables.get"})
_READ = _SEE | {"bigquery.tables.getData"}
_EDIT = _READ | {f"bigquery.tables.{verb}" for verb in ("create", "update", "updateData", "delete")}
_OWN = _EDIT | {"bigquery.datasets.update", "bigquery.datasets.delete"}
_RUN = frozenset({"bigquery.jobs.create"})
_SESSION = frozenset({"bigquery.readsessions.create"})
_MAKE = frozenset({"bigquery.datasets.create"})
_ALL = _OWN | _RUN | _SESSION | _MAKE

ROLES: dict[str, frozenset[str]] = {
    "roles/bigquery.metadataViewer": _SEE,
    "roles/bigquery.dataViewer": _READ,
    "roles/bigquery.dataEditor": _EDIT | _MAKE,  # making datasets is of use on a project only
    "roles/bigquery.dataOwner": _OWN | _MAKE,
    "roles/bigquery.jobUser": _RUN,
    "roles/bigquery.readSessionUser": _SESSION,
    "roles/bigquery.user": _SEE | _RUN | _SESSION | _MAKE,
    "roles/bigquery.admin": _ALL,
    "roles/editor": _ALL,
    "roles/owner": _ALL,
}
"""The predefined roles we know, with those of their permissions that are checked here."""


class Refused(Exception):
    """A key, a token or a role that does not do."""


@dataclass
class _Key:
    email: str
    public: str
    revoked: bool = False


@dataclass
class Access:
    """Who there is and what each may do. `project` stands for the project itself among the places of a role."""

    project: str
    token_uri: str = ""
    seconds: int = 3600
    _keys: dict[str, _Key] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)
    _roles: set[tuple[str, str, str]] = field(default_factory=set)  # email, role, place
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # Keys and tokens

    def new_key(self, name: str, *, roles: Iterable[str] = ()) -> dict[str, str]:
        """The content of a new key file of the service account `name`, made if need be, with roles on the project."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        email = f"{name}@{self.project}.iam.gserviceaccount.com"
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        key_id = uuid4().hex
        with self._lock:
            self._keys[key_id] = _Key(email, public.decode())
        for role in roles:
            self.grant(role, self.project, email)
        return {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": key_id,
            "private_key": text.decode(),
            "client_email": email,
            "client_id": "1",
            "token_uri": self.token_uri,
        }

    def knows(self, email: str) -> bool:
        with self._lock:
            return any(key.email == email for key in self._keys.values())

    def revoke_key(self, key_id: str) -> None:
        """The key gives no token any more; those it gave end too, as they do within the hour."""
        with self._lock:
            self._keys[key_id].revoked = True
        self.expire(self._keys[key_id].email)

    def expire(self, email: str) -> None:
        """No token of the account is good any more; its keys are."""
        with self._lock:
            self._tokens = {token: holder for token, holder in self._tokens.items() if holder != email}

    def token(self, assertion: str) -> str:
        """A new token for what a key signed. Raises Refused with Google's words for what is wrong with it."""
        from google.auth import jwt

        header = jwt.decode_header(assertion)
        with self._lock:
            key = self._keys.get(str(header.get("kid")))
        if key is None or key.revoked:
            raise Refused("Invalid grant: account not found" if key is None else "Invalid JWT Signature.")
        try:
            claims: dict[str, Any] = jwt.decode(assertion, certs=key.public, audience=AUDIENCE)
        except ValueError as e:
            raise Refused("Invalid JWT Signature.") from e
        if claims["iss"] != key.email:
            raise Refused("Invalid grant: account not found")
        with self._lock:
            token = f"ya29.{uuid4().hex}"
            self._tokens[token] = key.email
        return token

    def holder(self, authorization: str | None) -> str:
        """The account whose token this header holds. Raises Refused."""
        with self._lock:
            found = self._tokens.get((authorization or "").removeprefix("Bearer "))
        if found is None:
            raise Refused(
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
                "valid authentication credential."
            )
        return found

    # Roles

    def grant(self, role: str, place: str, email: str) -> None:
        """`place` is a dataset's name, or the project's. Raises Refused for a role nobody knows."""
        if role not in ROLES:
            raise Refused(f"Role {role} is not supported for this resource.")
        with self._lock:
            self._roles.add((email, role, place))

    def revoke(self, role: str, place: str, email: str) -> None:
        with self._lock:
            self._roles.discard((email, role, place))

    def roles(self, email: str) -> set[tuple[str, str]]:
        """(role, place) of an account."""
        with self._lock:
            return {(role, place) for holder, role, place in self._roles if holder == email}

    def forget(self, place: str) -> None:
        """A dataset is gone, and with it the roles on it."""
        with self._lock:
            self._roles = {r for r in self._roles if r[2] != place}

    def may(self, email: str, permission: str, dataset: str | None = None) -> bool:
        """Whether a role on the project, or on that dataset, gives the permission."""
        places = {self.project, dataset}
        return any(permission in ROLES[role] for role, place in self.roles(email) if place in places)

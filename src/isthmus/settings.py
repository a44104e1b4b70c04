"""Every setting, read once from the environment. Nothing else of ours looks there.

A setting that is wrong, or misspelt, is an error before anything has happened. An empty variable counts as not set.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from isthmus.model.errors import InvalidInput
from isthmus.secrets import Secret

PREFIX = "ISTHMUS_"


def environment() -> dict[str, str]:
    """The environment of this process, for what a person refers to as `{env: NAME}`."""
    return dict(os.environ)


def _text(text: str) -> str:
    return text


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise ValueError
        return number

    return read


def _url(schemes: tuple[str, ...], *, host: bool = True) -> Callable[[str], str]:
    def read(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in schemes or (host and not parts.hostname):
            raise ValueError
        return text.rstrip("/")

    return read


def _postgresql(text: str) -> Secret:
    return Secret(_url(("postgresql", "postgres"), host=False)(text))


def _bucket(text: str) -> str:
    if urlsplit(text).query or not re.fullmatch(r"s3://[a-zA-Z0-9._-]{3,63}(/.*)?", text):
        raise ValueError
    return text.rstrip("/")


def _key(text: str) -> Secret:
    try:
        if len(base64.urlsafe_b64decode(text)) != 32:
            raise ValueError
    except binascii.Error as e:
        raise ValueError from e
    return Secret(text)


def _addresses(text: str) -> tuple[str, ...]:
    found = tuple(address.strip() for address in text.split(","))
    for address in found:
        ip_network(address)
    return found


def _region(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{2}", text):
        raise ValueError
    return text.upper()


@dataclass(frozen=True)
class Variable:
    """What a person may read about one setting."""

    name: str
    help: str
    accepts: str
    default: str
    fallbacks: tuple[str, ...]
    secret: bool
    read: Callable[[str], Any]


def _about(
    name: str,
    help: str,
    *,
    accepts: str,
    read: Callable[[str], Any],
    default: str = "not set",
    fallbacks: tuple[str, ...] = (),
    secret: bool = False,
) -> dict[str, Variable]:
    """What makes a field a setting: its metadata."""
    return {"variable": Variable(PREFIX + name, help, accepts, default, fallbacks, secret, read)}


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Secrets cannot print themselves."""

    home: Path = field(
        default=Path("isthmus-home"),
        metadata=_about(
            "HOME",
            "The folder that holds everything of an embedded Isthmus: the store, the ledger, the key that seals "
            "credentials, and files on their way to a warehouse.",
            accepts="a path; `--home` of any command goes before it",
            read=_folder,
            default="./isthmus-home",
        ),
    )
    database_url: Secret | None = field(
        default=None,
        metadata=_about(
            "DATABASE_URL",
            "The PostgreSQL database for the ledger and the catalog of the store, so that several machines share them. "
            "Together with ISTHMUS_STORAGE_URL, or not at all.",
            accepts="postgresql://user:password@host:port/name",
            read=_postgresql,
            secret=True,
        ),
    )
    storage_url: str | None = field(
        default=None,
        metadata=_about(
            "STORAGE_URL",
            "The bucket for the data of the store. Together with ISTHMUS_DATABASE_URL, or not at all.",
            accepts="s3://bucket or s3://bucket/prefix",
            read=_bucket,
        ),
    )
    s3_endpoint: str | None = field(
        default=None,
        metadata=_about(
            "S3_ENDPOINT",
            "Where the bucket is, for S3-compatible storage that is not Amazon's.",
            accepts="an http or https URL such as https://storage.example.com:9000",
            read=_url(("http", "https")),
            fallbacks=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        ),
    )
    s3_region: str | None = field(
        default=None,
        metadata=_about(
            "S3_REGION",
            "The region of the bucket.",
            accepts="a region such as eu-central-1",
            read=_text,
            fallbacks=("AWS_REGION", "AWS_DEFAULT_REGION"),
        ),
    )
    s3_access_key_id: str | None = field(
        default=None,
        metadata=_about(
            "S3_ACCESS_KEY_ID",
            "Who may use the bucket.",
            accepts="an access key id; with ISTHMUS_S3_SECRET_ACCESS_KEY",
            read=_text,
            fallbacks=("AWS_ACCESS_KEY_ID",),
        ),
    )
    s3_secret_access_key: Secret | None = field(
        default=None,
        metadata=_about(
            "S3_SECRET_ACCESS_KEY",
            "The secret that belongs to the access key id.",
            accepts="a secret access key",
            read=Secret,
            fallbacks=("AWS_SECRET_ACCESS_KEY",),
            secret=True,
        ),
    )
    secret_key: Secret | None = field(
        default=None,
        metadata=_about(
            "SECRET_KEY",
            "The key that seals stored credentials. Without it, the file `secret.key` in the home is used, and made on "
            "first use. Several machines need the same key.",
            accepts="32 bytes in URL-safe base 64",
            read=_key,
            default="the file secret.key in the home",
            secret=True,
        ),
    )
    memory_mb: int = field(
        default=800,
        metadata=_about(
            "MEMORY_MB",
            "How much memory the store's buffers may take; the process needs up to half as much again beside them.",
            accepts="megabytes, a whole number from 128",
            read=_whole(128),
            default="800",
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=_about(
            "THREADS",
            "How many threads the store may use.",
            accepts="a whole number from 1",
            read=_whole(1),
            default="one for each core",
        ),
    )
    egress_addresses: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "EGRESS_ADDRESSES",
            "The addresses from which this machine reaches the internet. Set-up scripts and instructions name them, so "
            "that a warehouse's administrator can let them in.",
            accepts="IP addresses or CIDR ranges, separated by commas",
            read=_addresses,
            default="none",
        ),
    )
    phone_region: str | None = field(
        default=None,
        metadata=_about(
            "PHONE_REGION",
            "The country whose phone numbers may come without their country code. Without it, such numbers are "
            "rejected.",
            accepts="two letters such as DE",
            read=_region,
        ),
    )
    lock_timeout_s: int = field(
        default=60,
        metadata=_about(
            "LOCK_TIMEOUT_S",
            "How long a command waits for another process that writes to the store before it gives up.",
            accepts="seconds, a whole number from 0",
            read=_whole(0),
            default="60",
        ),
    )
    snapshot_retention_hours: int = field(
        default=48,
        metadata=_about(
            "SNAPSHOT_RETENTION_HOURS",
            "How long the store keeps its past states. It has to be longer than the longest run: a run reads one "
            "state to its end.",
            accepts="hours, a whole number from 1",
            read=_whole(1),
            default="48",
        ),
    )

    @property
    def scaled(self) -> bool:
        """Whether the ledger and the store are shared by several machines, and not in the home."""
        return self.database_url is not None

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, home: Path | None = None) -> Settings:
        """Read the settings from `environ` (this process's if None); `home` goes before ISTHMUS_HOME.

        Raises InvalidInput for an unknown ISTHMUS_ variable, a value that cannot be read, or settings that contradict
        one another. No message holds a secret value.
        """
        environ = os.environ if environ is None else environ
        known = variables()
        _require_known(environ, {variable.name for variable in known.values()})
        values = {name: _read(variable, environ) for name, variable in known.items()}
        values["home"] = _folder(str(home or values["home"] or cls.home))
        settings = cls(**{name: value for name, value in values.items() if value is not None})
        settings._require_pairs()
        return settings

    def _require_pairs(self) -> None:
        if (self.database_url is None) != (self.storage_url is None):
            given, missing = ("DATABASE_URL", "STORAGE_URL") if self.database_url else ("STORAGE_URL", "DATABASE_URL")
            raise InvalidInput(
                f"{PREFIX}{given} is set without {PREFIX}{missing}",
                hint="set both to share one Isthmus between machines, or neither to keep everything in the home folder",
            )
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise InvalidInput(
                "only one of the S3 access key id and the S3 secret access key is set", hint="set both, or neither"
            )


def variables() -> dict[str, Variable]:
    """What may be set, by the name of the field of `Settings`, in the order of the documentation."""
    return {each.name: each.metadata["variable"] for each in fields(Settings)}


def _require_known(environ: Mapping[str, str], known: set[str]) -> None:
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            close = get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
            raise InvalidInput(f"there is no setting {name}", hint=hint)


def _read(variable: Variable, environ: Mapping[str, str]) -> Any:
    for name in (variable.name, *variable.fallbacks):
        text = environ.get(name, "").strip()
        if text:
            break
    else:
        return None
    try:
        return variable.read(text)
    except ValueError:
        shown = "" if variable.secret else f" {text!r}"
        # No cause: it would hold the value, and the value may be a secret.
        raise InvalidInput(f"{name}{shown} cannot be read", hint=f"it is {variable.accepts}") from None

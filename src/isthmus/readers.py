"""What a setting is, and how its text becomes a value. A reader raises ValueError for a text that it cannot read."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from isthmus.secrets import Secret

PREFIX = "ISTHMUS_"


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


def about(
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


def text(text: str) -> str:
    return text


def folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number, both ends included."""

    def read(text: str) -> int:
        number = int(text)
        if number < least or (most is not None and number > most):
            raise ValueError
        return number

    return read


OFF = -1


def hour_or_off(text: str) -> int:
    """An hour of the day, or `OFF`."""
    return OFF if text.lower() == "off" else whole(0, 23)(text)


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words, in any case."""

    def read(text: str) -> str:
        word = text.lower()
        if word not in words:
            raise ValueError
        return word

    return read


def url(schemes: tuple[str, ...], *, host: bool = True) -> Callable[[str], str]:
    def read(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in schemes or (host and not parts.hostname):
            raise ValueError
        return text.rstrip("/")

    return read


def postgresql(text: str) -> Secret:
    return Secret(url(("postgresql", "postgres"), host=False)(text))


def bucket(text: str) -> str:
    if urlsplit(text).query or not re.fullmatch(r"s3://[a-zA-Z0-9._-]{3,63}(/.*)?", text):
        raise ValueError
    return text.rstrip("/")


def key(text: str) -> Secret:
    try:
        if len(base64.urlsafe_b64decode(text)) != 32:
            raise ValueError
    except binascii.Error as e:
        raise ValueError from e
    return Secret(text)


def addresses(text: str) -> tuple[str, ...]:
    found = tuple(address.strip() for address in text.split(","))
    for address in found:
        ip_network(address)
    return found


def region(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{2}", text):
        raise ValueError
    return text.upper()


def webhook(text: str) -> Secret:
    """A secret as a whole: many webhooks carry a token in their path."""
    if urlsplit(url(("http", "https"))(_printable(text))).port == 0:  # asking raises ValueError for one that is none
        raise ValueError
    return Secret(text)


def smtp(text: str) -> Secret:
    parts = urlsplit(url(("smtp", "smtps"))(_printable(text)))
    if parts.path or parts.query or parts.port == 0:
        raise ValueError
    return Secret(text)


def email(text: str) -> str:
    if not re.fullmatch(r"[^@\s,<>\"]+@[^@\s,<>\"]+", _printable(text)):
        raise ValueError
    return text


def emails(text: str) -> tuple[str, ...]:
    return tuple(email(address.strip()) for address in text.split(","))


def _printable(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError
    return text

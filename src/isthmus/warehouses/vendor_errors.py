"""What vendors say when something goes wrong, as data: one table a kind, `errors/<kind>.toml`.

An entry says which class of ours it is, what happened in plain words, and what to do:

    [[error]]
    code = "390144"                 # the vendor's code, or its beginning; may be left out
    words = "JWT token is invalid"  # a regular expression found in the message, case ignored; may be left out
    class = "Denied"
    summary = "Snowflake refused the key"
    hint = "register the public key of this private key with the user: ALTER USER … SET RSA_PUBLIC_KEY = …"
    source = "where the vendor documents it, or who met it"
    example = "250001 (08001): Failed to connect to DB. JWT token is invalid."

The most specific entry wins: a longer code before a shorter one, words before none, then the order of the file.
Every entry has an example, and a test holds every example to its entry.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from isthmus.model import errors
from isthmus.model.errors import Mismatch, Rejected, WarehouseError
from isthmus.secrets import Secret


@dataclass(frozen=True)
class Known:
    """One entry of a kind's table."""

    error: type[WarehouseError]
    summary: str
    hint: str
    example: str
    code: str = ""
    words: str = ""
    source: str = ""

    def fits(self, code: str, message: str) -> bool:
        return code.startswith(self.code) and re.search(self.words, message, re.I | re.S) is not None


@cache
def table(kind: str) -> tuple[Known, ...]:
    """The entries of a kind, the most specific first. Raises FileNotFoundError if it has none."""
    text = (files("isthmus.warehouses") / "errors" / f"{kind}.toml").read_text(encoding="utf-8")
    found = [_known(entry) for entry in tomllib.loads(text)["error"]]
    return tuple(sorted(found, key=lambda known: (-len(known.code), not known.words)))


def find(kind: str, code: str, message: str) -> Known | None:
    """The entry that fits best what the vendor said."""
    return next((known for known in table(kind) if known.fits(code, message)), None)


def translate(kind: str, title: str, *, code: str, message: str, secrets: Iterable[Secret] = ()) -> WarehouseError:
    """What the vendor said as one of our errors, with its own words in full but for the secrets.

    What is not in the table is a plain WarehouseError: a person sees the message, and nothing is tried again blindly.
    """
    for secret in secrets:
        if secret.reveal():
            message = message.replace(secret.reveal(), "•••")
    known = find(kind, code, message)
    if known is None:
        hint = f"read the message of {title}; if it is not clear, report it, so that it gets a hint here"
        return WarehouseError(f"{title} refused the statement", code=code, vendor=message, hint=hint)
    if known.error is Mismatch:
        return Mismatch(known.summary, column="", ours="", theirs="", hint=known.hint, code=code, vendor=message)
    if known.error is Rejected:
        return Rejected(known.summary, row="", column="", hint=known.hint, code=code, vendor=message)
    return known.error(known.summary, hint=known.hint, code=code, vendor=message)


def _known(entry: dict[str, str]) -> Known:
    error = getattr(errors, entry.pop("class"))
    if not issubclass(error, WarehouseError):
        raise ValueError(f"{error.__name__} is not an error of a warehouse")
    return Known(error, **entry)

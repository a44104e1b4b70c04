"""Secrets: a value that cannot print itself, sealed at rest, or a reference to where it lies.

Sealing is Fernet from `cryptography` (docs/decisions/0004-sealing.md). The key is a file beside the store with mode
0600, or given by a setting.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from isthmus.model.errors import InvalidInput


@dataclass(frozen=True, repr=False)
class Secret:
    """A text that prints as `•••`. `reveal()` is the only way to it; call it where the value leaves for a driver."""

    _text: str

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(•••)"

    __str__ = __repr__


class Seal:
    """Seals and unseals with one key."""

    def __init__(self, key: bytes) -> None:
        try:
            self._fernet = Fernet(key)
        except ValueError as e:
            raise InvalidInput(
                "the secret key is not a Fernet key",
                hint="make one with: python -c 'from cryptography.fernet import Fernet as F; "
                "print(F.generate_key().decode())'",
            ) from e

    def seal(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> Secret:
        """Raises InvalidInput when the text was sealed with another key."""
        try:
            return Secret(self._fernet.decrypt(sealed.encode()).decode())
        except InvalidToken as e:
            raise InvalidInput(
                "a stored credential cannot be unsealed with this key",
                hint="bring back the secret.key file that belongs to this home, or enter the credentials again",
            ) from e


def key_file(path: Path) -> bytes:
    """The key in `path`, made on first use. Two processes making it at once end with one key."""
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, Fernet.generate_key())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)  # fails if another process was first: theirs is the key then
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path.read_bytes().strip()


def resolve(value: Any, *, folder: Path, environ: dict[str, str]) -> Secret:
    """A secret as a person may write it: the text itself, `{env: NAME}` or `{file: PATH}` (relative to `folder`)."""
    match value:
        case Secret():
            return value
        case str():
            return Secret(value)
        case bool() | int() | float():
            raise InvalidInput(
                "a secret has to be a text", hint="put it in quotes: without them YAML reads it as a number"
            )
        case {"env": str(name)} if len(value) == 1:
            if name not in environ:
                raise InvalidInput(f"the environment variable {name} is not set", hint=f"export {name}=… and try again")
            return Secret(environ[name])
        case {"file": str(name)} if len(value) == 1:
            try:
                return Secret((folder / name).expanduser().read_text().rstrip("\r\n"))
            except (OSError, UnicodeDecodeError) as e:
                raise InvalidInput(f"the secret file {name} cannot be read: {e}") from e
    raise InvalidInput("a secret is a text, {env: NAME} or {file: PATH}")

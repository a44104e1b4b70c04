"""How we say that a name is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from isthmus.model.errors import InvalidInput


def unknown(noun: str, name: str, known: Iterable[str]) -> InvalidInput:
    """The error for a `name` that no `noun` has, with the closest one there is, else all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"there are: {', '.join(names)}" if names else f"there is no {noun} yet"
    return InvalidInput(f"there is no {noun} named {name!r}", hint=hint)

"""Fields and secrets as options of a command. A secret is never a word of the command line: others could read it there,
and the shell would remember it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from isthmus.model.errors import InvalidInput
from isthmus.secrets import Secret, resolve
from isthmus.settings import environment

SetFields = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A field that is no secret; may be given several times."),
]
SecretNames = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="FIELD", help="A secret field: you are asked for it, unless it comes from below."),
]
FromEnv = Annotated[
    str | None, typer.Option("--from-env", metavar="NAME", help="The environment variable that holds the secret.")
]
FromFile = Annotated[
    Path | None, typer.Option("--from-file", metavar="PATH", help="The file that holds the secret; - for stdin.")
]


def given_fields(pairs: Sequence[str] | None) -> dict[str, str]:
    """The fields of `--set`. Raises InvalidInput for one that is no pair."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InvalidInput("--set takes FIELD=VALUE", hint="for example --set username=isthmus")
        found[name.strip()] = value
    return found


def given_secrets(names: Sequence[str] | None, from_env: str | None, from_file: Path | None) -> dict[str, Secret]:
    """The secrets of `--secret`, each asked for on the terminal or, of one, from where it lies.

    Raises InvalidInput if it is not clear which one comes from where, or nobody can be asked.
    """
    names = list(names or ())
    if "=" in "".join(names):
        raise InvalidInput(
            "--secret takes only the name of a field",
            hint="a secret must not stand on a command line: you are asked for it",
        )
    if from_env is None and from_file is None:
        return {name: _asked(name) for name in names}
    if len(names) != 1 or (from_env is not None and from_file is not None):
        raise InvalidInput(
            "--from-env and --from-file say where one secret lies", hint="give one --secret and one of them at a time"
        )
    if from_env is not None:
        return {names[0]: resolve({"env": from_env}, folder=Path.cwd(), environ=environment())}
    if str(from_file) == "-":
        return {names[0]: Secret(sys.stdin.read().rstrip("\r\n"))}
    return {names[0]: resolve({"file": str(from_file)}, folder=Path.cwd(), environ={})}


def _asked(name: str) -> Secret:
    if not sys.stdin.isatty():
        raise InvalidInput(
            f"there is no terminal to ask for {name} on", hint="say where it lies: --from-env NAME or --from-file PATH"
        )
    return Secret(typer.prompt(name, hide_input=True, confirmation_prompt=False, err=True))

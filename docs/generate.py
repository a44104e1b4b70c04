"""Writes the generated pages of docs/reference from the code. `make docs` runs it; a test says when that is due.

A page about something that is not there yet is left out.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code: change it there, then `make docs`. -->\n\n"


def settings() -> str:
    """Every environment variable, from `isthmus.settings`."""
    from isthmus.settings import variables

    lines = [
        "# Settings\n",
        "Settings are environment variables, read once when a command starts. An empty variable counts as not set. A",
        "variable that begins with `ISTHMUS_` and is not in this list is an error, so that a misspelt one is found.\n",
        "| variable | default | what it accepts |",
        "|---|---|---|",
    ]
    known = variables().values()
    for each in known:
        lines.append(f"| [`{each.name}`](#{each.name.lower()}) | {_cell(each.default)} | {_cell(each.accepts)} |")
    for each in known:
        lines += ["", f"## {each.name}\n", f"{each.help}\n"]
        lines.append(f"Accepts {each.accepts}. Default: {each.default}.")
        if each.fallbacks:
            lines.append(f"If it is not set, {_or(f'`{name}`' for name in each.fallbacks)} is used.")
        if each.secret:
            lines.append("It is a secret: it is never shown, logged or stored in the clear.")
    return "\n".join(lines) + "\n"


def errors() -> str:
    """Every error a person can meet, from `isthmus.model.errors`, in the order of their tree."""
    from isthmus.model.errors import IsthmusError

    lines = [
        "# Errors\n",
        "Every error says in one sentence what is wrong, what to do about it (`hint`), whether trying again can help,",
        "and, where a warehouse said something itself, its words (`vendor`) and its code. A command that ends with an",
        "error prints it and exits with 1, or with 2 if the command line itself was wrong; with `--json` it prints",
        "`error`, `summary`, `hint`, `code`, `vendor` and `retryable`.\n",
        "| error | what happened | trying again |",
        "|---|---|---|",
    ]
    for error, depth in error_classes(IsthmusError):
        indent = "&nbsp;&nbsp;" * depth
        again = "can help" if error.retryable else "does not help"
        lines.append(f"| {indent}`{error.__name__}` | {_cell(_first_paragraph(error))} | {again} |")
    return "\n".join(lines) + "\n"


def error_classes(root: Any, depth: int = 0) -> Iterator[tuple[Any, int]]:
    """The tree of errors from `root`, each with how deep it lies."""
    yield root, depth
    for below in root.__subclasses__():
        if below.__module__ == root.__module__:
            yield from error_classes(below, depth + 1)


def warehouse_errors() -> str:
    """What vendors say and what it means, from `isthmus.warehouses/errors`; kinds without a table are left out."""
    kinds: dict[str, Any] = importlib.import_module("isthmus.warehouses.kinds").KINDS
    table = importlib.import_module("isthmus.warehouses.vendor_errors").table
    known: dict[str, tuple[Any, ...]] = {}
    for kind in kinds:
        with suppress(FileNotFoundError):
            known[kind] = table(kind)
    lines = [
        "# What warehouses say\n",
        "Isthmus knows these messages of warehouses by their code, or by words where there is no code, and says what",
        "they mean. The warehouse's own words are always shown too; a message that is not in a list is shown in full.",
        "`…` after a code stands for every code that begins like that; the longest one counts. What the classes are is",
        "in [errors](errors.md).\n",
        "| kind | warehouse | messages |",
        "|---|---|---|",
    ]
    for kind, entries in known.items():
        lines.append(f"| [`{kind}`](#{kind}) | {kinds[kind].traits.title} | {len(entries)} |")
    for kind, entries in known.items():
        lines += ["", f"## {kind}\n", "| says | means | what to do | trying again |", "|---|---|---|---|"]
        for each in entries:
            again = "by itself" if each.error.retryable else "does not help"
            means = f"{each.summary} (`{each.error.__name__}`)"
            lines.append(f"| {_says(each)} | {_cell(means)} | {_cell(each.hint)} | {again} |")
    return "\n".join(lines) + "\n"


def _says(known: Any) -> str:
    """How a message is told from others: its code, and the words of its example if words are looked for."""
    parts = []
    if known.code:
        whole = re.search(rf"(?<!\w){re.escape(known.code)}(?!\w)", known.example) or len(known.code) >= 5
        parts.append(f"`{_cell(known.code)}`" + ("" if whole else " …"))
    if known.words or not known.code:
        shown = re.sub(r"^.* failed: +", "", known.example)  # where it failed is another place for everyone
        shown = shown if len(shown) <= 160 else shown[:159] + "…"
        parts.append("“" + _cell(_escaped(shown)) + "”")
    return " ".join(parts)


def _escaped(text: str) -> str:
    """A text of a vendor that Markdown is to leave alone."""
    return re.sub(r"([*_`<>\[\]])", r"\\\1", text)


def connectors() -> str:
    """Every kind of connection and its fields, from `isthmus.warehouses.kinds`."""
    kinds: dict[str, Any] = importlib.import_module("isthmus.warehouses.kinds").KINDS
    lines = [
        "# Connectors\n",
        "A connection in an `isthmus apply` file has a `name`, a `kind`, and the fields of that kind. A secret field",
        "is written as text, as `{env: NAME}` or as `{file: PATH}`.\n",
        "| kind | warehouse | export to it | import from it |",
        "|---|---|---|---|",
    ]
    for kind, config in kinds.items():
        loads, reads = ("yes" if can else "no" for can in (config.traits.loads, config.traits.reads))
        lines.append(f"| [`{kind}`](#{kind}) | {config.traits.title} | {loads} | {reads} |")
    for kind, config in kinds.items():
        lines += ["", f"## {kind}\n", _first_paragraph(config), "", "| field | what it is | default |", "|---|---|---|"]
        for each in fields(config):
            about = each.metadata
            secret = " A secret." if about["secret"] else ""
            example = f" For example `{about['example']}`." if about["example"] else ""
            text = f"{about['label']}. {about['help'].rstrip('.')}.{example}{secret}"
            lines.append(f"| `{each.name}` | {_cell(text)} | {_default(each)} |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its arguments and options, from the command line's own definition."""
    from typer.main import get_command

    root: Any = get_command(importlib.import_module("isthmus.cli.main").app)
    lines = ["# Commands\n", _paragraphs(root.help), "\n| command | what it does |", "|---|---|"]
    found = list(command_tree(root))
    for name, command in found:
        summary = inspect.cleandoc(command.help or "").split("\n\n")[0]
        lines.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(' '.join(summary.split()))} |")
    for name, command in found:
        lines += ["", f"## {name}\n", _paragraphs(command.help), "", "```", _usage(name, command), "```"]
        rows = [(_spelling(p), getattr(p, "help", None) or "") for p in _parameters(command)]
        if rows:
            lines += ["", "| argument or option | what it is |", "|---|---|"]
            lines += [f"| `{_cell(spelling)}` | {_cell(' '.join(help.split()))} |" for spelling, help in rows]
    return "\n".join(lines) + "\n"


def command_tree(command: Any, name: str = "isthmus") -> Iterator[tuple[str, Any]]:
    """Every command a person can type, with its full name; groups are not commands."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for each, inner in below.items():
        if not inner.hidden:
            yield from command_tree(inner, f"{name} {each}")


def _parameters(command: Any) -> list[Any]:
    return [p for p in command.params if not getattr(p, "hidden", False) and "--help" not in p.opts]


def _is_argument(parameter: Any) -> bool:
    return getattr(parameter, "param_type_name", "") == "argument"


def _spelling(parameter: Any) -> str:
    if _is_argument(parameter):
        return str(parameter.metavar or parameter.name).upper().strip("[]")
    spelt = " / ".join([*parameter.opts, *parameter.secondary_opts])
    return spelt if getattr(parameter, "is_flag", False) else f"{spelt} {parameter.metavar or parameter.name.upper()}"


def _usage(name: str, command: Any) -> str:
    shown = [name]
    for parameter in _parameters(command):
        if _is_argument(parameter):
            text = _spelling(parameter) + ("…" if parameter.nargs == -1 else "")
            shown.append(text if parameter.required else f"[{text}]")
    if any(not _is_argument(p) for p in _parameters(command)):
        shown.append("[OPTIONS]")
    return " ".join(shown)


def _paragraphs(text: str | None) -> str:
    return inspect.cleandoc(text or "").replace("\b\n", "").strip()


def _first_paragraph(documented: type) -> str:
    return " ".join(inspect.cleandoc(documented.__doc__ or "").split("\n\n")[0].split())


def _default(each: Any) -> str:
    if each.default is MISSING and each.default_factory is MISSING:
        return "required"
    value = each.default_factory() if each.default is MISSING else each.default
    return "none" if value in (None, "", ()) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _or(names: Iterator[str]) -> str:
    return " or ".join(names)


PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "commands.md": ("isthmus.cli.main", commands),
    "settings.md": ("isthmus.settings", settings),
    "connectors.md": ("isthmus.warehouses.kinds", connectors),
    "errors.md": ("isthmus.model.errors", errors),
    "warehouse-errors.md": ("isthmus.warehouses.vendor_errors", warehouse_errors),
}
"""Each page, the module it tells about, and what writes it."""


def main() -> None:
    """Write every page whose module is there."""
    REFERENCE.mkdir(exist_ok=True)
    for page, (module, write) in PAGES.items():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as e:
            if e.name is None or not module.startswith(e.name):
                raise
            print(f"{page}: left out, {e.name} is not there yet", file=sys.stderr)
        else:
            (REFERENCE / page).write_text(NOTE + write(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What every command shares: its two options, the app, errors, and how results are printed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from isthmus.app import App
from isthmus.model.errors import IsthmusError
from isthmus.settings import Settings

Home = Annotated[Path | None, typer.Option("--home", help="The home folder; goes before ISTHMUS_HOME.")]
Name = Annotated[str, typer.Argument(help="Its name, as in the file that was applied.")]
RunId = Annotated[str, typer.Argument(help="The id of a run; its beginning is enough.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, emoji=False)


@contextmanager
def opened(home: Path | None, as_json: bool) -> Iterator[App]:
    """The app for one command. An error of ours is told, with what to do, and ends the command with exit code 1."""
    try:
        with App(Settings.load(home=home)) as app:
            yield app
    except IsthmusError as e:
        tell(e, as_json)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        err.print("Stopped. What was finished is kept; the same command goes on from there.")
        raise typer.Exit(1) from None
    except OSError as e:
        if e.errno != 28:
            raise
        tell(IsthmusError("the disk is full", hint="free some space and run the same command again"), as_json)
        raise typer.Exit(1) from None


def tell(e: IsthmusError, as_json: bool) -> None:
    """Say what went wrong and what to do."""
    if as_json:
        print_json(e.as_dict())
        return
    err.print(f"[bold red]Error:[/] {_safe(e.summary)}", soft_wrap=True)
    for part in (e.vendor.strip(), e.hint):
        if part:
            err.print(f"  {_safe(part)}", soft_wrap=True, style="dim" if part != e.hint else "")


def say(text: str) -> None:
    """A line of text that may hold anything: it is shown as it is, and can do nothing to the terminal."""
    out.print(_safe(text))


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(_valid(document), default=_plain, ensure_ascii=False, indent=2) + "\n")


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """A table, or the sentence `empty`."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    count = 0
    for row in rows:
        table.add_row(*(_safe(shown(cell)) for cell in row))
        count += 1
    if count:
        out.print(table)
    else:
        out.print(empty)


LONGEST_CELL = 60
SHORTEST_LAST = 24


def print_fitting(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """A table that fits the terminal, with long values cut short; its last column may wrap. Where even so there is no
    room for it: row by row, a line for each value. Nothing is cut that is not marked with an ellipsis."""
    if not rows:
        say(empty)
        return
    texts = [[_cut(shown(cell), LONGEST_CELL) for cell in row] for row in rows]
    widths = [max(cell_len(text) for text in column) for column in zip(columns, *texts, strict=True)]
    left = out.width - sum(widths[:-1]) - 2 * (len(widths) - 1)
    if left >= min(widths[-1], SHORTEST_LAST):
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name, width in zip(columns, [*widths[:-1], min(left, widths[-1])], strict=True):
            table.add_column(Text(name), width=width, overflow="fold")
        for row in texts:
            table.add_row(*(Text(cell) for cell in row))
        out.print(table, soft_wrap=False)
        return
    name_width = max(cell_len(name) for name in columns)
    for i, row in enumerate(texts):
        if i:
            out.print()
        for name, text in zip(columns, row, strict=True):
            if text != shown(None):
                pieces = (Text(name.ljust(name_width), "bold"), "  ", Text(_cut(text, out.width - name_width - 2)))
                out.print(Text.assemble(*pieces), soft_wrap=True)


def _cut(text: str, width: int) -> str:
    """The text on one line, and not wider than this."""
    line = "".join(c if c.isprintable() else "�" for c in " ".join(text.splitlines()))
    if cell_len(line) <= width:
        return line
    return chop_cells(line, max(1, width - 1))[0] + "…"


def print_exactly(text: str) -> None:
    """Text that is to be copied: nothing in it is markup, and no line is wrapped."""
    sys.stdout.write(text)


def shown(value: Any) -> str:
    """A value as a person reads it."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case int():
            return f"{value:,}"
        case Enum():
            return str(value.value)
    return str(value)


def size(size_bytes: int) -> str:
    """Bytes as a person reads them."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000 or unit == "TB":
            break
    return f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str | None:
    """A time as a person reads it: what matters of it."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


@contextmanager
def progress(title: str, *, quiet: bool) -> Iterator[Any]:
    """A bar on stderr; call what it gives with (done, total or None). Nothing is shown where nobody looks."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def step(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield step


def _valid(value: Any) -> Any:
    """The document without what JSON has no word for: keys that are no text, NaN and Infinity become texts."""
    match value:
        case dict():
            return {key if isinstance(key, str) else str(_plain(key)): _valid(member) for key, member in value.items()}
        case list() | tuple():
            return [_valid(member) for member in value]
        case float() if not math.isfinite(value):
            return str(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    return str(value)


def _safe(text: str) -> str:
    """Text as it is: brackets are no markup, control characters reach no terminal."""
    return escape("".join(c if c.isprintable() or c in "\n\t" else "�" for c in text))

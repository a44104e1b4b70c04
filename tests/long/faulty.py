"""A worker as anybody starts it, on warehouses that are in trouble and with a clock that may be wrong.

`work` runs in a process of its own: it patches what a test has a say in, then it is `isthmus serve` or a `worker`.
What goes wrong is read from a file, so that the test can change it at any time; every load is noted in another one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from isthmus.app import App
from isthmus.exports import plan
from isthmus.imports import files, relation
from isthmus.model.errors import Busy, Denied, Unreachable
from isthmus.model.table import Batch, Receipt
from isthmus.runs import retry
from isthmus.warehouses.duckdb import DuckDBWarehouse
from isthmus.warehouses.postgres import PostgresWarehouse

CHUNK_ROWS = 150


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with each load, as probabilities, and how long one takes at least and at most."""

    before: float = 0.0  # busy, or out of reach, before anything is done
    after: float = 0.0  # everything is done, but nobody says so
    denied: float = 0.0  # until a person grants something
    slow_s: tuple[float, float] = (0.0, 0.0)
    longest_wait_s: float = 3.0  # between two tries
    clock_off_s: float = 0.0  # how wrong the wall clock is

    def write(self, folder: Path) -> None:
        part = folder / "trouble.part"
        part.write_text(json.dumps(asdict(self)))
        part.rename(folder / "trouble.json")

    @classmethod
    def read(cls, folder: Path) -> Trouble:
        found = json.loads((folder / "trouble.json").read_text())
        return cls(**{f.name: found[f.name] for f in fields(cls)})


def work(environ: Mapping[str, str], arguments: Sequence[str], folder: Path, seed: int) -> None:
    """Be `isthmus <arguments>`, in trouble as the file in `folder` says."""
    os.environ.update(environ)
    said = os.open(folder / f"said-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    make_faulty(folder, random.Random(seed))
    from isthmus.cli.main import main

    sys.argv = ["isthmus", *arguments]
    main()


def make_faulty(folder: Path, chance: random.Random) -> None:
    """Patch this process."""
    for make in (plan.history, plan.changes, plan.replacing):
        assert make.__kwdefaults__ is not None
        make.__kwdefaults__["limit"] = CHUNK_ROWS
    note = Notes(folder / "loads")
    relation.BATCH_ROWS = files.BATCH_ROWS = CHUNK_ROWS
    for warehouse in (DuckDBWarehouse, PostgresWarehouse):
        setattr(warehouse, "load", _in_trouble(warehouse.load, folder, chance, note))  # noqa: B010
        setattr(warehouse, "read", _broken_off(warehouse.read, folder, chance))  # noqa: B010
    now = App.now

    def wrong_now(app: App) -> datetime:
        return now(app) + timedelta(seconds=Trouble.read(folder).clock_off_s)

    App.now = wrong_now  # type: ignore[method-assign]
    retry.FIRST_S, retry.LONGEST_S = 0.2, Trouble.read(folder).longest_wait_s
    retry.FIRST_AT_DOOR_S, retry.LONGEST_AT_DOOR_S = 1.0, Trouble.read(folder).longest_wait_s


class Notes:
    """A file to which several processes append lines of JSON."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, **what: object) -> None:
        line = {"at": time.time(), "process": os.getpid(), "thread": threading.get_ident(), **what}
        os.write(self._descriptor, (json.dumps(line) + "\n").encode())


def _in_trouble(load: Callable[[Any, Batch], Receipt], folder: Path, chance: random.Random, note: Notes) -> Any:
    def wrapper(warehouse: Any, batch: Batch) -> Receipt:
        trouble = Trouble.read(folder)
        config = warehouse._config
        place = config.path if config.kind == "duckdb" else f"{config.database}.{config.schema}"
        told = {"batch": batch.batch_id, "rows": batch.rows, "empty": not batch.files, "place": place}
        note(what="begin", **told)
        outcome = "error"
        try:
            slow = trouble.slow_s[0] + chance.random() * (trouble.slow_s[1] - trouble.slow_s[0])
            time.sleep(slow / 2)
            if chance.random() < trouble.denied:
                raise Denied("may not insert", hint="grant it", code="42501")
            if chance.random() < trouble.before:
                cause = Busy if chance.random() < 0.5 else Unreachable
                raise cause("the warehouse is in trouble", hint="wait", code="before")
            receipt = load(warehouse, batch)
            outcome = "repeated" if receipt.repeated else "applied"
            note(what=outcome, **told)
            time.sleep(slow / 2)
            if chance.random() < trouble.after:
                raise Unreachable("no answer any more", hint="wait", code="after")
            return receipt
        finally:
            note(what="end", outcome=outcome, **told)

    return wrapper


def _broken_off(read: Callable[..., Iterator[Any]], folder: Path, chance: random.Random) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in read(*args, **kwargs):
            trouble = Trouble.read(folder)
            time.sleep(trouble.slow_s[0])
            if chance.random() < trouble.before:
                raise Unreachable("the warehouse is in trouble", hint="wait", code="reading")
            yield batch

    return wrapper


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(3)

"""Runs the stand-in: this package as a program, with what it needs as JSON on the command line."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from isthmus.testing.standins.databricks_wire.catalog import Access
from isthmus.testing.standins.databricks_wire.data import Data
from isthmus.testing.standins.databricks_wire.requests import Door, serve
from isthmus.testing.standins.databricks_wire.sessions import Sessions
from isthmus.testing.standins.databricks_wire.statements import Statements


def main(given: dict[str, str]) -> None:
    """Serve until told to end."""
    folder = Path(given["folder"])
    results = folder / "results"
    results.mkdir()
    data = Data(folder, Access(given["administrator"]))

    def make(link: Callable[[str], str]) -> Door:
        tokens = {given["token"]: given["administrator"]}
        sessions = Sessions(Statements(data), results, link)
        return Door(sessions, results, given["administrator"], tokens, given["warehouse"])

    server = serve(int(given["port"]), Path(given["certificate"]), make)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    (folder / "ready").touch()
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

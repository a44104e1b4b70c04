"""Our Snowflake: `snowflake_wire`, in an environment of its own."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from isthmus.testing.standins import environments
from isthmus.testing.standins.launching import folder_of_its_own, free_ports, running

_PACKAGE = Path(__file__).with_name("snowflake_wire")

# Loads the package from its folder alone: of ours, nothing else is to be had in its environment.
_START = """
import importlib.util, runpy, sys
folder, *sys.argv[1:] = sys.argv[1:]
spec = importlib.util.spec_from_file_location("snowflake_wire", folder + "/__init__.py",
                                              submodule_search_locations=[folder])
module = importlib.util.module_from_spec(spec)
sys.modules["snowflake_wire"] = module
spec.loader.exec_module(module)
runpy.run_module("snowflake_wire", run_name="__main__")
"""


class Refusal(Exception):
    """A statement of the administrator that the server refused."""


@dataclass(frozen=True)
class SnowflakeServer:
    """A running Snowflake account with one user, ADMIN, who may be anything. It speaks HTTP on 127.0.0.1."""

    port: int
    password: str
    python: Path
    account: str = "standin"
    host: str = "127.0.0.1"
    protocol: str = "http"
    username: str = "ADMIN"
    warehouse: str = "ADMIN_WH"

    def execute(
        self, *statements: str, role: str = "SYSADMIN", database: str | None = None, schema: str | None = None
    ) -> list[list[Any]]:
        """Run statements as the administrator, in one session. Returns the rows of the last one."""
        about = {"statements": statements, "role": role, "database": database, "schema": schema}
        rows: list[list[Any]] = self._ask("execute", about)
        return rows

    def script(self, text: str, *, role: str = "SYSADMIN") -> list[list[Any]]:
        """Run a whole script, as a person does who pastes it into a worksheet."""
        return self.execute(*statements_of(text), role=role)

    def fresh_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"TEST_{uuid4().hex[:12].upper()}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def log(self, *, since: int = 0) -> list[dict[str, Any]]:
        """Every statement that was asked for: `statement`, `user`, `role`, `tag`, `describe`, in order."""
        found: list[dict[str, Any]] = self._ask("log", {"since": since})
        return found

    @contextmanager
    def faults(self, *faults: dict[str, Any]) -> Iterator[None]:
        """Have things go wrong: see `snowflake_wire.faults` for their kinds."""
        self._ask("faults", {"faults": faults})
        try:
            yield
        finally:
            self._ask("faults", {"faults": []})

    def abort_when_idle(self, seconds: float) -> None:
        """How long a transaction in somebody's way may be idle: five minutes at the real one."""
        self._ask("settings", {"idle_abort_s": seconds})

    def state(self) -> dict[str, Any]:
        """The tables that are locked, as `held`, and how many `sessions` are open."""
        found: dict[str, Any] = self._ask("state", {})
        return found

    def _ask(self, what: str, about: dict[str, Any]) -> Any:
        url = f"{self.protocol}://{self.host}:{self.port}/standin/{what}"
        request = urllib.request.Request(url, json.dumps(about).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            with e:
                told = json.load(e) if e.code == 422 else {"error": str(e)}
            raise Refusal(f"{told['error']}\nin: {told.get('statement', '')}") from None


def statements_of(script: str) -> list[str]:
    """The statements of a script, without its comments."""
    found, current, quote = [], "", ""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("--")]
    for character in "\n".join(lines):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == ";":
            found.append(current.strip())
            current = ""
            continue
        current += character
    return [statement for statement in (*found, current.strip()) if statement]


@contextmanager
def snowflake() -> Iterator[SnowflakeServer]:
    """A new account, gone with its data afterwards. Raises Unavailable where its environment cannot be made."""
    python = environments.python("snowflake")
    with folder_of_its_own("isthmus-snowflake-") as folder:
        server = SnowflakeServer(free_ports(1)[0], password=uuid4().hex, python=python)
        stages = folder / "stages"
        stages.mkdir()

        def is_ready() -> bool:
            try:
                return server.state() is not None
            except OSError:
                return False

        arguments = [
            *(str(python), "-c", _START, str(_PACKAGE)),
            *(str(server.port), str(stages), server.password, "0.5"),
        ]
        with running(arguments, is_ready, folder, end_signal=signal.SIGKILL):
            yield server

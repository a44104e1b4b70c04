"""A signed-in session of a dedicated SQL pool through mssql-python, and its driver's errors as ours."""

from __future__ import annotations

import ctypes
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isthmus.model.errors import Denied, Missing, Unreachable, WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors
from isthmus.warehouses.synapse_sql import bracketed

TITLE = "Azure Synapse Analytics"
CONNECT_TIMEOUT_S = 30  # a pool that has just been resumed is slow to answer
STATEMENT_TIMEOUT_S = 3600

# What the driver calls each SQLSTATE; it does not give the state itself, nor the server's number.
_STATES: Mapping[str, str] = {
    "Base table or view not found": "42S02",
    "Base table or view already exists": "42S01",
    "Client unable to establish connection": "08001",
    "Column already exists": "42S21",
    "Column not found": "42S22",
    "Communication link failure": "08S01",
    "Connection not open": "08003",
    "Invalid authorization specification": "28000",
    "Integrity constraint violation": "23000",
    "Numeric value out of range": "22003",
    "Server rejected the connection": "08004",
    "String data, right-truncated": "22001",
    "Syntax error or access violation": "42000",
    "Timeout expired": "HYT00",
}
_NUMBER = re.compile(r"(?:\]|^)\s*(?:Msg )?(\d{4,6})[;,]")
_REFUSED = re.compile(r"The (\w+) permission was denied on the object '(.+?)', database '.*', schema '(.+?)'\.")


def driver() -> Any:
    """mssql-python, without its pool: a session that is closed is gone. Raises Missing without it."""
    try:
        import mssql_python
    except ImportError as e:
        hint = "install the extra that brings it: pip install 'isthmus[synapse]'"
        raise Missing("the driver of Azure Synapse Analytics is not installed", hint=hint) from e
    # It needs a library that no wheel brings and that conda, for example, keeps where the system does not look.
    library = Path(sys.prefix) / "lib" / "libltdl.so.7"
    if library.exists():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    mssql_python.pooling(enabled=False)
    return mssql_python


def reach(host: str, port: int) -> None:
    """Raise Unreachable if nobody listens there: the driver would find out later, and say less."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError) as e:
        hint = "check workspace (or host) and port, and that the firewall of the workspace lets this machine in"
        raise Unreachable("no answer from the host", hint=hint, vendor=f"{host}:{port}: {e}") from e


class Session:
    """One connection. Each statement commits by itself, unless it is a batch with a transaction of its own."""

    def __init__(self, parameters: Mapping[str, str], secrets: tuple[Secret, ...]) -> None:
        self._secrets = secrets
        module = driver()
        said = "".join(f"{name}={{{value.replace('}', '}}')}}};" for name, value in parameters.items())
        with self._translated():
            self._con: Any = module.connect(said, autocommit=True, timeout=CONNECT_TIMEOUT_S)
            self._con.timeout = STATEMENT_TIMEOUT_S

    def execute(self, statement: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run a batch. Returns the rows of its first result, if it has one."""
        with self._translated(), self._cursor() as cursor:
            cursor.execute(statement, parameters) if parameters else cursor.execute(statement)
            found = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            while cursor.nextset():  # an error behind the first result is only found by going there
                pass
            return found

    @contextmanager
    def rows(self, statement: str, rows_at_once: int) -> Iterator[Any]:
        """A reader of the result of a query in Arrow batches."""
        with self._translated(), self._cursor() as cursor:
            cursor.execute(statement)
            yield cursor.arrow_reader(batch_size=rows_at_once)

    def close(self) -> None:
        con, self._con = self._con, None
        if con is not None:
            with suppress(Exception):  # a session that broke cannot say goodbye
                con.close()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        if self._con is None:
            raise Unreachable("the connection is closed", hint="open it again")
        cursor = self._con.cursor()
        try:
            yield cursor
        finally:
            with suppress(Exception):
                cursor.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except WarehouseError:
            raise
        except Exception as e:
            if type(e).__module__.partition(".")[0] != "mssql_python" and not isinstance(e, (OSError, RuntimeError)):
                raise
            raise translate(e, self._secrets) from e


def translate(e: Exception, secrets: tuple[Secret, ...]) -> WarehouseError:
    """One error of the driver as one of ours."""
    said = str(getattr(e, "ddbc_error", "") or e)
    state = _STATES.get(str(getattr(e, "driver_error", "")), "")
    number = _NUMBER.search(said)
    found = vendor_errors.translate(
        "synapse", TITLE, code=number[1] if number else state or type(e).__name__, message=said, secrets=secrets
    )
    if isinstance(found, Denied) and (refused := _REFUSED.search(said)):
        right, _, schema = refused.groups()
        found.hint = f"a right is missing: GRANT {right} ON SCHEMA::{bracketed(schema)} TO the user of this connection"
    return found

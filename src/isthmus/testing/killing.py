"""A load in a process of its own that dies by SIGKILL after its n-th statement."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from isthmus.model.table import Batch
from isthmus.warehouses.protocol import Config

_PATIENCE_S = 60
_DRIVERS = (  # slow to import; one that is not installed is passed over
    "adbc_driver_postgresql.dbapi",
    "azure.storage.blob",
    "boto3",
    "google.cloud.bigquery",
    "mssql_python",
    "redshift_connector",
    # What snowflake.connector imports, and not itself: its core has threads, which a fork leaves behind.
    "cryptography.x509",
    "google.protobuf.descriptor_pb2",
    "pandas",
    "pyarrow.parquet",
    "sqlalchemy.engine",
)


def load_and_be_killed(config: Config, batch: Batch, statements: Sequence[str], number: int) -> bool:
    """Load the batch and die after statement `number`. Returns False if the load ended before that."""
    # A server process that has loaded the modules once and forks for each kill: a new interpreter takes far longer.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "isthmus.warehouses.kinds", *_DRIVERS])
    process = context.Process(target=_load, args=(config, batch, tuple(statements), number))
    process.start()
    process.join(_PATIENCE_S)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    process.close()
    assert code in (0, -signal.SIGKILL), f"the loading process ended with {code}"
    return code != 0


def _load(config: Config, batch: Batch, statements: Sequence[str], number: int) -> None:
    warehouse: Any = config.open()
    left = number

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            result = call(*args, **kwargs)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapper

    for name in statements:
        if hasattr(warehouse, name):
            setattr(warehouse, name, counted(getattr(warehouse, name)))
    warehouse.load(batch)
    warehouse.close()

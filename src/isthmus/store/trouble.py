"""What the store's engine says goes wrong, as errors of ours. It gives classes for little, so its words must do."""

from __future__ import annotations

import duckdb

from isthmus.model.errors import IsthmusError, StoreAway, StoreBusy, StoreError, StoreFull, StoreTooNew
from isthmus.store import lock
from isthmus.store.place import Place

_CONFLICTS = ("database is locked", "Transaction conflict", "write-write conflict", "maximum retry", "serialize access")
_AWAY = (
    *(
        "unable to connect to postgres",
        "could not connect",
        "could not establish",
        "connection error",
        "http get error",
    ),
    *(
        "server closed the connection",
        "terminating connection",
        "connection refused",
        "connection to server",
        "no connection",
    ),
    *("the database system is", "failed to send", "ssl connection has been closed", "http error", "io error"),
    "current transaction is aborted",  # its connection to the catalog was cut before
    'failed to execute query "rollback"',  # after a commit whose connection had gone
)
"""How the engine says, in lower case, that a server of a scaled store is not there."""

SPACE = "free some space and run the same command again: what was finished is kept, the rest is done then"


def translated(e: duckdb.Error, place: Place) -> IsthmusError:
    """A DuckDB error as one of ours. The engine gives classes for few of these, so its words must do."""
    text = str(e)
    if place.database_url is not None:
        for hidden in lock.passwords(place.database_url):
            text = text.replace(hidden, "•••")
    if "No space left on device" in text or "Disk quota exceeded" in text or "exceeds available disk space" in text:
        return StoreFull("the disk is full", hint=SPACE, vendor=text)
    if "DuckLake" in text and ("version" in text and "supported" in text):
        return StoreTooNew(
            "the store was written by a newer version", hint="upgrade Isthmus to open this store", vendor=text
        )
    if any(word in text for word in _CONFLICTS):
        return StoreBusy("another process is writing to the store", hint="try again in a moment", vendor=text)
    if isinstance(e, duckdb.OutOfMemoryException):
        return StoreError(
            "the store ran out of the memory it may use", hint="raise ISTHMUS_MEMORY_MB and try again", vendor=text
        )
    if place.database_url is not None and (
        isinstance(e, duckdb.HTTPException) or any(word in text.lower() for word in _AWAY)
    ):
        return StoreAway(
            "the store's database or bucket does not answer",
            hint="check ISTHMUS_DATABASE_URL, ISTHMUS_STORAGE_URL and ISTHMUS_S3_ENDPOINT, and that both servers run",
            vendor=text,
        )
    return StoreError("the store's engine failed", hint="the vendor's own words say more", vendor=text)

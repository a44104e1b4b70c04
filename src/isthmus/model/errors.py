"""Every error a person can meet.

IsthmusError
├── InvalidInput        what a person gave us is wrong: a file, a setting, a command, a mapping
├── StoreError
│   ├── StoreBusy       another process holds the writer lock, or a commit lost a race        (try again)
│   ├── StoreAway       a server that holds the store or the ledger does not answer           (try again)
│   ├── StoreTooNew     the store was written by a newer Isthmus
│   ├── StoreMissing    there is nothing where the settings point, or it cannot be read
│   └── StoreFull       no space left on the device
├── SyncBusy            a run of this sync is under way in another process
├── RunStopped          a run ended before its work was done (its cause says why)
└── WarehouseError
    ├── Unreachable     no answer from the host                                               (try again)
    ├── Busy            answered, but cannot take work now: lock, limit, suspended            (try again)
    ├── Denied          signed in or asked, and was refused: a grant is missing
    ├── Missing         a database, schema, table or column is not there
    ├── Mismatch        a column exists with a type we cannot write to or read from
    └── Rejected        one value of one row cannot be held

Each knows two things: whether trying again can help (`retryable`) and what a person should do (`hint`).
"""

from __future__ import annotations

from typing import ClassVar


class IsthmusError(Exception):
    """Base of all errors. `summary` is one sentence; `hint` says what to do; `code` and `vendor` are as received.

    No argument may hold a secret: errors are shown, logged and stored.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, summary: str, *, hint: str = "", code: str = "", vendor: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.hint = hint
        self.code = code or type(self).__name__
        self.vendor = vendor

    def name(self, what: str) -> None:
        """Have the summary say what it is about, unless it does already."""
        if what not in self.summary:
            self.summary = f"{what}: {self.summary}"
            self.args = (self.summary,)

    def as_dict(self) -> dict[str, object]:
        """The error as JSON-ready values, for `--json`, the ledger and (later) the API."""
        return {
            "error": type(self).__name__,
            "summary": self.summary,
            "hint": self.hint,
            "code": self.code,
            "vendor": self.vendor,
            "retryable": self.retryable,
        }


class InvalidInput(IsthmusError):
    """What a person gave us cannot be used. Nothing was changed."""


class StoreError(IsthmusError):
    """The store refused or failed. Nothing of the transaction was kept."""


class StoreBusy(StoreError):
    """Another process holds the writer lock, or our commit lost a race."""

    retryable = True


class StoreAway(StoreError):
    """A server that holds the store or the ledger does not answer. What was committed is there."""

    retryable = True


class StoreTooNew(StoreError):
    """The store was written by a newer version; this one must not touch it."""


class StoreMissing(StoreError):
    """There is no store where the settings point, or it cannot be read."""


class StoreFull(StoreError):
    """No space is left where the store or its spool lies."""


class SyncBusy(IsthmusError):
    """A run of this sync is under way in another process; that one goes on."""

    retryable = True


class RunStopped(IsthmusError):
    """A run ended before its work was done. What was delivered stays; a new run goes on from there."""


class WarehouseError(IsthmusError):
    """Something a warehouse said or failed to say."""


class Unreachable(WarehouseError):
    """No answer from the host."""

    retryable = True


class Busy(WarehouseError):
    """The warehouse answered but cannot take work now."""

    retryable = True


class Denied(WarehouseError):
    """Sign-in failed or a grant is missing."""


class Missing(WarehouseError):
    """A database, schema, table or column is not there."""


class Mismatch(WarehouseError):
    """A column has a type we cannot use."""

    def __init__(
        self, summary: str, *, column: str, ours: str, theirs: str, hint: str = "", code: str = "", vendor: str = ""
    ) -> None:
        super().__init__(summary, hint=hint, code=code, vendor=vendor)
        self.column, self.ours, self.theirs = column, ours, theirs


class Rejected(WarehouseError):
    """One value of one row cannot be held by this warehouse."""

    def __init__(
        self, summary: str, *, row: str, column: str, hint: str = "", code: str = "", vendor: str = ""
    ) -> None:
        super().__init__(summary, hint=hint, code=code, vendor=vendor)
        self.row, self.column = row, column

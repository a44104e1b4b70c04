"""PostgreSQL's errors as ours: by SQLSTATE, and by words only while connecting, where the driver passes on no code."""

from __future__ import annotations

from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Rejected, Unreachable, WarehouseError
from isthmus.secrets import Secret

_Kind = type[WarehouseError]

# The longest prefix of the SQLSTATE wins.
_CODES: dict[str, _Kind] = {
    "08": Unreachable,  # connection exceptions
    "57P01": Unreachable,  # ended by an administrator
    "57P02": Unreachable,  # ended by a crash
    "57P03": Busy,  # cannot connect now: it starts up or recovers
    "57P05": Unreachable,  # idle session timeout
    "25P03": Unreachable,  # idle in transaction timeout
    "57014": Busy,  # cancelled: statement timeout
    "53": Busy,  # no connections, memory or space left
    "55": Busy,  # lock not available, object in use
    "40": Busy,  # serialisation failure, deadlock
    "28": Denied,  # invalid authorisation
    "42501": Denied,  # insufficient privilege
    "25006": Denied,  # read-only transaction: a replica
    "3D": Missing,  # no such database
    "3F": Missing,  # no such schema
    "42P01": Missing,  # no such table
    "42703": Missing,  # no such column
    "42804": Mismatch,  # datatype mismatch
    "42846": Mismatch,  # cannot coerce
    "42883": Mismatch,  # no such operator for these types
    "22": Rejected,  # data exceptions
    "23": Rejected,  # constraint violations
    "54": Rejected,  # program limit exceeded: a row or an index entry too large
}

# Found in what libpq says when a connection cannot be made; the first that fits wins.
_WORDS: tuple[tuple[str, _Kind], ...] = (
    ("too many", Busy),
    ("connection slots", Busy),
    ("starting up", Busy),
    ("shutting down", Busy),
    ("recovery mode", Busy),
    ("not accepting connections", Busy),
    ("authentication", Denied),
    ("no password supplied", Denied),
    ("pg_hba.conf", Denied),
    ("permission denied", Denied),
    ("not permitted to log in", Denied),
    ('role "', Denied),
    ('database "', Missing),
)

_SUMMARIES: dict[_Kind, str] = {
    Unreachable: "PostgreSQL does not answer",
    Busy: "PostgreSQL cannot take the work now",
    Denied: "PostgreSQL refused access",
    Missing: "a database, schema, table or column is not there",
    Mismatch: "a column has a type we cannot use",
    Rejected: "PostgreSQL cannot hold a value",
}

_HINTS: dict[_Kind, str] = {
    Unreachable: "check that the server is up, its host and port, and that a firewall lets this machine through",
    Busy: "try again in a moment",
    Denied: "check user name and password; for a right, run the set-up script again",
    Missing: "check the name, or run the set-up script again",
    Mismatch: "convert the column in a view, or rename it",
    Rejected: "correct the value where it comes from",
}


def translate(error: Exception, *, secret: Secret) -> WarehouseError:
    """The error as one of ours, with the server's own words but never the values of a row or the password."""
    code = str(getattr(error, "sqlstate", None) or "")
    vendor = str(error)
    for marker in ("\nDETAIL:", "\nCONTEXT:", "\n\nQuery was:", "\nLINE "):
        vendor = vendor.partition(marker)[0]
    if secret.reveal():
        vendor = vendor.replace(secret.reveal(), "•••")
    kind = _by_code(code) if code else _by_words(vendor)
    if not code and getattr(getattr(error, "status_code", None), "name", "") == "NOT_FOUND":
        kind = Missing  # the driver's own question before an ingest, whose SQLSTATE it drops
    if kind is None:
        return WarehouseError(
            "PostgreSQL refused the statement", code=code, vendor=vendor, hint="read the message of PostgreSQL"
        )
    summary, hint = _SUMMARIES[kind], _HINTS[kind]
    if kind is Mismatch:
        return Mismatch(summary, column="", ours="", theirs="", hint=hint, code=code, vendor=vendor)
    if kind is Rejected:
        return Rejected(summary, row="", column="", hint=hint, code=code, vendor=vendor)
    return kind(summary, hint=hint, code=code, vendor=vendor)


def _by_code(code: str) -> _Kind | None:
    return next((_CODES[code[:n]] for n in (5, 2) if code[:n] in _CODES), None)


def _by_words(vendor: str) -> _Kind:
    return next((kind for words, kind in _WORDS if words in vendor), Unreachable)

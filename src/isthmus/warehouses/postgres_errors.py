"""PostgreSQL's errors as ours: by SQLSTATE, and by words only while connecting, where the driver passes on no code.

What each means is in `errors/postgres.toml`.
"""

from __future__ import annotations

from isthmus.model.errors import Mismatch, Rejected, Unreachable, WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors
from isthmus.warehouses.vendor_errors import Known

_NO_ANSWER = Known(
    Unreachable,
    summary="PostgreSQL does not answer",
    hint="check that the server is up, its host and port, and that a firewall lets this machine through",
    example="",
)


def translate(error: Exception, *, secret: Secret) -> WarehouseError:
    """The error as one of ours, with the server's own words but never the values of a row or the password."""
    code = str(getattr(error, "sqlstate", None) or "")
    vendor = str(error)
    for marker in ("\nDETAIL:", "\nCONTEXT:", "\n\nQuery was:", "\nLINE "):
        vendor = vendor.partition(marker)[0]
    if secret.reveal():
        vendor = vendor.replace(secret.reveal(), "•••")
    if not code and getattr(getattr(error, "status_code", None), "name", "") == "NOT_FOUND":
        code = "42P01"  # the driver's own question before an ingest, whose SQLSTATE it drops
    known = _known(code, vendor)
    if known is None:
        hint = "read the message of PostgreSQL"
        return WarehouseError("PostgreSQL refused the statement", code=code, vendor=vendor, hint=hint)
    if known.error is Mismatch:
        return Mismatch(known.summary, column="", ours="", theirs="", hint=known.hint, code=code, vendor=vendor)
    if known.error is Rejected:
        return Rejected(known.summary, row="", column="", hint=known.hint, code=code, vendor=vendor)
    return known.error(known.summary, hint=known.hint, code=code, vendor=vendor)


def _known(code: str, vendor: str) -> Known | None:
    """Words count only where there is no code: a message that has one may quote anything."""
    if code:
        return next((k for k in vendor_errors.table("postgres") if k.code and k.fits(code, vendor)), None)
    return next((k for k in vendor_errors.table("postgres") if not k.code and k.fits("", vendor)), _NO_ANSWER)

"""Snowflake's errors as ours: what they mean is in `errors/snowflake.toml`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from isthmus.model.errors import Denied, Mismatch, Missing, Rejected, WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors

LOCKED = "000625"
"""The number of a lock that was waited for in vain."""

_COLUMN = re.compile(r"column\s+(?:\S+\[)?[\"']([^\"']+)[\"']", re.I)  # Row 1, column "PEOPLE"["NAME":2]
_IDENTIFIER = re.compile(r"invalid identifier '([^']+)'", re.I)


@contextmanager
def translated(secrets: Sequence[Secret]) -> Iterator[None]:
    """Raise the driver's errors as ours."""
    import pyarrow as pa
    from snowflake.connector.errors import Error

    try:
        yield
    except WarehouseError:
        raise
    except Error as e:
        raise translate(e, secrets) from e
    except (OSError, pa.ArrowException) as e:
        raise vendor_errors.translate(
            "snowflake", "Snowflake", code=type(e).__name__, message=str(e), secrets=secrets
        ) from e


def translate(error: Exception, secrets: Sequence[Secret]) -> WarehouseError:
    """By the driver's number, which is Snowflake's own where Snowflake answered; by words where there is only one."""
    number = getattr(error, "errno", None)
    code = f"{number:06}" if isinstance(number, int) and number >= 0 else type(error).__name__
    ours = vendor_errors.translate("snowflake", "Snowflake", code=code, message=_message(error), secrets=secrets)
    column = _COLUMN.search(ours.vendor) or _IDENTIFIER.search(ours.vendor)
    if column and isinstance(ours, Rejected | Mismatch):
        ours.column = column[1]
    return ours


def _message(error: Exception) -> str:
    """What was said, without the numbers of the request: they are others each time."""
    said = str(getattr(error, "msg", None) or error)
    return re.sub(r"\s*\((?:request_id|sfqid)=[^)]*\)\s*$", "", said).strip()


def with_grant(error: WarehouseError, statement: str) -> WarehouseError:
    """The error with the statement that gives the right that may be missing: Snowflake says the same of both."""
    if isinstance(error, Denied | Missing):
        error.hint = f"{error.hint}; a missing right is given by: {statement}" if error.hint else statement
    return error

"""What S3, the driver and DuckDB say about a bucket, as ours: by code, found in `errors/s3.toml`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import duckdb

from isthmus.model.errors import Busy, InvalidInput, Mismatch, Missing, WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors

CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict")
"""The codes of a conditional put that another one was faster than."""


@contextmanager
def translated(secrets: Iterable[Secret], *also: type[Exception]) -> Iterator[None]:
    """Raise the driver's and DuckDB's errors as ours, without the secrets."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except ClientError as e:
        status = str(e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        code = str(e.response.get("Error", {}).get("Code") or status)
        raise _found(f"HTTP{code}" if code.isdecimal() else code, str(e), secrets) from e
    except (BotoCoreError, HTTPClientError, *also) as e:
        raise _found(type(e).__name__, str(e), secrets) from e
    except duckdb.Error as e:
        raise _duckdb(e, secrets) from e


def _found(code: str, message: str, secrets: Iterable[Secret]) -> WarehouseError:
    return vendor_errors.translate("s3", "S3", code=code, message=message, secrets=secrets)


def _duckdb(e: duckdb.Error, secrets: Iterable[Secret]) -> WarehouseError:
    """DuckDB speaks of files over HTTP, of their contents, or of itself."""
    # The lines behind the message repeat the statement.
    text = str(e).partition("\n\nLINE ")[0]
    status = getattr(e, "status_code", None)
    if status:
        return _found(f"HTTP{int(status)}", text, secrets)
    found = _found(type(e).__name__, text, secrets)
    match e:
        case _ if type(found) is not WarehouseError:
            return found
        case duckdb.OutOfMemoryException():
            return Busy(
                "DuckDB ran out of memory or disk space over the files",
                code=type(e).__name__,
                vendor=found.vendor,
                hint="try again when less else is running",
            )
        case duckdb.CatalogException() | duckdb.BinderException():
            return Missing(
                "a relation or column is not there",
                code=type(e).__name__,
                vendor=found.vendor,
                hint="check the name; what can be read are the folders and files of the import prefix",
            )
        case duckdb.ConversionException() | duckdb.InvalidInputException():
            return Mismatch(
                "a file does not hold what its name, or the other files beside it, say",
                column="",
                ours="",
                theirs="",
                code=type(e).__name__,
                vendor=found.vendor,
                hint="write the files as Parquet, or with the same types in every file",
            )
    return found


def not_installed(e: Exception) -> Missing:
    hint = "install the extra that brings it: pip install 'isthmus[s3]'"
    if isinstance(e, InvalidInput):
        return Missing(e.summary, hint=hint)
    return Missing("the driver for Amazon S3 is not installed", hint=hint)

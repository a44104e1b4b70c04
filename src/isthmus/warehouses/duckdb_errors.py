"""DuckDB's errors as ours: by their class, and by their words where a class has several meanings."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from isthmus.model.errors import Busy, Denied, Mismatch, Missing, Rejected, WarehouseError
from isthmus.warehouses import sql


def translate(e: Exception, file: Path) -> WarehouseError:
    """One error as one of ours, with DuckDB's own words."""
    text, code = str(e), type(e).__name__
    if ".parquet" in text.partition("\n")[0]:  # the later lines repeat our own statement
        return sql.broken_file(e)
    if "Unique file handle conflict" in text:  # another connection of this process is just closing it
        return _file_error(text, code, file)
    match e:
        case PermissionError() | FileNotFoundError() | duckdb.IOException():
            return _file_error(text, code, file)
        case duckdb.OutOfMemoryException():
            return Busy("DuckDB ran out of memory", code=code, vendor=text, hint="try again when less else is running")
        case duckdb.TransactionException():
            return Busy("another load changed the same rows", code=code, vendor=text, hint="try again in a moment")
        case duckdb.CatalogException() if "write-write conflict" in text:
            return Busy("another load changed the same table", code=code, vendor=text, hint="try again in a moment")
        case duckdb.CatalogException() | duckdb.BinderException():
            hint = "check the name, or run the set-up script again"
            return Missing("a schema, table or column is not there", code=code, vendor=text, hint=hint)
        case duckdb.DataError() | duckdb.IntegrityError() | duckdb.InvalidInputException():
            hint = "correct the value where it comes from"
            summary = "a value cannot be held by its column"
            return Rejected(summary, row="", column="", code=code, vendor=text, hint=hint)
    return WarehouseError("DuckDB refused the statement", code=code, vendor=text, hint="read the message of DuckDB")


def _file_error(text: str, code: str, file: Path) -> WarehouseError:
    if "Could not set lock" in text or "Conflicting lock" in text or "Unique file handle conflict" in text:
        holder = re.search(r"PID (\d+)", text)
        by = f" (process {holder[1]})" if holder else ""
        hint = "close the other program that has it open; only one process at a time can write to a DuckDB file"
        return Busy(f"{file} is in use by another process{by}", code=code, vendor=text, hint=hint)
    if "Permission denied" in text or "Read-only file system" in text:
        hint = f"give the user Isthmus runs as the right to read and write {file} and its folder"
        return Denied(f"{file} cannot be opened: permission denied", code=code, vendor=text, hint=hint)
    if any(words in text for words in ("not a valid DuckDB database file", "Corrupt database file", "s a directory")):
        hint = "give the path of a DuckDB file, or of a file that is not there yet"
        return Mismatch(
            f"{file} is not a DuckDB file, or is damaged",
            column="",
            ours="DuckDB file",
            theirs="other",
            hint=hint,
            vendor=text,
        )
    if found := re.search(r"version number (\d+), but we can only read version(?:s between)? (.+?)\.", text):
        return Mismatch(
            f"{file} was written by a newer DuckDB than this one ({duckdb.__version__})",
            column="",
            ours=f"storage version {found[2]}",
            theirs=f"storage version {found[1]}",
            hint="export it with the newer DuckDB (EXPORT DATABASE) and import it here, or give another path",
            vendor=text,
        )
    if "No space left" in text:
        return Busy(f"no space is left where {file} lies", code=code, vendor=text, hint="free some space")
    return Missing(f"{file} cannot be read", code=code, vendor=text, hint="check the path of the connection")

"""Internal stages: PUT, LIST, REMOVE, and COPY INTO a table from files matched by column name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from sqlglot import exp

from .answers import Answer
from .naming import NAME, PART, Name, Refused, parts, word

PUT = re.compile(
    r"(?is)put\s+'?file://(?P<file>(?:[^']|'')+?)'?\s+'?(?P<stage>@[^']+?)'?(?P<options>(?:\s+\w+\s*=\s*\S+)*)"
)
LIST = re.compile(r"(?is)(?:list|ls)\s+'?(?P<stage>@[^']+?)'?")
REMOVE = re.compile(r"(?is)(?:remove|rm)\s+'?(?P<stage>@[^']+?)'?")
COPY = re.compile(
    rf"(?is)copy\s+into\s+(?P<table>{NAME})\s+from\s+'?(?P<stage>@[^']+?)'?(?P<options>(?:\s+\w+\s*=.*)?)"
)
STAGE = re.compile(rf"(?s)@(?P<name>{PART}(?:\.{PART})*)(?:/(?P<path>.*))?")

_OPTION = r"(\w+)\s*=\s*(\((?:[^()]|\([^()]*\))*\)|'[^']*'|\w+)"
_COPY_OPTIONS = {
    "FILE_FORMAT",
    "MATCH_BY_COLUMN_NAME",
    "ON_ERROR",
    "PURGE",
    "FORCE",
    "FILES",
    "ENFORCE_LENGTH",
    "TRUNCATECOLUMNS",
}


class Stages:
    """The files of all internal stages, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: set[tuple[Name, str]] = set()  # Snowflake skips a file that a table has had already

    def place(self, name: Name) -> Path:
        return self.folder.joinpath(*(re.sub(r"[^\w$-]", lambda m: f"%{ord(m[0]):x}", part) for part in name))

    def drop(self, name: Name) -> None:
        shutil.rmtree(self.place(name), ignore_errors=True)

    def resolve(self, text: str, full: Callable[[Name], Name]) -> tuple[Name, str]:
        """The stage and the path in it that `@name/path` means."""
        match = STAGE.fullmatch(text.strip())
        if match is None:
            raise Refused(f"SQL compilation error:\ninvalid stage {text!r}", 1003, "42000")
        return full(parts(match["name"])), match["path"] or ""

    def put(self, match: re.Match[str], stage: Name, path: str, url: str) -> Answer:
        """Where the client is to put its files: by HTTP, to addresses it asks for one by one."""
        options = {k.upper(): v.upper() for k, v in re.findall(_OPTION, match["options"])}
        unknown = set(options) - {"AUTO_COMPRESS", "OVERWRITE", "PARALLEL", "SOURCE_COMPRESSION"}
        if unknown:
            raise Refused(f"SQL compilation error:\ninvalid parameter {unknown.pop()!r}", 1003, "42000")
        file = match["file"].replace("''", "'")
        where = (self.place(stage) / path / Path(file).name).relative_to(self.folder)
        signed = (
            "host;x-goog-if-generation-match;x-goog-meta-sfc-digest;x-goog-meta-encryptiondata;x-goog-meta-matdesc"
            "content-type;content-encoding"
        )
        info: dict[str, Any] = {
            "locationType": "GCS",
            "location": f"stages/{'/'.join(stage)}/",
            "path": f"stages/{'/'.join(stage)}/",
            "region": "us",
            "storageAccount": None,
            "endPoint": None,
            "isClientSideEncrypted": False,
            "creds": {},
            "presignedUrl": f"{url}/stages/{where.as_posix()}?X-Goog-SignedHeaders={signed}",
        }
        return Answer(
            upload={
                "command": "UPLOAD",
                "src_locations": [file],
                "stageInfo": info,
                "operation": "Node",
                "parallel": int(options.get("PARALLEL", 4)),
                "threshold": 209715200,
                "autoCompress": options.get("AUTO_COMPRESS", "TRUE") == "TRUE",
                "overwrite": options.get("OVERWRITE", "FALSE") == "TRUE",
                "sourceCompression": options.get("SOURCE_COMPRESSION", "auto_detect").lower(),
                "clientShowEncryptionParameter": False,
                "encryptionMaterial": None,
                "queryId": "put",
            }
        )

    def keep(self, path: str, content: bytes) -> bool:
        """Take an upload. False for a path outside of the stages, or for a pattern: a client that asks for no address
        for each file would put them all into one."""
        target = (self.folder / path).resolve()
        if not target.is_relative_to(self.folder.resolve()) or "*" in path:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return True

    def files(self, stage: Name, path: str) -> list[Path]:
        """The files of a stage whose path begins so, by path."""
        place = self.place(stage)
        found = (f for f in place.rglob("*") if f.is_file())
        return sorted(f for f in found if f.relative_to(place).as_posix().startswith(path.removesuffix("/")))

    def list(self, stage: Name, path: str) -> Answer:
        rows = [
            [f"{stage[-1].lower()}/{f.relative_to(self.place(stage)).as_posix()}", f.stat().st_size, "", ""]
            for f in self.files(stage, path)
        ]
        return Answer(["name", "size", "md5", "last_modified"], rows)

    def remove(self, stage: Name, path: str) -> Answer:
        rows = []
        for f in self.files(stage, path):
            rows.append([f"{stage[-1].lower()}/{f.relative_to(self.place(stage)).as_posix()}", "removed"])
            f.unlink()
        return Answer(["name", "result"], rows)

    def copy(self, duck: Any, table: Name, target: str, stage: Name, path: str, options: str) -> Answer:
        """COPY INTO by column name, whole or not at all. `target` is what DuckDB calls the table."""
        chosen = _options(options)
        files = self.files(stage, path)
        rows: list[list[Any]] = []
        read: list[Path] = []
        for f in files:
            if (table, str(f)) in self._loaded and chosen.get("FORCE", "FALSE") != "TRUE":
                rows.append([_shown(f, self.folder), "LOAD_SKIPPED", 0, 0])
                continue
            read.append(f)
            rows.append([_shown(f, self.folder), "LOADED", *[_parquet_rows(f)] * 2])
        if not rows:
            return Answer(["status"], [["Copy executed with 0 files processed."]])
        if read:
            _insert(duck, target, read)
        self._loaded |= {(table, str(f)) for f in read}
        if chosen.get("PURGE", "FALSE") == "TRUE":
            for f in read:
                f.unlink()
        names = ["file", "status", "rows_parsed", "rows_loaded", "error_limit", "errors_seen", "first_error"]
        return Answer(names, [[*row, 1, 0, None] for row in rows])


def _options(text: str) -> dict[str, str]:
    """The options of COPY, of which all must be known: one that is not would be a promise nobody keeps."""
    found = {k.upper(): v.upper().strip("'") for k, v in re.findall(_OPTION, text)}
    if re.sub(_OPTION, "", text).strip(" ,\n") or set(found) - _COPY_OPTIONS:
        raise Refused(f"SQL compilation error:\nsyntax error in the options of COPY: {text.strip()}", 1003, "42000")
    if found.get("MATCH_BY_COLUMN_NAME") != "CASE_INSENSITIVE":
        raise Refused(
            "SQL compilation error:\nPARQUET file format can produce one and only one column of type "
            "object, or array. Use CSV file format if you want to load more than one column.",
            2019,
            "0A000",
        )
    if found.get("ON_ERROR", "ABORT_STATEMENT") != "ABORT_STATEMENT":
        raise Refused(f"the stand-in knows no ON_ERROR = {found['ON_ERROR']}", 1003, "42000")
    form = {k.upper(): v.upper() for k, v in re.findall(_OPTION, found.get("FILE_FORMAT", ""))}
    if form.get("TYPE") != "PARQUET" or form.get("USE_LOGICAL_TYPE") != "TRUE":
        raise Refused("the stand-in reads Parquet with USE_LOGICAL_TYPE only", 1003, "42000")
    return found


def _shown(f: Path, folder: Path) -> str:
    return "/".join(f.relative_to(folder).parts[2:]).lower()


def _parquet_rows(f: Path) -> int:
    try:
        return int(pq.ParquetFile(f).metadata.num_rows)
    except Exception as e:
        message = (
            f"Error parsing the parquet file: Invalid: Parquet magic bytes not found in footer. ({e})"
            f"\n  File '{f.name}'"
        )
        raise Refused(message, 100152, "22000") from e


def _insert(duck: Any, target: str, files: Sequence[Path]) -> None:
    """The files' columns go where their names lead, whatever their case; others are left out, as Snowflake does."""
    theirs = {row[0].upper(): row[0] for row in duck.execute(f"DESCRIBE {target}").fetchall()}
    listed = ", ".join("'" + str(f).replace("'", "''") + "'" for f in files)
    read = f"read_parquet([{listed}])"
    pairs = [(theirs[name.upper()], name) for name in _columns(files) if name.upper() in theirs]
    if not pairs:
        raise Refused("SQL compilation error:\nno column of the files is one of the table", 2025, "42S22")
    into, chosen = (", ".join(exp.to_identifier(p[n], quoted=True).sql("duckdb") for p in pairs) for n in (0, 1))
    try:
        duck.execute(f"INSERT INTO {target} ({into}) SELECT {chosen} FROM {read}")
    except duckdb.ConstraintException as e:
        table, _, column = str(e).rpartition(":")[2].strip().replace('"', "").rpartition(".")
        message = f'NULL result in a non-nullable column\n  Row 1, column "{table}"["{column}":1]'
        raise Refused(message, 100072, "22000") from e
    except duckdb.ConversionException as e:
        raise Refused(f"Failed to cast variant value: {e}", 100071, "22000") from e
    except (duckdb.InvalidInputException, duckdb.IOException) as e:
        raise Refused(f"Error parsing the parquet file: {e}", 100152, "22000") from e


def _columns(files: Sequence[Path]) -> Iterator[str]:
    yield from dict.fromkeys(name for f in files for name in pq.ParquetFile(f).schema_arrow.names)


__all__ = ["COPY", "LIST", "PUT", "REMOVE", "Stages", "word"]

"""COPY INTO from blob storage: files fetched with the SAS the statement gives, checked by the vendor's rules."""

from __future__ import annotations

import re
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import duckdb

from isthmus.testing.standins.synapse_wire.catalog import Relation, literal, quoted
from isthmus.testing.standins.synapse_wire.packets import Refused
from isthmus.testing.standins.synapse_wire.views import split_name

if TYPE_CHECKING:
    from isthmus.testing.standins.synapse_wire.session import Session

ROW_LIMIT_BYTES = 1_000_000
_STATEMENT = re.compile(
    r"COPY\s+INTO\s+(?P<table>.+?)\s*(?P<columns>\((?:[^()'])*\))?\s*FROM\s+(?P<files>(?:'[^']*'\s*,?\s*)+)"
    r"WITH\s*\((?P<options>.*)\)\s*;?\s*",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"(\w+)\s*=\s*(\((?:[^()']|'(?:[^']|'')*')*\)|'(?:[^']|'')*'|\w+)\s*(?:,|$)", re.DOTALL)
_KNOWN = {"FILE_TYPE", "CREDENTIAL", "AUTO_CREATE_TABLE", "MAXERRORS", "FIRSTROW", "FIELDTERMINATOR", "COMPRESSION"}
_BRIDGE = "HdfsBridge::recordReaderFillBuffer - Unexpected error encountered filling record reader buffer: "


def copy_into(session: Session, text: str) -> int:
    """Carry it out. Returns how many rows came."""
    match = _STATEMENT.fullmatch(text)
    if match is None:
        raise Refused(102, "Incorrect syntax in COPY INTO.", severity=15)
    parts = split_name(match["table"].strip())
    relation = session.find(parts[-2] if len(parts) > 1 else "dbo", parts[-1])
    if not session.rights.may("ADMINISTER DATABASE BULK OPERATIONS"):
        raise Refused(4834, "You do not have permission to use the bulk load statement.")
    session.rights.require("INSERT", relation)
    options = _options(match["options"])
    columns = [c.strip() for c in match["columns"].strip("()").split(",")] if match["columns"] else []
    with tempfile.TemporaryDirectory(prefix="isthmus-copy-") as folder:
        urls = re.findall(r"'([^']*)'", match["files"])
        secret = options.get("SECRET", "").lstrip("?")
        files = [f for url in urls for f in _fetch(session.server.blob_endpoint, url, secret, Path(folder))]
        session.lock(relation, exclusive=False)
        return _insert(session, relation, [split_name(c)[0] for c in columns], files, options)


def _options(text: str) -> dict[str, str]:
    found, at = {}, 0
    while text[at:].strip():
        match = _OPTION.match(text, at + len(text[at:]) - len(text[at:].lstrip()))
        if match is None:
            raise Refused(102, f"Incorrect syntax near '{text[at:].strip()[:30]}'.", severity=15)
        name, value = match[1].upper(), match[2]
        if name not in _KNOWN:
            raise Refused(102, f"Incorrect syntax near '{name}'.", severity=15)
        if name == "CREDENTIAL":
            inner = {k.upper(): v.strip("'").replace("''", "'") for k, v in _OPTION.findall(value.strip("()"))}
            if inner.get("IDENTITY") != "Shared Access Signature":
                raise Refused(105208, "The stand-in knows only the credential 'Shared Access Signature'.")
            found["SECRET"] = inner.get("SECRET", "")
        else:
            found[name] = value.strip("'").replace("''", "'")
        at = match.end()
    return found


def _fetch(endpoint: str, url: str, sas: str, folder: Path) -> list[Path]:
    """The files behind a location: one blob, or all that fit its wildcard, or all below it."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    path = urllib.parse.unquote(parts.path).strip("/")
    if endpoint and host.endswith(".blob.core.windows.net"):
        base = f"{endpoint.rstrip('/')}/{host.split('.')[0]}"
    elif endpoint and url.startswith(endpoint):
        account, _, path = path.partition("/")
        base = f"{endpoint.rstrip('/')}/{account}"
    else:
        said = f"COPY statement failed because the value for option FROM is invalid: '{parts.scheme}://{host}'."
        raise Refused(105215, said)
    container, _, name = path.partition("/")
    try:
        names = [name]
        if not name or name.endswith("/") or "*" in name:
            names = _listed(f"{base}/{container}", name, sas)
        files = []
        for number, each in enumerate(names):
            file = folder / f"{number:05}-{Path(each).name}"
            with urllib.request.urlopen(f"{base}/{container}/{urllib.parse.quote(each)}?{sas}") as answer:
                with file.open("wb") as copied:
                    shutil.copyfileobj(answer, copied)
            files.append(file)
        return files
    except urllib.error.HTTPError as e:
        if e.code == 404:
            raise Refused(13807, f"Content of directory on path '{url}' cannot be listed.") from e
        said = "Not able to validate external location because The remote server returned an error: "
        raise Refused(105215, f"{said}({e.code}) {e.reason}.") from e


def _listed(container: str, name: str, sas: str) -> list[str]:
    prefix = name.split("*")[0]
    asked = f"{container}?restype=container&comp=list&prefix={urllib.parse.quote(prefix)}&{sas}"
    with urllib.request.urlopen(asked) as answer:
        found = [n.text or "" for n in ElementTree.fromstring(answer.read()).iter("Name")]
    fitting = re.compile(re.escape(name).replace(r"\*", ".*") + ("" if "*" in name else ".*"), re.DOTALL)
    kept = [n for n in found if fitting.fullmatch(n)]
    # What begins with an underscore or a dot is hidden.
    kept = [n for n in kept if not any(p[:1] in "_." for p in n[len(prefix) :].split("/") if p)]
    if not kept:
        raise Refused(13807, f"Content of directory on path '{name}' cannot be listed.")
    return kept


def _insert(
    session: Session, relation: Relation, columns: list[str], files: list[Path], options: dict[str, str]
) -> int:
    listed = "[" + ", ".join(literal(str(f)) for f in files) + "]"
    kind = options.get("FILE_TYPE", "CSV").upper()
    if kind == "PARQUET":
        _check_codecs(session, listed)
        rows = f"read_parquet({listed})"
    elif kind == "CSV":
        first = int(options.get("FIRSTROW", "1"))
        delimiter = literal(options.get("FIELDTERMINATOR", ","))
        rows = f"read_csv({listed}, all_varchar=true, header=false, skip={first - 1}, delim={delimiter})"
    else:
        raise Refused(102, f"Incorrect syntax near '{kind}'.", severity=15)
    try:
        have = session.ask(f"SELECT * FROM {rows} LIMIT 0").to_arrow_table().schema.names
    except (duckdb.InvalidInputException, duckdb.IOException) as e:
        raise Refused(106000, f"{_BRIDGE}HadoopExecutionException: {str(e).splitlines()[0]}") from e
    wanted = columns or [c.name for c in relation.columns]
    if kind == "PARQUET" and not columns and len(have) != len(wanted):
        said = (
            f"Column count mismatch. Source file has {len(have)} columns, external table definition has {len(wanted)}"
        )
        raise Refused(106000, f"{_BRIDGE}HadoopExecutionException: {said} columns.")
    known = {c.name.lower(): c for c in relation.columns}
    types = [known[c.lower()].type for c in wanted]
    if kind == "PARQUET":
        _check_rows(session, rows, have[: len(wanted)])
    values = ", ".join(f"CAST({quoted(h)} AS {t.kept_as})" for h, t in zip(have, types, strict=False))
    names = ", ".join(quoted(known[c.lower()].name) for c in wanted)
    try:
        done = session.ask(f"INSERT INTO {relation.place} ({names}) SELECT {values} FROM {rows}").fetchone()
    except duckdb.ConstraintException as e:
        said = f"{_BRIDGE}HadoopSqlException: String or binary data would be truncated."
        raise Refused(106000, said) from e
    return int(done[0]) if done else 0


def _check_codecs(session: Session, listed: str) -> None:
    """Parquet may be packed by GZIP or Snappy only."""
    try:
        found = session.ask(f"SELECT DISTINCT compression FROM parquet_metadata({listed})").fetchall()
    except (duckdb.InvalidInputException, duckdb.IOException) as e:
        raise Refused(106000, f"{_BRIDGE}HadoopExecutionException: {str(e).splitlines()[0]}") from e
    for (codec,) in found:
        if codec not in ("SNAPPY", "GZIP", "UNCOMPRESSED"):
            said = f"HadoopExecutionException: The compression codec {codec} is not supported."
            raise Refused(106000, _BRIDGE + said)


def _check_rows(session: Session, rows: str, columns: list[str]) -> None:
    """No row may be longer than a megabyte, text counted in UTF-16."""
    texts = [f"coalesce(data_length({quoted(c)}), 0)" for c in columns if _is_text(session, rows, c)]
    if not texts:
        return
    total = " + ".join(texts)
    # Half of it in UTF-8 is never too long: only then is it looked at closely.
    at_most = " + ".join(t.replace("data_length", "2 * strlen") for t in texts)
    (rough,) = session.ask(f"SELECT max({at_most}) FROM {rows}").fetchone() or (None,)
    if rough is None or rough <= ROW_LIMIT_BYTES:
        return
    (longest,) = session.ask(f"SELECT max({total}) FROM {rows}").fetchone() or (0,)
    if longest > ROW_LIMIT_BYTES:
        said = (
            f"The size of the schema/row at ordinal 0 is {longest} bytes. It exceeds the maximum allowed row size of "
        )
        raise Refused(106000, f"{_BRIDGE}HadoopExecutionException: {said}{ROW_LIMIT_BYTES} bytes for Polybase.")


def _is_text(session: Session, rows: str, column: str) -> bool:
    kind = session.ask(f"SELECT {quoted(column)} FROM {rows} LIMIT 0").to_arrow_table().schema.field(0).type
    return str(kind) in ("string", "large_string")

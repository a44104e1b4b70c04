"""COPY and UNLOAD: between objects in S3 and the CSV that PostgreSQL's own COPY takes and gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from isthmus.duck import identifier, literal
from isthmus.testing.standins.redshift_wire.protocol import Described
from isthmus.testing.standins.redshift_wire.rewriting import Copy, Unload

PIECE_BYTES = 1 << 18
ROWS_A_FILE = 500_000


@dataclass(frozen=True)
class Bucket:
    """The S3 server behind the stand-in, and the keys each IAM role stands for."""

    endpoint: str
    region: str
    roles: dict[str, tuple[str, str]]


class TransferError(Exception):
    """What Redshift says instead of moving anything: message, detail and SQLSTATE."""

    def __init__(self, message: str, *, detail: str = "", code: str = "XX000") -> None:
        super().__init__(message)
        self.message, self.detail, self.code = message, detail, code


def option(options: str, name: str) -> bool:
    """Whether an option is among those of a COPY or UNLOAD, outside of quotes."""
    return re.search(rf"\b{name}\b", re.sub(r"'[^']*'", "''", options), re.IGNORECASE) is not None


def fetch(copy: Copy, bucket: Bucket, columns: Sequence[tuple[str, str]], folder: Path) -> Path:
    """The objects of a COPY as one CSV file. `columns`: name and PostgreSQL type of what is filled, in order."""
    with closing(_client(copy.options, bucket)) as client:
        files = _download(client, copy, folder)
    if option(copy.options, "parquet"):
        table = f"read_parquet([{', '.join(literal(str(f)) for f in files)}])"
    elif option(copy.options, "json"):
        wanted = ", ".join(f"{literal(name)}: 'VARCHAR'" for name, _ in columns)
        table = f"read_json([{', '.join(literal(str(f)) for f in files)}], columns={{{wanted}}})"
    else:
        delimiter = re.search(r"delimiter\s+(?:as\s+)?'([^']+)'", copy.options, re.IGNORECASE)
        skipped = re.search(r"ignoreheader\s*(?:as)?\s*(\d+)", copy.options, re.IGNORECASE)
        mark = delimiter[1] if delimiter else "," if option(copy.options, "csv") else "|"
        table = (
            f"read_csv([{', '.join(literal(str(f)) for f in files)}], header=false, all_varchar=true, "
            f"skip={skipped[1] if skipped else 0}, delim={literal(mark)})"
        )
    made = folder / "rows.csv"
    with closing(duckdb.connect()) as con:
        con.execute("SET TimeZone='UTC'; SET enable_progress_bar=false; SET preserve_insertion_order=true")
        found = con.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
        if len(found) != len(columns):
            said = f"File has {len(found)} columns, but table {copy.table} has {len(columns)}"
            raise TransferError("Spectrum Scan Error", detail=_detail(15001, f"Unmatched number of columns: {said}"))
        chosen = [
            _as_text(name, kind, theirs, copy) for (name, kind, *_), (_, theirs) in zip(found, columns, strict=True)
        ]
        con.execute(
            f"COPY (SELECT {', '.join(chosen)} FROM {table}) TO {literal(str(made))} "
            "(FORMAT csv, HEADER false, NULLSTR '\\N', FORCE_QUOTE *)"
        )
    return made


def _as_text(name: str, kind: str, theirs: str, copy: Copy) -> str:
    column = identifier(name)
    if kind == "BLOB" and theirs == "bytea":
        return f"'\\x' || hex({column})"
    fits = {"timestamp with time zone": ("VARCHAR",), "bytea": ("BLOB",)}.get(theirs)
    if fits is not None and kind not in fits:
        said = f"incompatible Parquet schema for column '{name}'. Column type: {theirs}, Parquet schema: {kind}"
        raise TransferError("Spectrum Scan Error", detail=_detail(15007, said))
    if kind.endswith("[]") or kind.startswith(("STRUCT", "MAP")):
        if not option(copy.options, "serializetojson"):
            raise TransferError("Spectrum Scan Error", detail=_detail(15007, f"column '{name}' is nested"))
        return f"to_json({column})"
    return column


def too_long(detail: str) -> TransferError:
    return TransferError("Spectrum Scan Error", detail=_detail(15001, detail))


def _detail(code: int, context: str) -> str:
    return f"\n  error:  Spectrum Scan Error\n  code:      {code}\n  context:   {context}\n  query:     1\n"


def pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        yield from iter(lambda: opened.read(PIECE_BYTES), b"")


def put(unload: Unload, bucket: Bucket, columns: Sequence[Described], rows: Path, folder: Path) -> int:
    """The CSV rows of an UNLOAD as objects in S3. Returns how many rows it were."""
    name, prefix = _place(unload.url)
    options = unload.options
    with closing(_client(options, bucket)) as client:
        try:
            there = client.list_objects_v2(Bucket=name, Prefix=prefix).get("Contents", [])
            if there and option(options, "cleanpath"):
                client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": o["Key"]} for o in there]})
            elif there and not option(options, "allowoverwrite"):
                raise TransferError(
                    "Specified unload destination on S3 is not empty. Consider using a different bucket / prefix, "
                    "manually removing the target files in S3, or using the ALLOWOVERWRITE option."
                )
            files, count = _written(unload, columns, rows, folder)
            entries = []
            for number, file in enumerate(files):
                serial = re.search(r"parallel\s+(off|false)", options, re.IGNORECASE)
                key = f"{prefix}{number:03}" if serial else f"{prefix}{number:04}_part_00"
                key += ".parquet" if option(options, "parquet") else ""
                client.upload_file(str(file), name, key)
                meta = {"content_length": file.stat().st_size}
                entries.append({"url": f"s3://{name}/{key}", "meta": meta})
            if option(options, "manifest"):
                client.put_object(Bucket=name, Key=f"{prefix}manifest", Body=json.dumps({"entries": entries}).encode())
        except _errors() as e:
            raise _s3_error(e) from e
    return count


_ARROW = {
    16: "BOOLEAN", 20: "BIGINT", 21: "SMALLINT", 23: "INTEGER", 700: "FLOAT", 701: "DOUBLE",
    1082: "DATE", 1114: "TIMESTAMP", 1184: "TIMESTAMPTZ",
}  # fmt: skip


def _written(unload: Unload, columns: Sequence[Described], rows: Path, folder: Path) -> tuple[list[Path], int]:
    kinds = []
    for number, column in enumerate(columns):
        kind = _ARROW.get(column.oid, "VARCHAR")
        if column.oid == 1700:
            precision, scale = divmod(column.modifier - 4, 1 << 16) if column.modifier < 1 << 31 else (38, 10)
            kind = f"DECIMAL({precision}, {scale})"
        kinds.append(f"'c{number}': '{kind}'")
    table = (
        f"read_csv({literal(str(rows))}, header=true, columns={{{', '.join(kinds)}}}, nullstr='\\N', quote='\"', "
        "escape='\"', delim=',', allow_quoted_nulls=false, auto_detect=false, max_line_size=40000000)"
    )
    # What PostgreSQL writes as \\x6162 is 6162 to Redshift.
    named = ", ".join(
        f"{f'substr(c{n}, 3)' if c.oid == 17 else f'c{n}'} AS {identifier(c.name)}" for n, c in enumerate(columns)
    )
    into = "(FORMAT parquet)" if option(unload.options, "parquet") else _csv(unload.options)
    made = []
    with closing(duckdb.connect()) as con:
        con.execute("SET TimeZone='UTC'; SET enable_progress_bar=false")
        con.execute(f"CREATE TABLE unloaded AS SELECT {named} FROM {table}")
        count = int(con.execute("SELECT count(*) FROM unloaded").fetchall()[0][0])
        for number in range(max(1, -(-count // ROWS_A_FILE))):
            made.append(folder / f"out{number}")
            con.execute(
                f"COPY (SELECT * FROM unloaded LIMIT {ROWS_A_FILE} OFFSET {number * ROWS_A_FILE}) "
                f"TO {literal(str(made[-1]))} {into}"
            )
    return made, count


def _csv(options: str) -> str:
    mark = "," if option(options, "csv") else "|"
    packed = ", COMPRESSION gzip" if option(options, "gzip") else ""
    return f"(FORMAT csv, HEADER {option(options, 'header')}, DELIMITER '{mark}'{packed})"


def _download(client: Any, copy: Copy, folder: Path) -> list[Path]:
    name, prefix = _place(copy.url)
    try:
        if option(copy.options, "manifest"):
            entries = json.loads(client.get_object(Bucket=name, Key=prefix)["Body"].read())["entries"]
            wanted = []
            for entry in entries:
                length = entry.get("meta", {}).get("content_length")
                if length is None and option(copy.options, "parquet"):
                    raise TransferError("Manifest file is not in correct format: content_length is missing")
                wanted.append((*_place(entry["url"]), length))
        else:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=prefix)
            wanted = [(name, o["Key"], o["Size"]) for page in pages for o in page.get("Contents", [])]
        if not wanted:
            raise TransferError(f"The specified S3 prefix '{prefix}' does not exist")
        files = []
        for number, (owner, key, length) in enumerate(wanted):
            files.append(folder / f"{number:05}{'.gz' if option(copy.options, 'gzip') else ''}")
            client.download_file(owner, key, str(files[-1]))
            if length is not None and files[-1].stat().st_size != length:
                raise TransferError(f"File s3://{owner}/{key} has another size than its manifest says")
    except _errors() as e:
        raise _s3_error(e) from e
    return files


def _place(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _client(options: str, bucket: Bucket) -> Any:
    import boto3
    from botocore.config import Config

    def found(pattern: str) -> str:
        return (re.search(pattern, options, re.IGNORECASE) or ["", ""])[1]

    key = found(r"aws_access_key_id=([^;']+)") or found(r"access_key_id\s+'([^']+)'")
    secret = found(r"aws_secret_access_key=([^;']+)") or found(r"secret_access_key\s+'([^']+)'")
    if role := found(r"iam_role\s+'?([^\s']+)"):
        if role not in bucket.roles:
            raise TransferError(f"User arn:aws:redshift:dbuser is not authorized to assume IAM Role {role}")
        key, secret = bucket.roles[role]
    if not key:
        raise TransferError("COPY and UNLOAD need credentials: IAM_ROLE or ACCESS_KEY_ID and SECRET_ACCESS_KEY")
    config = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})
    return boto3.client(
        "s3", endpoint_url=bucket.endpoint, region_name=bucket.region, aws_access_key_id=key,
        aws_secret_access_key=secret, config=config,
    )  # fmt: skip


def _errors() -> tuple[type[Exception], ...]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (Boto3Error, BotoCoreError, ClientError)


def _s3_error(error: Exception) -> TransferError:
    answer = getattr(error, "response", {})
    said, status = answer.get("Error", {}), answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = said.get("Code", "")
    message = (
        f"S3ServiceException:{said.get('Message') or error},Status {status},Error {code},Rid 0,ExtRid 0,CanRetry 1"
    )
    return TransferError(message, detail=f"\n  error:  {message}\n  code:      8001\n")

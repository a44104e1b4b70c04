"""How an S3 table is kept: data files, and numbered manifests of which the newest one says which files are the table.

    <prefix>klaviyo_profile/0000000007-<batch>-<attempt>-0.parquet      rows
    <prefix>klaviyo_profile/_manifests/0000000007.json                  what the table is since commit 7
    <prefix>_isthmus_receipts/<SHA-256 of the batch's id>.json          that a batch is in, for ever

A manifest is put under a number that is not there yet, and the store refuses the second of two: that is the commit. The
number in a data file's name is that of the only commit that may bring the file in. So a file that the newest manifest
does not name, and whose number is not above that manifest's, is of no use to anybody: no clock is needed to know it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from isthmus.model.errors import Mismatch, WarehouseError
from isthmus.model.table import Column, Receipt, SeqRange, Table, Type

FORMAT = 1
MANIFESTS = "_manifests/"
RECEIPTS = "_isthmus_receipts/"
KEPT = 20
"""Manifests kept before the newest: for readers that are at it, and for whoever wants to know what happened."""

SUFFIXES = {"parquet": ".parquet", "csv": ".csv.gz", "jsonl": ".jsonl.gz"}
"""The file formats there are, and how the names of such files end."""

_OURS = re.compile(r"(\d{10})-[0-9a-f]{12}-[0-9a-f]{8}-\d+\.(?:parquet|csv\.gz|jsonl\.gz)")
_MANIFEST = re.compile(r"(\d{10})\.json")


@dataclass(frozen=True)
class DataFile:
    """One file of rows. `columns` are those it has; the table may have got more since.

    `key_min` and `key_max` are of the first column of the key, None where they are not known.
    """

    name: str
    format: str
    rows: int
    size_bytes: int
    columns: tuple[str, ...]
    key_min: str | int | None = None
    key_max: str | int | None = None
    seq_min: int | None = None
    seq_max: int | None = None
    seq_nulls: int = 0


@dataclass(frozen=True)
class Entry:
    """A receipt with the attempt that wrote it: who lost an answer finds out whether it was its own."""

    receipt: Receipt
    attempt: str


@dataclass(frozen=True)
class Manifest:
    """What a table is since one commit. `entries` are the receipts not yet written as objects of their own."""

    number: int
    table: Table
    files: tuple[DataFile, ...] = ()
    entries: tuple[Entry, ...] = ()
    reached: int | None = None

    def entry(self, batch_id: str) -> Entry | None:
        return next((e for e in self.entries if e.receipt.batch_id == batch_id), None)

    def next(self, files: Iterable[DataFile], entry: Entry | None) -> Manifest:
        """The manifest after this one. The receipts of this one are objects by then."""
        upto = None if entry is None else entry.receipt.seqs.upto
        reached = max((s for s in (self.reached, upto) if s is not None), default=None)
        entries = self.entries if entry is None else (entry,)
        return Manifest(self.number + 1, self.table, tuple(files), entries, reached)

    def as_json(self) -> bytes:
        value = {
            "format": FORMAT,
            "number": self.number,
            "table": self.table.name,
            "columns": [{"name": c.name, "type": c.type.value} for c in self.table.columns],
            "key": list(self.table.key),
            "reached": self.reached,
            "rows": sum(f.rows for f in self.files),
            "receipts": [_written(e) for e in self.entries],
            "files": [asdict(f) for f in self.files],
        }
        return json.dumps(value, ensure_ascii=False, indent=1).encode()


def wider(manifest: Manifest, columns: Iterable[Column]) -> Manifest:
    """The next manifest, in which the table has these columns too. No file is touched."""
    table = Table(manifest.table.name, (*manifest.table.columns, *columns), manifest.table.key)
    return replace(manifest, number=manifest.number + 1, table=table)


def parse(content: bytes) -> Manifest:
    """A manifest from its JSON. Raises Mismatch for one of a newer Isthmus, WarehouseError for one that is broken."""
    try:
        value = json.loads(content)
        version = value["format"]
        if version > FORMAT:
            raise Mismatch(
                f"the manifest of table {value['table']} was written by a newer Isthmus",
                column="",
                ours=f"format {FORMAT}",
                theirs=f"format {version}",
                hint="use the newer version",
            )
        columns = tuple(Column(c["name"], Type(c["type"])) for c in value["columns"])
        files = tuple(DataFile(**{**f, "columns": tuple(f["columns"])}) for f in value["files"])
        entries = tuple(_read(e) for e in value["receipts"])
        table = Table(value["table"], columns, tuple(value["key"]))
        return Manifest(value["number"], table, files, entries, value["reached"])
    except (ValueError, KeyError, TypeError) as e:
        hint = "somebody changed it: take the last one back from the bucket's versions, or start the table anew"
        raise WarehouseError("a manifest cannot be read", code=type(e).__name__, vendor=str(e), hint=hint) from e


def entry_json(entry: Entry) -> bytes:
    return json.dumps(_written(entry), ensure_ascii=False).encode()


def parse_entry(content: bytes) -> Entry:
    """A receipt from its object. Raises WarehouseError for one that is broken."""
    try:
        return _read(json.loads(content))
    except (ValueError, KeyError, TypeError) as e:
        hint = "somebody changed it: take it back from the bucket's versions"
        raise WarehouseError("a receipt cannot be read", code=type(e).__name__, vendor=str(e), hint=hint) from e


def _written(entry: Entry) -> dict[str, Any]:
    receipt = entry.receipt
    return {
        "batch_id": receipt.batch_id,
        "table": receipt.table,
        "rows": receipt.rows,
        "after_seq": receipt.seqs.after,
        "upto_seq": receipt.seqs.upto,
        "loaded_at": receipt.loaded_at.isoformat(),
        "attempt": entry.attempt,
    }


def _read(value: Mapping[str, Any]) -> Entry:
    seqs = SeqRange(value["after_seq"], value["upto_seq"])
    loaded_at = datetime.fromisoformat(value["loaded_at"])
    receipt = Receipt(value["batch_id"], value["table"], value["rows"], seqs, loaded_at, repeated=False)
    return Entry(receipt, value["attempt"])


# Names


def folder(text: str) -> str:
    """A prefix as keys begin with it: with one slash at its end, and none at its beginning."""
    bare = text.strip("/")
    return f"{bare}/" if bare else ""


def manifest_name(number: int) -> str:
    return f"{MANIFESTS}{number:010}.json"


def manifest_number(name: str) -> int | None:
    """The number of a manifest from the last part of its key, if it is one."""
    found = _MANIFEST.fullmatch(name.rpartition("/")[2])
    return int(found[1]) if found else None


def receipt_name(batch_id: str) -> str:
    return f"{RECEIPTS}{hashlib.sha256(batch_id.encode()).hexdigest()}.json"


def data_name(number: int, batch_id: str, attempt: str, index: int, form: str) -> str:
    digest = hashlib.sha256(batch_id.encode()).hexdigest()[:12]
    return f"{number:010}-{digest}-{attempt}-{index}{SUFFIXES[form]}"


def is_dead(name: str, manifest: Manifest) -> bool:
    """Whether a file in a table's folder is of a commit that has been decided, and did not come in or went again."""
    found = _OURS.fullmatch(name)
    return found is not None and int(found[1]) <= manifest.number and all(f.name != name for f in manifest.files)

"""What a customer exposes in a bucket: each folder of files, and each file, under the import prefix is a relation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import duckdb

from isthmus.model.errors import Missing
from isthmus.warehouses import s3_files, s3_manifest, s3_table, sql
from isthmus.warehouses.protocol import Relation
from isthmus.warehouses.s3_bucket import Bucket
from isthmus.warehouses.s3_manifest import MANIFESTS
from isthmus.warehouses.s3_table import S3Table

_LOOKED_AT = 1000
"""So many keys of a folder are looked at to say whether it holds files that can be read."""


def listed(bucket: Bucket, schema: str) -> Iterator[Relation]:
    """The relations under a prefix, by name."""
    prefix = s3_manifest.folder(schema)
    level = bucket.list(prefix, folders=True)
    found = [name for key in level.sizes if s3_files.form_of(name := key.removeprefix(prefix))]
    for folder in level.folders:
        name = folder.removeprefix(prefix).rstrip("/")
        if not name.startswith(("_", ".")) and _holds_files(bucket, folder):
            found.append(name)
    yield from (Relation(schema, name) for name in sorted(found))


def _holds_files(bucket: Bucket, folder: str) -> bool:
    keys = bucket.list(folder, limit=_LOOKED_AT).sizes
    names = [key.removeprefix(folder) for key in keys]
    return any(name.startswith(MANIFESTS) or s3_files.form_of(name) for name in names)


def origin(bucket: Bucket, relation: Relation, ask: Callable[[str], duckdb.DuckDBPyConnection]) -> str:
    """The FROM of a relation: by its newest manifest, if it is a table of ours, else all its files.

    `ask` is how DuckDB is asked what is in them. Raises Missing if there is nothing that can be read.
    """
    prefix = s3_manifest.folder(relation.schema)
    table = S3Table(bucket, prefix, relation.name)
    keys = bucket.list(table.folder).sizes
    if any(key.startswith(table.folder + MANIFESTS) for key in keys):
        manifest = table.required()
        scan = s3_files.scan(manifest.table, table.addressed(manifest.files))
        columns = sql.names(c.name for c in manifest.table.columns)
        return f"(SELECT {columns} FROM {scan})"
    by_form: dict[str, list[str]] = {}
    alone = prefix + relation.name
    if not keys and s3_files.form_of(relation.name) and bucket.size(alone) is not None:
        by_form[s3_files.form_of(relation.name) or ""] = [s3_table.address(bucket, alone)]
    for key, size in keys.items():
        form = s3_files.form_of(key.removeprefix(table.folder))
        if form and size:
            by_form.setdefault(form, []).append(s3_table.address(bucket, key))
    if not by_form:
        hint = "what can be read are the folders of Parquet, CSV and JSON lines files under the import prefix"
        raise Missing(f"there is no folder or file {relation} in the bucket {bucket.name}", hint=hint)
    parts = []
    for form, addresses in sorted(by_form.items()):
        reading = s3_files.theirs(form, addresses)
        if form == "jsonl":
            described = ask(f"DESCRIBE SELECT * FROM {reading}").fetchall()
            reading = s3_files.theirs(form, addresses, {row[0]: row[1] for row in described})
        parts.append(f"SELECT * FROM {reading}")
    return "(" + " UNION ALL BY NAME ".join(parts) + ")"

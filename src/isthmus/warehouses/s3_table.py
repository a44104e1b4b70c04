"""One table in a bucket: its newest manifest, the commit of the next one, and receipts."""

from __future__ import annotations

from collections.abc import Iterable

from isthmus.model.errors import Missing
from isthmus.warehouses import s3_manifest
from isthmus.warehouses.s3_bucket import Bucket
from isthmus.warehouses.s3_manifest import KEPT, MANIFESTS, DataFile, Entry, Manifest


class S3Table:
    """A table by the folder it lies in (`<prefix>klaviyo_event/`). Holds nothing: every call asks the bucket."""

    def __init__(self, bucket: Bucket, prefix: str, name: str) -> None:
        self.bucket, self.prefix, self.name = bucket, prefix, name
        self.folder = f"{prefix}{name}/"

    def newest(self) -> Manifest | None:
        """The manifest that says what the table is now. None: there is no such table."""
        while numbers := self._numbers():
            content = self.bucket.get(self.folder + s3_manifest.manifest_name(numbers[-1]))
            if content is not None:
                return s3_manifest.parse(content)
            # Gone between the two questions: many commits were made meanwhile.
        return None

    def required(self) -> Manifest:
        """`newest`, where there must be one. Raises Missing."""
        manifest = self.newest()
        if manifest is None:
            hint = "run the sync again: a run makes the tables it needs; or check the prefix of the connection"
            raise Missing(f"there is no table {self.name} under {self.folder}", hint=hint)
        return manifest

    def commit(self, manifest: Manifest) -> bool:
        """Make this manifest the newest one. False: another process was faster, and nothing happened.

        The receipts of the manifest before must be objects by then (`settle`).
        """
        return self.bucket.put_new(self.folder + s3_manifest.manifest_name(manifest.number), manifest.as_json())

    def settle(self, manifest: Manifest) -> None:
        """Write the receipts of a manifest as objects of their own, so that the next one need not carry them."""
        for entry in manifest.entries:
            self.bucket.put(self._receipt_key(entry.receipt.batch_id), s3_manifest.entry_json(entry))

    def entry(self, manifest: Manifest, batch_id: str) -> Entry | None:
        """The receipt of a batch of this table."""
        return manifest.entry(batch_id) or settled(self.bucket, self.prefix, batch_id)

    def tidy(self, manifest: Manifest) -> bool:
        """Remove what nobody needs since this commit: dead files and old manifests.

        False: this manifest never was the newest one. Its number had been used before by others and forgotten, while
        the process that wrote it stood still.
        """
        numbers = self._numbers()
        if numbers and numbers[-1] > manifest.number + KEPT:
            return False
        old = [self.folder + s3_manifest.manifest_name(n) for n in numbers if n < manifest.number - KEPT]
        there = self.bucket.list(self.folder, folders=True).sizes
        dead = [key for key in there if s3_manifest.is_dead(key.removeprefix(self.folder), manifest)]
        self.bucket.delete([*dead, *old])
        return True

    def path(self, file: DataFile) -> str:
        """Where a file is, as DuckDB says it of a row."""
        return f"s3://{self.bucket.name}/{self.folder}{file.name}"

    def address(self, file: DataFile) -> str:
        return address(self.bucket, self.folder + file.name)

    def addressed(self, files: Iterable[DataFile]) -> list[tuple[str, DataFile]]:
        return [(self.address(f), f) for f in files]

    def _numbers(self) -> list[int]:
        keys = self.bucket.list(self.folder + MANIFESTS).sizes
        return sorted(n for key in keys if (n := s3_manifest.manifest_number(key)) is not None)

    def _receipt_key(self, batch_id: str) -> str:
        return self.prefix + s3_manifest.receipt_name(batch_id)


def settled(bucket: Bucket, prefix: str, batch_id: str) -> Entry | None:
    """The receipt of a batch of any table, if it is an object of its own already."""
    content = bucket.get(prefix + s3_manifest.receipt_name(batch_id))
    return None if content is None else s3_manifest.parse_entry(content)


def names(bucket: Bucket, prefix: str) -> list[str]:
    """The names of the folders under a prefix that may be tables."""
    found = (each.removeprefix(prefix).rstrip("/") for each in bucket.list(prefix, folders=True).folders)
    return [name for name in found if name and not name.startswith(("_", "."))]


def address(bucket: Bucket, key: str) -> str:
    """A key as DuckDB reads it: exactly this object, whatever characters its name holds."""
    return f"s3://{bucket.name}/" + "".join(f"[{c}]" if c in "*[" else c for c in key)

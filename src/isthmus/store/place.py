"""Where a store lies, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isthmus.secrets import Secret


@dataclass(frozen=True)
class S3Access:
    """How to reach the bucket of a scaled store. `endpoint` is empty for Amazon itself."""

    endpoint: str
    region: str
    access_key_id: str
    secret_access_key: Secret


@dataclass(frozen=True)
class Place:
    """Where a store lies. Without `database_url` and `storage_url` it is the folder `root`; with both it is scaled,
    and `root` holds only temporary files."""

    root: Path
    database_url: Secret | None = None
    storage_url: str | None = None
    s3: S3Access | None = None
    memory_mb: int = 800
    threads: int | None = None
    lock_timeout_s: float = 60.0

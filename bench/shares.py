"""Shares of a processor: what makes two cores hold two workers and the servers they work with.

Two workers of a whole core each would take from the bucket, the catalog and the warehouse the core that one worker
leaves them, so that their time would say nothing about workers. With a share for each worker the servers have as much
in both cases. Linux control groups, and root, are needed; without them there is no share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_GROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 20_000


@contextmanager
def share(of_a_core: float) -> Iterator[Path | None]:
    """A folder whose processes (`join`) get together that much of a core; None where there is no such thing."""
    group, limits = _group(f"isthmus-bench-{uuid4().hex[:8]}", round(of_a_core * _PERIOD_US))
    try:
        group.mkdir()
        for name, value in limits.items():
            (group / name).write_text(value)
    except OSError:
        with suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        with suppress(OSError):  # a process that is still ending holds it; empty groups cost nothing
            group.rmdir()


def join(group: str) -> None:
    """Move this process into the group."""
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))


def _group(name: str, quota_us: int) -> tuple[Path, dict[str, str]]:
    if (_GROUPS / "cgroup.controllers").exists():  # version 2
        return _GROUPS / name, {"cpu.max": f"{quota_us} {_PERIOD_US}"}
    limits = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
    return _GROUPS / "cpu" / name, limits

"""Makes the environments of all stand-ins: `python -m isthmus.testing.standins`. `make test` does so first."""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from isthmus.testing.standins import environments


def main() -> int:
    """Make them at the same time; what cannot be had here is said, and is not an error: its tests say so again."""
    locks = sorted(environments.REQUIREMENTS.glob("*.lock"))
    node = sorted(environments.REQUIREMENTS.glob("*/package-lock.json"))
    with ThreadPoolExecutor(4) as pool:
        made: dict[str, Future[Any]] = {lock.stem: pool.submit(environments.python, lock.stem) for lock in locks}
        names = [lock.parent.name for lock in node]
        made |= {name: pool.submit(environments.node_program, name, name) for name in names}
        made["libltdl"] = pool.submit(environments.library, "libltdl7", "libltdl.so.7")
        for name, future in made.items():
            try:
                future.result()
            except environments.Unavailable as e:
                print(f"· no stand-in {name}: {e}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

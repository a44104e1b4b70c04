"""Serves until it is told to end: the port, a folder, and the administrator's password as arguments."""

from __future__ import annotations

import sys
from pathlib import Path

from .server import serve

if __name__ == "__main__":
    port, folder, password, idle_abort_s = sys.argv[1:]
    serve(int(port), Path(folder), password, float(idle_abort_s))

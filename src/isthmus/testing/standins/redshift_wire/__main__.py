"""`python -m isthmus.testing.standins.redshift_wire SETTINGS`: serves until it is told to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from isthmus.testing.standins.redshift_wire.server import Server, Settings

if __name__ == "__main__":
    with Server(Settings(**json.loads(Path(sys.argv[1]).read_text()))) as server:
        server.serve_forever(poll_interval=0.1)

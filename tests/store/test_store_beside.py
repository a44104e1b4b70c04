"""Reading while another process commits: the embedded catalog is read whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from isthmus.store.lake import Lake
from isthmus.store.place import Place
from isthmus.testing.builders import fresh_home

# What commits do to the catalog: the rows of a moment are in other places than they were.
_COMMIT = """
import sqlite3, sys, time
catalog = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
while True:
    catalog.execute("UPDATE ducklake_data_file SET rowid = rowid + 10")
    time.sleep(0.001)
"""


def test_a_past_moment_reads_the_same_while_others_commit(tmp_path: Path) -> None:
    place = Place(root=fresh_home(tmp_path))
    with Lake.open(place) as lake:
        lake.con.execute("CREATE TABLE lake.numbers AS SELECT n FROM range(1000) t(n)")
        lake.con.execute("DELETE FROM lake.numbers WHERE n < 10")
        at = lake.snapshot().snapshot_id
        # Another process: two SQLites in one would undo each other's locks.
        committing = subprocess.Popen([sys.executable, "-c", _COMMIT, str(tmp_path / "store" / "catalog.sqlite")])
        try:
            counts, until = [], time.monotonic() + 2
            while time.monotonic() < until or len(counts) < 30:
                counts += lake.query_past(f"SELECT count(*) FROM lake.numbers AT (VERSION => {at})")
            assert committing.poll() is None
        finally:
            committing.kill()
            committing.wait()
    assert set(counts) == {(990,)}

"""Reading while another process commits: the embedded catalog is read whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from isthmus.store.lake import Lake
from isthmus.store.place import Place
from isthmus.testing.builders import fresh_home


def test_a_past_moment_reads_the_same_while_others_commit(tmp_path: Path) -> None:
    place = Place(root=fresh_home(tmp_path))
    over = threading.Event()

    def commit() -> None:
        """What a commit does to the catalog when it deletes more rows of a file: another row says so from now on."""
        catalog = sqlite3.connect(tmp_path / "store" / "catalog.sqlite", isolation_level=None, timeout=20)
        while not over.wait(0.001):
            catalog.execute("UPDATE ducklake_delete_file SET rowid = rowid + 1")
        catalog.close()

    with Lake.open(place) as lake:
        lake.con.execute("CREATE TABLE lake.numbers AS SELECT n FROM range(1000) t(n)")
        lake.con.execute("DELETE FROM lake.numbers WHERE n < 10")
        at = lake.snapshot().snapshot_id
        committing = threading.Thread(target=commit)
        committing.start()
        counts, until = [], time.monotonic() + 2
        while time.monotonic() < until:
            counts += lake.query_past(f"SELECT count(*) FROM lake.numbers AT (VERSION => {at})")
        over.set()
        committing.join()
    assert len(counts) > 10
    assert set(counts) == {(990,)}

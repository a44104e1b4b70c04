"""What a process keeps on disk while it works is gone when it ends, and soon after it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from isthmus.store.lake import Lake
from isthmus.store.place import Place
from isthmus.store.scratch import Scratch

HOLD = """
import sys
from pathlib import Path
from isthmus.store.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.folder / "deep").mkdir()
(scratch.folder / "deep" / "file").write_text("spilled")
print(scratch.folder, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        other = Scratch(tmp_path)
        assert (held / "deep" / "file").read_text() == "spilled"
        assert other.folder != held
        other.close()
        holder.kill()
        holder.wait()
        holder.communicate()
    assert held.exists()
    last = Scratch(tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [last.folder.name]
    last.close()
    last.close()
    assert not list(tmp_path.iterdir())


def test_one_process_may_have_several(tmp_path: Path) -> None:
    one, two = Scratch(tmp_path), Scratch(tmp_path)
    (one.folder / "file").touch()
    two.close()
    assert os.listdir(one.folder) == ["file"]
    one.close()


def test_a_closed_store_leaves_nothing_of_its_work(tmp_path: Path) -> None:
    for _ in range(2):
        with Lake.open(Place(tmp_path)) as lake:
            (lake.spool / "batch.parquet").touch()
            (lake.temp / "spilled").touch()
        assert not [*(tmp_path / "tmp").iterdir(), *(tmp_path / "spool").iterdir()]

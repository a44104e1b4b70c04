"""An Isthmus that is killed on the way loses nothing and doubles nothing. (tests/long has many more deaths.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from long import killing, story
from long.killing import Kills, found_wrong

DEATHS = {
    "land": ["store commit"],
    "history": ["load statement", "ledger commit", killing.BY_HAND],
    "periodic": ["load statement", "spool file"],
}


@pytest.mark.long
def test_the_next_command_takes_up_what_a_killed_one_left(tmp_path: Path) -> None:
    written = story.brief(tmp_path / "story", seed=1, scale=story.Scale(people=100, events=500))
    home = killing.embedded(tmp_path)
    killing.export_to_duckdb(home)
    kills = Kills()
    killing.live_and_die(home, written, kills, seed=1, deaths=DEATHS)
    assert kills.total >= 4
    assert not found_wrong(home, written)

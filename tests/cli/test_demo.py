"""The demo: the whole story as anybody starts it. Long, for it lands a year of real purchases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.testing.standins.ready import READY


@pytest.mark.long
def test_the_whole_story_ends_with_both_sides_equal(tmp_path: Path) -> None:
    isthmus = Path(sys.executable).with_name("isthmus")
    told = []
    for _ in range(2):  # a second time it starts over
        done = subprocess.run(
            [isthmus, "demo", "--no-serve", "--json", "--home", "story"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    for figures in told:
        for chapter in figures.values():
            if isinstance(chapter, dict):
                chapter.pop("seconds")
    story, again = told
    assert story == again
    assert story["equal"]
    assert (
        story["land"]["purchases"]
        + story["import"]["purchases"]
        + story["mend"]["purchases"]
        + (story["change"]["purchases"])
        == 1_469_307
    ), "every purchase of the data set is there"
    assert (story["import"]["rejected"], story["import"]["reasons"]) == (1, ["no identifier"])
    assert (story["mend"]["purchases"], story["mend"]["left"]) == (1, 0)
    assert story["nothing new"]["rows"] == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", READY)
def test_the_same_story_at_every_kind_of_warehouse(tmp_path: Path, kind: str) -> None:
    isthmus = Path(sys.executable).with_name("isthmus")
    done = subprocess.run(
        [isthmus, "demo", "--no-serve", "--json", "--home", "story", "--warehouse", kind],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    story = json.loads(done.stdout)
    assert story["equal"]
    assert (story["deliver"]["rows"], story["prove again"]["rows"]) == (1_455_584, 1_478_336)
    assert (story["import"]["purchases"], story["mend"]["purchases"], story["nothing new"]["rows"]) == (105_200, 1, 0)

"""The tutorial, done as a newcomer would: every file is saved, every command is run, every line shown is looked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.long
def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith("ISTHMUS_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    commands = 0
    for kind, name, body in re.findall(r"```(\w+)[ ]?(\S*)\n(.*?)```", TUTORIAL.read_text(), re.S):
        if name:
            (tmp_path / name).write_text(body)
            continue
        assert kind == "console"
        for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
            command, *shown = part.strip().split("\n")
            done = subprocess.run(command, shell=True, cwd=tmp_path, env=environ, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            said = " ".join(done.stdout.split())
            for line in shown:
                assert " ".join(line.split()) in said, f"{command} does not say {line!r} but:\n{done.stdout}"
            commands += 1
    assert commands > 15

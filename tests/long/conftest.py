"""What the long tests count, told at the end of the session."""

from __future__ import annotations

import pytest

from long.killing import Kills

TOLD: list[str] = []
KILLS: dict[tuple[str, str], Kills] = {}


@pytest.fixture
def told() -> list[str]:
    """Lines for the end of the session."""
    return TOLD


@pytest.fixture
def all_kills() -> dict[tuple[str, str], Kills]:
    """The kills of each story, by store and connector."""
    return KILLS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOLD:
        terminalreporter.section("what was survived")
        for line in TOLD:
            terminalreporter.write_line(line)

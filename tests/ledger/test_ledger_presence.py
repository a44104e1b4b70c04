"""Presence in a database: who holds no lock is gone, unless the database has just come up and nobody could hold one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from isthmus.ledger import presence as presences
from isthmus.ledger.presence import DatabasePresence
from isthmus.secrets import Secret

ANN, BEN, CAT = "worker_ann", "worker_ben", "worker_cat"


@pytest.fixture
def both(postgres_url: str) -> Iterator[tuple[DatabasePresence, DatabasePresence]]:
    """Of ann and ben, who are there."""
    ann, ben = DatabasePresence(Secret(postgres_url)), DatabasePresence(Secret(postgres_url))
    ann.hold(ANN)
    ben.hold(BEN)
    yield ann, ben
    ann.close()
    ben.close()


def test_whose_connection_is_closed_is_gone(
    both: tuple[DatabasePresence, DatabasePresence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "RESTARTED_S", 0)
    ann, ben = both
    assert ann.gone([ANN, BEN, CAT]) == {CAT}
    ben.close()
    deadline = time.monotonic() + 30
    while ann.gone([ANN, BEN, CAT]) != {BEN, CAT}:  # the server notices a moment later
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_that_is_free_says_nothing_while_the_database_has_only_just_come_up(
    both: tuple[DatabasePresence, DatabasePresence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "RESTARTED_S", 1_000_000)
    ann, _ = both
    assert ann.gone([ANN, BEN, CAT]) == set()

"""Presence in a database: who holds no lock is gone, unless the database has just come up and nobody could hold one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from isthmus.ledger import presence as presences
from isthmus.ledger.presence import DatabasePresence
from isthmus.model.errors import StoreAway
from isthmus.secrets import Secret

ANN, BEN, CAT = "worker_ann", "worker_ben", "worker_cat"


def is_so_soon(what: Callable[[], object]) -> bool:
    """A server that a connection said goodbye to ends its session a moment later."""
    until = time.monotonic() + 20
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(what())


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
    assert is_so_soon(lambda: ann.gone([ANN, BEN, CAT]) == {BEN, CAT})


def test_a_lock_that_is_free_says_nothing_while_the_database_has_only_just_come_up(
    both: tuple[DatabasePresence, DatabasePresence], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "RESTARTED_S", 1_000_000)
    ann, _ = both
    assert ann.gone([ANN, BEN, CAT]) == set()


def held_by_a_ghost(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """What the server has of a connection that was cut on our side only: a session, and its lock."""
    ghost = psycopg.connect(url, autocommit=True)
    ghost.execute("SELECT pg_advisory_lock(%s)", [presences._key(CAT)])
    return ghost


def test_whose_old_lock_the_server_still_keeps_does_not_wait_for_it_and_has_it_again_once_it_is_free(
    both: tuple[DatabasePresence, DatabasePresence], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "RESTARTED_S", 0)
    ann, _ = both
    ghost = held_by_a_ghost(postgres_url)
    cat = DatabasePresence(Secret(postgres_url + "?options=-c%20lock_timeout%3D1s"))
    cat.hold(CAT)  # waiting for it would be an error here, and for ever elsewhere
    assert cat.gone([ANN, BEN]) == set()
    ghost.close()
    assert is_so_soon(lambda: ann.gone([CAT]) == {CAT}), "it was not cat's own lock"
    cat.keep()
    assert ann.gone([CAT]) == set()
    cat.close()


def test_a_connection_on_which_the_lock_cannot_be_asked_for_is_given_up_for_a_new_one(
    both: tuple[DatabasePresence, DatabasePresence], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "RESTARTED_S", 0)
    ann, _ = both
    cat = DatabasePresence(Secret(postgres_url))
    with monkeypatch.context() as broken:
        broken.setattr(presences, "_key", lambda worker_id: "no_number")
        with pytest.raises(StoreAway):
            cat.hold(CAT)
    cat.keep()
    assert ann.gone([CAT]) == set()
    cat.close()

"""A run engine whose database is away when it is to begin: said in our words, and nothing is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs_cast import Works

from isthmus.ledger.database import open_ledger
from isthmus.model.errors import StoreAway
from isthmus.runs.engine import Engine
from isthmus.testing.standins import free_ports


def test_an_engine_whose_database_does_not_answer_says_so_and_the_next_one_begins(tmp_path: Path) -> None:
    url = f"postgresql://postgres:secret@127.0.0.1:{free_ports(1)[0]}/isthmus"
    with pytest.raises(StoreAway) as caught:
        Engine(url, "worker_ann", lambda attempt: None, slots=1)
    assert caught.value.retryable and "secret" not in caught.value.summary
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    works = Works(tmp_path / "ledger.sqlite", ledger)
    works.close()
    ledger.close()

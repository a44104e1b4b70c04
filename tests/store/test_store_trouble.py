"""What the store's engine says of a server that is away, in the words that it has said it with."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from isthmus.model.errors import StoreAway
from isthmus.secrets import Secret
from isthmus.store.place import Place
from isthmus.store.trouble import translated


@pytest.mark.parametrize(
    "words",
    [
        "TransactionContext Error: Failed to get data file list from DuckLake: Current transaction is aborted "
        "(please ROLLBACK)",
        "IO Error: Could not connect to server error for HTTP GET to 'http://127.0.0.1:1/b/k.parquet'",
    ],
)
def test_a_server_that_went_away_may_be_tried_again(words: str, tmp_path: Path) -> None:
    place = Place(tmp_path, Secret("postgresql://postgres:hunter2@127.0.0.1:1/isthmus"), "s3://bucket/prefix")
    found = translated(duckdb.Error(words), place)
    assert isinstance(found, StoreAway) and found.retryable
    assert not isinstance(translated(duckdb.Error(words), Place(tmp_path)), StoreAway), "there is no server"

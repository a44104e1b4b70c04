"""Reading ahead: the next rows are fetched while the ones before are landed."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Generator[T]) -> Generator[T]:
    """The same items, each fetched on a thread of its own while its user is at the one before. One is held, no more.

    Whatever fetching raises is raised where the item would have come. Closing waits for the fetch under way, and closes
    `items`: nobody is in there any more then.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = thread.submit(next, items, None)
        try:
            while (item := coming.result()) is not None:
                coming = thread.submit(next, items, None)
                yield item
        finally:
            thread.shutdown(wait=True, cancel_futures=True)
            items.close()

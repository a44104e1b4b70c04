"""A home, and a server over it that listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from api_cast import Get, ask

from isthmus.api import application, server
from isthmus.app import App
from isthmus.settings import Settings
from isthmus.testing.builders import fresh_home


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with App(Settings(home=fresh_home(tmp_path / "home"))) as opened:
        yield opened


@pytest.fixture
def serving() -> Iterator[Callable[..., Get]]:
    """Serve an app; what comes back asks it."""
    with ExitStack() as stack:

        def serve(app: App, **options: Any) -> Get:
            listening = stack.enter_context(server.serve(application.build(app, **options), "127.0.0.1", 0))
            return lambda path, method="GET": ask(listening, path, method)

        yield serve


@pytest.fixture
def get(app: App, serving: Callable[..., Get]) -> Get:
    return serving(app)

"""Something is worth a line in the log; somebody else reads that line. No secret may be in it."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest

from isthmus import logs
from isthmus.model.errors import Unreachable
from isthmus.secrets import Secret

LOG = logs.log("isthmus.tests")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The process's logging, put back."""
    root = logging.getLogger()
    level, ours = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = ours
    logging.captureWarnings(False)
    for name in logs._QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_line_is_one_json_object_that_begins_with_when_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(True, "info")
    with logs.bound(worker_id="worker_1", run_id="run_1", sync="everything"):
        LOG.info("chunk delivered", rows=1200, chunk="klaviyo_event-3", note="two\nlines", share=float("nan"))
    (line,) = lines(capsys)
    assert list(line)[:6] == ["at", "level", "event", "run_id", "sync", "chunk"]
    at = datetime.fromisoformat(line.pop("at"))
    assert at.tzinfo == UTC and abs(datetime.now(UTC) - at) < timedelta(seconds=60)
    assert line == {
        "level": "info",
        "event": "chunk delivered",
        "run_id": "run_1",
        "sync": "everything",
        "chunk": "klaviyo_event-3",
        "worker_id": "worker_1",
        "rows": 1200,
        "note": "two\nlines",
        "share": "nan",
        "logger": "isthmus.tests",
    }


def test_ids_are_bound_inside_only_and_in_their_own_thread(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(True, "info")
    with logs.bound(run_id="run_1", attempt=1):
        with logs.bound(attempt=2):
            LOG.info("inside")
            other = threading.Thread(target=LOG.info, args=("elsewhere",))
            other.start()
            other.join()
        LOG.info("between")
    LOG.info("after")
    found = {line["event"]: (line.get("run_id"), line.get("attempt")) for line in lines(capsys)}
    assert found == {"inside": ("run_1", 2), "elsewhere": (None, None), "between": ("run_1", 1), "after": (None, None)}


def test_values_of_any_kind_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    class Word(StrEnum):
        FAILED = "failed"

    logs.configure(True, "info")
    moment = datetime(2026, 11, 21, 12, tzinfo=UTC)
    LOG.info("values", state=Word.FAILED, moment=moment, names={"a"}, nested={1: [None, Word.FAILED]}, kind=Secret)
    (line,) = lines(capsys)
    assert line["state"] == "failed" and line["moment"] == "2026-11-21T12:00:00+00:00"
    assert line["names"] == ["a"] and line["nested"] == {"1": [None, "failed"]}
    assert "Secret" in line["kind"]


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(True, "warning")
    LOG.info("no news")
    LOG.warning("news")
    assert [line["event"] for line in lines(capsys)] == ["news"]
    with pytest.raises(ValueError, match="loud"):
        logs.configure(True, "loud")


def test_configuring_again_replaces_what_was_before(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(False, "info")
    logs.configure(True, "info")
    LOG.info("once")
    assert [line["event"] for line in lines(capsys)] == ["once"]


def test_before_it_is_configured_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    LOG.error("to nobody")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_libraries_are_written_alike_and_their_small_talk_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    dbos = logging.getLogger("dbos")
    before = list(dbos.handlers), dbos.propagate
    dbos.addHandler(logging.StreamHandler(sys.stderr))  # what it does when it starts
    dbos.propagate = False
    logs.configure(True, "info")
    for name in ("dbos", "uvicorn.error", "alembic.runtime.migration", "sqlalchemy.engine.Engine"):
        logging.getLogger(name).info("small talk")
        logging.getLogger(name).warning("what %s says", name)
    logging.getLogger("some.other").info("said at info")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("it will be gone", stacklevel=1)
    dbos.handlers[:], dbos.propagate = before
    found = lines(capsys)
    assert [line["event"] for line in found[:5]] == [
        "what dbos says",
        "what uvicorn.error says",
        "what alembic.runtime.migration says",
        "what sqlalchemy.engine.Engine says",
        "said at info",
    ]
    assert "it will be gone" in found[5]["event"] and found[5]["level"] == "warning"


def test_an_exception_becomes_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(True, "info")
    try:
        raise Unreachable("no answer", hint="let us in", code="08001", vendor="timeout")
    except Unreachable:
        LOG.exception("attempt failed")
        logging.getLogger("some.library").exception("it failed")
    LOG.warning("again", exc_info=ValueError("wrong"))
    ours, foreign, value = (line["exception"] for line in lines(capsys))
    assert ours == foreign
    assert ours.pop("traceback").startswith("Traceback (most recent call last):\n")
    assert ours == {
        "error": "Unreachable",
        "summary": "no answer",
        "hint": "let us in",
        "code": "08001",
        "vendor": "timeout",
        "retryable": True,
    }
    assert value == {"error": "ValueError", "summary": "wrong", "traceback": "ValueError: wrong"}


def test_a_person_reads_text_in_colour_only_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure(False, "info")
    with logs.bound(sync="everything"):
        LOG.info("run completed", rows=3)
    try:
        raise ValueError("wrong")
    except ValueError:
        LOG.exception("run failed")
    text = capsys.readouterr().err
    assert re.match(r"\S+ \[info +\] run completed +sync=everything rows=3\n", text)
    assert "Traceback (most recent call last):\n" in text and text.endswith("ValueError: wrong\n")
    assert "\x1b" not in text
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure(False, "info")
    LOG.info("run completed", name="\x1b[2J")
    text = capsys.readouterr().err
    assert "\x1b[" in text and "\x1b[2J" not in text


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_no_secret_is_ever_written(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://isthmus:hunter2@db:5432/isthmus"
    secret = Secret("hunter2")
    hidden = [Secret("postgresql://u:correct%20horse@db/x"), Secret("battery-staple")]
    logs.configure(as_json, "debug", hidden=hidden)

    def connect(password: str) -> None:
        raise ConnectionError(f"cannot reach {url}", secret)

    try:
        connect(secret.reveal())
    except ConnectionError:
        LOG.exception("failed")
        logging.getLogger("uvicorn.error").exception("failed at %s", url)
    LOG.info(
        f"opened {url}", url=url, secret=secret, nested={"deep": [secret, url], "password": "hunter2"}, token="hunter2"
    )
    LOG.info(
        "said", dsn="host=db password=hunter2 user=me", odd="redis://:hunter2@h", at_sign="x://u:hun@ter2hunter2@h"
    )
    LOG.info("found", key=url.encode(), text="the correct horse, or correct%20horse; battery-staple")
    logging.getLogger("some.library").warning("secret %s and %s", secret, url)
    with logs.bound(sync=url):
        LOG.info("bound")
    text = capsys.readouterr().err
    assert "failed" in text and "db:5432/isthmus" in text and logs.MASK in text
    for never in ("hunter2", "correct horse", "correct%20horse", "battery-staple"):
        assert never not in text

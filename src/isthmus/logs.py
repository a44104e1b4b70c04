"""Structured logs: an event is a short lower-case sentence, everything that varies is a field beside it.

    LOG = logs.log(__name__)
    with logs.bound(run_id=run.run_id, sync=run.sync_name):
        LOG.info("chunk delivered", rows=1200)

Everything goes through the standard library's `logging`, and so do the libraries we use: before `configure` nothing of
ours is written anywhere, after it all of it goes to stderr in one form. Secrets are taken out at the very end, from
every field, event and traceback alike. docs/observability.md is what a person may rely on.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

from isthmus.model.errors import IsthmusError
from isthmus.secrets import Secret

LEVELS = ("debug", "info", "warning", "error")

FIRST = ("at", "level", "event", "run_id", "sync", "chunk", "attempt", "worker_id")
"""How a line begins; ids that are not bound are left out."""

MASK = "•••"

_QUIET = ("alembic", "anyio", "dbos", "sqlalchemy", "uvicorn")
"""Libraries that say at level info what is news to their developers only."""

_URL_PASSWORD = re.compile(r"(://[^\s:/@]*):\S+@")  # up to the last @: a password may hold one
_PASSWORD = re.compile(r"(?i)\b(password|passwd|pwd|secret|token)(\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s,;&]+)")
_SECRET_NAME = re.compile(r"(?i)(^|_)(password|passwd|pwd|secret|token|api_key|private_key|secret_key)$")
_SHORTEST = 6  # a hidden text shorter than this would be found in words that have nothing to do with it

# Silent until `configure`, also about warnings, as libraries should be: commands speak to people by themselves.
logging.getLogger("isthmus").addHandler(logging.NullHandler())


class _Stderr(logging.StreamHandler[IO[str]]):
    """Ours among the root's, so that configuring again replaces it."""


def configure(as_json: bool, level: str, *, hidden: Iterable[Secret] = ()) -> None:
    """Write logs of `level` and above to stderr: JSON lines, else text, in colour if a person looks.

    `hidden` are secrets that may not appear even where a library has put one into a text of its own. Calling again
    replaces what was said before. New threads begin without the ids that `bound` has bound elsewhere.
    """
    if level not in LEVELS:
        raise ValueError(f"there is no level {level!r}")
    lines = _Stderr(sys.stderr)
    rendered = _json if as_json else _text(colours=sys.stderr.isatty())
    lines.setFormatter(
        ProcessorFormatter(
            processors=[structlog.contextvars.merge_contextvars, _Cleaned(hidden), rendered],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(lines)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in _QUIET:
        library = logging.getLogger(name)
        # One that has something here adds nothing of its own when it starts.
        library.handlers[:] = [logging.NullHandler()]
        library.propagate = True
        library.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)  # below that it shows statements with their values


def log(name: str) -> BoundLogger:
    """The log of a module: `LOG = logs.log(__name__)`. Before `configure` it is silent."""
    made: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return made


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Every line written inside, by whatever module of this thread, carries these ids."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


class _Cleaned:
    """The line as plain values, in order, without secrets: all that a renderer gets to see."""

    def __init__(self, hidden: Iterable[Secret]) -> None:
        texts = {part for secret in hidden for part in _parts(secret.reveal()) if len(part) >= _SHORTEST}
        longest_first = sorted(texts, key=len, reverse=True)
        self._hidden = re.compile("|".join(map(re.escape, longest_first))) if texts else None

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        origin: logging.LogRecord = line.pop("_record")
        line.pop("_from_structlog")
        error = _error(line.pop("exc_info", None))
        line["at"] = datetime.fromtimestamp(origin.created, UTC).isoformat(timespec="milliseconds")
        line["level"] = origin.levelname.lower()
        line["logger"] = origin.name
        if error is not None:
            line["exception"] = _about(error)
        ordered = {key: line[key] for key in FIRST if key in line}
        return {key: self._plain(key, value) for key, value in {**ordered, **line}.items()}

    def _plain(self, key: str, value: object) -> Any:
        if isinstance(value, Secret) or (_SECRET_NAME.search(key) and value is not None):
            return MASK
        match value:
            case Enum():
                return self._plain(key, value.value)
            case str():
                return self._masked(value)
            case None | bool() | int():
                return value
            case float():
                return value if math.isfinite(value) else str(value)
            case datetime():
                return value.isoformat()
            case Mapping():
                return {self._masked(str(k)): self._plain(str(k), v) for k, v in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._plain("", member) for member in value]
        return self._masked(str(value))

    def _masked(self, text: str) -> str:
        if self._hidden is not None:
            text = self._hidden.sub(MASK, text)
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
        text = _PASSWORD.sub(rf"\1\2{MASK}", text)
        return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)  # no power over a terminal


def _parts(secret: str) -> set[str]:
    """A secret, and of a URL the password too, since it appears alone in what drivers say."""
    try:
        password = urlsplit(secret).password if "://" in secret else None
    except ValueError:
        password = None
    return {secret, *({password, unquote(password)} if password else ())}


def _error(exc_info: object) -> BaseException | None:
    """What `exc_info` means: an exception, the triple of one, or True for the one being handled."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exc_info()[1]
    return None


def _about(error: BaseException) -> dict[str, object]:
    """An exception as fields. The traceback is lines of code only: local values may be secrets."""
    told = error.as_dict() if isinstance(error, IsthmusError) else _foreign(error)
    return {**told, "traceback": "".join(traceback.format_exception(error)).rstrip()}


def _foreign(error: BaseException) -> dict[str, object]:
    return {"error": type(error).__name__, "summary": str(error)}


def _json(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    return json.dumps(line, ensure_ascii=False)


def _text(*, colours: bool) -> structlog.typing.Processor:
    console = structlog.dev.ConsoleRenderer(
        colors=colours,
        sort_keys=False,
        timestamp_key="at",
        pad_event_to=32,
        exception_formatter=structlog.dev.plain_traceback,  # rich's would show local values
    )

    def rendered(logger: WrappedLogger, method: str, line: EventDict) -> str:
        error = line.pop("exception", None)
        line.pop("logger", None)
        text = str(console(logger, method, line))
        return f"{text}\n{error['traceback']}" if error else text

    return rendered

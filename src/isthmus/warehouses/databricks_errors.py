"""Databricks' errors as ours: by error condition, SQLSTATE and HTTP status; by words where there is none of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isthmus.model.errors import Denied, WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors
from isthmus.warehouses.databricks_sql import granting

KIND = "databricks"
_HEADERS = ("x-thriftserver-error-message", "x-databricks-error-or-redirect-message", "x-databricks-reason-phrase")


@contextmanager
def translated(token: Secret, principal: str) -> Iterator[None]:
    """Raise whatever the driver raises as one of ours. Its parts that fetch files raise bare exceptions."""
    try:
        yield
    except WarehouseError:
        raise
    except Exception as e:
        raise translate(e, token=token, principal=principal) from e


def translate(error: Exception, *, token: Secret, principal: str) -> WarehouseError:
    """The error as one of ours, with Databricks' own words but never the token."""
    code, said = _told(error)
    state = re.search(r"SQLSTATE:\s*([0-9A-Z]{5})", said)
    if state and vendor_errors.find(KIND, code, said) is None:
        code = state[1]
    found = vendor_errors.translate(KIND, "Databricks", code=code, message=said, secrets=[token])
    if isinstance(found, Denied) and (statement := granting(said, principal)):
        found.hint = f"a right is missing: {statement}"
    return found


def _told(error: Exception) -> tuple[str, str]:
    """A code and what was said, from wherever the driver has them."""
    said = str(error)
    status = (getattr(error, "context", None) or {}).get("http-code")
    if (answer := _answer(error)) is not None:
        status, said = answer
    if condition := re.search(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\]", said):
        return condition[1], said
    if prefix := re.search(r"(?:^|: )([A-Z]+(?:_[A-Z]+)+): ", said):
        return prefix[1], said
    if isinstance(status, int) and status >= 400:
        return f"HTTP {status}", said
    chain = list(_chain(error))
    if any("SSL" in type(each).__name__ or "CertificateError" in type(each).__name__ for each in chain):
        return "TLS", " ".join(str(each) for each in chain[:1])
    for each in chain:
        if type(each).__module__.startswith("urllib3") or isinstance(each, OSError):
            return "connection", str(each)
    return "", said


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all it came from."""
    todo: list[Any] = [error]
    seen: set[int] = set()
    while todo:
        each = todo.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]


def _answer(error: Exception) -> tuple[int, str] | None:
    """The answer that told the driver to wait. It gives up without a word of it, and only its call stack has it."""
    for each in _chain(error):
        step = each.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_name == "sleep_for_retry":
                response = step.tb_frame.f_locals.get("response")
                headers = getattr(response, "headers", {})
                said = ": ".join(headers[name] for name in _HEADERS if name in headers)
                return int(getattr(response, "status", 503)), said or "asked to try again later"
            step = step.tb_next
    return None

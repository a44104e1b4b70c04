"""Errors of Google's libraries as ours: by the reason of BigQuery's error, else by the status of HTTP or gRPC."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from isthmus.model.errors import Busy, Denied, Unreachable, WarehouseError
from isthmus.secrets import Secret
from isthmus.warehouses import vendor_errors

_CALL = re.compile(r"^(GET|POST|PUT|PATCH|DELETE) \S+: ")
_PERMISSION = re.compile(r"permission\W+(bigquery\.\w+\.\w+)|have '?(bigquery\.\w+\.\w+)|query (table|view)", re.I)
_PLACE = re.compile(r"(?:dataset|table|view) (?:[\w.-]+:)(?P<dataset>\w+)", re.I)

_EDITS = ("create", "update", "updateData", "delete")


@contextmanager
def translated(secrets: Iterable[Secret], project: str = "", account: str = "") -> Iterator[None]:
    """Raise what the drivers raise as ours, with the grant that is missing if it is one."""
    import concurrent.futures

    import requests
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    try:
        yield
    except (api.GoogleAPIError, auth.GoogleAuthError, requests.RequestException, concurrent.futures.TimeoutError) as e:
        error = translate(e, secrets)
        if isinstance(error, Denied) and (statement := missing_grant(error.vendor, project, account)):
            error.hint = f"a role is missing: {statement}"
        raise error from e


def translate(error: Exception, secrets: Iterable[Secret]) -> WarehouseError:
    """The error as one of ours, with Google's own words."""
    import concurrent.futures

    import requests
    from google.auth import exceptions as auth

    message = str(error)
    for secret in secrets:
        if secret.reveal():
            message = message.replace(secret.reveal(), "•••")
    if isinstance(error, concurrent.futures.TimeoutError):
        return Busy("BigQuery has not come to an end with this in time", code="timeout", hint="try again later")
    if isinstance(error, auth.TransportError | requests.ConnectionError | requests.Timeout):
        hint = "check the network, the endpoint if one is set, and that a firewall lets this machine through"
        return Unreachable("Google does not answer", code=type(error).__name__, vendor=message, hint=hint)
    code, message = _said(error)
    return vendor_errors.translate("bigquery", "BigQuery", code=code, message=message, secrets=secrets)


def _said(error: Any) -> tuple[str, str]:
    """BigQuery's reason and message, as they are in the answer or in the job."""
    from google.auth import exceptions as auth

    if isinstance(error, auth.GoogleAuthError):
        text = str(error.args[0]) if error.args else str(error)
        return text.partition(":")[0] if re.match(r"\w+: ", text) else type(error).__name__, text
    first = next((e for e in getattr(error, "errors", ()) or () if isinstance(e, dict) and e.get("reason")), None)
    if first is not None:
        return str(first["reason"]), str(first.get("message") or error)
    message = _CALL.sub("", str(getattr(error, "message", "") or error))
    status = getattr(error, "grpc_status_code", None)
    code = status.name if status is not None else getattr(error, "code", None)
    return str(int(code)) if isinstance(code, int) else str(code or type(error).__name__), message


def missing_grant(message: str, project: str, account: str) -> str:
    """The statement or command that gives what a refusal says is missing; empty if it does not say."""
    found = _PERMISSION.search(message)
    if found is None or not account:
        return ""
    permission = found[1] or found[2] or "bigquery.tables.getData"
    kind, verb = permission.split(".")[1:]
    if (kind, verb) in (("jobs", "create"), ("readsessions", "create")):
        return grant_on_project("roles/bigquery.jobUser" if kind == "jobs" else READ_SESSIONS, project, account)
    place = _PLACE.search(message)
    if place is None:
        return ""
    role = "dataEditor" if kind == "tables" and verb in _EDITS else "dataViewer"
    return grant_on_dataset(f"roles/bigquery.{role}", project, place["dataset"], account)


READ_SESSIONS = "roles/bigquery.readSessionUser"
JOBS = "roles/bigquery.jobUser"


def grant_on_dataset(role: str, project: str, dataset: str, account: str) -> str:
    return f'GRANT `{role}` ON SCHEMA `{project}`.`{dataset}` TO "serviceAccount:{account}";'


def grant_on_project(role: str, project: str, account: str) -> str:
    return (
        f"gcloud projects add-iam-policy-binding {project} --member=serviceAccount:{account} --role={role} "
        "--condition=None"
    )

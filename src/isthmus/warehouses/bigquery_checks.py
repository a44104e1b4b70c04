"""The questions of a check of a BigQuery connection, in order, each answered as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.model.checks import Check
from isthmus.model.errors import Denied, WarehouseError
from isthmus.model.table import Column, Type
from isthmus.warehouses.bigquery_errors import JOBS, READ_SESSIONS, grant_on_dataset, grant_on_project, missing_grant
from isthmus.warehouses.bigquery_session import Session
from isthmus.warehouses.bigquery_sql import quoted

_VIEWER, _EDITOR = "roles/bigquery.dataViewer", "roles/bigquery.dataEditor"
_REACH_S = 15


def reached(endpoint: str) -> Check:
    """Whether anybody answers at the endpoint, by way of a proxy if there is one, whatever is answered."""
    import requests

    question = "Can the host be reached?"
    try:
        requests.head(endpoint, timeout=_REACH_S).close()
    except requests.RequestException as e:
        hint = "let this machine reach it through the firewall; if an endpoint is set in the connection, check it"
        return Check(question, False, detail=f"{endpoint}: {e}", hint=hint)
    return Check(question, True, detail=endpoint)


def questions(session: Session, *, target: str, importing: str, temporary: str, location: str) -> Iterator[Check]:
    """The checks of an open session. Its probes are dropped; one that could not be ends by itself within a day."""
    asked = _Asked(session, location)
    yield asked.datasets((target, importing, temporary))
    yield asked.one(
        "Can we run queries?",
        lambda: session.ask("SELECT 1"),
        grant_on_project(JOBS, session.project, session.account),
    )
    yield asked.one(
        f"Can the tables and views of {importing} be listed and read?",
        lambda: asked.read_what_is_exposed(importing),
        grant_on_dataset(_VIEWER, session.project, importing, session.account),
    )
    on_temporary = grant_on_dataset(_EDITOR, session.project, temporary, session.account)
    probe = f"_isthmus_probe_{uuid4().hex[:12]}"
    try:
        staged = asked.one(f"Can we stage a file in {temporary}?", lambda: asked.stage(temporary, probe), on_temporary)
        yield staged
        yield asked.one(
            f"Can we create, write, read and drop a table in {temporary}?",
            lambda: asked.write_and_drop(temporary, f"{probe}_2"),
            on_temporary,
        )
        if staged.passed:  # else there is nothing to read yet
            yield asked.one(
                "Can rows be read by the Storage Read API?",
                lambda: asked.fetch(temporary, probe),
                grant_on_project(READ_SESSIONS, session.project, session.account),
            )
    finally:
        with suppress(WarehouseError):
            session.drop(temporary, probe)
    yield asked.one(
        f"Can we load into {target}?",
        lambda: asked.write_and_drop(target, probe),
        grant_on_dataset(_EDITOR, session.project, target, session.account),
    )
    yield asked.surplus({target, importing, temporary}, importing, temporary)


class _Asked:
    """What is tried for each question."""

    def __init__(self, session: Session, location: str) -> None:
        self._session, self._location = session, location

    def one(self, question: str, attempt: Callable[[], object], statement: str) -> Check:
        """Yes if nothing is raised. The grant that a refusal names goes before the one it is usually about."""
        try:
            attempt()
        except WarehouseError as e:
            named = missing_grant(e.vendor, self._session.project, self._session.account)
            return Check(question, False, detail=e.vendor or e.summary, hint=e.hint, statement=named or statement)
        return Check(question, True)

    def datasets(self, wanted: Sequence[str]) -> Check:
        """Google tells an account without a role on it nothing of a dataset, not even that there is none."""
        question, absent, unseen = "Are the datasets there?", [], []
        for name in wanted:
            try:
                if not self._session.has_dataset(name):
                    absent.append(name)
            except Denied:
                unseen.append(name)
            except WarehouseError as e:
                return Check(question, False, detail=e.vendor or e.summary, hint=e.hint, statement=self._make(name))
        if absent:
            return Check(
                question,
                False,
                detail=f"not there: {', '.join(absent)}",
                hint="make the missing dataset; the set-up script makes all of them",
                statement=self._make(absent[0]),
            )
        if unseen:
            role = _VIEWER if unseen[0] == wanted[1] else _EDITOR
            grant = grant_on_dataset(role, self._session.project, unseen[0], self._session.account)
            return Check(
                question,
                False,
                detail=f"not there, or no role on it: {', '.join(unseen)}",
                hint="make the dataset if it is not there, and give the role; the set-up script does both",
                statement=f"{self._make(unseen[0])}\n{grant}",
            )
        return Check(question, True)

    def _make(self, dataset: str) -> str:
        options = f" OPTIONS(location = '{self._location}')" if self._location else ""
        return f"CREATE SCHEMA IF NOT EXISTS {quoted(self._session.project, dataset)}{options};"

    def read_what_is_exposed(self, importing: str) -> None:
        for name, _ in self._session.tables(importing)[:5]:  # dry: nothing is read, nothing is billed
            self._session.dry(f"SELECT * FROM {quoted(self._session.project, importing, name)}")
        # A dataset may be listed by roles that do not let its rows be read: an empty one is asked another way.
        self._session.dry(
            f"SELECT table_name FROM {quoted(self._session.project, importing)}.INFORMATION_SCHEMA.TABLES"
        )

    def stage(self, temporary: str, probe: str) -> None:
        with TemporaryDirectory(prefix="isthmus-probe-") as folder:
            file = Path(folder) / "probe.parquet"
            pq.write_table(pa.table({"n": pa.array([1], pa.int64())}), file)
            self._session.upload(file, temporary, probe, [Column("n", Type.BIGINT)], name=f"{probe}_load")

    def write_and_drop(self, dataset: str, probe: str) -> None:
        name = quoted(self._session.project, dataset, probe)
        expiring = "OPTIONS(expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY))"
        self._session.ask(f"CREATE TABLE {name} (n INT64) {expiring}")
        try:
            self._session.ask(f"INSERT INTO {name} (n) VALUES (1)")
            self._session.ask(f"SELECT n FROM {name}")
        finally:
            self._session.drop(dataset, probe)

    def fetch(self, temporary: str, probe: str) -> None:
        path = f"projects/{self._session.project}/datasets/{temporary}/tables/{probe}"
        for _ in self._session.rows(path, in_order=True):
            pass

    def surplus(self, ours: set[str], importing: str, temporary: str) -> Check:
        """Rights we could do without. What is asked is checked by Google, and not done."""
        question, project, account = "Are there rights it does not need?", self._session.project, self._session.account
        found: list[str] = []
        statement = ""
        try:
            if self._may(f"CREATE TABLE {quoted(project, importing, '_isthmus_probe')} (n INT64)"):
                found.append(f"it may write into {importing}")
                statement = grant_on_dataset(_EDITOR, project, importing, account)
                statement = statement.replace("GRANT", "REVOKE").replace(" TO ", " FROM ")
            wide = self._may(f"CREATE SCHEMA {quoted(project, f'isthmus_probe_{uuid4().hex[:12]}')}")
            others = [d for d in self._session.datasets() if d not in ours and not d.startswith("_")]
            if wide:
                found.append("it may make datasets")
            if others:
                found.append(f"it may see other datasets ({', '.join(sorted(others)[:5])})")
            if wide or others:
                # Which role it is can be told only by who may see the project's policy: the command asks that.
                statement = _without_others(project, account)
            if self._session.default_expiration_ms(temporary) is None and not found:
                detail = f"tables in {temporary} do not end by themselves: what a killed process leaves there stays"
                statement = f"ALTER SCHEMA {quoted(project, temporary)} SET OPTIONS(default_table_expiration_days = 1);"
                return Check(question, True, detail=detail, statement=statement, warns=True)
        except WarehouseError as e:
            return Check(question, True, detail=f"cannot be told: {e.vendor or e.summary}", hint=e.hint, warns=True)
        if not found:
            return Check(question, True)
        hint = "take them away: what is not needed can only do harm"
        return Check(question, True, detail="; ".join(found), hint=hint, statement=statement, warns=True)

    def _may(self, statement: str) -> bool:
        try:
            self._session.dry(statement)
        except Denied:
            return False
        return True


def _without_others(project: str, account: str) -> str:
    kept = " ".join(f"-e {role}" for role in (JOBS, READ_SESSIONS))
    return (
        f"gcloud projects get-iam-policy {project} --flatten='bindings[].members' "
        f"--filter='bindings.members:serviceAccount:{account}' --format='value(bindings.role)' | grep -vx {kept} | "
        f"xargs -r -I ROLE gcloud projects remove-iam-policy-binding {project} --member=serviceAccount:{account} "
        "--role=ROLE --all"
    )

"""Connections and exports as code: a YAML file made true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isthmus.app import App
from isthmus.exports import plan
from isthmus.imports.preview import Wanted
from isthmus.ledger import connections, doors, syncs
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Change, Tx
from isthmus.model import mapping as mappings
from isthmus.model.errors import InvalidInput
from isthmus.model.import_rules import check_import, check_together
from isthmus.model.tables import ALL, named
from isthmus.model.work import DELETES_LIMIT, Deletes, Selection, Sync, SyncState
from isthmus.runs import schedule
from isthmus.secrets import Secret, resolve
from isthmus.warehouses import kinds


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Connection(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(min_length=1, max_length=100)
    kind: str
    concurrency: Literal[1, 2, 4, 8] | None = None
    nightly_checks: bool = True


class _Events(_Part):
    metrics: Literal["all"] | list[str] = "all"
    exclude_integrations: list[str] = []


class _Export(_Part):
    name: str = Field(min_length=1, max_length=100)
    connection: str
    profiles: bool = True
    events: bool | _Events = True
    history: str | int | date = "all"
    schedule: str = "hourly"
    freshness_limit: str | None = None
    table_prefix: str = Field(default="klaviyo_", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,40}$")
    include_imported: bool = False


class _Import(_Part):
    name: str = Field(min_length=1, max_length=100)
    connection: str
    data: Literal["events", "profiles"]
    relation: str = Field(default="", max_length=300)
    query: str = ""
    schedule: str = "hourly"
    freshness_limit: str | None = None
    look_back: str | None = None
    key: list[Annotated[str, Field(min_length=1)]] = []
    deletes: Deletes | None = None
    deletes_limit: int | None = Field(default=None, ge=1, le=100)
    mapping: dict[str, Any] | None = None


class _Document(_Part):
    connections: list[_Connection] = []
    exports: list[_Export] = []
    imports: list[_Import] = []
    mailboxes: list[Any] = []


@dataclass(frozen=True)
class Applied:
    """One thing of the file and what became of it (or would: with `plan`)."""

    what: str
    name: str
    change: Change


def apply(app: App, file: Path, *, plan_only: bool, environ: dict[str, str]) -> list[Applied]:
    """Make the connections and exports of the file be as it says; others are left alone. All of it or nothing.

    Applying twice changes nothing the second time. With `plan_only` it says what would change. Relative paths in the
    file are relative to it. Raises InvalidInput naming the line or field that is wrong.
    """
    return _apply(app, _read(file), file, plan_only=plan_only, environ=environ)


def _apply(app: App, document: _Document, file: Path, *, plan_only: bool, environ: dict[str, str]) -> list[Applied]:
    folder = file.absolute().parent
    moment = app.now()
    configs = [(c, *_fields(c, folder, environ)) for c in document.connections]
    opened = app.ledger.rehearsal() if plan_only else app.ledger.transaction()
    done: list[Applied] = []
    with opened as tx:
        for connection, plain, secrets in configs:
            kept, change = connections.put(
                tx,
                name=connection.name,
                kind=connection.kind,
                fields=plain,
                secrets=secrets,
                seal=app.seal,
                at=moment,
                incidental=kinds.incidental(connection.kind),
                concurrency=connection.concurrency,
                nightly=connection.nightly_checks,
            )
            if change is not Change.UNCHANGED:
                doors.go_on(tx, kept.connection_id, at=moment)
            done.append(Applied("connection", connection.name, change))
        for export in document.exports:
            selection = _selection(export)
            plan.events_since(selection.history, moment)
            due = schedule.read(export.schedule)
            connection_id = connections.named(tx, export.connection).connection_id
            _require_own_tables(tx, export.name, connection_id, selection)
            _, change = syncs.apply_export(
                tx,
                name=export.name,
                connection_id=connection_id,
                selection=selection,
                schedule=due.text,
                at=moment,
                freshness_limit_s=_freshness_limit_s(export),
                due=partial(due.following, moment),
            )
            done.append(Applied("export", export.name, change))
        for wanted in document.imports:
            due = schedule.read(wanted.schedule)
            intake = _intake(wanted, file)
            connection_id = connections.named(tx, wanted.connection).connection_id
            _require_one_origin(tx, wanted.name, intake)
            _require_no_loop(tx, wanted, connection_id)
            _, change = syncs.apply_import(
                tx,
                name=wanted.name,
                connection_id=connection_id,
                intake=intake,
                schedule=due.text,
                at=moment,
                freshness_limit_s=_freshness_limit_s(wanted),
                due=partial(due.following, moment),
            )
            done.append(Applied("import", wanted.name, change))
    return done


def wanted_imports(
    app: App, file: Path, *, only: str | None, metric: str | None, environ: dict[str, str]
) -> list[Wanted]:
    """The imports of a file as they would be applied, or the one called `only`; nothing is saved.

    Every rule of `apply` holds for them, but for this: a mapping may be missing, a relation too.
    """
    document = _read(file)
    chosen = [i for i in document.imports if only in (None, i.name)]
    if not chosen:
        there = ", ".join(i.name for i in document.imports)
        summary = f"{file} has no import {only!r}" if only else f"{file} has no imports"
        raise InvalidInput(summary, hint=f"it has: {there}" if there else "see docs/reference/apply.md")
    finished = [i for i in chosen if i.mapping is not None and (i.relation or i.query)]
    _apply(app, document.model_copy(update={"imports": finished}), file, plan_only=True, environ=environ)
    here = {c.name: c for c in document.connections}
    with app.ledger.reading() as tx:
        saved = syncs.every(tx)
    return [_wanted(app, i, here.get(i.connection), file, metric, environ, saved) for i in chosen]


def _wanted(
    app: App,
    wanted: _Import,
    connection: _Connection | None,
    file: Path,
    metric: str | None,
    environ: dict[str, str],
    saved: Sequence[Sync],
) -> Wanted:
    if wanted.relation and wanted.query:
        _intake(wanted, file)  # says so
    if connection is None:
        config = app.config(app.connection(wanted.connection))
    else:
        plain, secrets = _fields(connection, file.absolute().parent, environ)
        config = kinds.build(connection.kind, {**plain, **secrets})
    mapping = None if wanted.mapping is None else _mapping(wanted.name, wanted.mapping, wanted.data, wanted.key)
    sync_id = next((s.sync_id for s in saved if s.name == wanted.name and s.intake), None)
    beside = tuple(s for s in saved if s.name != wanted.name and s.connection_name == wanted.connection)
    key = tuple(wanted.key)
    return Wanted(
        wanted.name, wanted.data, wanted.relation, wanted.query, config, mapping, metric, sync_id, beside, key
    )


def _mapping(name: str, document: dict[str, Any], data: mappings.Data, key: Sequence[str]) -> mappings.Mapping:
    try:
        mapping = mappings.parse(document, data)
        check_import(mapping, key)
    except InvalidInput as e:
        raise InvalidInput(f"the import {name!r}: {e.summary}", hint=e.hint) from e
    return mapping


def _intake(wanted: _Import, file: Path) -> dict[str, Any]:
    if bool(wanted.relation) == bool(wanted.query):
        raise InvalidInput(f"the import {wanted.name!r} needs a relation or a query, and not both")
    if wanted.mapping is None:
        raise InvalidInput(
            f"the import {wanted.name!r} has no mapping", hint=f"isthmus preview {file} offers one, ready to paste"
        )
    _mapping(wanted.name, wanted.mapping, wanted.data, wanted.key)
    return {
        "data": wanted.data,
        "relation": wanted.relation,
        "query": wanted.query,
        "mapping": wanted.mapping,
        **(_compared(wanted) if wanted.key else _by_time(wanted)),
    }


def _by_time(wanted: _Import) -> dict[str, Any]:
    for name in ("deletes", "deletes_limit"):
        if getattr(wanted, name) is not None:
            raise InvalidInput(
                f"the import {wanted.name!r} has {name}, but only newer rows are read",
                hint="what is gone is seen only where all rows are compared: give a `key` in place of changed_at",
            )
    return {"look_back_s": schedule.length_s(wanted.look_back or "1h")}


def _compared(wanted: _Import) -> dict[str, Any]:
    if wanted.look_back is not None:
        raise InvalidInput(
            f"the import {wanted.name!r} has a key and a look_back",
            hint="with a key all rows are compared at every run: take look_back out",
        )
    return {
        "key": wanted.key,
        "deletes": wanted.deletes or "ignore",
        "deletes_limit": wanted.deletes_limit or DELETES_LIMIT,
    }


def _require_one_origin(tx: Tx, name: str, intake: dict[str, Any]) -> None:
    """A field or property of profiles comes from one import: two would put theirs in place of the other's for ever."""
    others = [s for s in syncs.every(tx) if s.name != name and s.state is not SyncState.DISABLED]
    check_together({s.name: s.intake.mapping for s in others if s.intake} | {name: syncs.intake_of(intake).mapping})


def _require_no_loop(tx: Tx, wanted: _Import, connection_id: str) -> None:
    """What an export writes is not news: read back, it would go out again, and so for ever."""
    name = wanted.relation.rpartition(".")[2].lower()
    for other in syncs.of(tx, connection_id):
        ours = {named(t, other.selection.table_prefix).name.lower() for t in ALL}
        if other.intake is None and other.state is not SyncState.DISABLED and name in ours:
            raise InvalidInput(
                f"the import {wanted.name!r} would read {wanted.relation}, which the export {other.name!r} writes",
                hint="that is a loop: what came from us is no news to us; import another table or view",
            )


def _read(file: Path) -> _Document:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as e:
        raise InvalidInput(f"{file} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(f"{file} is not UTF-8") from e
    try:
        raw = yaml.load(text, Loader=_Strict)
    except yaml.YAMLError as e:
        # Not the error's own text: it quotes the line, and the line may hold a password.
        mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None) or "it cannot be read"
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidInput(f"{file}{where}: not valid YAML: {problem}") from None
    if not isinstance(raw, Mapping):
        raise InvalidInput(f"{file} holds no connections or exports", hint="see docs/reference/apply.md")
    try:
        document = _Document.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{file}: {where}: {first['msg']}", hint="see docs/reference/apply.md") from None
    if document.mailboxes:
        raise InvalidInput(f"{file}: mailboxes cannot be applied yet", hint="take mailboxes out of the file for now")
    for what, names in (
        ("connection", [c.name for c in document.connections]),
        ("sync", [e.name for e in document.exports] + [i.name for i in document.imports]),
    ):
        for name in names:
            if names.count(name) > 1:
                raise InvalidInput(f"{file}: the {what} {name!r} stands twice")
    return document


class _Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not a silent loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name!r} stands twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _fields(connection: _Connection, folder: Path, environ: dict[str, str]) -> tuple[dict[str, Any], dict[str, Secret]]:
    """The plain and the secret fields of a connection, checked by its connector."""
    secret_names = {f.name for f in kinds.fields(connection.kind) if f.secret}
    plain: dict[str, Any] = {}
    secrets: dict[str, Secret] = {}
    for name, value in (connection.model_extra or {}).items():
        if name in secret_names and value is not None:
            secrets[name] = resolve(value, folder=folder, environ=environ)
        else:
            plain[name] = value
    plain = kinds.with_whole_paths(connection.kind, plain, folder)
    kinds.build(connection.kind, {**plain, **secrets})
    return plain, secrets


def _selection(export: _Export) -> Selection:
    events = export.events
    metrics: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    if isinstance(events, _Events):
        metrics = None if events.metrics == "all" else tuple(events.metrics)
        excluded = tuple(events.exclude_integrations)
    if not export.profiles and events is False:
        raise InvalidInput(f"the export {export.name!r} carries nothing", hint="set profiles or events")
    return Selection(
        profiles=export.profiles,
        events=events is not False,
        metrics=metrics,
        exclude_integrations=excluded,
        history=str(export.history),
        table_prefix=export.table_prefix,
        include_imported=export.include_imported,
    )


def _freshness_limit_s(wanted: _Export | _Import) -> int | None:
    if wanted.freshness_limit is None:
        return None
    try:
        return schedule.length_s(wanted.freshness_limit)
    except InvalidInput as e:
        raise InvalidInput(f"the freshness_limit of {wanted.name!r}: {e.summary}", hint=e.hint) from None


def _require_own_tables(tx: Tx, name: str, connection_id: str, selection: Selection) -> None:
    """Two exports must not write the same tables: each would undo the other's. Into some kinds nothing is written."""

    def written(s: Selection) -> set[str]:
        return {p for p, there in (("profiles", s.profiles), ("events", s.events)) if there}

    here = connections.by_id(tx, connection_id)
    if not (traits := kinds.KINDS[here.kind].traits).loads:
        hint = "export to a connection of another kind, for example to S3, and read the files from there"
        raise InvalidInput(f"the export {name!r} goes to {traits.title}, which is read only here", hint=hint)
    alike = [c for c in connections.every(tx) if _place(c) == _place(here)]  # one warehouse may have two names
    for other in (s for c in alike for s in syncs.of(tx, c.connection_id)):
        if _same_tables(other, name, selection) and written(other.selection) & written(selection):
            raise InvalidInput(
                f"the exports {name!r} and {other.name!r} would write the same tables",
                hint="give one of them another table_prefix, or another connection",
            )


def _place(connection: StoredConnection) -> tuple[str, dict[str, Any]]:
    return connection.kind, {k: v for k, v in connection.fields.items() if k not in kinds.incidental(connection.kind)}


def _same_tables(other: Sync, name: str, selection: Selection) -> bool:
    return (
        other.name != name
        and other.intake is None
        and other.state is not SyncState.DISABLED
        and other.selection.table_prefix.lower() == selection.table_prefix.lower()
    )

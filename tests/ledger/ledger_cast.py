"""The cast of the ledger's tests: one connection, one export on it, and runs of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.fernet import Fernet

from isthmus.ledger import connections, runs, syncs
from isthmus.ledger.connections import StoredConnection
from isthmus.ledger.database import Tx
from isthmus.model.work import Chunk, Run, RunKind, RunState, Selection, Sync
from isthmus.secrets import Seal, Secret

NOON = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
KEY = Fernet.generate_key()


def put_dwh(tx: Tx, **other: object) -> StoredConnection:
    given = {
        "name": "dwh",
        "kind": "snowflake",
        "fields": {"account": "a", "port": 443},
        "secrets": {"password": Secret("hunter2")},
        "seal": Seal(KEY),
        "at": NOON,
    }
    return connections.put(tx, **{**given, **other})[0]  # type: ignore[arg-type]


def apply_everything(tx: Tx, **other: object) -> Sync:
    given = {
        "name": "everything",
        "connection_id": put_dwh(tx).connection_id,
        "selection": Selection(),
        "schedule": "hourly",
        "at": NOON,
    }
    return syncs.apply_export(tx, **{**given, **other})[0]  # type: ignore[arg-type]


def planned(sync: Sync, *, after: int = 0, upto: int = 10, parts: int = 2, kind: RunKind = RunKind.HISTORICAL) -> Run:
    """A run as a planner would make it, of `parts` chunks of 100 rows each, one minute after noon per seq."""
    plan = tuple(
        Chunk(
            number=n,
            table="klaviyo_event",
            part="rows",
            seqs_after=after,
            seqs_upto=upto,
            batch_id=f"{sync.sync_id}-{sync.generation}-{upto}-{n}",
            rows=100,
            adds_only=True,
        )
        for n in range(parts)
    )
    return Run(
        run_id=runs.new_run_id(),
        sync_id=sync.sync_id,
        sync_name=sync.name,
        kind=kind,
        state=RunState.SCHEDULED,
        after=after,
        upto=upto,
        snapshot_id=upto * 7,
        snapshot_at=NOON + timedelta(minutes=upto),
        planned_at=NOON + timedelta(minutes=upto),
        chunks=plan,
    )


def deliver(tx: Tx, sync: Sync, *, upto: int) -> Run:
    """Carry out one run from the sync's watermark up to `upto`."""
    kind = RunKind.PERIODIC if sync.watermark else RunKind.HISTORICAL
    run = runs.start(tx, replace(planned(sync, after=sync.watermark, upto=upto), kind=kind), generation=sync.generation)
    for chunk in run.chunks:
        runs.finish_chunk(tx, run.run_id, chunk.number, rows=chunk.rows)
    return runs.finish(tx, run.run_id, at=NOON + timedelta(hours=1))

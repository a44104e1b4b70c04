"""Connectors beside the bare drivers: what one measurement in a process of its own does. `variants.py` calls these.

The files are those of a first run: every purchase, chunk by chunk, as an export makes them. The servers are stand-ins
on the same machine, so that the figures say what our own work adds; how fast a cloud is they cannot say.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from uuid import uuid4

import ground
from bare import BARE, rows_of
from ground import Ground

READ_ROWS = 1_000_000


def prepare_files(ground_: Ground, clock: Any) -> int:
    """The Parquet files of a first run, kept."""
    from isthmus.exports import plan
    from isthmus.model.table import SeqRange
    from isthmus.model.tables import EVENT
    from isthmus.model.work import Scope, Selection
    from isthmus.store.changes import Changes

    folder = ground_.folder / "first-run"
    if (folder / "done").exists():
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows = 0
    with ground.app(ground_.home(1)) as app, clock.running():
        snapshot = app.lake.snapshot()
        changes = Changes(app.lake, snapshot.snapshot_id, Selection(), Scope(None, snapshot.seq))
        commits = [(c.seq, c.rows, c.older) for c in changes.commits(EVENT, SeqRange(0, snapshot.seq))]
        for chunk in plan.history([plan.Pending(EVENT.name, commits, 0, True)], upto=snapshot.seq, stem="bench"):
            file = folder / f"{chunk.number:03}.parquet"
            rows += changes.extract(EVENT, SeqRange(chunk.seqs_after, chunk.seqs_upto), file, deletes=False)
    (folder / "done").touch()
    return rows


def files(ground_: Ground) -> list[Path]:
    return sorted((ground_.folder / "first-run").glob("*.parquet"))


def orders(ground_: Ground) -> Path:
    """A million real purchases as a customer's table has them: texts, numbers, times and NULLs."""
    return ground_._made(
        "to-read.parquet",
        "SELECT basket_id || '-' || product_id AS order_id, household_id AS customer, quantity, "
        "transaction_timestamp AS bought_at, sales_value AS amount, nullif(coupon_disc, 0) AS coupon, "
        "transaction_timestamp AS loaded_at "
        f"FROM read_parquet('{ground_.purchases}') LIMIT {READ_ROWS}",
    )


def load_ours(ground_: Ground, clock: Any, *, kind: str, connection: dict[str, Any]) -> int:
    """The connector, as a first run uses it: create, and load every file with its receipt, as many at once as the kind
    takes, each in a session of its own."""
    import pyarrow.parquet as pq

    from isthmus.model.table import Batch, SeqRange
    from isthmus.model.tables import EVENT, named

    table = named(EVENT, f"ours_{uuid4().hex[:6]}_")
    counted = [(file, pq.read_metadata(file).num_rows) for file in files(ground_)]
    config = _config(kind, connection)
    config.open().close()  # imports are not what is compared

    def load(number: int, warehouse: Any) -> None:
        file, rows = counted[number]
        seqs = SeqRange(number, number + 1)
        with closing(warehouse or config.open()) as session:
            session.load(Batch(f"{table.name}-{number}", table, (file,), rows, seqs, adds_only=True))

    with clock.running(), ThreadPoolExecutor(config.traits.loads_at_once) as lanes:
        first = config.open()
        first.create(table)
        list(lanes.map(load, range(len(counted)), chain([first], repeat(None))))
    return sum(rows for _, rows in counted)


def load_bare(ground_: Ground, clock: Any, *, kind: str, connection: dict[str, Any]) -> int:
    """The driver: the same files into a table of the same columns."""
    from isthmus.model.tables import EVENT, named

    load, _ = BARE[kind]
    assert load is not None
    table = named(EVENT, f"bare_{uuid4().hex[:6]}_")
    config = _config(kind, connection)
    with closing(config.open()) as warehouse:
        warehouse.create(table)
    with clock.running():
        rows = load(config, files(ground_), table.name)
    assert rows == rows_of(files(ground_))
    return rows


def read_ours(ground_: Ground, clock: Any, *, kind: str, connection: dict[str, Any]) -> int:
    from isthmus.warehouses.protocol import Relation

    config = _config(kind, connection)
    config.open().close()
    with clock.running(), closing(config.open()) as warehouse:
        (relation,) = [r for r in warehouse.relations() if r.name.lower() == "orders"] or [Relation("", "orders")]
        return sum(batch.num_rows for batch in warehouse.read(relation))


def read_bare(ground_: Ground, clock: Any, *, kind: str, connection: dict[str, Any]) -> int:
    _, read = BARE[kind]
    config = _config(kind, connection)
    config.open().close()
    with clock.running():
        return read(config, "orders")


def _config(kind: str, connection: dict[str, Any]) -> Any:
    from isthmus.secrets import Secret
    from isthmus.warehouses import kinds

    secret = {f.name for f in kinds.fields(kind) if f.secret}
    return kinds.build(kind, {k: Secret(v) if k in secret else v for k, v in connection.items()})


def measure(bench: Any, wanted: Sequence[str] = ()) -> None:
    """In the bench's own process: a stand-in for each kind, and the variants in turns beside it."""
    from isthmus.testing.standins.ready import READY

    bench.one("prepare_store", times=1)
    bench.one("prepare_files")
    for kind, start in READY.items():
        if wanted and kind not in wanted:
            continue
        with start([]) as standin:
            fields, secrets = standin.connection()
            del fields["kind"]
            plain = {k: secrets[v["env"]] if isinstance(v, dict) else v for k, v in fields.items()}
            how = {"kind": kind, "connection": plain}
            title = standin.config.traits.title
            if BARE[kind][0] is not None:
                ways = [partial(bench.one, name, **how) for name in ("load_ours", "load_bare")]
                ours, bare = bench.turns(3, *ways)
                what = f"{title}: loading {ours[0].rows:,} events, against the bare driver with the same files"
                bench.ratio("warehouses", what, ours, bare, 1.5)
            standin.expose("orders", orders(bench.ground))
            ours, bare = bench.turns(3, *(partial(bench.one, name, **how) for name in ("read_ours", "read_bare")))
            assert ours[0].rows == bare[0].rows > 0
            what = f"{title}: reading {ours[0].rows:,} rows, against the driver's own Arrow read"
            bench.ratio("warehouses", what, ours, bare, 1.5)

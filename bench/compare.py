"""What an import that compares a whole table costs: the first run, one of a table that did not change, one of a few
changes, each in a process of its own.

    .venv/bin/python bench/compare.py [ROWS]          a million unless said otherwise; a DuckDB file is the warehouse
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

APPLY = """
connections: [{name: dwh, kind: duckdb, path: ./dwh.duckdb}]
imports:
  - name: orders
    connection: dwh
    data: events
    relation: main.orders
    key: [order_id]
    deletes: remove
    schedule: manual
    mapping:
      event_time: bought_at
      metric: {constant: Placed Order}
      identifiers: {external_id: customer_id}
      unique_id: order_id
      value: amount
"""


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "isthmus.yaml").write_text(APPLY)
        _warehouse(
            home,
            "CREATE TABLE orders AS SELECT 'o' || i AS order_id, 'c' || (i * 7919 % 200000) AS customer_id, "
            "TIMESTAMPTZ '2026-01-01 00:00:00+00' + i * INTERVAL '1 second' AS bought_at, (i % 9973) / 100 AS amount, "
            f"'store ' || (i % 300) AS store, 'note of order ' || i AS note FROM range({rows}) t(i)",
        )
        _isthmus(home, "apply", str(home / "isthmus.yaml"))
        _measure(home, "first run")
        _measure(home, "unchanged")
        _warehouse(home, "DELETE FROM orders WHERE hash(order_id) % 1000 = 0")
        _warehouse(home, "UPDATE orders SET amount = amount + 1 WHERE hash(order_id) % 1000 = 1")
        _measure(home, "one in a thousand deleted, one changed")


def _warehouse(home: Path, sql: str) -> None:
    with duckdb.connect(str(home / "dwh.duckdb")) as con:
        con.execute(sql)


def _measure(home: Path, what: str) -> None:
    began = time.monotonic()
    process = subprocess.Popen(_command(home, "sync", "run", "orders", "--wait"), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    if status:
        raise SystemExit(f"{what}: failed")
    newest = json.loads(_isthmus(home, "run", "list", "--limit", "1", "--json"))[0]["counts"]
    counts = {n: newest[n] for n in ("read", "inserted", "updated", "deleted", "removed", "unchanged")}
    print(f"{what}: {took:.1f} s, CPU {_cpu(usage):.1f} s, peak {usage.ru_maxrss // 1024} MB, {counts}", flush=True)


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _isthmus(home: Path, *words: str) -> str:
    return subprocess.run(_command(home, *words), check=True, capture_output=True, text=True).stdout


def _command(home: Path, *words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("isthmus")), *words, "--home", str(home / "isthmus-home")]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

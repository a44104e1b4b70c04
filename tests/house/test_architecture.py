"""The tree is the architecture: who may import whom, and what may be where.

Waivers carry a reason and may only shrink: one that is not needed any more fails the test too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from source_tree import ROOT, Module, imports, modules, names, texts

LONGEST = 400
LONGER: dict[str, tuple[int, str]] = {}
"""Modules with more lines than that: how many at most, and why."""

BANNED = (
    "job task pipeline flow stream source destination sink entity record manager handler service processor helper util"
).split()
NAMED_SO: dict[str, str] = {}
"""Names with a banned word, as `path:name`, and why."""

DRIVERS: dict[str, tuple[str, ...]] = {
    "adbc_driver_manager": (),
    "adbc_driver_postgresql": (),
    "azure": (),
    "boto3": (),
    "botocore": (),
    "databricks": (),
    "duckdb": ("duck.py", "store/"),
    "google": (),
    "psycopg": ("store/", "ledger/"),  # our own database, not a warehouse
    "pymssql": (),
    "pyodbc": (),
    "redshift_connector": (),
    "snowflake": (),
}
"""What speaks to somebody's warehouse or storage, and where else than in a connector's own file it may be imported."""

SHARED = ("protocol", "sql", "types", "vendor_errors")
"""What every connector may use of its neighbours."""

SQL_BELOW = ("store", "ledger", "warehouses", "duck", "testing")
SQL = re.compile(
    r"\bSELECT\b.+\bFROM\b|\bINSERT\s+INTO\b|\bDELETE\s+FROM\b|\bUPDATE\s+\S+\s+SET\b|\bMERGE\s+INTO\b"
    r"|\b(CREATE|DROP|ALTER)\s+(OR\s+REPLACE\s+)?(TEMP\s+)?(TABLE|VIEW|SCHEMA|ROLE|USER|DATABASE)\b"
    r"|\bGRANT\s+\w+\s+ON\b|\bATTACH\b.+\bAS\b|\bCOPY\b.+\bTO\b",
    re.DOTALL,
)
SQL_ABOVE: dict[str, str] = {}
"""Modules above with an SQL text, and why."""


def test_every_module_imports_only_what_it_may() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_drivers_are_imported_only_in_their_connector_and_only_when_it_opens() -> None:
    wrong = []
    for module in modules():
        if module.part == "testing":
            continue  # it starts and fills stand-ins
        connector = module.part == "warehouses" and module.path not in {f"warehouses/{name}.py" for name in SHARED}
        for name, lazy in imports(module):
            driver = name.split(".")[0]
            if driver not in DRIVERS or module.path.startswith(DRIVERS[driver]):
                continue
            if not connector:
                wrong.append(f"{module.path} imports {name}: only a connector may")
            elif not lazy and driver != "duckdb":  # DuckDB is always there; the others may not be installed
                wrong.append(f"{module.path} imports {name} at its top: do so where it opens")
    assert not wrong, "\n".join(wrong)


def test_connectors_share_functions_never_each_other() -> None:
    """A kind's own files begin with its name: `postgres.py`, `postgres_sql.py`. `kinds` lists them all."""
    wrong = []
    for module in modules():
        own = module.path.removeprefix("warehouses/").removesuffix(".py")
        if module.part != "warehouses" or own == "kinds":
            continue
        for name, _ in imports(module):
            package, _, rest = name.partition("isthmus.warehouses.")
            other = rest.split(".")[0]
            if not package and other and other not in SHARED and other.split("_")[0] != own.split("_")[0]:
                wrong.append(f"{module.path} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_only_settings_reads_the_environment() -> None:
    wrong = []
    for module in modules():
        if module.path == "settings.py":
            continue
        wrong += [f"{module.path} imports {name}" for name, _ in imports(module) if name in _ENVIRONMENT]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in _ENVIRONMENT:
                wrong.append(f"{module.path}:{node.lineno} reads {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


_ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv"}


def test_sql_is_spoken_only_where_the_tables_are() -> None:
    speaking = {}
    for module in modules():
        if module.part not in SQL_BELOW:
            lines = [f"{module.path}:{line} {text[:80]!r}" for text, line in texts(module) if SQL.search(text)]
            if lines:
                speaking[module.path] = lines
    wrong = [line for path, lines in speaking.items() if path not in SQL_ABOVE for line in lines]
    assert not wrong, "\n".join(wrong)
    assert set(SQL_ABOVE) <= set(speaking), "a waiver is not needed any more"


def test_no_module_is_too_long_to_read() -> None:
    lengths = {module.path: len(module.text.splitlines()) for module in modules()}
    wrong = [
        f"{path} has {length} lines" for path, length in lengths.items() if length > LONGER.get(path, (LONGEST, ""))[0]
    ]
    assert not wrong, "\n".join(wrong)
    assert not [path for path in LONGER if lengths.get(path, 0) <= LONGEST], "a waiver is not needed any more"


def test_names_are_words_of_the_glossary() -> None:
    named_so = {
        f"{module.path}:{name}": f"{module.path}:{line} {name}"
        for module in modules()
        for name, line in names(module)
        if any(word in BANNED or word.removesuffix("s") in BANNED for word in _words(name))
    }
    wrong = [where for key, where in named_so.items() if key not in NAMED_SO]
    assert not wrong, "\n".join(wrong)
    assert set(NAMED_SO) <= set(named_so), "a waiver is not needed any more"


def _words(name: str) -> list[str]:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().split("_")


def test_nothing_waits_on_an_event_loop() -> None:
    """Blocking code on threads is what every driver speaks; the SFTP server will be the one exception."""
    wrong = [m.path for m in modules() if m.part != "intake" and any(n.startswith("asyncio") for n, _ in imports(m))]
    assert not wrong


def test_the_tests_see_what_they_look_for() -> None:
    text = (
        "import os\nfrom psycopg import sql\ndef read_source():\n    import duckdb\n    return f'SELECT {1} FROM t'\n"
    )
    example = Module("exports/plan.py", text, ast.parse(text))
    assert dict(imports(example)) == {"os": False, "psycopg.sql": False, "duckdb": True}
    assert [name for name, _ in names(example)] == ["plan", "read_source"]
    assert [text for text, _ in texts(example) if SQL.search(text)] == ["SELECT … FROM t"]
    assert _words("CSVStreamReader_v2") == ["csv", "stream", "reader", "v2"]

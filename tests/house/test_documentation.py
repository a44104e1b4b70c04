"""What a person can type, set, meet or fill in is documented. The tests discover it; nothing here lists it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from source_tree import ROOT

DOCS = ROOT / "docs"


def _generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generate()


@pytest.mark.parametrize("page", list(generate.PAGES))
def test_a_generated_page_says_what_the_code_says(page: str) -> None:
    _, write = generate.PAGES[page]
    file = DOCS / "reference" / page
    assert file.exists() and file.read_text() == generate.NOTE + write(), f"docs/reference/{page} is old: make docs"


def test_every_command_and_option_says_what_it_is() -> None:
    from typer.main import get_command

    app = importlib.import_module("isthmus.cli.main").app
    silent = []
    for name, command in generate.command_tree(get_command(app)):
        if not command.help:
            silent.append(name)
        silent += [f"{name} {p.name}" for p in generate._parameters(command) if not getattr(p, "help", None)]
    assert not silent


def test_every_error_says_what_it_is() -> None:
    from isthmus.model.errors import IsthmusError

    silent = [e.__name__ for e, _ in generate.error_classes(IsthmusError) if "__doc__" not in vars(e) or not e.__doc__]
    assert not silent


def test_every_field_of_a_connector_says_what_it_is() -> None:
    kinds = importlib.import_module("isthmus.warehouses.kinds").KINDS
    silent = [kind for kind, config in kinds.items() if not config.__doc__]
    for kind, config in kinds.items():
        for field in fields(config):
            if not (field.metadata.get("label") and field.metadata.get("help")):
                silent.append(f"{kind}.{field.name}")
    assert not silent


def test_every_column_of_an_exported_table_is_described() -> None:
    from isthmus.model.tables import ALL

    text = (DOCS / "reference" / "tables.md").read_text()
    for table in ALL:
        section = text.split(f"## klaviyo_{table.name}\n")[1].split("\n## ")[0]
        assert not [column.name for column in table.columns if f"`{column.name}`" not in section], table.name


def test_every_field_of_a_mapping_is_described() -> None:
    from isthmus.model.mapping import IDENTIFIER_KINDS, Mapping

    text = (DOCS / "reference" / "mapping.md").read_text()
    names = [*(field.name for field in fields(Mapping) if field.name != "data"), *IDENTIFIER_KINDS]
    assert not [name for name in names if f"`{name}`" not in text]


def test_every_word_of_the_command_line_and_the_settings_is_findable() -> None:
    """Pages written by hand may not name a setting that does not exist (any more)."""
    from isthmus.settings import variables

    known = {variable.name for variable in variables().values()}
    unknown = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in _pages()
        for name in re.findall(r"\bISTHMUS_[A-Z0-9_]+\b", page.read_text())
        if name not in known
        and not name.startswith("ISTHMUS_LIVE_")  # these are the live tests' own
        and name not in ("ISTHMUS_USER", "ISTHMUS_WH")  # what the set-up script makes in Snowflake
    }
    assert not unknown


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in _pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)


def test_files_of_the_code_named_in_the_documentation_exist_and_the_other_way_round() -> None:
    missing = []
    for page in _pages():
        for name in re.findall(r"`((?:src|docs|tests|bench)/[\w./-]+)`", page.read_text()):
            if not (ROOT / name).exists():
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    for file in sorted((ROOT / "src").rglob("*.py")):
        for name in re.findall(r"\bdocs/[\w./-]+\.md\b", file.read_text()):
            if not (ROOT / name).exists():
                missing.append(f"{file.relative_to(ROOT)}: {name}")
    assert not missing, "\n".join(missing)


def test_every_part_of_the_tree_has_its_line_in_the_architecture() -> None:
    text = (DOCS / "architecture.md").read_text()
    parts = {p.stem for p in (ROOT / "src" / "isthmus").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert not {part for part in parts - {"__init__"} if f"{part}/" not in text and f"{part}.py" not in text}


def test_every_decision_has_its_number_once() -> None:
    numbers = [file.name[:4] for file in sorted((DOCS / "decisions").glob("*.md"))]
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]


def _pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}

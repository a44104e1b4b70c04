"""The code of the product as text and syntax trees, for tests about the code itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "isthmus"


@dataclass(frozen=True)
class Module:
    """One module, by its path below src/isthmus."""

    path: str
    text: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The folder or top-level module it belongs to: `store`, `app`, …"""
        return self.path.split("/")[0].removesuffix(".py")


@cache
def modules() -> tuple[Module, ...]:
    """All modules, by path."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text()
        found.append(Module(file.relative_to(PACKAGE).as_posix(), text, ast.parse(text, file.name)))
    return tuple(found)


def imports(module: Module) -> Iterator[tuple[str, bool]]:
    """Every module imported, with whether it is so only when a function runs (or only for type checking)."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        match node:
            case ast.Import():
                yield from ((alias.name, inside) for alias in node.names)
            case ast.ImportFrom(level=0, module=str(name)):
                yield from ((f"{name}.{alias.name}", inside) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _type_checking(node)
            yield from walk(child, inside or lazy)

    return walk(module.tree, False)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def names(module: Module) -> Iterator[tuple[str, int]]:
    """The name of the module, then of each class, function and method in it, with the line."""
    yield module.path.rsplit("/", 1)[-1].removesuffix(".py"), 1
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno


def texts(module: Module) -> Iterator[tuple[str, int]]:
    """The string constants of a module without its docstrings; a formatted one as one text."""
    docstrings, parts = set(), set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(node.value)
        if isinstance(node, ast.JoinedStr):
            parts.update(child for child in node.values if isinstance(child, ast.Constant))
            yield "".join(str(c.value) if isinstance(c, ast.Constant) else "…" for c in node.values), node.lineno
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings | parts:
            yield node.value, node.lineno

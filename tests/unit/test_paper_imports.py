"""paper/, models/ and benchmarks/ use what crossproof exports, and nothing else of it."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("paper", "models", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of each import from crossproof; no name for `import MODULE`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "crossproof":
            yield from ((str(node.module), alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.split(".")[0] == "crossproof")


def is_public(module: str, name: str) -> bool:
    """Whether a package declares the name, or a module at the top of crossproof has it."""
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        return name in getattr(found, "__all__", ()) or (not name and module == "crossproof")
    return module.count(".") == 1 and bool(name) and not name.startswith("_")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_names_are_imported(path: Path) -> None:
    deep = [f"{module}: {name}" for module, name in imported(path) if not is_public(module, name)]
    assert not deep, f"missing from the public API, or not to be used: {deep}"


@pytest.mark.parametrize(
    ("module", "name", "public"),
    [
        ("crossproof", "load_model", True),
        ("crossproof", "nothing", False),
        ("crossproof.lm", "LanguageModel", True),
        ("crossproof.lm.model", "LanguageModel", False),
        ("crossproof.tables", "Table", True),
        ("crossproof.tables", "_escaped", False),
    ],
)
def test_the_rule_tells_public_names_from_others(module: str, name: str, public: bool) -> None:
    assert is_public(module, name) is public

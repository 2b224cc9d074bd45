"""The list of what nothing reaches, on a small package that holds every way to be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.unreachable import findings

PACKAGE = {
    "__init__.py": "import lazy_loader\n",
    "__init__.pyi": "from .lm import load as load\n",
    "cli.py": """
import importlib
def main():
    importlib.import_module("crossproof.commands.show").run()
""",
    "commands/__init__.py": "",
    "commands/show.py": """
from crossproof import tables
from crossproof.shapes import Square
def run():
    LATE.extend([1])
    tables.rows(Square())
def forgotten_helper(): ...
LATE = []
""",
    "lm/__init__.py": """
from crossproof.lm.loading import load, unused_export
__all__ = ["load", "unused_export"]
""",
    "lm/loading.py": """
LIMIT, UNUSED_LIMIT = 3, 4
DEPTH = 2
UNUSED_DEPTH = 5
def load(): return DEPTH
def unused_export(): return helper_of_the_export()
def helper_of_the_export(): ...
""",
    "tables.py": """
def rows(shape):
    return reader().read() + shape.area + getattr(shape, "edge")() + shape.corners()
def from_a_string(): ...
for name in ("one", "two"):
    print(f"crossproof.tables:{name}_of_a_pattern")
HERE = "crossproof.tables"
print(f"{HERE}:behind_a_constant", f"crossproof.formats.{name}")
def behind_a_constant(): ...
def beside_it(): ...
def one_of_a_pattern(): ...
def two_of_a_pattern(): ...
def none_of_the_patterns(): ...
""",
    "formats/__init__.py": "",
    "formats/one.py": """
def read(): return needed_by_read()
def needed_by_read(): ...
def never_said(): ...
""",
    "shapes.py": """
class Shape(Module):
    def corners(self): ...
    def forgotten_in_both(self): ...
class Square(Shape):
    def __len__(self): return 4
    def _refuse(self): ...
    __setitem__ = pop = _refuse
    def corners(self): ...
    def forgotten_in_both(self): ...
    def forward(self): ...
    @property
    def area(self): return 1
    def edge(self): ...
    def in_a_template(self): ...
    def forgotten_method(self): ...
class Forgotten:
    def of_a_forgotten_class(self): ...
""",
    "plugins.py": """
from crossproof.tables import register
@register("one")
def registered(): return needed_by_a_plugin()
@REGISTRY.rule
def registered_too(): ...
def needed_by_a_plugin(): ...
""",
    "orphan.py": "def alone(): return again()\ndef again(): return alone()\n",
    "page.html.jinja": "{{ shape.in_a_template }}",
}
PAPER = {"fig.py": 'from crossproof.lm import load\nNAME = "crossproof.tables:from_a_string"\n'}

DEAD = {
    "crossproof.commands.show.forgotten_helper",
    "crossproof.lm.loading.UNUSED_DEPTH",
    "crossproof.shapes.Shape.forgotten_in_both",
    "crossproof.shapes.Square.forgotten_in_both",
    "crossproof.shapes.Square.forgotten_method",
    "crossproof.shapes.Forgotten",
    "crossproof.tables.none_of_the_patterns",
    "crossproof.tables.beside_it",
    "crossproof.formats.one.never_said",
    "crossproof.orphan",
}
ONLY_EXPORTED = {
    "crossproof.lm.loading.unused_export",
    "crossproof.lm.loading.helper_of_the_export",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        path = tmp_path / "src/crossproof" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, text in PAPER.items():
        (tmp_path / "paper").mkdir(exist_ok=True)
        (tmp_path / "paper" / name).write_text(text)
    (tmp_path / "tools").mkdir()
    return tmp_path


def names(lines: list[str]) -> set[str]:
    return {line.split("  ")[0] for line in lines}


def allow(checkout: Path, text: str) -> None:
    (checkout / "tools/unreachable-allowed.txt").write_text(text)


def test_exactly_what_nothing_reaches_is_listed(checkout: Path) -> None:
    lines = findings(checkout)
    assert names(lines) == DEAD | ONLY_EXPORTED
    assert names([line for line in lines if "only exported" in line]) == ONLY_EXPORTED


def test_exports_can_be_trusted(checkout: Path) -> None:
    assert names(findings(checkout, trust_exports=True)) == DEAD


def test_an_allowed_name_reaches_what_it_names(checkout: Path) -> None:
    allow(checkout, "# why\ncrossproof.lm.loading.unused_export: for those who like it\n")
    assert names(findings(checkout)) == DEAD


@pytest.mark.parametrize("name", ["crossproof.lm.loading.load", "crossproof.lm.loading.gone"])
def test_a_needless_permission_is_listed(checkout: Path, name: str) -> None:
    allow(checkout, f"{name}: no reason any more\n")
    assert f"{name}  (tools/unreachable-allowed.txt: reached, or gone)" in findings(checkout)


def test_a_permission_needs_a_reason(checkout: Path) -> None:
    allow(checkout, "crossproof.orphan:\n")
    with pytest.raises(SystemExit, match=r"no reason for crossproof\.orphan"):
        findings(checkout)

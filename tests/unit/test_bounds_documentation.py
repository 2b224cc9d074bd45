"""The theory's pages name tests and files that exist, and link to pages that do."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "theory").glob("*.md"))
LINKED = [
    *sorted(ROOT.glob("*.md")),
    *(page for folder in ("docs", "paper", "models") for page in (ROOT / folder).rglob("*.md")),
]
"""Every page that may hold links."""


@cache
def defined_tests() -> set[str]:
    names = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return names


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, by the rule of the usual Markdown renderers."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages() -> None:
    assert {"index.md", "what-crossproof-proves.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "docs" / "certificates.md"], ids=lambda page: page.stem
)
def test_every_test_named_in_the_theory_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert named <= defined_tests(), sorted(named - defined_tests())


def test_every_page_of_theorems_names_its_tests() -> None:
    without = [page.name for page in PAGES if "`test_" not in page.read_text()]
    assert without == ["what-crossproof-proves.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#]*\.md)(?:#([^)]*))?\)", text):
        other = (page.parent / target).resolve()
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), (target, anchor)
    for path in re.findall(r"`((?:tests|proof|lm)/[\w/]+\.py|rounding\.py)`", text):
        base = ROOT if path.startswith("tests") else ROOT / "src" / "crossproof"
        assert (base / path).exists(), path


@pytest.mark.parametrize("page", sorted(LINKED), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^()#\s]*)(?:#([^()\s]*))?\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        other = (page.parent / target).resolve() if target else page
        if ROOT / "docs" / "reference" in other.parents:
            continue  # made while the site is built, which checks it
        if other.parent == ROOT / "docs" / "tutorials" and other.with_suffix(".py").exists():
            continue  # likewise
        assert other.exists(), target
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other), (target, anchor)

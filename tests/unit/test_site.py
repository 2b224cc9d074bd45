"""The site's generated pages, and that what documents say of the command line is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import crossproof
from crossproof.cli import COMMANDS
from tools.site.commands import command_page, every_option, help_text, introduction
from tools.site.copies import REPOSITORY, relinked
from tools.site.mathematics import typeset
from tools.site.names import GROUPS, defined_in, python_page

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))),
    *sorted((ROOT / "paper").rglob("*.md")),
]
CALL = re.compile(r"crossproof (" + "|".join(COMMANDS) + r")\b([^`\n]*)")
OPTION = re.compile(r"(?<!\S)(--[a-z][a-z0-9-]*)")
OLD = {"--transition", "--share", "--penalty-share", "--revive-lift"}
"""Spelled in documents to say what they are called now."""
ELSEWHERE = {"--plugin"}
"""Read before a command's own options."""
MENTION = re.compile(r"`(--[a-z][^`\n]*)`")
OF_OTHERS = {
    *("--max-restarts", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"),
    "--hypothesis-profile",
}
"""Mentioned in documents by their names alone: of torchrun and of pytest."""
OF_BENCHMARKS = {"massive-activations.md", "performance.md"}
"""Documents that mention options of benchmarks."""


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Every option that a command's help names."""
    return {
        name: {
            spelling
            for option in every_option(name)
            for spelling in re.findall(r"--[a-z][a-z0-9-]*", option.spelling)
        }
        for name in COMMANDS
    }


def calls(text: str) -> Iterator[tuple[str, str]]:
    """Commands and the rest of their lines, continued lines joined."""
    for match in CALL.finditer(text.replace("\\\n", " ")):
        rest = match[2].partition("#")[0].partition(" | ")[0].partition("&&")[0]
        yield match[1], rest


def test_every_option_in_documents_exists(options: dict[str, set[str]]) -> None:
    wrong = []
    seen = 0
    for path in DOCUMENTS:
        if {"decisions", "extending"} & set(path.parts):
            continue  # what was decided then, and options of examples
        for command, rest in calls(path.read_text()):
            for option in OPTION.findall(rest):
                seen += 1
                if option not in options[command] | OLD | ELSEWHERE:
                    wrong.append(f"{path.relative_to(ROOT)}: crossproof {command} {option}")
    assert not wrong
    assert seen > 60  # the pattern finds them


def test_every_option_mentioned_without_a_command_exists(options: dict[str, set[str]]) -> None:
    known = set().union(*options.values(), OLD, ELSEWHERE, OF_OTHERS)
    mentions = [
        (path.relative_to(ROOT).as_posix(), option)
        for path in DOCUMENTS
        if path.is_relative_to(ROOT / "docs") and path.name not in OF_BENCHMARKS
        if not {"decisions", "extending"} & set(path.parts)
        for mention in MENTION.findall(path.read_text())
        for option in OPTION.findall(mention)
    ]
    assert [each for each in mentions if each[1] not in known] == []
    assert len(mentions) > 100  # the pattern finds them


def test_help_pages_hold_every_option_with_what_it_does(options: dict[str, set[str]]) -> None:
    for name in COMMANDS:
        page = command_page(name)
        assert page.startswith(f"# crossproof {name}\n")
        assert all(f"{option}" in page for option in options[name])
        for option in every_option(name):
            assert option.help, f"{name} {option.spelling} has no help"
    assert {"--keep-largest", "--hookpoints", "--resume"} <= options["train"]


@pytest.mark.parametrize(
    ("command", "argument"), [("audit", "MODEL"), ("push", "OWNER/NAME"), ("measure", "PATH")]
)
def test_what_has_no_dashes_is_on_the_page_too(command: str, argument: str) -> None:
    (asked,) = (option for option in every_option(command) if option.spelling == argument)
    assert asked.help.endswith("(required)")


def test_help_is_broken_by_the_terminal_and_not_by_our_source() -> None:
    text = " ".join(help_text("train").replace("│", "").split())
    assert "from it, to the same bytes as an uninterrupted run. Several processes" in text
    assert "jumprelu, or another registered rule. (default:" in text
    lines = introduction(help_text("push")).splitlines()
    (example,) = (at for at, line in enumerate(lines) if "crossproof push runs/demo" in line)
    assert lines[example].startswith("    ")  # code on the site
    assert not lines[example - 1]


def test_every_public_name_is_on_one_page() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted(crossproof.__all__)


def test_every_made_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    for command in COMMANDS:
        assert f"- {command}: reference/commands/{command}.md\n" in nav
    for title in GROUPS:
        assert f"- {title}: reference/python/{title.lower().replace(' ', '-')}.md\n" in nav


def test_pages_name_where_things_are_defined() -> None:
    assert defined_in("CrossproofError") == "crossproof.errors.CrossproofError"
    page = python_page("Errors", ("CrossproofError",))
    assert "heading: crossproof.CrossproofError" in page
    assert "::: crossproof.errors.CrossproofError" in page


@pytest.mark.parametrize(
    ("page", "target", "expected"),
    [
        ("clusters.md", "theory/gated.md", "theory/gated.md"),
        ("theory/gated.md", "../clusters.md#the-task", "../clusters.md#the-task"),
        ("clusters.md", "../paper/pages/results.md#x", "paper/results.md#x"),
        ("clusters.md", "../tools/layers.py", f"{REPOSITORY}tools/layers.py"),
        (
            "paper/results.md",
            "../data/results/fig1.json",
            f"{REPOSITORY}paper/data/results/fig1.json",
        ),
        ("paper/results.md", "../../docs/clusters.md", "../clusters.md"),
        ("paper/results.md", "figures/fig1.png", "figures/fig1.png"),
        ("contributing.md", "docs/extending/judges.md", "extending/judges.md"),
        ("guide/install.md", "../reference/python/index.md", "../reference/python/index.md"),
        ("clusters.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_links_lead_to_the_site_or_to_the_repository(page: str, target: str, expected: str) -> None:
    there = {"theory/gated.md", "clusters.md", "extending/judges.md"}
    assert relinked(f"[x]({target})", page, there.__contains__) == f"[x]({expected})"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("p_nh = a_h g_nh", "p<sub>nh</sub> = a<sub>h</sub> g<sub>nh</sub>"),
        ("p^γ_i p^υ_j", "p<sup>γ</sup><sub>i</sub> p<sup>υ</sup><sub>j</sub>"),
        ("Σ_{j≠i(n)} x̂_p", "Σ<sub>j≠i(n)</sub> x̂<sub>p</sub>"),
        ("e^{−δ_k}", "e<sup>−δ<sub>k</sub></sup>"),
        (
            "resid_mid, keep_largest, k_max=3 and `a_h`",
            "resid_mid, keep_largest, k_max=3 and `a_h`",
        ),
        ("## Of a_h", "## Of a_h"),
        ("[a](b_c.md#d_e)", "[a](b_c.md#d_e)"),
        ("```\na_h ≤ 1\n```", "```\na_h ≤ 1\n```"),
        ("x:\n\n    code_1 = a_h\n\ny", "x:\n\n    code_1 = a_h\n\ny"),
        ("x:\n\n    a_h   ≤ b < c\n\ny", None),
    ],
)
def test_formulas_are_typeset_and_nothing_else(written: str, shown: str | None) -> None:
    formula = 'x:\n\n<pre class="formula">a<sub>h</sub>\u2003≤ b &lt; c</pre>\n\ny'
    assert typeset(written) == (formula if shown is None else shown)

"""The rules of the house (`tools.layers`): kept by this checkout, and caught when broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import layers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def broken() -> dict[str, list[str]]:
    return layers.check(ROOT)


RULES = ["upward", "circles", "private", "long modules", "long functions", "repeated classes"]


@pytest.mark.parametrize("rule", RULES)
def test_the_checkout_keeps_the_rule(rule: str, broken: dict[str, list[str]]) -> None:
    assert broken[rule] == [], "\n".join([f"{rule}:", *broken[rule]])


# --- a tree that breaks each rule once -----------------------------------------------------------

BASE = {
    "src/crossproof/__init__.py": "import lazy_loader\n",
    "src/crossproof/__init__.pyi": "from .lm import load as load\nfrom .proof import prove\n",
    "src/crossproof/tables.py": '__all__ = ("Table",)\nclass Table: ...\ndef private(): ...\n',
    "src/crossproof/lm/__init__.py": "import lazy_loader\n",
    "src/crossproof/lm/__init__.pyi": "from .loading import load as load\n",
    "src/crossproof/lm/loading.py": "import torch\ndef load(): ...\ndef private(): ...\n",
    "src/crossproof/lm/names.py": "from crossproof.lm import load\n",
    "src/crossproof/proof/__init__.py": (
        'from crossproof.proof.bounds import prove\n__all__ = ["prove"]\n'
    ),
    "src/crossproof/proof/bounds.py": "from crossproof.lm import load\ndef prove(): ...\n",
    "paper/fig.py": "from crossproof import load\nfrom crossproof.proof import prove\n",
}

VIOLATIONS = {
    "an upward import": (
        "upward",
        "src/crossproof/lm/more.py",
        "from crossproof.proof import prove",
        "crossproof.lm.more:1 imports crossproof.proof, which stands above it",
    ),
    "an upward import of a module": (
        "upward",
        "src/crossproof/lm/more.py",
        "import crossproof.proof.bounds",
        "crossproof.lm.more:1 imports crossproof.proof.bounds, which stands above it",
    ),
    "an upward import in a function": (
        "upward",
        "src/crossproof/lm/more.py",
        "def late():\n    from crossproof.proof.bounds import prove",
        "crossproof.lm.more:2 imports crossproof.proof.bounds, which stands above it",
    ),
    "an upward import for types": (
        "upward",
        "src/crossproof/lm/more.py",
        "if TYPE_CHECKING:\n    from ..proof import prove",
        "crossproof.lm.more:2 imports crossproof.proof, which stands above it",
    ),
    "the package's own public names": (
        "upward",
        "src/crossproof/proof/more.py",
        "from crossproof import load",
        "crossproof.proof.more:1 imports crossproof, which stands above it",
    ),
    "a folder without a layer": (
        "upward",
        "src/crossproof/cellar/__init__.py",
        "",
        "crossproof.cellar is missing in LAYERS",
    ),
    "a layer that is gone": (
        "upward",
        "README.md",
        "",
        "crossproof.auditing of LAYERS is gone",
    ),
    "a circle": (
        "circles",
        "src/crossproof/lm/loading.py",
        "def load():\n    from crossproof.lm.other import one\ndef private(): ...",
        "crossproof.lm.loading, crossproof.lm.other import each other",
    ),
    "a circle through a stub": (
        "circles",
        "src/crossproof/lm/loading.py",
        "def load():\n    from crossproof.lm.names import x",
        "crossproof.lm.loading, crossproof.lm.names import each other",
    ),
    "a name that no folder exports": (
        "private",
        "paper/more.py",
        "from crossproof.lm import private",
        "imports crossproof.lm.private, which no __all__ makes public",
    ),
    "a module of a folder": (
        "private",
        "paper/deep/more.py",
        "from crossproof.lm.loading import load",
        "imports crossproof.lm.loading.load, which no __all__ makes public",
    ),
    "a submodule as a name": (
        "private",
        "benchmarks/more.py",
        "from crossproof.proof import bounds",
        "imports crossproof.proof.bounds, which no __all__ makes public",
    ),
    "a private name of a module at the top": (
        "private",
        "models/more.py",
        "from crossproof.tables import private",
        "imports crossproof.tables.private, which no __all__ makes public",
    ),
    "a whole module": (
        "private",
        "models/more.py",
        "import crossproof.lm",
        "imports crossproof.lm, which no __all__ makes public",
    ),
    "a long module": (
        "long modules",
        "src/crossproof/lm/more.py",
        "x = 1\n" * 300,
        "lm/more.py has 301 lines",
    ),
    "a long function": (
        "long functions",
        "src/crossproof/lm/more.py",
        "class A:\n    def long(self):\n" + "        x = 1\n" * 60,
        "crossproof.lm.more.long has 61 lines",
    ),
    "a class name twice": (
        "repeated classes",
        "src/crossproof/lm/more.py",
        "class A: ...\ndef f():\n    class A: ...",
        "class A is defined in crossproof.lm.more, crossproof.lm.more",
    ),
}


def checked(folder: Path, files: dict[str, str]) -> dict[str, list[str]]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return layers.check(folder)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of the small tree alone."""
    monkeypatch.setattr(layers, "LAYERS", ("tables", "lm", "proof", ""))


@pytest.mark.usefixtures("small")
def test_a_tree_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    allowed = {
        "src/crossproof/lm/most.py": "x = 1\n" * 300,
        "src/crossproof/proof/most.py": "def f():\n" + "    x = 1\n" * 59,
        "paper/more.py": "import torch\nfrom paper.fig import load\n",
        "paper/most.py": "import crossproof\nfrom crossproof.tables import Table\n",
    }
    assert not any(checked(tmp_path, BASE | allowed).values())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_violation_is_caught_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, path, text, line = VIOLATIONS[name]
    if name == "a layer that is gone":
        monkeypatch.setattr(layers, "LAYERS", ("tables", "lm", "auditing", "proof", ""))
    circle = {"src/crossproof/lm/other.py": "from crossproof.lm import load\none = 1\n"}
    files = BASE | (circle if rule == "circles" else {}) | {path: text + "\n"}
    if name == "a circle through a stub":
        files["src/crossproof/lm/names.py"] += "x = 1\n"
        del files["src/crossproof/lm/other.py"]
    broken = {kind: lines for kind, lines in checked(tmp_path, files).items() if lines}
    assert list(broken) == [rule]
    assert len(broken[rule]) == 1
    assert broken[rule][0].endswith(line)

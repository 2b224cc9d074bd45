"""Each extra says what it brings when it is missing, and the guide lists it."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossproof.clusters.builtin_judges import SentenceEmbedder
from crossproof.clusters.llm import LLM, Endpoint
from crossproof.errors import CrossproofError
from crossproof.interactions.shapley import Game, shapley_taylor
from crossproof.lm import load_model
from crossproof.tables import Table

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def gguf(folder: Path) -> None:
    (folder / "m.gguf").write_bytes(b"GGUF")
    load_model(str(folder / "m.gguf"))


def estimate(_: Path) -> None:
    shapley_taylor(Game(torch.arange(13), lambda sets: sets.sum(1).double(), "size"), budget=200)


CASES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "embedding": ("sentence_transformers", lambda _: SentenceEmbedder()),
    "llm": ("openai", lambda _: LLM(Endpoint("m"))),
    "gguf": ("gguf", gguf),
    "pandas": ("pandas", lambda _: Table("t", ("x",), ()).to_frame()),
    "shapley": ("shapiq", estimate),
}
"""By extra: a package of it, and what needs it."""


@pytest.mark.parametrize("extra", CASES)
def test_a_missing_extra_is_named(
    extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, act = CASES[extra]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CrossproofError, match=re.escape(f"'crossproof[{extra}]'")) as raised:
        act(tmp_path)
    assert raised.value.code == "CP-PACKAGE"
    assert package in str(raised.value)


def test_the_guide_lists_every_extra() -> None:
    page = (ROOT / "docs/guide/install.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("ends", ["lowest", "newest"])
def test_lock_files_hold_every_dependency(ends: str) -> None:
    lock = (ROOT / "requirements" / f"{ends}.txt").read_text()
    pinned = {name.replace("_", "-").lower() for name in re.findall(r"^([\w.-]+)==", lock, re.M)}
    wanted = [re.match(r"[\w.-]+", each) for each in PROJECT["dependencies"]]
    assert {each[0].replace("_", "-").lower() for each in wanted if each} <= pinned
    if ends == "lowest":
        for each in PROJECT["dependencies"]:
            name, _, least = each.partition(";")[0].partition(">=")
            versions = re.findall(rf"^{name.replace('_', '-')}==([\d.]+)", lock, re.M | re.I)
            assert any(version.startswith(least) for version in versions), each

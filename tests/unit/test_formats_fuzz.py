"""Broken saves give a finite crosscoder or one sentence: never another exception, never NaN."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from dictionaries import mlp_hookpoints, random_crosscoder
from foreign_layouts import LAYOUTS
from fuzz_saves import Files, mutated
from golden_formats import FIXTURES, GOLDEN

import crossproof
from crossproof.crosscoder import (
    Crosscoder,
    CrosscoderConfig,
    Provenance,
    load_crosscoder,
    save_crosscoder,
)
from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel


@dataclass(frozen=True)
class Save:
    """A valid save, and how it is read."""

    name: str
    files: Files
    read: Callable[[Path], Crosscoder]


def files_of(folder: Path) -> Files:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def saves(
    tmp_path_factory: pytest.TempPathFactory, language_models: dict[str, LanguageModel]
) -> list[Save]:
    """One of every format and architecture, and our own of every sparsity rule."""

    def importing(model: str, hooks: tuple[str, ...] | None) -> Callable[[Path], Crosscoder]:
        return lambda path: crossproof.import_dictionary(path, language_models[model], hooks)[0]

    saves = [
        Save(name, files_of(FIXTURES / name / "dictionary"), importing(golden.model, golden.given))
        for name, golden in GOLDEN.items()
    ]
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        folder = tmp_path_factory.mktemp(f"layout{number}")
        layout.save(folder, 0)
        saves.append(Save(name, files_of(folder), importing("gpt-neo", layout.hookpoints)))
    for rule in ("topk", "batch_topk", "relu", "jumprelu"):
        folder = tmp_path_factory.mktemp("own") / "crosscoder"
        crosscoder = random_crosscoder(CrosscoderConfig(12, rule, 3), mlp_hookpoints(2), 5)
        save_crosscoder(crosscoder.float(), folder, Provenance("bundled", "0", 1, {"steps": 1}))
        saves.append(Save(rule, files_of(folder), lambda path: load_crosscoder(path)[0]))
    return saves


def outcome(save: Save, files: Files, folder: Path) -> str:
    """What reading gave: "read" or "refused". AssertionError for anything else."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    refusal = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crosscoder = save.read(folder)
    except CrossproofError as error:
        refusal = str(error)
    except Exception as error:
        raise AssertionError(f"{save.name}: {type(error).__name__}: {error}") from error
    if refusal is not None:
        assert refusal.isprintable(), f"{save.name}: {refusal!r} is not one line of words"
        return "refused"
    for name, tensor in crosscoder.state_dict().items():
        assert bool(tensor.isfinite().all()), f"{save.name}: {name} is not finite"
    return "read"


def fuzz(saves: list[Save], folder: Path, count: int, seed: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        save = saves[number % len(saves)]
        counts[outcome(save, mutated(save.files, draw), folder / str(number))] += 1
    return counts


def test_what_is_not_broken_is_read(saves: list[Save], tmp_path: Path) -> None:
    for number, save in enumerate(saves):
        assert outcome(save, save.files, tmp_path / str(number)) == "read"


def test_broken_saves_are_read_or_refused(saves: list[Save], tmp_path: Path) -> None:
    counts = fuzz(saves, tmp_path, 400, seed=0)
    assert min(counts["read"], counts["refused"]) > 50  # neither is the rule


@pytest.mark.slow
def test_ten_thousand_broken_saves_are_read_or_refused(saves: list[Save], tmp_path: Path) -> None:
    counts = fuzz(saves, tmp_path, 10_000, seed=1)
    print(dict(counts))
    assert min(counts["read"], counts["refused"]) > 1000


MUTANTS = {
    "numbers are not checked": (
        ForeignDictionary,
        "_check",
        lambda *_: None,
        "is not finite|RuntimeError",
    ),
    "damage is not caught": (
        "crossproof.crosscoder.formats.files",
        "DAMAGE",
        (ZeroDivisionError,),
        "(Error|BadZipFile): ",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_fuzz_finds_a_planted_fault(
    saves: list[Save], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    place, name, fault, message = MUTANTS[mutant]
    if isinstance(place, str):
        monkeypatch.setattr(f"{place}.{name}", fault)
    else:
        monkeypatch.setattr(place, name, fault)
    with pytest.raises(AssertionError, match=message):
        fuzz(saves, tmp_path, 300, seed=0)

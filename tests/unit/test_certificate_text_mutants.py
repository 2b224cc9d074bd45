"""Mutants of the verifiers of language models' certificates: every term they have is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import statistical as made
from mutating import Change

from crossproof.proof.certificate.verifier import confidence
from crossproof.proof.certificate.verifier.layers import Linear, NormLayer, Rows, activated
from crossproof.proof.certificate.verifier.logits import Logits
from crossproof.proof.certificate.verifier.statistical import judge_statistical


@dataclass(frozen=True)
class Number:
    """A module's number, set to another."""

    module: ModuleType
    name: str
    value: Any

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.module, self.name, self.value)


def capital(values: np.ndarray, alpha: float, mean: float) -> float:
    wealth, largest, total, spread = 1.0, 0.0, 0.5, 0.25
    for i, x in enumerate(values.tolist()):
        bet = math.sqrt(2 * math.log(1 / alpha) * (i + 1) / (len(values) * spread))
        wealth *= 1 + min(bet, 0.75 / (1 - mean)) * (mean - x)
        largest, total = max(largest, wealth), total + x
        spread += (x - total / (i + 2)) ** 2
    return largest


def bounds_are_exact() -> bool:
    """Each bound by its formula, another way, and not below it."""
    for seed in range(4):
        values = np.random.default_rng(seed).beta(0.5 + seed, 2, 25)
        for alpha in (0.3, 0.01):
            bound = confidence.betting(values, alpha)
            if bound < 1 and capital(values, alpha, bound) < (1 - 1e-12) / alpha:
                return False
            if capital(values, alpha, bound - 1e-6) >= 1 / alpha:
                return False
            mean, log = float(values.mean()), math.log(2 / alpha)
            plain = mean + math.sqrt(math.log(1 / alpha) / 50)
            wide = math.sqrt(2 * float(values.var(ddof=1)) * log / 25) + 7 * log / 72
            for ours, exact in (
                (confidence.hoeffding(values, alpha), plain),
                (confidence.empirical_bernstein(values, alpha), mean + wide),
            ):
                if not min(1, exact) <= ours <= min(1, exact) + 1e-13:
                    return False
    for k, n in ((0, 20), (3, 20), (19, 20)):
        p = Fraction(confidence.binomial(k, n, 0.01))
        for q, low in ((p, False), (p - Fraction(1, 10**7), True)):
            tail = sum(math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1))
            if (tail > Fraction(0.01)) != low:
                return False
    return True


def statements_are_right() -> bool:
    """The verdict's numbers from each document's, another way."""
    draft = made.draft(30)
    losses = draft.treated_loss.copy()
    losses[:3, 1] = draft.loss[:3] + 1.25 * draft.tokens[:3]
    losses[3, 0] = 0.0
    object.__setattr__(draft, "treated_loss", losses)
    order = sorted(range(30), key=lambda at: draft.digests[at].tolist())
    result, losses = judge_statistical(draft), losses[order]
    tokens, loss, changes = draft.tokens[order], draft.loss[order], draft.changed[order]
    level = 0.05 / 6
    for at in range(2):
        gaps = (losses[:, at] - loss) / tokens
        gap, changed, beyond = result.bounds[3 * at : 3 * at + 3]
        unit = (np.clip(gaps, -1, 1) + 1) / 2
        shares = changes[:, at] / tokens
        expected = (
            (gap.bound, 2 * confidence.betting(unit, level) - 1),
            (gap.bernstein, 2 * confidence.empirical_bernstein(unit, level) - 1),
            (gap.hoeffding, 2 * confidence.hoeffding(unit, level) - 1),
            (changed.bound, confidence.betting(shares, level)),
            (changed.bernstein, confidence.empirical_bernstein(shares, level)),
            (changed.hoeffding, confidence.hoeffding(shares, level)),
            (beyond.bound, confidence.binomial(int((gaps > 1).sum()), 30, level)),
        )
        if any(ours is None or not abs(ours - theirs) < 1e-9 for ours, theirs in expected):
            return False
        if gap.clipped != int((np.abs(gaps) > 1).sum()):
            return False
    return True


def layers_hold() -> bool:
    """What lies within a row's radius stays within the radius behind a layer, and logits too."""
    g = np.random.default_rng(0)
    W, U = g.normal(size=(4, 1)), g.normal(size=(5, 4))
    weight, bias = np.array([3.0, 0.1, 0.1, 0.1]), np.zeros(4)
    norm, linear = NormLayer(weight, bias, 1e-2, False), Linear(W, np.ones(1))
    for radius in (1e-3, 0.05):
        x = 0.2 * g.normal(size=(300, 4))
        # The steepest way of each: along W, and across x in the norm's largest weight.
        along = np.broadcast_to(W[:, 0] / np.linalg.norm(W), x.shape)
        first = np.broadcast_to(np.eye(4)[0], x.shape)
        random = g.normal(size=x.shape)
        for step in (along, first, random / np.linalg.norm(random, axis=1, keepdims=True)):
            rows, other = Rows(x, np.full(300, radius)), Rows.exact(x + radius * step)
            for layer in (linear, norm, lambda r: activated(r, "gelu_tanh"),
                          lambda r: r.plus(r), lambda r: r.times(r)):  # fmt: skip
                out, moved = layer(rows), layer(other)
                off = np.linalg.norm(moved.value - out.value, axis=-1)
                if not (off <= out.radius).all():
                    return False
            logits, others = (Logits.of(r, U, np.zeros(5)) for r in (rows, other))
            if not (np.abs(others.value - logits.value) <= logits.error).all():
                return False
            labels = np.full(300, 2)
            (loss, error), (treated, _) = logits.loss(labels), others.loss(labels)
            sure = logits.certain
            if not (np.abs(treated - loss) <= error).all():
                return False
            if (others.value.argmax(1) != sure)[sure >= 0].any():
                return False
    steep = activated(Rows(np.array([[1.42]]), np.array([1e-3])), "gelu_tanh")
    if activated(Rows.exact(np.array([[1.421]])), "gelu_tanh").value > steep.value + steep.radius:
        return False
    near = Rows(np.array([[0.02, 0.0, 0.0, 0.0]]), np.array([0.02]))
    turned = norm(Rows.exact(np.array([[0.0, 0.0, 0.0, 0.0]]))).value - norm(near).value
    return bool(np.linalg.norm(turned) <= norm(near).radius[0])


CONFIDENCE = [
    Number(confidence, "LARGEST_BET", 0.8),
    Number(confidence, "LARGEST_BET", 0.7),
    Number(confidence, "STEPS", 12),
    Change("betting", "math.log(1 / X)", "math.log(0.9 / X)", "confidence"),
    Change("_bets", "0.25 + X", "0.2 + X", "confidence"),
    Change("_bets", "0.5 + X", "0.4 + X", "confidence"),
    Change("_bets", "2 * X / Y", "1.5 * X / Y", "confidence"),
    Change("_bets", "variances[:-1]", "variances[1:]", "confidence"),
    Change("_won", "mean - X", "X - mean", "confidence"),
    Change("_won", "1 - mean", "1 - 0.9 * mean", "confidence"),
    Change("hoeffding", "2 * X", "2.1 * X", "confidence"),
    Change("hoeffding", "math.log(1 / X)", "math.log(0.9 / X)", "confidence"),
    Change("empirical_bernstein", "math.log(2 / X)", "math.log(1 / X)", "confidence"),
    Change("empirical_bernstein", "7 * X", "6 * X", "confidence"),
    Change("empirical_bernstein", "2 * X * Y", "1.9 * X * Y", "confidence"),
    Change("empirical_bernstein", "count - 1", "count", "confidence"),
    Change("_up", "min(1.0, X)", "min(0.6, X)", "confidence"),
    Change("binomial", "count - k + 1", "count - k", "confidence"),
    Change("binomial", "np.arange(1, successes + 1)", "np.arange(1, successes + 0)", "confidence"),
    Change("binomial", "math.log(alpha)", "math.log(alpha) + 1e-3", "confidence"),
]
STATISTICAL = [
    Change("judge_statistical", "QUANTITIES * treatments", "treatments", "verifier.statistical"),
    Change("judge_statistical", "QUANTITIES * treatments", "QUANTITIES", "verifier.statistical"),
    Change("_bounds", "gaps > X", "gaps >= low", "verifier.statistical"),
    Change("_bounds", "gaps < low", "gaps < 2 * low", "verifier.statistical"),
    Change("_bounds", "np.clip(gaps, X, Y)", "gaps", "verifier.statistical"),
    Change("_bounds", "X - low", "X", "verifier.statistical"),
    Change("_bounds", "low + width * X", "width * X", "verifier.statistical"),
    Change("_bounds", "certificate.changed[:, column] / tokens",
           "certificate.changed[:, 0] / tokens", "verifier.statistical"),
    Change("_gaps", "X - loss", "X - 0.9 * loss", "verifier.statistical"),
    Change("_gaps", "certificate.treated_loss[:, column]", "certificate.treated_loss[:, 0]",
           "verifier.statistical"),
]  # fmt: skip
LAYERS = [
    Change("Linear.__call__", "x.radius * self.gain", "0.9 * x.radius * self.gain", "layers"),
    Change("Rows.plus", "self.radius + other.radius", "self.radius", "layers"),
    Change("Rows.times", "largest(X) * other.radius", "0 * other.radius", "layers"),
    Change("NormLayer.__call__", "np.abs(self.weight).max()", "np.abs(self.weight).mean()",
           "layers"),
    Change("NormLayer.__call__", "math.sqrt(width) * X / least", "X / least", "layers"),
    Change("NormLayer.__call__", "X - blur", "X", "layers"),
    Change("NormLayer.__call__", "r.radius + X", "X", "layers"),
    Change("activated", "slope * x.radius", "0.9 * slope * x.radius", "layers"),
    Change("Logits.of", "x.radius + X", "0.5 * x.radius + X", "logits"),
    Change("Logits.of", "lengths(unembedding)", "0.5 * lengths(unembedding)", "logits"),
    Change("Logits.certain", "X > others.max(axis=-1, keepdims=True)", "X > -np.inf", "logits"),
    Change("Logits.certain", "self.value - margin", "self.value + margin", "logits"),
    Change("Logits.loss", "self.error.max(axis=-1) + own + slack", "slack", "logits"),
]  # fmt: skip
CASES = [
    *((mutant, bounds_are_exact) for mutant in CONFIDENCE),
    *((mutant, statements_are_right) for mutant in STATISTICAL),
    *((mutant, layers_hold) for mutant in LAYERS),
]


def test_the_originals_pass() -> None:
    assert bounds_are_exact()
    assert statements_are_right()
    assert layers_hold()


def _title(case: Any) -> str:
    """A name that every process gives it: functions print their address."""
    return str(getattr(case, "__name__", str(case)[:60]))


@pytest.mark.parametrize(("mutant", "check"), CASES, ids=_title)
def test_a_mutant_is_noticed(mutant: Any, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    with np.errstate(all="ignore"):
        try:
            held = check()
        except (ValueError, IndexError):
            held = False
    assert not held

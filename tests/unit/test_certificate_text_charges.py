"""Certificates of language models: every charge for rounding is there, and as large as it must."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hostile_text import model_end

from crossproof.proof.certificate.contexts import write_contexts
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.format_contexts import check_shapes, read_contexts
from crossproof.proof.certificate.verifier import confidence
from crossproof.proof.certificate.verifier.arithmetic import UNIT, UP, gamma
from crossproof.proof.certificate.verifier.contexts import judge_contexts
from crossproof.proof.certificate.verifier.layers import Linear, Rows, length, lengths
from crossproof.proof.certificate.verifier.logits import Logits
from crossproof.proof.certificate.verifier.model_end import ModelEnd


@pytest.mark.parametrize(("size", "radius"), [(1e6, 0.0), (1e-6, 0.0), (1.0, 0.5)])
def test_logits_are_charged_their_input_their_products_and_themselves(
    size: float, radius: float
) -> None:
    x, U = size * np.array([[1.0, -2.0, 3.0]]), np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
    bias = np.array([5.0, -7.0])
    made = Logits.of(Rows(x, np.array([radius])), U, bias)
    lost = radius + gamma(3 + 8) * lengths(x)
    own = 4 * UNIT * (np.abs(made.value) + np.abs(bias))
    assert np.allclose(made.error, lost[..., None] * lengths(U) + own, rtol=1e-8, atol=0)
    value, off = made.loss(np.array([1]))
    slack = gamma(2 + 64) * (1 + np.abs(made.value).max()) * 4
    assert off == pytest.approx(made.error.max() + made.error[0, 1] + slack, rel=1e-8, abs=0)
    assert value == pytest.approx(np.logaddexp(*made.value[0]) - made.value[0, 1])


def test_what_is_uncertain_in_both_models_is_not_kept() -> None:
    """Every class has a twin: no prediction has a most likely token, in either model."""
    made = model_end(0, 1)
    twins = {
        f"weights.final.{name}": np.concatenate([made.tensors[f"weights.final.{name}"]] * 2)
        for name in ("unembedding", "unembedding_bias")
    }
    sizes = {**made.sizes, "V": 2 * made.sizes["V"]}
    result = judge_contexts(replace(made, tensors={**made.tensors, **twins}, sizes=sizes))
    assert [bound.kept for bound in result.bounds] == [0] * len(result.bounds)
    assert result.constant == result.predictions  # may all be of one token, for all that is known


def test_sums_of_contributions_are_charged_by_their_length() -> None:
    path, sizes = Linear(np.array([[3.0, 4.0]]), np.array([6.0, 8.0])), np.array([2.0, 0.0])
    own = (sizes + 1.5) * path.size + length(path.b)
    charged = ModelEnd(model_end(0, 1))._error(path, sizes, 1.5, 7)
    assert charged.tolist() == (gamma(1 + 7 + 16) * own).tolist()


def test_differences_of_losses_carry_their_own_rounding() -> None:
    end = ModelEnd(model_end(0, 1))
    logits = end._logits(end.model.before.plus(end.model.own[0]))
    bound = end._compared(end.certificate.statements[0], logits)  # the model beside itself
    loss, off = end.model.loss, end.model.loss_error
    blur = math.fsum(2 * off + 4 * UNIT * loss) / len(loss)
    assert bound.loss_change == pytest.approx(blur, rel=1e-9, abs=0)
    assert bound.token_change == pytest.approx(blur, rel=1e-9, abs=0)
    result = judge_contexts(end.certificate)
    assert result.model_loss == pytest.approx(float(loss.mean()), rel=1e-12)


@pytest.mark.parametrize("count", [100, 100_000])
def test_without_successes_the_chance_is_no_less_than_exact(count: int) -> None:
    """(1 - p)^n = α has p in closed form; rounding is charged upwards."""
    for alpha in (0.05, 1e-9):
        with localcontext() as context:
            context.prec = 60
            exact = 1 - Decimal(alpha) ** (Decimal(1) / count)
            bound = Decimal(confidence.binomial(0, count, alpha))
            assert exact <= bound <= exact + Decimal("1e-9")


def test_capital_is_charged_every_step() -> None:
    values, bets, mean = np.array([0.25, 0.0]), np.array([0.5, 1.0]), 0.5
    steps = [math.log1p(0.5 * 0.25), math.log1p(0.5)]
    slack = gamma(2 + 16) * (sum(steps) + 16) * UP
    won = confidence._won(values, bets, mean)
    assert won == pytest.approx(sum(steps) - slack, rel=0, abs=1e-16)
    assert slack > 20 * 1e-16


def test_reading_many_contexts_takes_no_more_than_was_asked_for(tmp_path: Path) -> None:
    """Contexts of which hardly one position counts: little is stored of each, and it is counted."""
    made, count, classes = model_end(0, 1), 20_000, 150
    tokens = np.arange(count)[:, None] // classes ** np.arange(2) % classes
    scored = np.zeros_like(tokens)
    scored[0, 0] = 1
    changed = {
        "tokens": tokens,
        "scored": scored,
        "stream": np.ones((count, 2, 4)),
        "offsets": np.array([0, 1]),
        "indices": np.array([0]),
        "values": np.ones(1),
    }
    tensors = {**made.tensors, **{f"contexts.{name}": t for name, t in changed.items()}}
    tensors["weights.final.unembedding"] = np.ones((classes, 4))
    tensors["weights.final.unembedding_bias"] = np.ones(classes)
    described = {name: (t.shape, t.dtype == np.int64) for name, t in tensors.items()}
    sizes = check_shapes(made.shape, described)
    write_contexts(tmp_path / "many", replace(made, tensors=tensors, sizes=sizes))
    asked: list[int] = []

    class Asking(Limits):
        def check(self, memory: int = 0, operations: int = 0) -> None:
            asked.append(memory)

    tracemalloc.start()
    read_contexts(tmp_path / "many", Asking())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= asked[0] + 200_000

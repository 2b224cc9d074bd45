"""What rounding is charged at every step of a certificate, against stored figures.

A charge that is a little too small shows in no margin that is not at an edge. Sizes and errors of
every operation are summed up as logarithms, so that each counts however small it is; they change
on purpose only, and CROSSPROOF_GOLDEN=write writes them anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hostile
import hostile_layers
import numpy as np
import pytest
import statistical
import torch
from hostile_text import model_end

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import attention, boxes, sequences
from crossproof.proof.certificate.verifier import statistical as judged
from crossproof.proof.certificate.verifier.arithmetic import UNIT, Arithmetic, Rounded
from crossproof.proof.certificate.verifier.circuits import computed
from crossproof.proof.certificate.verifier.contexts import judge_contexts
from crossproof.proof.certificate.verifier.layers import AttentionLayer, Linear, NormLayer, Rows
from crossproof.proof.certificate.verifier.model_end import ModelEnd
from crossproof.proof.certificate.verifier.streams import through
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import as_certificate

STORED = Path(__file__).parents[1] / "data" / "certificate-charges.json"
CLOSE = 1e-10
"""Sums of at most 10^4 terms, each off by some units of float64; `UP` is ten times as much."""
STEPS = ("exact", "product", "times", "total", "norm", "add", "subtract", "relu", "below",
         "absolute", "minimum", "maximum")  # fmt: skip


def compare(name: str, figures: list[float]) -> None:
    stored: dict[str, list[float]] = json.loads(STORED.read_text()) if STORED.exists() else {}
    if os.environ.get("CROSSPROOF_GOLDEN") == "write":
        STORED.write_text(json.dumps(dict(sorted({**stored, name: figures}.items())), indent=1))
        return
    np.testing.assert_allclose(figures, stored[name], rtol=CLOSE, atol=0)


def logs(*of: Any) -> float:
    """The sum of the logarithms of all that is above zero."""
    numbers = np.concatenate([np.ravel(part) for part in of]).astype(np.float64)
    return float(np.log(numbers[numbers > 0]).sum())


@pytest.mark.parametrize("kind", [*hostile.KINDS, *hostile_layers.KINDS])
def test_every_step_is_charged_what_it_was(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Rounded] = []

    def noted(step: Callable[..., Rounded]) -> Callable[..., Rounded]:
        def call(*arguments: Any, **named: Any) -> Rounded:
            made.append(step(*arguments, **named))
            return made[-1]

        return call

    for name in STEPS:
        monkeypatch.setattr(Arithmetic, name, noted(getattr(Arithmetic, name)))
    operations = 0
    for seed in range(3):
        g = np.random.default_rng([seed, 11])
        if kind in hostile.KINDS:
            draft = hostile.MAKERS[kind](g, ("dense",))
        else:
            draft = hostile_layers.attention(g, kind, ("dense",))
        operations += judge(as_certificate(draft)).operations
    sizes, errors = (logs(*(getattr(one, end) for one in made)) for end in ("size", "error"))
    compare(kind, [sizes, errors, float(operations), float(len(made))])


@pytest.mark.parametrize("kind", hostile_layers.KINDS)
def test_circuits_are_charged_what_they_were(kind: str) -> None:
    draft = hostile_layers.attention(np.random.default_rng([1, 11]), kind, ("dense",))
    certificate, count = as_certificate(draft), Arithmetic()
    if kind == "sequences":
        made = sequences.Enumeration(count, sequences.read(certificate, Limits()))
        circuits = made.circuits
        figures = [made.slack, made.floor, made.weighted.relative]
    else:
        problem = attention.read(certificate, Limits())
        if problem.streams is None:
            circuits = computed(count, problem.weights)
        else:
            circuits = through(count, problem.weights, problem.streams)
        gaps = attention.Gaps(count, circuits, 1e-12, each=True)
        figures = [abs(float(part.sum())) for part in gaps.of(1)]
    figures += [circuits.score_error, circuits.logit_error]
    if circuits.charges is not None:
        charges = circuits.charges
        figures += [logs(charges.values), logs(charges.direct), logs(charges.distance)]
        figures += [logs(circuits.high - circuits.low)]
    compare(f"{kind}, circuits", [float(figure) for figure in figures])


@pytest.mark.parametrize("mlps", [1, 2])
def test_the_ends_of_models_are_charged_what_they_were(mlps: int) -> None:
    figures: list[float] = []
    for seed in range(4):
        end = ModelEnd(model_end(seed, mlps))
        run = end.model
        figures += [logs(own.radius) for own in run.own]
        figures += [logs(run.before.radius), logs(run.loss_error)]
        for at in range(mlps):
            for kept in end._kept(at, [1, 2]):
                figures.append(logs(kept.radius))
    compare(f"contexts, {mlps}", figures)


@pytest.mark.parametrize("radius", [0.0, 1e-14])
def test_layers_are_charged_what_they_were(radius: float) -> None:
    """Inputs that are exact, and such that are off by about what the layers' rounding adds."""
    g = np.random.default_rng(3)
    x = Rows(g.standard_normal((2, 5, 6)), radius * (1 + g.random((2, 5))))
    linear = [Linear(g.standard_normal((6, 4)), g.standard_normal(4)) for _ in range(3)]
    wide = Linear(g.standard_normal((4, 6)), g.standard_normal(6))
    turns = np.cos(g.random((5, 1))), np.sin(g.random((5, 1)))
    figures = [one.gain for one in (*linear, wide)] + [one.size for one in (*linear, wide)]
    for turned in (None, turns):
        layer = AttentionLayer([linear[0]], [linear[1]], [linear[2]], [wide], g.random(6), 0.7,
                               3, turned)  # fmt: skip
        figures.append(logs(layer(x).radius))
        rows = [part(x) for part in linear]
        figures += [logs(layer.turned(rows[0]).radius), logs(layer.mixed(*rows).radius)]
    for centred in (False, True):
        norm = NormLayer(g.standard_normal(6), g.standard_normal(6), 1e-5, centred)
        figures.append(logs(norm(x).radius))
        spread = Rows(x.value, x.radius + 0.1)
        figures.append(logs(norm(spread).radius))
    figures += [logs(x.plus(x).radius), logs(x.times(x).radius)]
    figures += [logs(Rows(x.value, x.radius + 0.1).times(x).radius)]
    compare(f"layers, {radius}", figures)


def test_documents_are_charged_their_quotients_and_differences() -> None:
    """A gap that is zero as computed is charged 8 units of what was subtracted, a token."""
    made = statistical.draft(20)
    same = replace(made, treated_loss=np.repeat(made.loss[:, None], 2, axis=1))
    expected = 8 * UNIT * (2 * made.loss) / made.tokens
    np.testing.assert_allclose(judged._gaps(same, 0), expected, rtol=1e-12, atol=0)


def test_every_judge_looks_at_the_process_and_at_the_limits_first() -> None:
    calls: list[Callable[[], object]] = [
        lambda: judge(as_certificate(hostile.hostile("points", 0))),
        lambda: judged.judge_statistical(statistical.draft(5)),
        lambda: judge_contexts(model_end(0, 1)),
    ]
    if torch.set_flush_denormal(True):
        try:
            for call in calls:
                with pytest.raises(CrossproofError, match="flushes small numbers"):
                    call()
        finally:
            torch.set_flush_denormal(False)
    none = Limits(memory=1, operations=1)
    with pytest.raises(CrossproofError):
        judge_contexts(model_end(0, 1), limits=none)
    with pytest.raises(CrossproofError):
        judged.judge_statistical(statistical.draft(5), limits=none)


def test_a_box_is_proved_by_lower_bounds_alone() -> None:
    """Margins that are positive as computed, and no larger than they may be off by."""
    prover = boxes.Prover.__new__(boxes.Prover)
    prover.arithmetic = Arithmetic()
    margins = Rounded(np.array([[1.0, 1e-3], [1.0, 1e-1]]), np.ones(2), np.array([0.0, 1e-2]))
    assert prover._positive(margins, 0).tolist() == [False, True]

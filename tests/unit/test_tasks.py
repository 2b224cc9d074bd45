"""The small tasks: what a seed builds, labels, dictionaries and frequencies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Dictionary, Network, PairDomain, SparseDomain
from crossproof.training.objectives import Objective
from paper.tasks import TASKS, Built, Plan, build, modular, sparse
from paper.tasks import dictionary as dictionaries
from paper.toys.frequencies import find_frequencies

F64 = torch.float64


@pytest.fixture(scope="module")
def quick() -> dict[str, Built]:
    """Two quick builds, shared: nothing below changes them."""
    return {name: build(name, seed=1, quick=True) for name in ("coactive", "modular-53")}


def test_quick_builds_reach_their_accuracy(quick: dict[str, Built]) -> None:
    assert quick["coactive"].accuracy > 0.8
    assert quick["modular-53"].accuracy == 1.0


def test_accuracy_is_the_networks_own(quick: dict[str, Built]) -> None:
    for built in quick.values():
        domain = built.domain
        if isinstance(domain, PairDomain):
            x, labels = domain.inputs(), domain.labels()
            slack = 1e-12
        else:
            activations, labels = domain.sample(4000, torch.Generator().manual_seed(77))
            x, slack = domain.inputs(activations), 0.03
        found = (built.network.logits(x).argmax(1) == labels).double().mean().item()
        assert abs(found - built.accuracy) <= slack


def test_weights_are_float64_values_that_float32_holds(quick: dict[str, Built]) -> None:
    for built in quick.values():
        tensors = [*built.network.tensors().values()]
        if built.crosscoder is not None:
            dictionary = Dictionary.of_crosscoder(built.crosscoder)
            tensors += [dictionary.decoder, dictionary.bias]
        for tensor in tensors:
            assert tensor.dtype == F64
            assert torch.equal(tensor, tensor.float().double())
            assert not tensor.requires_grad


def test_a_seed_fixes_everything() -> None:
    plan = TASKS["sparse"]
    assert isinstance(plan, Plan)
    network_recipe = replace(plan.network, steps=20, readouts=5)
    recipe = replace(plan.dictionary, steps=20)

    def weights(seed: int) -> list[Tensor]:
        domain = sparse.make_domain(network_recipe, seed)
        network = sparse.train(network_recipe, domain, seed)
        learned = Dictionary.of_crosscoder(dictionaries.learn(network, domain, recipe, seed))
        every = [*domain.tensors().values(), *network.tensors().values()]
        return [*every, learned.decoder, learned.bias]

    torch.manual_seed(0)  # the global generator must not matter
    first = weights(3)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(3), strict=True))
    assert not torch.equal(first[0], weights(4)[0])


def test_modular_training_is_fixed_by_its_seed_and_watched() -> None:
    recipe = modular.ModularRecipe(p=7, steps=5, neurons=6, width=8, rank=8)
    seen: list[int] = []
    network, domain = modular.train(recipe, 0, watch=lambda step, _: seen.append(step))
    again, same = modular.train(recipe, 0)
    other, _ = modular.train(recipe, 1)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert network.hash == again.hash
    assert domain.hash == same.hash
    assert network.hash != other.hash


def test_folding_keeps_the_function() -> None:
    weights = modular.ModularWeights.draw(
        modular.ModularRecipe(p=7, steps=1, neurons=9, width=8, rank=4), 0
    )
    with torch.no_grad():
        weights.b_in.normal_()
        network, domain = weights.fold()
        first, second, out = weights.tables()
        hidden = torch.relu(first[:, None] + second[None] + weights.b_in).flatten(0, 1)
        assert torch.allclose(network.logits(domain.inputs()).float(), hidden @ out, atol=1e-5)


def test_the_penalty_of_purity_is_what_lies_outside_the_strongest_frequency() -> None:
    a = torch.arange(11, dtype=F64)
    wave = [torch.cos(2 * torch.pi * f * a / 11) for f in (2, 3)]
    pure, mixed = 5 * wave[0], 5 * wave[0] + 2 * wave[1] + 7
    power = modular.power(torch.stack([pure, mixed], 1))
    amplitude = (11 / 4) ** 0.5  # of a unit cosine in an orthonormal half spectrum
    assert modular.spread(power[:, :1]).item() < 1e-4
    assert abs(modular.spread(power[:, 1:]).item() - 2 * amplitude) < 1e-4


@pytest.mark.parametrize(("active", "sets", "size"), [("pairs", 276, 2), ("partners", 66, 4)])
def test_active_sets(active: str, sets: int, size: int) -> None:
    found = sparse.active_sets(sparse.SparseRecipe(active=active))  # type: ignore[arg-type]
    assert found.shape == (sets, size)
    assert len({tuple(row) for row in found.tolist()}) == sets
    if active == "partners":
        for row in found.tolist():
            assert all((feature ^ 1) in row for feature in row)


def test_labels_follow_the_readout_and_inputs_the_atoms(quick: dict[str, Built]) -> None:
    domain = quick["coactive"].domain
    assert isinstance(domain, SparseDomain)
    activations, labels = domain.sample(300, torch.Generator().manual_seed(5))
    x = domain.inputs(activations)
    for row, label, point in zip(activations, labels, x, strict=True):
        scores = sum(row[h] * domain.readout[h] for h in range(len(row)))
        assert int(label) == int(torch.as_tensor(scores).argmax())
        rebuilt = sum(row[h] * domain.decoder[h] for h in range(len(row)))
        assert torch.allclose(point, torch.as_tensor(rebuilt))
        active = row[row > 0]
        assert len(active) == 4
        assert ((active >= 0.25) & (active <= 1)).all()
    assert labels.bincount(minlength=8).min() > 0


def test_clarity_prefers_margins_and_refuses_empty_classes() -> None:
    clear = torch.eye(3, dtype=F64).repeat(20, 1)
    blurred = clear + 0.8 * torch.eye(3, dtype=F64).roll(1, 1).repeat(20, 1)
    assert sparse.clarity(clear) > sparse.clarity(blurred) > 0
    assert sparse.clarity(clear * torch.tensor([1.0, 1.0, 0.0])) == -1


def test_dictionary_encodes_and_decodes(quick: dict[str, Built]) -> None:
    built = quick["coactive"]
    assert built.crosscoder is not None
    assert isinstance(built.domain, SparseDomain)
    dictionary = Dictionary.of_crosscoder(built.crosscoder)
    x = built.domain.inputs(built.domain.sample(200, torch.Generator().manual_seed(6))[0])
    activations = dictionary.encode(x)
    assert dictionary.decoder.shape == (96, 24)
    assert dictionary.bias.shape == (24,)
    assert activations.shape == (200, 96)
    assert activations.dtype == F64
    assert (activations >= 0).all()
    assert ((activations > 0).sum(1) <= 4).all()
    x_hat = dictionary.decode(activations)
    assert torch.allclose(x_hat, activations @ dictionary.decoder + dictionary.bias)
    assert (x - x_hat).pow(2).sum() < 0.2 * (x - x.mean(0)).pow(2).sum()


def test_a_dictionary_outlives_the_crosscoder_it_was_read_from() -> None:
    plan = TASKS["sparse"]
    assert isinstance(plan, Plan)
    domain = sparse.make_domain(replace(plan.network, readouts=1), 0)
    network = sparse.train(replace(plan.network, steps=1), domain, 0)
    recipe = replace(plan.dictionary, steps=3, objective=Objective())
    x = domain.inputs(domain.sample(50, torch.Generator().manual_seed(6))[0])
    crosscoder = dictionaries.learn(network, domain, recipe, 0)
    learned = Dictionary.of_crosscoder(crosscoder)
    before = learned.encode(x)
    crosscoder.W_enc.zero_()
    assert torch.equal(learned.encode(x), before)
    assert torch.equal(learned.encode(x), learned.encode(x))
    assert torch.allclose(learned.encode(x)[:7], learned.encode(x[:7]), rtol=1e-12)


def test_what_the_penalties_see_is_the_network_up_to_a_common_shift(
    quick: dict[str, Built],
) -> None:
    network = quick["coactive"].network
    mlp = dictionaries.network_mlp(network)
    x = torch.randn(20, 24, dtype=F64, generator=torch.Generator().manual_seed(0))
    ours, theirs = mlp(x)[:, :8], network.logits(x) - x @ network.skip
    assert torch.allclose(ours - ours[:, :1], theirs - theirs[:, :1])
    assert torch.allclose(ours.sum(1), torch.zeros(20, dtype=F64), atol=1e-9)
    assert (mlp(x)[:, 8:] == 0).all()


def test_more_classes_than_dimensions_are_refused() -> None:
    zeros = torch.zeros
    network = Network(zeros(3, 5), zeros(5), zeros(5, 4), zeros(4), zeros(3, 4))
    with pytest.raises(CrossproofError, match=r"4 classes and inputs of width 3"):
        dictionaries.network_mlp(network)


def test_an_unknown_task_names_the_tasks() -> None:
    with pytest.raises(CrossproofError, match=r"'modular-54'.*coactive.*modular-113"):
        build("modular-54")


def periodic(p: int, frequencies: list[int], rogue: float) -> tuple[Network, PairDomain]:
    """A hand-made network whose neuron n reads and writes one frequency, plus `rogue` of 1."""
    generator = torch.Generator().manual_seed(0)
    number = torch.arange(p, dtype=F64)[:, None]
    phases = 6.28 * torch.rand(3, len(frequencies), generator=generator, dtype=F64)

    def waves(phase: Tensor) -> Tensor:
        own = torch.cos(2 * torch.pi * torch.tensor(frequencies, dtype=F64) * number / p + phase)
        return own + rogue * torch.cos(2 * torch.pi * number / p) + 3.0

    count = len(frequencies)
    zeros = torch.zeros(count, p, dtype=F64)
    bias = torch.zeros(count, dtype=F64), torch.zeros(p, dtype=F64)
    eye = torch.eye(count, dtype=F64)
    network = Network(eye, bias[0], waves(phases[2]).T.contiguous(), bias[1], zeros)
    return network, PairDomain(waves(phases[0]), waves(phases[1]))


def test_frequencies_of_an_exactly_periodic_network() -> None:
    wanted = [2, 5, 5, 3, 2, 6]
    found = find_frequencies(*periodic(13, wanted, rogue=0.0))
    assert found.owner.tolist() == wanted
    assert found.used == [2, 3, 5, 6]
    assert found.impurity.max() < 1e-20
    assert found.output_impurity.max() < 1e-20
    assert torch.allclose(found.weight, torch.ones(6, dtype=F64))


def test_impurity_is_the_share_of_power_outside_the_owner() -> None:
    found = find_frequencies(*periodic(13, [2, 5, 3], rogue=0.5))
    share = torch.full((3,), 0.25 / 1.25, dtype=F64)
    assert torch.allclose(found.impurity, share)
    assert torch.allclose(found.output_impurity, share)


def test_a_neuron_that_reads_nothing_is_pure_and_weightless() -> None:
    network, domain = periodic(13, [2, 5], rogue=0.0)
    network.W_in[:, 1] = 0
    found = find_frequencies(network, domain)
    assert found.impurity[1] == 0
    assert found.weight[1] == 0
    assert found.used == [2]


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_full_builds_reach_their_accuracy(task: str) -> None:
    built = build(task)
    assert built.accuracy >= (1.0 if task.startswith("modular") else 0.93)

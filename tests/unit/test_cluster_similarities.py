"""Similarities against dense loops over tokens, clusterings against planted ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dictionaries import F64, mlp_hookpoints, random_case, random_crosscoder
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from crossproof.clusters.clustering import Partition, agreement, partition
from crossproof.clusters.description import internal_interaction, strongest_neurons
from crossproof.clusters.preparing import coactive_pairs
from crossproof.clusters.settings import SIMILARITIES, available
from crossproof.clusters.similarities import (
    Evidence,
    PairValues,
    normalised,
    second_differences,
    similarity,
)
from crossproof.crosscoder import CrosscoderConfig, SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import measure_interactions

LATENTS = 9
CHOSEN = torch.tensor([1, 3, 4, 6, 8])


def evidence(gated: bool = False, seed: int = 0) -> Evidence:
    """One block's interactions of a random case, a crosscoder of as many latents beside it."""
    case = random_case(seed, gated=gated, tokens=40, latents=LATENTS)
    found = measure_interactions(case.latents, {0: case.view})
    crosscoder = random_crosscoder(CrosscoderConfig(LATENTS, "topk", 3), mlp_hookpoints(2), 5)
    pairs = found.pairs.to(torch.int64)
    return Evidence(found, crosscoder, second_differences({0: case.view}, case.latents, pairs))


def test_interactions_are_both_directions_summed() -> None:
    case, own = random_case(0, tokens=40, latents=LATENTS), evidence()
    dense = torch.zeros(LATENTS, LATENTS, dtype=F64)
    for a in case.activations:
        p = a[:, None] * (case.decoder @ case.mlp.W_in)
        owner = p.abs().max(0).indices
        for n, norm in enumerate(case.mlp.W_out.norm(dim=1)):
            if a.sum() == 0:
                continue
            for j in range(LATENTS):
                if j != owner[n]:
                    dense[owner[n], j] += norm * p[j, n].abs()
    expected = (dense + dense.T)[CHOSEN][:, CHOSEN].fill_diagonal_(0)
    torch.testing.assert_close(similarity("I", own, CHOSEN), expected, rtol=1e-9, atol=1e-9)


def test_coactivation_and_phi_are_those_of_the_events() -> None:
    own = evidence()
    on = random_case(0, tokens=40, latents=LATENTS).activations > 0
    both = (on.T.double() @ on.double())[CHOSEN][:, CHOSEN].fill_diagonal_(0)
    assert torch.equal(similarity("coactivation", own, CHOSEN), both)
    correlation = torch.from_numpy(np.corrcoef(on.double().numpy().T))[CHOSEN][:, CHOSEN]
    torch.testing.assert_close(similarity("phi", own, CHOSEN), correlation.fill_diagonal_(0))


def test_cosines_are_of_decoder_vectors_where_they_say() -> None:
    own = evidence()
    weights = own.crosscoder.W_dec.detach()
    weights = weights / weights.norm(dim=2).mean(0)[:, None]
    for name, places in (("decoder-cosine", [0, 1, 2]), ("decoder-cosine-mlp-in", [0, 1])):
        vectors = weights[:, places].reshape(LATENTS, -1)
        cosine = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=2)
        expected = cosine[CHOSEN][:, CHOSEN].fill_diagonal_(0)
        torch.testing.assert_close(similarity(name, own, CHOSEN), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["decoder-cosine", "decoder-cosine-mlp-in"])
def test_cosines_do_not_depend_on_scales_of_hookpoints(name: str) -> None:
    own = evidence()
    before = similarity(name, own, CHOSEN)
    assert own.crosscoder.scale.std() > 0
    own.crosscoder.fold()
    torch.testing.assert_close(similarity(name, own, CHOSEN), before)


def test_the_normalised_form_divides_by_the_roots_of_row_sums() -> None:
    own = evidence()
    values = similarity("Q", own, CHOSEN)
    expected = torch.zeros_like(values)
    for i in range(len(CHOSEN)):
        for j in range(len(CHOSEN)):
            expected[i, j] = values[i, j] / math.sqrt(values[i].sum() * values[j].sum())
    torch.testing.assert_close(similarity("Q-normalised", own, CHOSEN), expected)


def test_an_empty_row_stays_empty() -> None:
    values = torch.tensor([[5.0, 0, 0], [0, 5, 2], [0, 2, 5]], dtype=F64)
    assert torch.equal(
        normalised(values), torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=F64)
    )


@pytest.mark.parametrize("gated", [False, True])
def test_every_similarity_is_symmetric_with_a_zero_diagonal(gated: bool) -> None:
    own, names = evidence(gated), available(gated)
    assert ("J" in names) is not gated
    assert ("AND" in names) is gated
    for name in names:
        values = similarity(name, own, CHOSEN)
        assert values.dtype == F64
        assert values.isfinite().all()
        assert torch.equal(values, values.T) or torch.allclose(values, values.T, rtol=1e-12)
        assert torch.equal(values.diagonal(), torch.zeros(len(CHOSEN), dtype=F64))
        assert values.abs().max() > 0


def test_the_choice_of_latents_is_a_choice_of_rows_and_columns() -> None:
    own, everything = evidence(), torch.arange(LATENTS)
    for name in ("I", "J", "second-differences", "phi", "decoder-cosine"):
        whole = similarity(name, own, everything)
        torch.testing.assert_close(similarity(name, own, CHOSEN), whole[CHOSEN][:, CHOSEN])


def test_second_differences_are_below_the_pair_form() -> None:
    own = evidence()
    everything = torch.arange(LATENTS)
    truth, bound = (similarity(n, own, everything) for n in ("second-differences", "Q"))
    assert (truth <= bound * (1 + 1e-9) + 1e-12).all()
    assert truth.sum() > 0


def test_second_differences_add_up_over_shards() -> None:
    case = random_case(3, tokens=20)
    pairs = torch.tensor([[1, 2], [3, 7]])
    whole = second_differences({0: case.view}, case.latents, pairs)
    parts = [
        second_differences({0: case.view}, case.latents.rows(start, stop), pairs)
        for start, stop in ((0, 7), (7, 20))
    ]
    torch.testing.assert_close((parts[0] + parts[1]).values, whole.values)


def test_chosen_pairs_are_those_of_chosen_latents() -> None:
    own = evidence()
    pairs = {tuple(pair) for pair in coactive_pairs(own.interactions, CHOSEN).tolist()}
    chosen = set(CHOSEN.tolist())
    measured = {tuple(pair) for pair in own.interactions.pairs.tolist()}
    assert pairs == {(h, k) for h, k in measured if h in chosen and k in chosen}
    assert pairs


def test_an_unknown_similarity_names_the_nearest() -> None:
    with pytest.raises(
        CrossproofError, match=r"no similarity 'coactivaton'.*Nearest: coactivation"
    ):
        similarity("coactivaton", evidence(), CHOSEN)


def test_what_was_not_measured_is_said() -> None:
    own = evidence()
    with pytest.raises(CrossproofError, match="Second differences were not measured"):
        similarity("second-differences", Evidence(own.interactions, own.crosscoder), CHOSEN)
    with pytest.raises(CrossproofError, match="no form AND of a plain"):
        similarity("AND", own, CHOSEN)
    assert "AND" in SIMILARITIES


def planted(groups: int = 4, size: int = 5, noise: float = 0.1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(groups * size) % groups
    values = (labels[:, None] == labels).double()
    noisy = values + noise * torch.rand(values.shape, generator=generator, dtype=F64)
    return (noisy + noisy.T).fill_diagonal_(0)


@pytest.mark.parametrize("algorithm", ["affinity", "agglomerative", "spectral"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_planted_clusters_are_found_at_any_scale(algorithm: str, scale: float) -> None:
    found = partition(scale * planted(), algorithm, clusters=4)
    assert found.converged
    assert [len(group) for group in found.groups()] == [5, 5, 5, 5]
    assert adjusted_rand_score(found.labels, torch.arange(20) % 4) == 1


@pytest.mark.parametrize("algorithm", ["affinity", "agglomerative", "spectral"])
def test_partitions_depend_on_the_seed_alone(algorithm: str) -> None:
    values = torch.rand(40, 40, generator=torch.Generator().manual_seed(1), dtype=F64)
    values = (values + values.T).fill_diagonal_(0)
    first, second = (partition(values, algorithm, seed=3) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    sizes = [len(group) for group in first.groups()]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 40


def test_negative_similarities_are_no_obstacle() -> None:
    values = planted() - 0.4
    for algorithm in ("affinity", "agglomerative", "spectral"):
        labels = partition(values.fill_diagonal_(0), algorithm, clusters=4).labels
        assert adjusted_rand_score(labels, torch.arange(20) % 4) == 1


def test_agreement_is_the_mean_over_pairs_of_partitions() -> None:
    a, b, c = (
        Partition(torch.tensor(labels), True)
        for labels in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1])
    )
    expected = np.mean([1.0, adjusted_rand_score([0, 0, 1, 1], [0, 1, 0, 1]), -0.5])
    assert agreement([a, b, c]) == pytest.approx(expected)
    assert agreement([a]) is None


def test_groups_below_the_least_size_are_left_out() -> None:
    found = Partition(torch.tensor([0, 1, 0, 2, 0, 1]), True)
    assert found.groups() == [[0, 2, 4], [1, 5], [3]]
    assert found.groups(least=2) == [[0, 2, 4], [1, 5]]


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [
        (torch.zeros(2, 2), 0, "at least 3 are needed"),
        (torch.zeros(5, 5), 0, "nothing to cluster"),
        (torch.where(torch.eye(5).roll(1, 0) > 0, 1e-17, -0.5), 0, "nothing to cluster"),
        (torch.full((5, 5), float("nan")), 0, "not finite"),
        (torch.ones(5, 5), 6, "cannot be divided into 6 clusters"),
    ],
)
def test_what_cannot_be_clustered_is_said(values: Tensor, clusters: int, message: str) -> None:
    with pytest.raises(CrossproofError, match=message):
        partition(values.double(), "agglomerative", clusters=clusters)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_neurons_of_a_cluster_add_up_to_its_pairs(gated: bool, seed: int) -> None:
    case = random_case(seed, gated=gated, tokens=40, latents=LATENTS)
    labels = torch.tensor([-1, 0, 0, 1, -1, 1, 1, 2, 0])
    sums = internal_interaction({4: case.view}, case.latents, labels)[4]
    whole = measure_interactions(case.latents, {4: case.view}).matrix("I", normalise="sum")
    for cluster in range(3):
        members = (labels == cluster).nonzero()[:, 0]
        inside = whole[members][:, members]
        expected = inside.sum() - inside.diagonal().sum()
        torch.testing.assert_close(sums[cluster].sum(), expected, rtol=1e-6, atol=1e-9)


def test_the_strongest_neurons_are_shares_of_all_blocks() -> None:
    sums = {2: torch.tensor([[1.0, 5.0], [0.0, 0.0]]), 5: torch.tensor([[4.0, 0.0], [0.0, 0.0]])}
    first, second = strongest_neurons({b: s.double() for b, s in sums.items()}, 3)
    assert [(n.block, n.neuron, n.share) for n in first] == [(2, 1, 0.5), (5, 0, 0.4), (2, 0, 0.1)]
    assert second == []


def test_no_tokens_and_no_clusters_give_zeros() -> None:
    case = random_case(0)
    nothing = case.latents.rows(0, 0)
    labels = torch.zeros(LATENTS, dtype=torch.int64)
    assert internal_interaction({0: case.view}, nothing, labels)[0].sum() == 0
    empty = internal_interaction({0: case.view}, case.latents, labels - 1)[0]
    assert empty.shape[0] == 0
    code = SparseLatents.from_dense(torch.zeros(3, LATENTS, dtype=F64))
    assert internal_interaction({0: case.view}, code, labels)[0].sum() == 0


def test_pair_values_of_other_pairs_are_zero() -> None:
    values = PairValues(torch.tensor([[0, 2], [1, 3]]), torch.tensor([2.0, 3.0]))
    expected = torch.tensor([[0.0, 2, 0], [2, 0, 0], [0, 0, 0]], dtype=F64)
    assert torch.equal(values.among(torch.tensor([2, 0, 1]), 5), expected)

from __future__ import annotations

from typing import Any

import pytest
import torch
from dictionaries import mlp_hookpoints, random_batch, random_crosscoder
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import batch_topk_mask
from torch import Tensor

from crossproof.crosscoder import CrosscoderConfig
from crossproof.crosscoder.sparsity import BatchTopK, make_sparsity
from crossproof.errors import CrossproofError


def rule_of(name: str, k: int, n_latents: int, groups: int = 1) -> Any:
    return make_sparsity(CrosscoderConfig(n_latents, name, k, groups))


def pre_activations(seed: int, tokens: int = 50, latents: int = 40) -> Tensor:
    return torch.randn(tokens, latents, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 5, 12])
def test_batch_topk_chooses_exactly_k_a_token_on_average(k: int) -> None:
    rule = BatchTopK(k)
    for seed in range(20):
        pre = pre_activations(seed)
        entries = rule.activate(rule.select(pre, training=True))
        assert len(entries.values) == k * len(pre)
        expected = torch.where(batch_topk_mask(pre, k), pre, 0.0)
        assert torch.equal(entries.dense(), expected)


@given(threshold=st.floats(-1, 4), seed=st.integers(0, 2**31), k=st.integers(1, 40))
def test_the_candidate_shortcut_equals_the_flat_topk(threshold: float, seed: int, k: int) -> None:
    rule = BatchTopK(k)
    rule.threshold.fill_(threshold)
    pre = pre_activations(seed, tokens=6)
    chosen = rule.select(pre, training=True).dense()
    assert torch.equal(chosen, torch.where(batch_topk_mask(pre, k), pre, 0.0))


@given(seed=st.integers(0, 2**31), k=st.integers(1, 11), kind=st.sampled_from("ntz"))
def test_a_fixed_number_of_entries_holds_the_same_activations(seed: int, k: int, kind: str) -> None:
    """Also among ties, and where too few are positive."""
    pre = pre_activations(seed, tokens=6, latents=11)
    pre = {"n": pre, "t": (2 * pre).round() / 2, "z": pre - 2}[kind]
    usual, fixed = BatchTopK(k), BatchTopK(k)
    for _ in range(2):
        expected, found = usual.select(pre, training=True), fixed._largest(pre)
        assert len(found.values) == k * len(pre)
        assert torch.equal(fixed.activate(found).dense(), usual.activate(expected).dense())
        assert torch.equal(fixed.threshold, usual.threshold)
        codes = found.token_index * 11 + found.indices
        assert (codes.diff() > 0).all()


def test_fewer_positive_values_than_wanted_are_all_chosen() -> None:
    pre = pre_activations(0, tokens=4, latents=10)
    entries = BatchTopK(9).select(pre, training=True)
    assert torch.equal(entries.dense(), pre.relu())
    assert len(BatchTopK(3).select(-pre.abs(), training=True).values) == 0


def test_ties_at_the_cut_never_exceed_the_budget() -> None:
    pre = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0], [2.0, 0.5, 0.5, 0.5, 0.5]])
    entries = BatchTopK(1).select(pre, training=True)
    assert entries.values.tolist() == [3.0]


@examples(30)
@given(st.sampled_from(["topk", "batch_topk", "relu", "jumprelu"]), st.integers(0, 1000), st.data())
def test_a_tokens_code_does_not_depend_on_its_batch(
    rule: str, seed: int, data: st.DataObject
) -> None:
    crosscoder = random_crosscoder(CrosscoderConfig(30, rule, 3), mlp_hookpoints(1), 4, seed)
    if rule == "batch_topk":
        crosscoder.sparsity.threshold.fill_(0.8)
    x = random_batch(crosscoder, 10, seed)
    whole = crosscoder.encode(x).dense()
    chosen = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    part = crosscoder.encode(x[chosen]).dense()
    torch.testing.assert_close(part, whole[chosen], rtol=1e-12, atol=1e-12)
    assert torch.equal(part != 0, whole[chosen] != 0)


@pytest.mark.parametrize("k", [3, 16])
def test_the_learned_threshold_gives_about_k_in_inference(k: int) -> None:
    rule = BatchTopK(k)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        rule.select(torch.randn(64, 128, generator=generator), training=True)
    latents = rule.activate(rule.select(torch.randn(4000, 128, generator=generator)))
    assert latents.l0() == pytest.approx(k, rel=0.05)


def test_the_threshold_is_a_running_mean_of_the_cuts() -> None:
    rule, mean = BatchTopK(2, momentum=0.9), None
    for seed in range(5):
        pre = pre_activations(seed)
        rule.select(pre, training=True)
        cut = pre.flatten().sort(descending=True).values[2 * len(pre)]
        mean = cut if mean is None else 0.9 * mean + 0.1 * cut
    torch.testing.assert_close(rule.threshold, mean)


def test_inference_does_not_move_the_threshold() -> None:
    rule = BatchTopK(2)
    rule.select(pre_activations(0), training=True)
    before = rule.threshold.clone()
    rule.select(10 * pre_activations(1))
    assert torch.equal(rule.threshold, before)


def test_topk_gives_no_negative_activation() -> None:
    rule = rule_of("topk", 3, 5)
    pre = torch.tensor([[-1.0, -2.0, 4.0, -3.0, -4.0]])
    assert rule.activate(rule.select(pre)).dense().tolist() == [[0.0, 0.0, 4.0, 0.0, 0.0]]


def test_jumprelu_keeps_what_needs_a_gradient_and_counts_what_is_active() -> None:
    rule = rule_of("jumprelu", 1, 3)  # thresholds 0.1, bandwidth 0.1
    pre = torch.tensor([[0.07, 0.2, 0.04], [0.11, -1.0, 0.02]])
    entries = rule.select(pre, training=True)
    assert entries.dense().count_nonzero() == 3
    torch.testing.assert_close(
        rule.activate(entries).dense().detach(), torch.tensor([[0, 0.2, 0], [0.11, 0, 0]])
    )
    l0 = rule.l0(entries)
    assert l0.item() == 1.0
    l0.backward()
    # Two entries lie within half a bandwidth of the threshold; dθ/d(log θ) = θ.
    torch.testing.assert_close(rule.log_threshold.grad, torch.tensor([-1.0, 0.0, 0.0]))
    assert len(rule.select(pre).values) == 2


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(CrossproofError, match=r"'gated'; known: topk, batch_topk, relu, jumprelu"):
        rule_of("gated", 4, 8)


@given(seed=st.integers(0, 2**31), groups=st.sampled_from([1, 2, 4, 8]), k=st.integers(1, 5))
def test_groups_of_topk_are_topk_of_each_group(seed: int, groups: int, k: int) -> None:
    pre = pre_activations(seed, tokens=4)
    rule = rule_of("topk", k, 40, groups)
    found = rule.activate(rule.select(pre)).dense()
    alone = rule_of("topk", k, 40 // groups)
    parts = [alone.activate(alone.select(part)).dense() for part in pre.chunk(groups, dim=1)]
    assert torch.equal(found, torch.cat(parts, 1))


@pytest.mark.parametrize(("groups", "k"), [(3, 1), (0, 1), (8, 6), (-1, 1)])
def test_groups_must_divide_the_latents_and_hold_k(groups: int, k: int) -> None:
    with pytest.raises(CrossproofError, match=f"40 latents do not divide into {groups} groups"):
        rule_of("topk", k, 40, groups)

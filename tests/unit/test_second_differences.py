"""Second differences of pairs of latents, against loops over tokens, pairs and neurons."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from dictionaries import F64, Case, random_case
from differences import dense_sums
from reference import ACTIVATIONS

from crossproof.crosscoder import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import (
    MLPDictionary,
    SecondDifferences,
    second_difference_scores,
    second_difference_sums,
)
from crossproof.lm import Activation, MLPWeights

PAIRS = torch.tensor([[1, 2], [5, 3], [3, 5], [8, 4], [0, 7], [6, 8], [1, 7]])


def assert_sums(ours: SecondDifferences, case: Case, context: str) -> None:
    counts, neurons, output = dense_sums(case, ours.pairs, context)
    assert torch.equal(ours.tokens, counts)
    torch.testing.assert_close(ours.neurons, neurons, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours.output, output, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("context", ["alone", "others"])
def test_sums_equal_loops_over_tokens_and_neurons(name: str, gated: bool, context: str) -> None:
    case = random_case(2, Activation(name), gated=gated, tokens=12)
    ours = second_difference_sums(case.view, case.latents, PAIRS, context)
    assert_sums(ours, case, context)
    assert ours.tokens.sum() > 5
    if name != "identity" or gated:
        assert ours.output.max() > 0.01
        assert (ours.output <= ours.neurons + 1e-12).all()


@pytest.mark.parametrize("context", ["alone", "others"])
def test_small_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, context: str) -> None:
    case = random_case(4, gated=True, tokens=12)
    whole = second_difference_sums(case.view, case.latents, PAIRS, context)
    scores = second_difference_scores(case.view, case.latents, context)
    monkeypatch.setattr("crossproof.interactions.second_differences._NUMBERS", 25)
    split = second_difference_sums(case.view, case.latents, PAIRS, context)
    torch.testing.assert_close(split.neurons, whole.neurons)
    torch.testing.assert_close(split.output, whole.output)
    assert torch.equal(split.tokens, whole.tokens)
    torch.testing.assert_close(second_difference_scores(case.view, case.latents, context), scores)


def test_batches_add_up_and_other_pairs_do_not() -> None:
    case = random_case(5, tokens=20)
    parts = [case.latents.rows(0, 9), case.latents.rows(9, 20)]
    first, second = (second_difference_sums(case.view, part, PAIRS) for part in parts)
    assert first.tokens.sum() > 0
    assert second.tokens.sum() > 0
    assert_sums(first + second, case, "alone")
    other = second_difference_sums(case.view, parts[0], PAIRS.flip(0))
    with pytest.raises(CrossproofError, match="different pairs"):
        first + other


@pytest.mark.parametrize("context", ["alone", "others"])
@pytest.mark.parametrize("form", ["neurons", "output"])
def test_scores_of_tokens_sum_all_their_pairs(context: str, form: str) -> None:
    case = random_case(6, tokens=7)
    scores = second_difference_scores(case.view, case.latents, context, form)
    every = list(itertools.combinations(range(9), 2))
    for token in range(7):
        alone = replace(case, activations=case.activations[token : token + 1])
        _, neurons, output = dense_sums(alone, torch.tensor(every), context)
        expected = neurons.sum() if form == "neurons" else output.sum()
        assert scores[token].item() == pytest.approx(expected.item(), rel=1e-9)
    assert scores[:2].tolist() == [0.0, 0.0]  # no latent, one latent
    assert scores[2:].max() > 0.1


def test_only_two_active_latents_make_the_contexts_equal() -> None:
    case = random_case(7)
    case.activations[:, :5] = 0
    case.activations[:, 7:] = 0
    pair = torch.tensor([[5, 6]])
    alone = second_difference_sums(case.view, case.latents, pair, "alone")
    others = second_difference_sums(case.view, case.latents, pair, "others")
    assert alone.neurons > 0.01
    torch.testing.assert_close(alone.neurons, others.neurons)
    torch.testing.assert_close(alone.output, others.output)


@pytest.mark.parametrize("context", ["alone", "others"])
def test_single_precision_inputs_are_differenced_in_double_precision(context: str) -> None:
    """In float32 the differences would be rounding errors: contributions are small here."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 32), (32,), (32, 6), (6,)]
    single = MLPWeights(*(torch.randn(*s, generator=generator) for s in shapes), Activation.GELU)
    decoder = 1e-4 * torch.randn(2, 6, generator=generator)
    latents = SparseLatents.from_dense(torch.ones(1, 2))
    pair = torch.tensor([[0, 1]])
    view = MLPDictionary.build(single, decoder, torch.zeros(6))
    case = Case(single.to(dtype=F64), decoder.double(), torch.zeros(6, dtype=F64), *2 * [None])
    case = replace(case, activations=torch.ones(1, 2, dtype=F64))
    ours = second_difference_sums(view, latents, pair, context)
    assert ours.neurons.dtype == ours.output.dtype == F64
    _, neurons, output = dense_sums(case, pair, context)
    torch.testing.assert_close(ours.neurons, neurons, rtol=1e-3, atol=0)
    torch.testing.assert_close(ours.output, output, rtol=1e-3, atol=0)


def test_an_entry_whose_activation_is_zero_is_not_active() -> None:
    case = random_case(8)
    rows = torch.arange(9).repeat(8, 1)
    padded = SparseLatents.from_rows(rows, case.activations, 9)
    ours = second_difference_sums(case.view, padded, PAIRS)
    assert_sums(ours, case, "alone")
    assert torch.equal(
        second_difference_scores(case.view, padded),
        second_difference_scores(case.view, case.latents),
    )


def test_no_pairs_and_no_tokens_give_empty_sums() -> None:
    case = random_case(9)
    none = second_difference_sums(case.view, case.latents, PAIRS[:0])
    assert none.neurons.shape == none.output.shape == none.tokens.shape == (0,)
    empty = case.latents.rows(0, 0)
    assert second_difference_sums(case.view, empty, PAIRS).neurons.tolist() == [0.0] * len(PAIRS)
    assert second_difference_scores(case.view, empty).shape == (0,)


@pytest.mark.parametrize("pair", [[0, 9], [-1, 3]])
def test_pairs_outside_the_dictionary_are_refused(pair: list[int]) -> None:
    case = random_case(0)
    with pytest.raises(CrossproofError, match=r"does not exist; this dictionary has .* 0 to 8"):
        second_difference_sums(case.view, case.latents, torch.tensor([[1, 2], pair]))


def test_bad_input_is_refused() -> None:
    case = random_case(0)
    with pytest.raises(CrossproofError, match="Latent 4 is paired with itself"):
        second_difference_sums(case.view, case.latents, torch.tensor([[1, 2], [4, 4]]))
    broken = case.latents.with_values(case.latents.values * float("nan"))
    for measure in (
        lambda: second_difference_sums(case.view, broken, PAIRS),
        lambda: second_difference_scores(case.view, broken),
    ):
        with pytest.raises(CrossproofError, match="NaN or infinite"):
            measure()
    wider = SparseLatents.from_dense(torch.ones(2, 11, dtype=F64))
    with pytest.raises(CrossproofError, match="11 latents and the dictionary 9"):
        second_difference_sums(case.view, wider, PAIRS)

"""Dictionaries of the residual stream, read through an MLP's norm (docs/theory/residual.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from dictionaries import F64, random_mlp
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import DenseMLP
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.interactions import (
    MLPDictionary,
    StreamView,
    additive_interaction,
    interaction,
    measure_interactions,
    residual,
)
from crossproof.interactions.second_differences import second_difference_sums
from crossproof.lm import Activation, MLPWeights, Norm

CASES = examples(40)
WIDTH, LATENTS, TOKENS = 5, 7, 6
CLOSE = 1e-10
"""Sums of at most 60 products of numbers below 100, in float64."""


@dataclass(frozen=True, eq=False)
class Stream:
    """A stream of which a dictionary describes a part, and the MLP behind its norm."""

    mlp: MLPWeights
    norm: Norm
    decoder: Tensor
    activations: Tensor
    r: Tensor

    @property
    def latents(self) -> SparseLatents:
        return SparseLatents.from_dense(self.activations)

    @property
    def view(self) -> StreamView:
        return StreamView.build(self.mlp, self.norm, self.decoder)


def centred(r: Tensor, norm: Norm) -> Tensor:
    return r - r.mean(-1, keepdim=True) if norm.centred else r


def denominator(r: Tensor, norm: Norm) -> Tensor:
    return (centred(r, norm).square().mean(-1, keepdim=True) + norm.epsilon).sqrt()


def normed(r: Tensor, norm: Norm) -> Tensor:
    """The norm as models write it."""
    return norm.weight * centred(r, norm) / denominator(r, norm) + norm.bias


def stream(seed: int, activation: Activation, gated: bool, centred: bool) -> Stream:
    """Token 0 has no active latent, token 1 one; latents 1 and 2 are copies."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    norm = Norm(1 + 0.3 * draw(WIDTH), 0.2 * draw(WIDTH), 1e-5, centred)
    decoder = draw(LATENTS, WIDTH)
    decoder[2] = decoder[1]
    activations = draw(TOKENS, LATENTS).relu()
    activations[0] = 0
    activations[1, 1:] = 0
    r = activations @ decoder + 2 * draw(TOKENS, WIDTH)
    return Stream(random_mlp(activation, gated, generator), norm, decoder, activations, r)


def streams() -> st.SearchStrategy[Stream]:
    return st.builds(
        stream,
        seed=st.integers(0, 2**31),
        activation=st.sampled_from(list(Activation)),
        gated=st.booleans(),
        centred=st.booleans(),
    )


def pushed(case: Stream, token: int, rest: Tensor) -> tuple[MLPDictionary, SparseLatents]:
    """The same dictionary at the MLP's input, at one token: vectors γ ⊙ C d, activations a / s."""
    norm, r = case.norm, case.r[token]
    s = (norm.centre(r).square().mean() + norm.epsilon).sqrt()
    through = torch.diag(norm.weight) @ torch.stack(
        [norm.centre(e) for e in torch.eye(WIDTH).double()]
    )
    bias = rest @ through.T + norm.bias
    view = MLPDictionary.build(case.mlp, case.decoder @ through.T, bias)
    return view, SparseLatents.from_dense(case.activations[token][None] / s)


@CASES
@given(streams())
def test_contributions_and_the_tokens_rest_are_the_models_own_pre_activations(case: Stream) -> None:
    seen = case.view.at(case.latents, case.r)
    u = normed(case.r, case.norm)
    value, gate = seen.dictionary.sums(seen.latents)
    expected = u @ case.mlp.W_in + case.mlp.b_in
    torch.testing.assert_close(seen.dictionary.baseline + value, expected, rtol=CLOSE, atol=CLOSE)
    if case.mlp.W_gate is not None:
        assert gate is not None
        assert case.mlp.b_gate is not None
        assert seen.dictionary.baseline_gate is not None
        expected = u @ case.mlp.W_gate + case.mlp.b_gate
        torch.testing.assert_close(
            seen.dictionary.baseline_gate + gate, expected, rtol=CLOSE, atol=CLOSE
        )
    torch.testing.assert_close(
        seen.dictionary.output(value, gate), case.mlp(u), rtol=CLOSE, atol=CLOSE
    )


@CASES
@given(streams(), st.integers(0, TOKENS - 1), st.booleans())
def test_pushed_through_the_norm_it_is_the_dictionary_at_the_input(
    case: Stream, token: int, exact: bool
) -> None:
    own = case.view.rest_of(case.latents, case.r)
    rest = own[token] if exact else own.mean(0)
    seen = case.view.at(case.latents, case.r, None if exact else rest)
    view, latents = pushed(case, token, rest)
    ours, theirs = seen.dictionary.dominance(seen.latents), view.dominance(latents)

    def same(ours: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(ours[token], theirs[0], rtol=1e-9, atol=CLOSE)

    same(interaction(seen.dictionary, seen.latents, ours), interaction(view, latents, theirs))
    same(seen.dictionary.output(ours.value, ours.gate), view.output(theirs.value, theirs.gate))
    if not case.mlp.gated:
        same(
            additive_interaction(seen.dictionary, seen.latents, ours),
            additive_interaction(view, latents, theirs),
        )
    only = replace(case, activations=case.activations[token][None], r=case.r[token][None])
    alone = only.view.at(only.latents, only.r, None if exact else rest)
    mine = measure_interactions(alone.latents, {0: alone.dictionary})
    other = measure_interactions(latents, {0: view})
    assert torch.equal(mine.pairs, other.pairs)
    for form in mine.forms:
        torch.testing.assert_close(mine.forward[form], other.forward[form], rtol=1e-9, atol=CLOSE)


@CASES
@given(streams())
def test_sums_over_tokens_take_each_tokens_own_baseline(case: Stream) -> None:
    seen = case.view.at(case.latents, case.r)
    whole = measure_interactions(seen.latents, {0: seen.dictionary})
    pairs = torch.tensor([[1, 2], [3, 5]])
    differences = second_difference_sums(seen.dictionary, seen.latents, pairs, "others")
    total: dict[tuple[int, int], float] = {}
    neurons = torch.zeros(2, dtype=F64)
    for token in range(TOKENS):
        rest = case.view.rest_of(case.latents, case.r)[token]
        view, latents = pushed(case, token, rest)
        part = measure_interactions(latents, {0: view})
        neurons += second_difference_sums(view, latents, pairs, "others").neurons
        for pair, value in zip(part.pairs.tolist(), part.forward["Q"][0].tolist(), strict=True):
            total[tuple(pair)] = total.get(tuple(pair), 0.0) + value
    mine = dict(zip(map(tuple, whole.pairs.tolist()), whole.forward["Q"][0].tolist(), strict=True))
    assert mine.keys() == total.keys()
    for pair, value in total.items():
        assert math.isclose(mine[pair], value, rel_tol=1e-8, abs_tol=CLOSE)
    torch.testing.assert_close(differences.neurons, neurons, rtol=1e-8, atol=CLOSE)


@CASES
@given(streams())
def test_the_norms_own_interaction_is_what_freezing_hides(case: Stream) -> None:
    removed = case.activations @ case.decoder
    left = case.r - removed
    seen = case.view.at(case.latents, case.r)
    true = normed(left, case.norm) @ case.mlp.W_in + case.mlp.b_in
    hidden = (true - seen.dictionary.baseline).abs() @ case.mlp.W_out.norm(dim=1)
    ours = case.view.norm_interaction(case.r, removed)
    if not case.mlp.gated:
        torch.testing.assert_close(ours, hidden, rtol=1e-8, atol=CLOSE)
        return
    frozen = seen.dictionary.neurons(torch.zeros_like(true), torch.zeros_like(true))
    moved = case.mlp.neurons(normed(left, case.norm))
    reached = (moved - frozen).abs() @ case.mlp.W_out.norm(dim=1)
    assert (reached <= ours * (1 + CLOSE) + CLOSE).all()


@CASES
@given(streams())
def test_a_dictionary_of_every_coordinate_is_the_mlp(case: Stream) -> None:
    both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double()
    split = torch.cat([case.r, -case.r], 1).relu()
    view = StreamView.build(case.mlp, case.norm, both)
    latents = SparseLatents.from_dense(split)
    nothing = torch.zeros(WIDTH, dtype=F64)
    seen = view.at(latents, case.r, nothing)
    torch.testing.assert_close(view.rest_of(latents, case.r), torch.zeros_like(case.r))
    output = seen.dictionary.output(*seen.dictionary.sums(seen.latents))
    expected = DenseMLP(case.mlp)(normed(case.r, case.norm))
    torch.testing.assert_close(output, expected, rtol=CLOSE, atol=CLOSE)


@CASES
@given(streams())
def test_a_second_norm_weighs_neurons_by_what_the_stream_takes(case: Stream) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(WIDTH, generator=generator, dtype=F64)
    shift = torch.randn(WIDTH, generator=generator, dtype=F64)
    post = Norm(weight, shift, 1e-5, case.norm.centred)
    view = StreamView.build(case.mlp, case.norm, case.decoder, post)
    output, neurons = (
        case.mlp(normed(case.r, case.norm)),
        case.mlp.neurons(normed(case.r, case.norm)),
    )
    s, written = denominator(output, post), view.frozen.output_vectors
    bias = post.weight * centred(case.mlp.b_out, post)
    taken = (neurons @ written + bias) / s + post.bias
    torch.testing.assert_close(taken, normed(output, post), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(view.frozen.output_norms, written.norm(dim=1))
    torch.testing.assert_close(post.denominator(output)[:, None], s, rtol=CLOSE, atol=CLOSE)


@CASES
@given(streams())
def test_the_residual_bounds_what_the_dictionarys_error_does(case: Stream) -> None:
    error = 0.3 * torch.ones_like(case.r)
    error[:, 0] = -1
    s = case.view.denominators(case.r)[:, None]
    seen = case.view.at(case.latents, case.r)
    charge = residual(seen.dictionary, case.r / s, (case.r - error) / s)
    with_error = case.mlp(normed(case.r, case.norm))
    folded = seen.dictionary.mlp
    without = folded((case.r - error) / s)
    assert ((with_error - without).norm(dim=1) <= charge * (1 + CLOSE) + CLOSE).all()

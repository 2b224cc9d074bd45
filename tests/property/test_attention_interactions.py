"""Attention interactions equal dense loops written from the formula, for any numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from dictionaries import F64, standard_rotary
from hypothesis import assume, given
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.interactions import (
    AttentionDictionary,
    ScoreParts,
    attention_interactions,
    keep_pairs,
    ov_constant,
    ov_contributions,
    pair_scores,
    score_parts,
)
from crossproof.lm import AttentionWeights, Rotary

D, E, HEADS, GROUPS, LATENTS, TOKENS = 5, 6, 4, 2, 7, 6
CASES = examples(25)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class Case:
    """An attention, a dictionary, dense activations at given positions, and the true input."""

    weights: AttentionWeights
    decoder: Tensor
    bias: Tensor
    activations: Tensor
    x: Tensor
    positions: Tensor

    @property
    def view(self) -> AttentionDictionary:
        return AttentionDictionary.build(self.weights, self.decoder, self.bias)

    @property
    def latents(self) -> SparseLatents:
        return SparseLatents.from_dense(self.activations)

    def parts(self, head: int) -> ScoreParts:
        return score_parts(self.view, head, self.latents, self.x, self.positions)


def make_case(
    seed: int,
    rotary: Rotary | None = None,
    window: int | None = None,
    error: float = 0.3,
    scale: float = 0.4,
    signed: bool = False,
) -> Case:
    """Token 0 has no active latent, token 1 a single one; latent 0's decoder vector is zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    weights = AttentionWeights(
        draw(HEADS, D, E),
        draw(HEADS, E),
        draw(GROUPS, D, E),
        draw(GROUPS, E),
        draw(GROUPS, D, E),
        draw(GROUPS, E),
        draw(HEADS, E, D),
        draw(D),
        scale,
        rotary,
        window,
    )
    decoder, bias = draw(LATENTS, D), draw(D)
    decoder[0] = 0
    activations = draw(TOKENS, LATENTS) if signed else draw(TOKENS, LATENTS).abs()
    activations *= torch.rand(TOKENS, LATENTS, generator=generator) < 0.5
    activations[0] = 0
    activations[1, :-1] = 0
    gaps = torch.randint(1, 4, (TOKENS,), generator=generator)
    x = activations @ decoder + bias + error * draw(TOKENS, D)
    return Case(weights, decoder, bias, activations, x, gaps.cumsum(0))


ROTARIES = [None, standard_rotary(4, 10.0), replace(standard_rotary(6, 3.0), scaling=1.3)]


def cases(error: tuple[float, ...] = (0.0, 0.3, 10.0)) -> st.SearchStrategy[Case]:
    return st.builds(
        make_case,
        seed=st.integers(0, 2**31),
        rotary=st.sampled_from(ROTARIES),
        window=st.sampled_from([None, 4]),
        error=st.sampled_from(error),
        scale=st.sampled_from([0.4, 1.0, 3.0]),
        signed=st.booleans(),
    )


HEAD = st.integers(0, HEADS - 1)


def rotation(rotary: Rotary | None, position: int) -> Tensor:
    """The [E, E] matrix that turns a column vector to a position."""
    matrix = torch.eye(E, dtype=F64)
    if rotary is None:
        return matrix
    half = len(rotary.frequencies)
    for i, frequency in enumerate(rotary.frequencies.tolist()):
        c, s = math.cos(position * frequency), math.sin(position * frequency)
        block = rotary.scaling * torch.tensor([[c, -s], [s, c]], dtype=F64)
        matrix[[[i], [i + half]], [i, i + half]] = block
    return matrix


def form(case: Case, head: int, q: int, k: int) -> Tensor:
    """scale · M for two tokens, on inputs with a constant coordinate, from rotation matrices."""
    w, group = case.weights, head // (HEADS // GROUPS)
    left = torch.cat([w.W_Q[head], w.b_Q[head, None]])
    right = torch.cat([w.W_K[group], w.b_K[group, None]])
    at_query = rotation(w.rotary, int(case.positions[q]))
    at_key = rotation(w.rotary, int(case.positions[k]))
    return w.scale * left @ at_query.T @ at_key @ right.T


def dense_pairs(case: Case, head: int) -> Tensor:
    """p[q, k, i, j] = a_i a_j d_i M d_j · scale."""
    out = torch.zeros(TOKENS, TOKENS, LATENTS, LATENTS, dtype=F64)
    for q in range(TOKENS):
        for k in range(TOKENS):
            virtual = case.decoder @ form(case, head, q, k)[:D, :D] @ case.decoder.T
            out[q, k] = virtual * torch.outer(case.activations[q], case.activations[k])
    return out


def seen(case: Case) -> Tensor:
    out = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    for q in range(TOKENS):
        for k in range(TOKENS):
            offset = int(case.positions[q] - case.positions[k])
            out[q, k] = offset >= 0 and (
                case.weights.window is None or offset < case.weights.window
            )
    return out


@CASES
@given(cases(), HEAD)
def test_parts_are_the_bilinear_form_of_their_inputs(case: Case, head: int) -> None:
    parts = case.parts(head)
    latent = case.activations @ case.decoder
    one = torch.ones(TOKENS, 1, dtype=F64)
    none = torch.zeros(TOKENS, 1, dtype=F64)
    constant = torch.cat([case.bias.expand(TOKENS, D), one], dim=1)
    latent, full = torch.cat([latent, none], dim=1), torch.cat([case.x, one], dim=1)
    error = full - constant - latent
    for q in range(TOKENS):
        for k in range(TOKENS):
            M = form(case, head, q, k)
            expected = {
                "constant": constant[q] @ M @ constant[k],
                "query": latent[q] @ M @ constant[k],
                "key": constant[q] @ M @ latent[k],
                "query_key": latent[q] @ M @ latent[k],
                "residual_query": error[q] @ M @ (constant + latent)[k],
                "residual_key": (constant + latent)[q] @ M @ error[k],
                "residual_both": error[q] @ M @ error[k],
                "total": full[q] @ M @ full[k],
            }
            for name, value in expected.items():
                torch.testing.assert_close(getattr(parts, name)[q, k], value, **CLOSE)
    own = case.weights.scores(case.x, case.positions)[head]
    torch.testing.assert_close(parts.total, own, **CLOSE)
    torch.testing.assert_close(parts.residual, own - parts.reconstructed, rtol=1e-7, atol=1e-7)


@CASES
@given(cases())
def test_pairs_between_two_tokens_equal_loops(case: Case) -> None:
    dense = torch.stack([dense_pairs(case, head) for head in range(HEADS)])
    view, latents = case.view, case.latents
    for q, k in seen(case).nonzero().tolist():
        pairs = pair_scores(view, latents, q, k, case.positions)
        rows, columns = pairs.query_latents, pairs.key_latents
        assert rows.tolist() == case.activations[q].nonzero()[:, 0].tolist()
        assert columns.tolist() == case.activations[k].nonzero()[:, 0].tolist()
        expected = dense[:, q, k][:, rows][:, :, columns]
        torch.testing.assert_close(pairs.values, expected, **CLOSE)
        torch.testing.assert_close(pairs.values.sum((1, 2)), dense[:, q, k].sum((1, 2)), **CLOSE)


@CASES
@given(cases(), HEAD, st.booleans())
def test_the_matrix_equals_loops(case: Case, head: int, weighted: bool) -> None:
    weights = case.weights.scores(case.x)[head].softmax(1) if weighted else None
    expected = torch.zeros(LATENTS, LATENTS, dtype=F64)
    dense, mask = dense_pairs(case, head).abs(), seen(case)
    for q in range(TOKENS):
        for k in range(TOKENS):
            if mask[q, k]:
                expected += dense[q, k] * (1 if weights is None else weights[q, k])
    ours = attention_interactions(case.view, head, case.latents, case.positions, weights)
    assert ours.is_sparse
    assert ours.is_coalesced()
    assert ours.dtype == F64
    torch.testing.assert_close(ours.to_dense(), expected, **CLOSE)
    row, column = ours.indices()
    # Sorted, without repeats: what "coalesced" promises.
    assert ((LATENTS * row + column).diff() > 0).all()
    assert (ours.values() != 0).all()


@CASES
@given(cases(), HEAD, st.integers(1, 3))
def test_chunks_do_not_change_sums(case: Case, head: int, chunk: int) -> None:
    case = replace(case, weights=replace(case.weights, rotary=ROTARIES[1]))
    arguments = case.view, head, case.latents, case.positions
    whole, kept = attention_interactions(*arguments), keep_pairs(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossproof.interactions.attention_pairs.CHUNK", 30 * chunk)
        torch.testing.assert_close(
            attention_interactions(*arguments).to_dense(), whole.to_dense(), **CLOSE
        )
        for name in ("value", "kept", "omitted"):
            torch.testing.assert_close(
                getattr(keep_pairs(*arguments), name), getattr(kept, name), **CLOSE
            )


@CASES
@given(cases(), HEAD)
def test_frequencies_of_zero_are_no_rotation(case: Case, head: int) -> None:
    plain = replace(case, weights=replace(case.weights, rotary=None))
    still = replace(case, weights=replace(case.weights, rotary=Rotary(torch.zeros(2, dtype=F64))))
    torch.testing.assert_close(
        attention_interactions(plain.view, head, plain.latents, case.positions).to_dense(),
        attention_interactions(still.view, head, still.latents, case.positions).to_dense(),
        **CLOSE,
    )


def rule_mask(dense: Tensor, largest: int, threshold: float, chosen: Tensor | None) -> Tensor:
    """Which of the pairs [i, j] of one query and key are kept."""
    size = dense.abs().flatten()
    keep = size >= threshold
    keep[size.argsort(descending=True)[:largest]] = True
    keep = keep.view_as(dense)
    return keep if chosen is None else keep | chosen


@CASES
@given(
    cases(),
    HEAD,
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, math.inf]),
    st.booleans(),
)
def test_kept_pairs_equal_loops_and_bound_the_change(
    case: Case, head: int, largest: int, threshold: float, choose: bool
) -> None:
    chosen = None
    if choose:
        chosen = torch.rand(LATENTS, LATENTS, generator=torch.Generator().manual_seed(0)) < 0.3
    kept = keep_pairs(
        case.view,
        head,
        case.latents,
        case.positions,
        largest=largest,
        threshold=threshold,
        chosen=chosen,
    )
    dense = dense_pairs(case, head)
    for q in range(TOKENS):
        for k in range(TOKENS):
            pairs = dense[q, k]
            keep = rule_mask(pairs, largest, threshold, chosen)
            torch.testing.assert_close(kept.value[q, k], pairs[keep].sum(), **CLOSE)
            torch.testing.assert_close(kept.kept[q, k], pairs[keep].abs().sum(), **CLOSE)
            torch.testing.assert_close(kept.omitted[q, k], pairs[~keep].abs().sum(), **CLOSE)
    parts = case.parts(head)
    gap = (parts.total - kept.scores(parts)).abs()
    assert (gap <= kept.bound(parts) * (1 + SLACK) + SLACK).all()


@CASES
@given(cases(error=(0.0,)), HEAD)
def test_keeping_everything_is_exact(case: Case, head: int) -> None:
    kept = keep_pairs(case.view, head, case.latents, case.positions, threshold=0.0)
    parts = case.parts(head)
    assert kept.omitted.abs().max() == 0
    torch.testing.assert_close(kept.scores(parts), parts.total, **CLOSE)
    assert parts.residual_bound.max() < 1e-9


@CASES
@given(cases(), HEAD)
def test_the_omitted_sum_shrinks_as_more_is_kept(case: Case, head: int) -> None:
    arguments = case.view, head, case.latents, case.positions
    sums = [keep_pairs(*arguments, largest=n) for n in range(5)]
    assert sums[0].kept.abs().max() == 0
    for fewer, more in pairwise(sums):
        assert (more.omitted <= fewer.omitted + SLACK).all()
        torch.testing.assert_close(more.omitted + more.kept, fewer.omitted + fewer.kept, **CLOSE)
    matrix = attention_interactions(case.view, head, case.latents, case.positions)
    torch.testing.assert_close(sums[0].omitted[seen(case)].sum(), matrix.to_dense().sum(), **CLOSE)


def test_dropping_the_residual_or_one_of_its_parts_is_refuted() -> None:
    case = make_case(1, error=3.0)
    kept, parts = keep_pairs(case.view, 0, case.latents, case.positions), case.parts(0)
    gap = (parts.total - kept.scores(parts)).abs()
    sizes = [part.abs() for part in (parts.residual_query, parts.residual_key, parts.residual_both)]
    assert (gap > kept.omitted + SLACK).any()
    for left_out in range(3):
        rest = sum(size for place, size in enumerate(sizes) if place != left_out)
        assert (gap > kept.omitted + rest + SLACK).any()


def test_signed_sums_are_no_bound() -> None:
    """One omitted pair of each sign: their sum is smaller than the change keeping neither makes."""
    case = make_case(2, error=0.0)
    parts, none = case.parts(1), keep_pairs(case.view, 1, case.latents, case.positions, largest=0)
    dense = dense_pairs(case, 1)
    gap = (parts.total - none.scores(parts)).abs()
    torch.testing.assert_close(gap, dense.sum((2, 3)).abs(), **CLOSE)
    assert (none.omitted > gap + SLACK).any()
    # Where all pairs have one sign the bound is attained.
    alike = (dense >= 0).flatten(2).all(2) | (dense <= 0).flatten(2).all(2)
    torch.testing.assert_close(gap[alike], none.omitted[alike], **CLOSE)
    assert (gap[alike] > 0.1).any()


@CASES
@given(cases(), HEAD)
def test_rescaling_a_latent_against_its_atom_changes_nothing(case: Case, head: int) -> None:
    factors = torch.linspace(0.3, 3, LATENTS, dtype=F64)
    other = replace(
        case, activations=case.activations * factors, decoder=case.decoder / factors[:, None]
    )
    torch.testing.assert_close(
        attention_interactions(case.view, head, case.latents, case.positions).to_dense(),
        attention_interactions(other.view, head, other.latents, case.positions).to_dense(),
        **CLOSE,
    )


@CASES
@given(cases(), HEAD)
def test_the_interaction_ignores_biases_and_the_residual(case: Case, head: int) -> None:
    weights = replace(case.weights, b_Q=case.weights.b_Q + 1, b_K=case.weights.b_K - 2)
    other = replace(case, weights=weights, bias=case.bias + 5, x=case.x * 2)
    ours, theirs = (keep_pairs(c.view, head, c.latents, c.positions) for c in (case, other))
    assert torch.equal(ours.omitted, theirs.omitted)
    assert torch.equal(ours.value, theirs.value)


@CASES
@given(cases(), st.floats(-2, 2), st.floats(-2, 2))
def test_values_are_linear_and_sum_to_the_output(case: Case, s: float, t: float) -> None:
    view, latents = case.view, case.latents
    pattern = case.weights.scores(case.x, case.positions).tril().softmax(-1)
    out = case.weights.b_O.expand(TOKENS, D).clone()
    error = case.x - case.activations @ case.decoder - case.bias
    for head in range(HEADS):
        written = ov_contributions(view, head, latents)
        at_key = torch.zeros(TOKENS, D, dtype=F64).index_add(0, latents.token_index, written)
        at_key += ov_constant(view, head) + error @ case.weights.ov(head)
        out += pattern[head] @ at_key
        mixed = latents.with_values(s * latents.values + t * latents.values**2)
        squared = latents.with_values(latents.values**2)
        torch.testing.assert_close(
            ov_contributions(view, head, mixed),
            s * written + t * ov_contributions(view, head, squared),
            **CLOSE,
        )
    torch.testing.assert_close(out, case.weights.output(case.x, pattern), **CLOSE)


def test_one_contribution_written_out() -> None:
    case = make_case(5)
    group = 1
    for entry, token in enumerate(case.latents.token_index.tolist()):
        latent = int(case.latents.indices[entry])
        value = case.decoder[latent] @ case.weights.W_V[group] @ case.weights.W_O[2]
        expected = case.activations[token, latent] * value
        torch.testing.assert_close(ov_contributions(case.view, 2, case.latents)[entry], expected)


@given(st.integers(0, 2**31))
@examples(5)
def test_single_precision_inputs_are_summed_in_double(seed: int) -> None:
    case = make_case(seed, rotary=ROTARIES[1])
    assume(len(case.latents.values) > 3)
    single = case.weights.to(dtype=torch.float32)
    view = AttentionDictionary.build(single, case.decoder.float(), case.bias.float())
    latents = SparseLatents.from_dense(case.activations.float())
    parts = score_parts(view, 0, latents, case.x.float(), case.positions)
    assert parts.total.dtype == F64
    exact = single.to(dtype=F64).scores(case.x.float().double(), case.positions)[0]
    torch.testing.assert_close(parts.total, exact, rtol=1e-12, atol=1e-12)
    assert keep_pairs(view, 0, latents, case.positions).omitted.dtype == F64

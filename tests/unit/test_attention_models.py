"""Dictionaries at the attention inputs of real architectures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dictionaries import random_crosscoder, standard_rotary
from rounding import close
from tiny_models import ARCHITECTURES, CONTEXT, D_MODEL, N_BLOCKS, random_tokens
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import (
    AttentionDictionary,
    attention_dictionary,
    attention_interactions,
    keep_pairs,
    ov_constant,
    ov_contributions,
    pair_scores,
    score_parts,
)
from crossproof.lm import LanguageModel, load_model

CONFIG = CrosscoderConfig(n_latents=24, sparsity="topk", k=5)


def crosscoder_of(model: LanguageModel, *names: str) -> Crosscoder:
    hookpoints = model.hookpoints(names or ("blocks.*.attn.hook_in", "blocks.*.hook_resid_pre"))
    return random_crosscoder(CONFIG, hookpoints, model.d_model, dtype=torch.float32)


def encoded(
    model: LanguageModel, crosscoder: Crosscoder, block: int, tokens: Tensor
) -> tuple[Tensor, Tensor, SparseLatents]:
    """Input and output [T, D] of the block's attention for one sequence, and its latents."""
    values = model.activations(tokens, crosscoder.hookpoints.names)[0]
    names = [f"blocks.{block}.attn.hook_in", f"blocks.{block}.attn.hook_out"]
    x, written = model.activations(tokens, names)[0].unbind(1)
    return x, written, crosscoder.encode(values)


@pytest.mark.parametrize("block", range(N_BLOCKS))
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_parts_sum_to_the_models_scores(
    language_models: dict[str, LanguageModel], kind: str, block: int
) -> None:
    model = language_models[kind]
    crosscoder = crosscoder_of(model)
    x, written, latents = encoded(model, crosscoder, block, random_tokens(1, CONTEXT))
    view, weights = attention_dictionary(model, crosscoder, block), model.attention(block)
    scores = weights.scores(x)
    pattern = weights.pattern(scores).double()
    name = f"blocks.{block}.attn.hook_in"
    x_hat = crosscoder.decode(latents)[:, crosscoder.hookpoints.index(name)]
    of_reconstruction = weights.to(dtype=torch.float64).scores(x_hat.double())
    out = weights.b_O.double().expand(CONTEXT, D_MODEL).clone()
    for head in range(weights.n_heads):
        parts = score_parts(view, head, latents, x)
        for ours, theirs in (
            (parts.total, scores[head].double()),
            (parts.reconstructed, of_reconstruction[head]),
        ):
            torch.testing.assert_close(ours, theirs, **close(4 * D_MODEL, theirs, torch.float32))
        for part in (parts.constant, parts.query, parts.key, parts.query_key, parts.residual):
            assert part.abs().mean() > 1e-3  # nothing is zero for want of a test
        values = ov_contributions(view, head, latents)
        at_key = torch.zeros(CONTEXT, D_MODEL).double().index_add(0, latents.token_index, values)
        at_key += ov_constant(view, head) + (x - x_hat).double() @ view.attention.ov(head)
        out += pattern[head] @ at_key
    rounding = close(4 * D_MODEL, (1 + scores.abs().max()) * written, torch.float32)
    torch.testing.assert_close(out, written.double(), **rounding)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_pairs_of_two_positions_sum_to_the_query_key_part(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    crosscoder = crosscoder_of(model)
    x, _, latents = encoded(model, crosscoder, 1, random_tokens(1, CONTEXT))
    view = attention_dictionary(model, crosscoder, 1)
    pairs = pair_scores(view, latents, 13, 7)
    assert pairs.values.shape == (
        view.attention.n_heads,
        len(pairs.query_latents),
        len(pairs.key_latents),
    )
    for head in range(view.attention.n_heads):
        parts, kept = score_parts(view, head, latents, x), keep_pairs(view, head, latents)
        torch.testing.assert_close(pairs.values[head].sum(), parts.query_key[13, 7])
        size = pairs.values[head].abs()
        torch.testing.assert_close(kept.kept[13, 7], size.max())
        torch.testing.assert_close(kept.omitted[13, 7], size.sum() - size.max())
        gap = (parts.total - kept.scores(parts)).abs()
        assert (gap <= kept.bound(parts) + 1e-9).all()


def test_local_attention_charges_its_window_only(gpt_neo: LanguageModel) -> None:
    crosscoder = crosscoder_of(gpt_neo)
    x, _, latents = encoded(gpt_neo, crosscoder, 1, random_tokens(1, CONTEXT))
    view = attention_dictionary(gpt_neo, crosscoder, 1)
    omitted = keep_pairs(view, 0, latents, largest=0).omitted
    offset = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
    inside = (offset >= 0) & (offset < 8)
    matrix = attention_interactions(view, 0, latents)
    torch.testing.assert_close(matrix.to_dense().sum(), omitted[inside].sum())
    pattern = gpt_neo.attention(1).pattern(gpt_neo.attention(1).scores(x))[0]
    weighted = attention_interactions(view, 0, latents, weights=pattern)
    torch.testing.assert_close(weighted.to_dense().sum(), (pattern * omitted).sum())
    pair_scores(view, latents, 10, 3)
    with pytest.raises(CrossproofError, match=r"token 10 does not see token 2.*less than 8"):
        pair_scores(view, latents, 10, 2)


def test_positions_replace_the_row_numbers(language_models: dict[str, LanguageModel]) -> None:
    """A sequence without some of its tokens gives the same numbers for the others."""
    model = language_models["llama"]
    crosscoder = crosscoder_of(model)
    x, _, latents = encoded(model, crosscoder, 0, random_tokens(1, CONTEXT))
    view = attention_dictionary(model, crosscoder, 0)
    places = torch.arange(4, CONTEXT)
    some = latents.rows(4, CONTEXT)
    torch.testing.assert_close(
        score_parts(view, 1, some, x[4:], places).total,
        score_parts(view, 1, latents, x).total[4:, 4:],
    )
    torch.testing.assert_close(
        pair_scores(view, some, 8, 3, places).values, pair_scores(view, latents, 12, 7).values
    )


def test_matrices_of_sequences_add_up(language_models: dict[str, LanguageModel]) -> None:
    model = language_models["llama"]
    crosscoder = crosscoder_of(model)
    view = attention_dictionary(model, crosscoder, 0)
    matrices = [
        attention_interactions(view, 2, encoded(model, crosscoder, 0, tokens[None])[2])
        for tokens in random_tokens(3, CONTEXT)
    ]
    total = sum(matrices[1:], matrices[0]).coalesce()
    torch.testing.assert_close(
        total.to_dense(), torch.stack([m.to_dense() for m in matrices]).sum(0)
    )


def test_without_active_latents_only_constants_and_the_residual_remain(
    gpt_neo: LanguageModel,
) -> None:
    view = attention_dictionary(gpt_neo, crosscoder_of(gpt_neo), 0)
    none = SparseLatents.from_dense(torch.zeros(4, 24))
    x = torch.randn(4, D_MODEL, generator=torch.Generator().manual_seed(0))
    for view_ in (view, with_rotary(view)):
        parts = score_parts(view_, 0, none, x)
        assert (parts.query == 0).all()
        assert (parts.query_key == 0).all()
        matrix = attention_interactions(view_, 0, none)
        assert matrix.shape == (24, 24)
        assert matrix.values().numel() == 0
        assert (keep_pairs(view_, 0, none).omitted == 0).all()
        assert pair_scores(view_, none, 1, 0).values.shape == (2, 0, 0)


def with_rotary(view: AttentionDictionary) -> AttentionDictionary:
    attention = replace(view.attention, rotary=standard_rotary(4))
    return AttentionDictionary.build(attention, view.decoder, view.bias)


def test_the_scale_of_the_crosscoder_is_accounted_for(gpt_neo: LanguageModel) -> None:
    crosscoder = crosscoder_of(gpt_neo)
    assert not torch.equal(crosscoder.scale, torch.ones(len(crosscoder.hookpoints)))
    before = attention_dictionary(gpt_neo, crosscoder, 1)
    crosscoder.fold()
    after = attention_dictionary(gpt_neo, crosscoder, 1)
    for name in ("Q", "K", "Q0", "K0"):
        torch.testing.assert_close(getattr(before, name), getattr(after, name))


def test_a_crosscoder_without_the_hookpoint_is_an_error(gpt_neo: LanguageModel) -> None:
    crosscoder = crosscoder_of(gpt_neo, "blocks.0.attn.hook_in", "blocks.1.hook_resid_pre")
    attention_dictionary(gpt_neo, crosscoder, 0)
    with pytest.raises(CrossproofError, match=r"does not decode .*'blocks\.1\.attn\.hook_in'"):
        attention_dictionary(gpt_neo, crosscoder, 1)
    with pytest.raises(CrossproofError, match="blocks 0 to 1; there is no block 5"):
        attention_dictionary(gpt_neo, crosscoder, 5)


def test_bad_arguments_are_named(gpt_neo: LanguageModel) -> None:
    crosscoder = crosscoder_of(gpt_neo)
    x, _, latents = encoded(gpt_neo, crosscoder, 0, random_tokens(1, CONTEXT))
    view = attention_dictionary(gpt_neo, crosscoder, 0)
    uses = (
        lambda head: score_parts(view, head, latents, x),
        lambda head: attention_interactions(view, head, latents),
        lambda head: keep_pairs(view, head, latents),
        lambda head: ov_contributions(view, head, latents),
        lambda head: ov_constant(view, head),
        lambda head: attention_interactions(with_rotary(view), head, latents),
    )
    for use in uses:
        for head in (-1, 2):
            with pytest.raises(CrossproofError, match=f"heads 0 to 1; there is no head {head}"):
                use(head)
    with pytest.raises(CrossproofError, match="of 32 tokens and the activations of 31"):
        score_parts(view, 0, latents, x[:31])
    with pytest.raises(CrossproofError, match="32 tokens but 3 positions"):
        score_parts(view, 0, latents, x, torch.arange(3))
    with pytest.raises(CrossproofError, match="of 25 latents, and this one has 24"):
        score_parts(view, 0, SparseLatents.from_dense(torch.ones(32, 25)), x)
    with pytest.raises(CrossproofError, match=r"tokens 0 to 31; there is no pair \(32, 0\)"):
        pair_scores(view, latents, 32, 0)
    with pytest.raises(CrossproofError, match="token 3 does not see token 4"):
        pair_scores(view, latents, 3, 4)
    with pytest.raises(CrossproofError, match="-1 pairs"):
        keep_pairs(view, 0, latents, largest=-1)
    with pytest.raises(CrossproofError, match=r"weights .*\[32, 32\]"):
        attention_interactions(view, 0, latents, weights=torch.ones(2, 32))


def test_a_dictionary_of_another_width_is_an_error(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match=r"width 5.*width 16"):
        AttentionDictionary.build(gpt_neo.attention(0), torch.ones(3, 5), torch.ones(5))


def test_the_bundled_models_attention() -> None:
    model = load_model()
    weights = model.attention(3)
    assert (weights.n_heads, weights.d_head, weights.scale) == (4, 32, 1.0)
    assert weights.rotary is None

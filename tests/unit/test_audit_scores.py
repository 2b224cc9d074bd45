"""Token scores against brute force, batched Shapley-Taylor against the one-token form."""

from __future__ import annotations

import pytest
import torch
from audits import random_codes, reading, views
from tiny_models import random_tokens

from crossproof.auditing.readings import read_batches
from crossproof.auditing.scores import token_scores, token_table
from crossproof.auditing.shapley import shapley_pairs, strongest
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import output_game, shapley_taylor
from crossproof.interactions.shapley import all_coalitions, pair_shares
from crossproof.lm import LanguageModel
from crossproof.lm.constants import oscillation


def test_i_is_the_sum_over_neurons_of_all_but_the_largest_contribution() -> None:
    codes, mlps = random_codes(6), views()
    expected = torch.zeros(6)
    for token in range(6):
        for view in mlps.values():
            p = codes[token][:, None] * view.G
            rest = p.abs().sum(0) - p.abs().amax(0)
            expected[token] += (rest * view.mlp.W_out.norm(dim=1)).sum()
    found = token_scores(SparseLatents.from_dense(codes), mlps, "I")
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_j_weighs_by_the_oscillation_of_the_slope() -> None:
    codes, mlps = random_codes(6), views()
    expected = torch.zeros(6)
    for token in range(6):
        for view in mlps.values():
            p = codes[token][:, None] * view.G
            low = view.baseline + p.clamp_max(0).sum(0)
            high = view.baseline + p.clamp_min(0).sum(0)
            swing = oscillation(view.mlp.activation, low, high)
            rest = p.abs().sum(0) - p.abs().amax(0)
            expected[token] += (rest * swing * view.mlp.W_out.norm(dim=1)).sum()
    found = token_scores(SparseLatents.from_dense(codes), mlps, "J")
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_second_differences_are_those_of_every_pair_among_the_others(gated: bool) -> None:
    codes, mlps = random_codes(3).double(), views(gated=gated)
    expected = torch.zeros(3, dtype=torch.float64)
    for token in range(3):
        active = codes[token].nonzero()[:, 0].tolist()
        for view in mlps.values():

            def neurons(members: set[int], view=view, token=token):  # type: ignore[no-untyped-def]
                chosen = torch.zeros(codes.shape[1], dtype=torch.float64)
                chosen[list(members)] = codes[token][list(members)]
                gate = None if view.G_gate is None else (chosen @ view.G_gate.double())[None]
                return view.neurons((chosen @ view.G.double())[None], gate)[0]

            norms = view.mlp.W_out.norm(dim=1).double()
            for i, h in enumerate(active):
                for k in active[i + 1 :]:
                    rest = set(active) - {h, k}
                    delta = neurons(rest | {h, k}) - neurons(rest | {h}) - neurons(rest | {k})
                    expected[token] += ((delta + neurons(rest)).abs() * norms).sum()
    found = token_scores(SparseLatents.from_dense(codes.float()), mlps, "second")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_token_with_one_latent_scores_zero_in_every_form() -> None:
    codes = random_codes(4, active=1)
    for form in ("I", "J", "second"):
        assert token_scores(SparseLatents.from_dense(codes), views(), form).abs().max() == 0


def test_gated_mlps_have_no_j_and_an_unknown_form_is_named() -> None:
    code = SparseLatents.from_dense(random_codes(4))
    with pytest.raises(CrossproofError, match="gated"):
        token_scores(code, views(gated=True), "J")
    with pytest.raises(CrossproofError, match="no token score 'K'"):
        token_scores(code, views(), "K")


@pytest.mark.parametrize("gated", [False, True])
def test_batched_shapley_taylor_equals_the_form_for_one_token(gated: bool) -> None:
    mlps = views(gated=gated)
    code = SparseLatents.from_dense(random_codes(5, active=4))
    entry = strongest(code, mlps, 4)
    latent, found = code.indices[entry], shapley_pairs(code, entry, mlps)
    one, other = torch.triu_indices(4, 4, 1)
    for token in range(5):
        expected = torch.zeros(6, dtype=torch.float64)
        for view in mlps.values():
            result = shapley_taylor(output_game(view, code, token))
            assert result.players.tolist() == latent[token].tolist()
            expected += result.matrix[one, other]
        torch.testing.assert_close(found[token].double(), expected, rtol=1e-3, atol=1e-4)


def test_the_strongest_latents_play_and_missing_ones_do_nothing() -> None:
    mlps = views()
    code = SparseLatents.from_dense(random_codes(5, active=4))
    sizes = sum(view.G.abs() @ view.mlp.W_out.norm(dim=1) for view in mlps.values())
    latent = code.indices[strongest(code, mlps, 3)]
    dense = code.dense()
    for token in range(5):
        best = (dense[token].abs() * sizes).topk(3).indices
        assert latent[token].tolist() == sorted(best.tolist())
    few = SparseLatents.from_dense(random_codes(2, active=2))
    entry = strongest(few, mlps, 4)
    assert (entry[:, :2] == -1).all()
    assert (shapley_pairs(few, entry, mlps) > 1e-4).sum(1).tolist() == [1, 1]


def test_pair_shares_give_out_what_pairs_add() -> None:
    """The indices of all pairs sum to v(all) less what members do alone (efficiency)."""
    values = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone = sum(values[1 << i] - values[0] for i in range(4))
    assert float((pair_shares(all_coalitions(4)).T @ values).sum()) == pytest.approx(
        float(values[15] - values[0] - alone)
    )
    assert pair_shares(all_coalitions(1)).shape == (2, 0)


def test_the_table_has_a_row_for_every_scored_token_and_does_not_depend_on_the_batch(
    gpt_neo: LanguageModel,
) -> None:
    tokens = torch.cat([torch.zeros(5, 1, dtype=torch.int64), random_tokens(5, 9)], 1)
    tokens[3, 4:] = 0  # a short text: the rest is padding
    crosscoder = Crosscoder(CrosscoderConfig(24, "topk", 5), gpt_neo.hookpoints(), gpt_neo.d_model)
    crosscoder.initialise(torch.randn(64, len(gpt_neo.hookpoints()), gpt_neo.d_model), 0)
    whole = token_table(read_batches(gpt_neo, crosscoder, tokens), ("I", "J"))
    parts = token_table(read_batches(gpt_neo, crosscoder, tokens, batch_texts=2), ("I", "J"))
    assert len(whole) == 4 * 9 + 3
    assert (whole.text == parts.text).all()
    assert (whole.ids == tokens[tokens != 0].numpy()).all()
    for name, values in whole.columns.items():
        torch.testing.assert_close(
            torch.from_numpy(values), torch.from_numpy(parts.columns[name]), rtol=1e-3, atol=1e-4
        )
    losses = gpt_neo.token_losses(tokens)
    assert whole.columns["loss"][1] == pytest.approx(float(losses[0, 1]), rel=1e-5)


def test_errors_and_norms_are_means_over_hookpoints() -> None:
    r = reading(random_codes(6), [6])
    square = ((r.x - r.x_hat) ** 2).sum(2) / (r.x**2).sum(2)
    torch.testing.assert_close(r.errors, square.mean(1))
    torch.testing.assert_close(r.norms, r.x.norm(dim=2).prod(1) ** (1 / 3))


def test_scores_of_tokens_become_scores_of_texts() -> None:
    r = reading(random_codes(6), [2, 4])
    values = torch.tensor([1.0, 3.0, 2.0, -4.0, 0.0, 2.0])
    assert r.by_text(values, "max").tolist() == [3.0, 2.0]
    assert r.by_text(values, "mean").tolist() == [2.0, 0.0]


def test_texts_without_ordinary_tokens_and_no_texts_are_refused(gpt_neo: LanguageModel) -> None:
    crosscoder = Crosscoder(CrosscoderConfig(24), gpt_neo.hookpoints(), gpt_neo.d_model)
    tokens = random_tokens(3, 6)
    tokens[1] = 0
    with pytest.raises(CrossproofError, match="Text 2 has no ordinary token"):
        list(read_batches(gpt_neo, crosscoder, tokens))
    with pytest.raises(CrossproofError, match="no texts to score"):
        token_table([])
    names = gpt_neo.hookpoints(["blocks.1.hook_resid_post"])
    blind = Crosscoder(CrosscoderConfig(24), names, gpt_neo.d_model)
    with pytest.raises(CrossproofError, match="No MLP reads"):
        list(read_batches(gpt_neo, blind, random_tokens(3, 6)))

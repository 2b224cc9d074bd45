"""Several dictionaries at once: contributions against brute force, and what counts twice."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from dictionaries import F64, random_kind, random_transcoder

from crossproof.crosscoder import Crosscoder, encode_batches
from crossproof.crosscoder.layout import LatentGroup, Layout
from crossproof.crosscoder.side_by_side import side_by_side
from crossproof.errors import CrossproofError
from crossproof.evaluation.naming import latent_name
from crossproof.interactions.views import mlp_views, needs_of, seen_by
from crossproof.lm import LanguageModel, load_model
from crossproof.lm.stream import mlp_input

LATENTS = 9


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_model(tiny_models.llama(4).double())


def sae(model: LanguageModel, name: str, latents: int = LATENTS) -> Crosscoder:
    return random_kind(model, [name], Layout.joint(latents, 1), "relu", 7)


def test_latents_of_a_set_add_up_to_what_subtracting_each_layer_does(model: LanguageModel) -> None:
    """A transcoder a layer: its latents' contributions to later neurons, at the frozen norm."""
    last = model.n_blocks - 1
    rules = ("topk", "batch_topk", "relu", "jumprelu")
    members = {
        f"layer {m}": random_transcoder(model, m, skip=m == 1, rule=rules[m % 4])
        for m in range(last)
    }
    joined = side_by_side(model, members)
    assert joined.W_enc.shape[1] == joined.W_dec.shape[1] == 1  # as much as the latents use
    views = mlp_views(model, joined, (last,))
    tokens = tiny_models.random_tokens(3, 9)
    (batch,) = encode_batches(model, joined, tokens, 3, needs_of(views))
    seen = seen_by(views, batch)[last]
    mlp, norm = model.mlp(last).to(dtype=F64), mlp_input(model, last).norm.to(batch.x)
    stream = batch.model_activations[mlp_input(model, last).stream][batch.scored].to(F64)
    s = norm.denominator(stream)[:, None]

    def pre(r: torch.Tensor) -> torch.Tensor:
        return (norm.weight * norm.centre(r) / s + norm.bias) @ mlp.W_in + mlp.b_in

    for at, (name, member) in enumerate(members.items()):
        own = range(at * LATENTS, (at + 1) * LATENTS)
        assert joined.members[name] == own.start
        (alone,) = encode_batches(model, member, tokens, 3)
        mine = batch.latents.dense()[:, own.start : own.stop]
        torch.testing.assert_close(mine, alone.latents.dense(), rtol=1e-12, atol=1e-12)
        # Less bias and skip, which are not of the latents, it is what the layer's latents wrote.
        out = member.decode(alone.latents, alone.x)[:, 1]
        out = out - member.b_dec[1] / member.scale[1] - member.affine(alone.x)[:, 1]
        expected = pre(stream) - pre(stream - out)
        chosen = seen.latents.keep(
            (seen.latents.indices >= own.start) & (seen.latents.indices < own.stop)
        )
        value, _ = seen.dictionary.sums(chosen)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)
    value, _ = seen.dictionary.sums(seen.latents)
    torch.testing.assert_close(
        seen.dictionary.baseline + value, pre(stream), rtol=1e-11, atol=1e-11
    )


def test_parts_counted_twice_are_refused(model: LanguageModel) -> None:
    below = random_transcoder(model, 0, False, "topk")
    cases = {
        ("blocks.1.hook_resid_pre", "both"): "already contains blocks.0.hook_mlp_out",
        ("blocks.1.mlp.hook_in", "input"): "already contains blocks.0.hook_mlp_out",
    }
    for (name, other), words in cases.items():
        with pytest.raises(CrossproofError, match=words):
            side_by_side(model, {"layer 0": below, other: sae(model, name)})
    with pytest.raises(CrossproofError, match=r"both describe blocks\.0\.hook_mlp_out"):
        side_by_side(model, {"one": below, "two": below})
    with pytest.raises(CrossproofError, match=r"already contains blocks\.0\.hook_resid_post"):
        side_by_side(
            model,
            {
                "a": sae(model, "blocks.0.hook_resid_post"),
                "b": sae(model, "blocks.1.hook_resid_post"),
            },
        )


def test_a_stream_and_what_is_added_to_it_stand_side_by_side(model: LanguageModel) -> None:
    members = {
        "stream": sae(model, "blocks.1.hook_resid_pre"),
        "attention": sae(model, "blocks.1.hook_attn_out", 5),
    }
    joined = side_by_side(model, members)
    (view,) = mlp_views(model, joined, (1,)).values()
    assert joined.hookpoints.names == ("blocks.1.hook_resid_pre", "blocks.1.hook_attn_out")
    assert view.hookpoints == (0, 1)
    assert latent_name(9, joined.members) == "attention:0"
    assert latent_name(8, joined.members) == "stream:8"
    assert latent_name(8, {}) == "8"


def test_a_skip_to_an_mlps_input_is_part_of_each_tokens_baseline(model: LanguageModel) -> None:
    names = ["blocks.1.hook_resid_pre", "blocks.2.mlp.hook_in"]
    layout = Layout((LatentGroup(LATENTS, (0,), (1,)),), ((0, 1),))
    made = random_kind(model, names, layout)
    views = mlp_views(model, made)
    (batch,) = encode_batches(model, made, tiny_models.random_tokens(2, 7), 2, needs_of(views))
    kept = batch.latents_only(needs_of(views))  # as examples of pairs are looked at
    for each in (batch, kept):
        seen = seen_by(views, each)[2]
        value, _ = seen.dictionary.sums(seen.latents)
        mlp = model.mlp(2).to(dtype=F64)
        decoded = made.decode(batch.latents, batch.x)[:, 1]
        expected = decoded @ mlp.W_in + mlp.b_in
        torch.testing.assert_close(seen.dictionary.baseline + value, expected)

"""Views of norms and unembedding equal the models' own, on every sequential architecture."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import N_BLOCKS, SEQUENTIAL, random_tokens

from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.lm.unembedding import (
    attention_norm,
    check_sequential,
    mlp_norm,
    unembedding,
)
from crossproof.proof.attribution.model_parts import model_parts


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_the_views_are_the_models_own(kind: str, language_models: dict[str, LanguageModel]) -> None:
    model, tokens = language_models[kind], random_tokens(3, 12)
    last = model.activations(tokens, [f"blocks.{N_BLOCKS - 1}.hook_resid_post"])[:, :, 0]
    ours = unembedding(model)(last.double())
    torch.testing.assert_close(ours, model.logits(tokens).double(), rtol=1e-4, atol=1e-4)
    for block in range(N_BLOCKS):
        for view, before, after in (
            (mlp_norm, "hook_resid_mid", "mlp.hook_in"),
            (attention_norm, "hook_resid_pre", "attn.hook_in"),
        ):
            names = [f"blocks.{block}.{name}" for name in (before, after)]
            read, written = model.activations(tokens, names).double().unbind(2)
            torch.testing.assert_close(view(model, block)(read), written, rtol=1e-4, atol=1e-4)
        check_sequential(model, block)


def test_offsets_are_what_biases_add(language_models: dict[str, LanguageModel]) -> None:
    view = unembedding(language_models["gpt2"])
    r = torch.randn(3, 16, dtype=torch.float64)
    linear = view(r) - view.offsets
    norm = view.norm
    expected = norm.centre(r) / norm.scale(r)[:, None] @ norm.directions(view.weight).T * 4
    torch.testing.assert_close(linear, expected)


def test_parallel_blocks_are_refused(language_models: dict[str, LanguageModel]) -> None:
    model = language_models["gpt-neox"]
    for ask in (mlp_norm, check_sequential):
        with pytest.raises(CrossproofError, match=r"lacks blocks\.0\.hook_resid_mid"):
            ask(model, 0)
    with pytest.raises(CrossproofError, match="in turn"):
        model_parts(model)


def test_a_model_that_changes_its_logits_is_refused(
    language_models: dict[str, LanguageModel],
) -> None:
    model = copy.deepcopy(language_models["llama"])
    head = model._bare.get_output_embeddings()
    head.register_forward_hook(lambda _m, _i, out: torch.tanh(out))
    with pytest.raises(CrossproofError, match="more than a norm and a linear map"):
        unembedding(model)


def test_norm_weights_stored_less_one_are_read(language_models: dict[str, LanguageModel]) -> None:
    model = copy.deepcopy(language_models["llama"])
    module = model._sites["ln_final.hook_in"].module

    def shifted(_module: object, arguments: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x = arguments[0]
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        return (1 + module.weight) * scaled

    module.register_forward_hook(lambda m, given, _out: shifted(m, given))
    view = unembedding(model)
    torch.testing.assert_close(view.norm.weight, 1 + module.weight.double())

"""Mixtures of experts against the model's own modules: Mixtral, Qwen-MoE and OLMoE forms."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model


@pytest.fixture(scope="module", params=list(tiny_models.MIXTURES))
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    return load_model(tiny_models.MIXTURES[request.param]().double())


def test_experts_weighed_by_the_router_are_the_blocks_output(model: LanguageModel) -> None:
    names = ["blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"]
    tokens = tiny_models.random_tokens(3, 11)
    read, written = model.activations(tokens, names).flatten(0, 1).unbind(1)
    mixture = model.mixture(1)
    torch.testing.assert_close(mixture(read), written, rtol=1e-10, atol=1e-12)
    weights = mixture.route(read)
    routed = 4  # of all experts
    assert ((weights[:, :routed] != 0).sum(1) == 2).all()
    assert len(mixture.experts) == weights.shape[1]
    assert len(mixture.experts) == routed + ("qwen2" in type(model._bare).__name__.lower())


def test_where_a_dense_mlp_is_needed_a_mixture_is_named(model: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="mixture of experts"):
        model.mlp(0)


def test_other_mixtures_are_refused_by_name() -> None:
    model = load_model(tiny_models.gpt_oss())
    with pytest.raises(CrossproofError, match="mixture of experts"):
        model.mixture(0)

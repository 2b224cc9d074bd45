"""A dictionary spliced into a tiny language model."""

from __future__ import annotations

import pytest
import torch
from tiny_models import D_MODEL, END, random_tokens
from torch import Tensor

from crossproof import Crosscoder, CrosscoderConfig, CrossproofError, spliced
from crossproof.lm import LanguageModel
from crossproof.lm.pair import ModelPair

NAMES = ("blocks.0.mlp.hook_in", "blocks.1.mlp.hook_out")


def dictionary(model: LanguageModel, names: tuple[str, ...] = NAMES) -> Crosscoder:
    hookpoints = model.hookpoints(names)
    crosscoder = Crosscoder(CrosscoderConfig(24, "topk", 4), hookpoints, D_MODEL)
    sample = model.activations(random_tokens(20, 12, seed=9), hookpoints.names).flatten(0, 1)
    crosscoder.initialise(sample, seed=0)
    return crosscoder


def text() -> Tensor:
    tokens = random_tokens(3, 9, seed=2)
    tokens[:, 0] = END
    return tokens


def by_hand(model: LanguageModel, crosscoder: Crosscoder, name: str, tokens: Tensor) -> Tensor:
    """One hookpoint's values, token by token: the reconstruction, the model's own at BOS."""
    names = crosscoder.hookpoints.names
    values = model.activations(tokens, names)
    out = values[:, :, names.index(name)].clone()
    for s in range(len(tokens)):
        for t in range(tokens.shape[1]):
            if tokens[s, t] != END:
                x_hat = crosscoder.decode(crosscoder.encode(values[s, t][None]))
                out[s, t] = x_hat[0, names.index(name)].detach()
    return out


def test_logits_and_losses_are_those_of_the_reconstruction(gpt_neo: LanguageModel) -> None:
    crosscoder, tokens = dictionary(gpt_neo), text()
    clean = gpt_neo.logits(tokens)
    replace = {name: by_hand(gpt_neo, crosscoder, name, tokens) for name in NAMES}
    with spliced(gpt_neo, crosscoder) as model:
        assert model is gpt_neo
        torch.testing.assert_close(model.logits(tokens), gpt_neo.logits(tokens))
        inside, losses = model.logits(tokens), model.token_losses(tokens)
    torch.testing.assert_close(inside, gpt_neo.logits(tokens, replace), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses, gpt_neo.token_losses(tokens, replace), rtol=1e-4, atol=1e-4)
    assert (inside - clean).abs().max() > 1e-2
    assert torch.equal(gpt_neo.logits(tokens), clean)  # outside the block nothing is replaced


def test_chosen_hookpoints_alone_are_replaced_and_what_is_given_wins(
    gpt_neo: LanguageModel,
) -> None:
    crosscoder, tokens = dictionary(gpt_neo), text()
    name = NAMES[1]
    replace = {name: by_hand(gpt_neo, crosscoder, name, tokens)}
    zeros = {name: torch.zeros_like(replace[name])}
    with spliced(gpt_neo, crosscoder, [name]) as model:
        one, given = model.logits(tokens), model.logits(tokens, zeros)
    torch.testing.assert_close(one, gpt_neo.logits(tokens, replace), rtol=1e-4, atol=1e-4)
    assert torch.equal(given, gpt_neo.logits(tokens, zeros))


def test_two_models_lose_by_the_one_that_is_spliced(gpt_neo: LanguageModel) -> None:
    pair = ModelPair(gpt_neo, gpt_neo)
    crosscoder, tokens = dictionary(pair, ("blocks.0.mlp.hook_in",)), text()
    name = "diff/blocks.0.mlp.hook_in"
    clean = pair.token_losses(tokens)
    replace = {name: by_hand(pair, crosscoder, name, tokens)}
    with spliced(pair, crosscoder, [name]):
        inside = pair.token_losses(tokens)
    torch.testing.assert_close(inside, pair.token_losses(tokens, replace), rtol=1e-4, atol=1e-4)
    assert torch.equal(pair.token_losses(tokens), clean)


def test_errors_name_the_hookpoint_and_leave_the_model_as_it_was(gpt_neo: LanguageModel) -> None:
    crosscoder = dictionary(gpt_neo)
    with (
        pytest.raises(CrossproofError, match=r"writes no 'blocks\.0\.mlp\.hook_out'"),
        spliced(gpt_neo, crosscoder, ["blocks.0.mlp.hook_out"]),
    ):
        pass
    with (
        spliced(gpt_neo, crosscoder),
        pytest.raises(CrossproofError, match="spliced into this model already"),
        spliced(gpt_neo, crosscoder),
    ):
        pass
    assert "logits" not in vars(gpt_neo)

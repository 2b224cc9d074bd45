"""Games whose value is the language model's own loss or logit."""

from __future__ import annotations

import pytest
import torch
from dictionaries import mlp_hookpoints, random_crosscoder
from tiny_models import random_tokens
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.evaluation import language_model_game
from crossproof.interactions import MLPDictionary, shapley_taylor
from crossproof.lm import LanguageModel, mlp_out

POSITION = 5
TOKENS = random_tokens(1, 9, seed=3)[0]


@pytest.fixture
def crosscoder() -> Crosscoder:
    config = CrosscoderConfig(n_latents=12, sparsity="topk", k=4)
    return random_crosscoder(config, mlp_hookpoints(2), 16, dtype=torch.float32)


def by_hand(
    model: LanguageModel, crosscoder: Crosscoder, block: int, present: Tensor
) -> tuple[float, Tensor]:
    """Loss of the next token, and logits [V], with the whole text run once for one coalition."""
    names = crosscoder.hookpoints.names
    own = model.activations(TOKENS[None], [*names, mlp_out(block)])[0]
    code = crosscoder.encode(own[POSITION : POSITION + 1, : len(names)])
    code = code.keep(present)
    place = crosscoder.hookpoints.blocks[block].mlp_in
    output = model.mlp(block)(crosscoder.decode(code)[:, place])
    patched = own[None, :, -1].clone()
    patched[0, POSITION] = output[0]
    replaced = {mlp_out(block): patched}
    losses = model.token_losses(TOKENS[None], replaced)[0]
    return losses[POSITION].item(), model.logits(TOKENS[None], replaced)[0, POSITION]


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
@pytest.mark.parametrize("block", [0, 1])
def test_values_are_those_of_patched_forward_passes(
    language_models: dict[str, LanguageModel], crosscoder: Crosscoder, kind: str, block: int
) -> None:
    model = language_models[kind]
    loss = language_model_game(model, crosscoder, TOKENS, POSITION, block, batch_sequences=3)
    logit = language_model_game(model, crosscoder, TOKENS, POSITION, block, logit=7)
    assert len(loss.players) == 4
    coalitions = torch.rand(7, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    coalitions[0], coalitions[1] = False, True
    losses, logits = loss.value(coalitions), logit.value(coalitions)
    for row, present in enumerate(coalitions):
        expected, scores = by_hand(model, crosscoder, block, present)
        assert losses[row].item() == pytest.approx(expected, abs=1e-4)
        assert logits[row].item() == pytest.approx(scores[7].item(), abs=1e-4)
    assert losses.std() > 1e-3
    assert loss.name == f"next-token loss (nats), MLP of block {block} at position 5"
    assert logit.name == f"logit of token 7, MLP of block {block} at position 5"


def test_indices_of_the_loss_share_it_out(gpt_neo: LanguageModel, crosscoder: Crosscoder) -> None:
    game = language_model_game(gpt_neo, crosscoder, TOKENS, POSITION, 0)
    result = shapley_taylor(game)
    ends = game.value(torch.tensor([[False] * 4, [True] * 4]))
    total = result.first.sum() + result.matrix.sum() / 2
    assert total.item() == pytest.approx((ends[1] - ends[0]).item(), abs=1e-9)
    assert result.matrix.abs().max() > 1e-6


def test_the_last_token_has_a_logit_but_no_loss(
    gpt_neo: LanguageModel, crosscoder: Crosscoder
) -> None:
    game = language_model_game(gpt_neo, crosscoder, TOKENS, 8, 1, logit=0)
    assert game.value(torch.ones(1, 4, dtype=torch.bool)).isfinite().all()
    with pytest.raises(CrossproofError, match=r"Position 8 .* 9 tokens; choose one from 0 to 7"):
        language_model_game(gpt_neo, crosscoder, TOKENS, 8, 1)


def test_bad_input_is_refused(gpt_neo: LanguageModel, crosscoder: Crosscoder) -> None:
    with pytest.raises(CrossproofError, match="Position -1"):
        language_model_game(gpt_neo, crosscoder, TOKENS, -1, 0)
    with pytest.raises(CrossproofError, match="Token 64 is outside the vocabulary"):
        language_model_game(gpt_neo, crosscoder, TOKENS, 1, 0, logit=64)
    with pytest.raises(CrossproofError, match="does not read the MLP input of block 2"):
        language_model_game(gpt_neo, crosscoder, TOKENS, 1, 2)


def test_the_empty_coalition_is_the_decoder_bias(
    gpt_neo: LanguageModel, crosscoder: Crosscoder
) -> None:
    """Not an MLP that is switched off: its neurons still read β."""
    game = language_model_game(gpt_neo, crosscoder, TOKENS, POSITION, 1)
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    place = crosscoder.hookpoints.blocks[1].mlp_in
    assert place is not None
    bias = crosscoder.decoder_bias(place)
    view = MLPDictionary.build(gpt_neo.mlp(1), crosscoder.decoder_vectors(place), bias)
    own = gpt_neo.activations(TOKENS[None], [mlp_out(1)])[:, :, 0]
    own[0, POSITION] = view.mlp(bias)
    expected = gpt_neo.token_losses(TOKENS[None], {mlp_out(1): own})[0, POSITION]
    assert game.value(nothing).item() == pytest.approx(expected.item(), abs=1e-4)
    assert game.baseline == "all latents removed: the decoder bias b"

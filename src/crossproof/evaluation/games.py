"""Games over one token's latents whose value is the language model's own loss or logit."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.coalitions import coalition_neurons
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.shapley import Game
from crossproof.interactions.views import input_dictionaries
from crossproof.lm.model import LanguageModel
from crossproof.lm.stream import mlp_out


def language_model_game(
    model: LanguageModel,
    crosscoder: Crosscoder,
    tokens: Int[Tensor, " T"],
    position: int,
    block: int,
    logit: int | None = None,
    batch_sequences: int = 64,
) -> Game:
    """What the latents at one position, through one block's MLP, do for the next prediction.

    The output of the block's MLP at `position` is replaced by that of each coalition; everything
    else in the forward pass is the model's own, later blocks included. The value is the loss of
    `tokens[position + 1]` in nats or, with `logit`, that token's logit at `position`. Tokens
    behind `position` are not run: the model is causal. Raises CrossproofError for a position
    without a next token (if the loss is asked for), a block whose MLP input the crosscoder does
    not read, and a logit outside the vocabulary.
    """
    _check(model, tokens, position, logit)
    view = _view(model, crosscoder, block)
    prefix, names = tokens[None, : position + 1], crosscoder.hookpoints.names
    values = model.activations(prefix, [*names, mlp_out(block)])
    with torch.no_grad():
        latents = crosscoder.encode(values[:, -1, : len(names)].float())
        players, neurons = coalition_neurons(view, latents, 0)
    W_out, b_out = view.mlp.W_out.double(), view.mlp.b_out.double()

    def value(coalitions: Tensor) -> Float[Tensor, " C"]:
        parts = (neurons(coalitions) @ W_out + b_out).split(batch_sequences)
        scores = [_last_logits(model, prefix, values[:, :, -1], block, part) for part in parts]
        logits = torch.cat(scores).double()
        if logit is not None:
            return logits[:, logit]
        target = tokens[position + 1].to(logits.device, torch.int64).expand(len(logits))
        return functional.cross_entropy(logits, target, reduction="none")

    kind = "next-token loss (nats)" if logit is None else f"logit of token {logit}"
    return Game(players, value, f"{kind}, MLP of block {block} at position {position}")


def _last_logits(
    model: LanguageModel,
    prefix: Int[Tensor, "1 T"],
    values: Float[Tensor, "1 T D"],
    block: int,
    outputs: Float[Tensor, "C D"],
) -> Float[Tensor, "C V"]:
    """Logits at the last position, where the block's MLP puts out `outputs` instead of `values`."""
    patched = values.repeat(len(outputs), 1, 1)
    patched[:, -1] = outputs.to(patched.dtype)
    return model.logits(prefix.expand(len(outputs), -1), {mlp_out(block): patched})[:, -1]


def _check(
    model: LanguageModel, tokens: Int[Tensor, " T"], position: int, logit: int | None
) -> None:
    last = len(tokens) - (2 if logit is None else 1)
    if not 0 <= position <= last:
        raise CrossproofError(
            f"Position {position} cannot be used in a text of {len(tokens)} tokens; choose one "
            f"from 0 to {last}."
        )
    if logit is not None and not 0 <= logit < model.vocab_size:
        raise CrossproofError(
            f"Token {logit} is outside the vocabulary of '{model.name}' ({model.vocab_size}); "
            f"choose one of its own."
        )


def _view(model: LanguageModel, crosscoder: Crosscoder, block: int) -> MLPDictionary:
    views = input_dictionaries(model, crosscoder)
    if block not in views:
        raise CrossproofError(
            f"The crosscoder does not read the MLP input of block {block}; it reads those of "
            f"blocks {', '.join(map(str, views))}."
        )
    return views[block]

"""Running a language model with a dictionary's reconstruction in the place of its activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.encode import encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, nearest
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair

Forward = Callable[[Tensor, Mapping[str, Tensor] | None], Tensor]


@contextmanager
def spliced(
    model: LanguageModel, crosscoder: Crosscoder, hookpoints: Sequence[str] | None = None
) -> Iterator[LanguageModel]:
    """The model with `hookpoints` (all that the crosscoder writes) replaced by reconstructions.

    Inside the block `model.logits`, `log_probabilities` and `token_losses` use them: every call
    first reads the activations of the unchanged model, encodes those of all the crosscoder's
    hookpoints, and runs the model again with the reconstruction at the scored positions (BOS, EOS
    and PAD keep their own activations). What is given as `replace` wins. Raises CrossproofError
    for a hookpoint that the crosscoder does not write.

        with crossproof.spliced(model, crosscoder, ["blocks.2.mlp.hook_in"]):
            losses = model.token_losses(tokens)
    """
    names = crosscoder.hookpoints.names
    written = [names[at] for at in crosscoder.written]
    chosen = written if hookpoints is None else list(hookpoints)
    for name in chosen:
        if name not in written:
            raise CrossproofError(
                f"The crosscoder writes no '{name}', so that cannot be spliced in."
                f"{nearest(name, written)}"
            )
    for method in _methods(model):
        if method in vars(model):
            raise CrossproofError(
                "Another dictionary is spliced into this model already; leave that block first."
            )
    try:
        for method in _methods(model):
            setattr(model, method, _with_reconstruction(model, crosscoder, chosen, method))
        yield model
    finally:
        for method in _methods(model):
            vars(model).pop(method, None)


def _methods(model: LanguageModel) -> tuple[str, ...]:
    """Those that the others call."""
    return ("log_probabilities", "token_losses") if isinstance(model, ModelPair) else ("logits",)


def _with_reconstruction(
    model: LanguageModel, crosscoder: Crosscoder, names: Sequence[str], method: str
) -> Forward:
    run: Forward = getattr(model, method)

    def replaced(tokens: Tensor, replace: Mapping[str, Tensor] | None = None) -> Tensor:
        return run(tokens, reconstruction(model, crosscoder, tokens, names) | dict(replace or {}))

    return replaced


def reconstruction(
    model: LanguageModel, crosscoder: Crosscoder, tokens: Int[Tensor, "S T"], names: Sequence[str]
) -> dict[str, Tensor]:
    """The named hookpoints' values [S, T, D], reconstructed at the scored positions."""
    batch = next(encode_batches(model, crosscoder, tokens, len(tokens)))
    with torch.no_grad():
        x_hat = crosscoder.decode(batch.latents)
    values = {}
    for name in names:
        values[name] = batch.model_activations[name].clone()
        here = x_hat[:, crosscoder.hookpoints.index(name)]
        values[name][batch.scored] = here.to(values[name].dtype)
    return values

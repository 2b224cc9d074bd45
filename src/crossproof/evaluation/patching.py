"""Running a language model with parts of it replaced: what a dictionary decodes, MLP outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, nearest
from crossproof.interactions.views import MLPView, needs_of
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.lm.passes import CleanPass, PairPass, clean_pass, starts_of
from crossproof.lm.stream import mlp_out

Forward = Callable[[Tensor, Mapping[str, Tensor] | None], Tensor]


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """An encoded batch, its reconstruction, and the model whose hookpoints may be replaced."""

    model: LanguageModel
    crosscoder: Crosscoder
    encoded: EncodedBatch
    x_hat: Float[Tensor, "B P D"]
    clean: CleanPass | PairPass

    def uniform(self, width: int, seed: tuple[int, ...]) -> Float[Tensor, "B N"]:
        """Numbers in [0, 1) that depend on a token's sequence, not on the batch that holds it."""
        batch = self.encoded
        counts = torch.bincount(batch.sequence, minlength=len(batch.tokens)).tolist()
        rows = [
            np.random.default_rng((*seed, batch.first + i)).random((count, width), np.float32)
            for i, count in enumerate(counts)
        ]
        return torch.from_numpy(np.concatenate(rows)).to(batch.x.device)

    def patched(self, name: str, values: Float[Tensor, "B D"]) -> dict[str, Tensor]:
        """`values` at the scored positions of a hookpoint, the model's own elsewhere."""
        whole = self.encoded.model_activations[name].clone()
        whole[self.encoded.scored] = values.to(whole.dtype)
        return {name: whole}

    def losses(self, replace: Mapping[str, Tensor] | None = None) -> Float[Tensor, " S"]:
        """Summed next-token loss of each sequence over scored positions, in nats."""
        return self.summed(self.clean.token_losses(replace) if replace else self.clean.losses)

    def summed(self, losses: Float[Tensor, "S next"]) -> Float[Tensor, " S"]:
        """What each sequence's scored positions lose."""
        return (losses * self.encoded.scored[:, :-1]).double().sum(1)


def decode_batches(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    batch_sequences: int,
    views: Mapping[int, MLPView],
    first: int = 0,
) -> Iterator[DecodedBatch]:
    """Batches with the model's values of all that may be patched, and of what the views need."""
    names = crosscoder.hookpoints.names
    outputs = [*map(mlp_out, views)]
    also = [*needs_of(views), *outputs, *starts_of(model, [*names, *outputs])]
    for batch in encode_batches(model, crosscoder, sequences, batch_sequences, also, first=first):
        with torch.no_grad():
            x_hat = crosscoder.decode(batch.latents, batch.x)
        if not bool(x_hat.isfinite().all()):
            raise CrossproofError(
                "Reconstructions hold NaN or infinity: check the crosscoder's weights, or choose "
                "another --dtype for the model.",
                code="CP-NOT-FINITE",
            )
        clean = clean_pass(model, batch.tokens, batch.model_activations)
        with torch.no_grad():
            yield DecodedBatch(model, crosscoder, batch, x_hat, clean)


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
        x_hat = crosscoder.decode(batch.latents, batch.x)
    values = {}
    for name in names:
        values[name] = batch.model_activations[name].clone()
        here = x_hat[:, crosscoder.hookpoints.index(name)]
        values[name][batch.scored] = here.to(values[name].dtype)
    return values

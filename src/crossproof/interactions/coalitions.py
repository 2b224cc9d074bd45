"""Games over the active latents of one token at one MLP, for `shapley_taylor`.

A coalition's pre-activations are β_n plus the contributions of its members: absent latents are
removed, and the decoder bias stays.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.exact import active_latents, entry_contributions, in_float64
from crossproof.interactions.shapley import Game


def neuron_game(view: MLPDictionary, latents: SparseLatents, token: int, neuron: int) -> Game:
    """The value of one neuron, after the activation (and the product of a gated MLP)."""
    if not 0 <= neuron < view.mlp.n_neurons:
        raise CrossproofError(
            f"Neuron {neuron} does not exist; this MLP has neurons 0 to {view.mlp.n_neurons - 1}."
        )
    players, neurons = coalition_neurons(view, latents, token)
    return Game(players, lambda coalitions: neurons(coalitions)[:, neuron], f"neuron {neuron}")


def output_game(
    view: MLPDictionary,
    latents: SparseLatents,
    token: int,
    direction: Float[Tensor, " D"] | None = None,
) -> Game:
    """The MLP's output: along a direction, or without one all its D coordinates."""
    players, neurons = coalition_neurons(view, latents, token)
    W_out, b_out = view.output_vectors.double(), view.mlp.b_out.double()
    if direction is None:
        return Game(players, lambda c: neurons(c) @ W_out + b_out, "MLP output")
    along = W_out @ direction.double()
    offset = b_out @ direction.double()
    return Game(players, lambda c: neurons(c) @ along + offset, "MLP output along a direction")


def coalition_neurons(
    view: MLPDictionary, latents: SparseLatents, token: int
) -> tuple[Int[Tensor, " m"], Callable[[Bool[Tensor, "C m"]], Float[Tensor, "C N"]]]:
    """A token's active latents, and the neurons' values with only some of them, in float64.

    Raises CrossproofError for a token that is not there, latents of another dictionary and
    activations that are not finite.
    """
    if not 0 <= token < latents.n_tokens:
        raise CrossproofError(
            f"Token {token} does not exist; the code has tokens 0 to {latents.n_tokens - 1}."
        )
    row = active_latents(view, latents.rows(token, token + 1))
    exact = in_float64(view.of_tokens(slice(token, token + 1)))
    entries = torch.arange(len(row.indices), device=row.indices.device)
    steps = entry_contributions(exact, row, entries)

    def neurons(coalitions: Bool[Tensor, "C m"]) -> Float[Tensor, "C N"]:
        present = coalitions.double()
        return exact.neurons(*(present @ step for step in steps))

    return row.indices, neurons

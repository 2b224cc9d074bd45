"""What one MLP makes of each token: interaction, residual, dominant share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.evaluation.tally import SHARE_BINS
from crossproof.interactions.penalty import (
    additive_interaction,
    dominant_share,
    interaction,
    residual,
)
from crossproof.interactions.views import MixtureView, MLPView, n_neurons


def token_figures(
    view: MLPView, encoded: EncodedBatch, x_hat: Float[Tensor, "B P D"]
) -> tuple[dict[str, Float[Tensor, " B"]], Float[Tensor, " bins"]]:
    """What one MLP makes of each token, by name, and how often each dominant share occurs.

    Of a mixture: sums over the experts of each token, means over the neurons that it meets.
    """
    if isinstance(view, MixtureView):
        return _of_mixture(view, encoded, x_hat)
    seen = view.at(encoded)
    dictionary, latents = seen.dictionary, seen.latents
    dominance = dictionary.dominance(latents)
    share = dominant_share(dictionary, latents, dominance)
    figures = {
        "interaction": seen.weighed(interaction(dictionary, latents, dominance)),
        "residual": seen.weighed(residual(dictionary, *view.inputs(encoded, x_hat))),
        "share": share.mean(1),
    }
    if not dictionary.mlp.gated:
        additive = additive_interaction(dictionary, latents, dominance)
        figures["additive"] = seen.weighed(additive)
    return figures, torch.histc(share, SHARE_BINS, 0, 1)


def _of_mixture(
    view: MixtureView, encoded: EncodedBatch, x_hat: Float[Tensor, "B P D"]
) -> tuple[dict[str, Float[Tensor, " B"]], Float[Tensor, " bins"]]:
    figures: dict[str, Tensor] = {}
    counts = torch.zeros(SHARE_BINS, device=x_hat.device)
    for at, tokens, own, routed in view.parts(encoded):
        values, shares = token_figures(view.experts[at], own, x_hat[tokens])
        counts += shares
        neurons = n_neurons(view.experts[at]) / view.mixture.n_neurons
        for name, value in values.items():
            whole = figures.setdefault(name, x_hat.new_zeros(len(x_hat)))
            whole.index_add_(0, tokens, value * (neurons if name == "share" else routed))
    return figures, counts

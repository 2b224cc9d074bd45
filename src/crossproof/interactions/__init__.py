"""Interactions between latents, as pure functions of tensors: they measure any dictionary."""

from crossproof.interactions.contributions import (
    Dominance,
    MLPDictionary,
    dominant_contributions,
    magnitudes,
    owned_contributions,
)
from crossproof.interactions.penalty import (
    additive_interaction,
    dominant_share,
    interaction,
    residual,
)

__all__ = [
    "Dominance",
    "MLPDictionary",
    "additive_interaction",
    "dominant_contributions",
    "dominant_share",
    "interaction",
    "magnitudes",
    "owned_contributions",
    "residual",
]

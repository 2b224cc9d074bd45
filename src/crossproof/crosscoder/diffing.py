"""Model diffing: which of two models each latent of a joint crosscoder belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.hookpoints import Hookpoints
from crossproof.lm.pair import PREFIXES

EDGES = (0.1, 0.3, 0.7, 0.9)
"""Between latents of the first model alone, mostly its, shared, mostly the second's, its alone."""
CLASSES = ("base only", "mostly base", "shared", "mostly diff", "diff only")


def is_joint(hookpoints: Hookpoints) -> bool:
    """Whether these are hookpoints of two models (`ModelPair`)."""
    return all(any(n.startswith(p) for n in hookpoints.names) for p in PREFIXES)


def relative_norms(crosscoder: Crosscoder) -> Float[Tensor, " H"]:
    """‖d_h‖ in the second model over its sum with ‖d_h‖ in the first: 0 base only, 1 diff only.

    The norms go over the hookpoints that both models have in the crosscoder. Hookpoints have
    different scales, so the vectors at each are first divided by their root mean square over
    latents and both models: every hookpoint counts alike, and folding changes nothing as long as
    both models have one scale there. A latent without a decoder has NaN. Source: Lindsey et al.
    2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing". Raises CrossproofError
    for a crosscoder of one model, or one whose hookpoints do not occur in both.
    """
    where = _matched(crosscoder.hookpoints)
    with torch.no_grad():
        vectors = torch.stack([crosscoder.decoder_vectors(p) for pair in where for p in pair], 1)
        norms = vectors.double().norm(dim=2).unflatten(1, (len(where), 2))
        typical = norms.square().mean((0, 2), keepdim=True).sqrt()
        base, diff = (norms / typical).nan_to_num().norm(dim=1).unbind(1)
        share: Tensor = diff / (base + diff)
    return share


@dataclass(frozen=True)
class DiffingFigures:
    """The relative norm of every latent, and how many latents are whose."""

    relative_norms: tuple[float | None, ...]
    """As `relative_norms` gives them, rounded; None for a latent without a decoder."""
    edges: tuple[float, ...]
    counts: dict[str, int]
    """Latents of each of `CLASSES`; one without a decoder is nobody's."""


def diffing_figures(crosscoder: Crosscoder) -> DiffingFigures:
    """Whose the latents of a joint crosscoder are; raises as `relative_norms`."""
    norms = relative_norms(crosscoder)
    known = norms[~norms.isnan()]
    counts = torch.bincount(torch.bucketize(known, known.new_tensor(EDGES)), minlength=5)
    rounded = [None if math.isnan(value) else round(value, 4) for value in norms.tolist()]
    return DiffingFigures(tuple(rounded), EDGES, dict(zip(CLASSES, counts.tolist(), strict=True)))


def _matched(hookpoints: Hookpoints) -> list[tuple[int, int]]:
    """The positions of each hookpoint in the first and in the second model."""
    if not is_joint(hookpoints):
        raise CrossproofError(
            "This crosscoder reads one model; relative norms need one trained on two "
            "(--model BASE,OTHER)."
        )
    names = hookpoints.names
    first, second = PREFIXES
    both = [name for name in names if name.startswith(first)]
    twins = [second + name.removeprefix(first) for name in both]
    pairs = [
        (names.index(name), names.index(twin))
        for name, twin in zip(both, twins, strict=True)
        if twin in names
    ]
    if not pairs:
        raise CrossproofError(
            "The crosscoder has no hookpoint in both models; train one on the same hookpoints of "
            "each."
        )
    return pairs

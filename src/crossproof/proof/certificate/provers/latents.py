"""What a dictionary's latents are in each active set, as affine functions of true activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.proof.bounds.network import SparseDomain
from crossproof.proof.certificate.provers.points import Encode


@dataclass(frozen=True, eq=False)
class AffineLatents:
    """latent[index[g, m]] = offset[g, m] + Σ_j activation_j slopes[g, j, m] in active set g."""

    decoder: Float[Tensor, "H D"]
    bias: Float[Tensor, " D"]
    index: Int[Tensor, "G M"]
    slopes: Float[Tensor, "G K M"]
    offset: Float[Tensor, "G M"]


def generating_latents(domain: SparseDomain) -> AffineLatents:
    """The features that generate the domain, as a dictionary without residual."""
    sets, size = domain.active_sets.shape
    identity = torch.eye(size, dtype=torch.float64).expand(sets, size, size).contiguous()
    nothing = torch.zeros(sets, size, dtype=torch.float64)
    return AffineLatents(domain.decoder, domain.bias, domain.active_sets, identity, nothing)


def fitted_latents(
    domain: SparseDomain,
    decoder: Float[Tensor, "H D"],
    bias: Float[Tensor, " D"],
    encode: Encode,
    most: int | None = None,
    samples: int = 64,
    seed: int = 0,
) -> AffineLatents:
    """The latents that the encoder uses in every set, at the values that reconstruct best.

    The encoder is asked on samples of each set's box; the `most` (default: as many as there are
    features; two non-negative latents are charged least) with the largest mean activation stay.
    Their values are least squares of the input over their decoder, which is affine in the true
    activations where an encoder need not be. The verifier takes any numbers: a bad choice only
    loosens the certificate.
    """
    sets, size = domain.active_sets.shape
    most = min(size if most is None else most, len(decoder))
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(samples, size, generator=generator, dtype=torch.float64)
    index = torch.zeros(sets, most, dtype=torch.int64)
    slopes = torch.zeros(sets, size, most, dtype=torch.float64)
    offset = torch.zeros(sets, most, dtype=torch.float64)
    for number, active in enumerate(domain.active_sets):
        low, width = domain.low[active], (domain.high - domain.low)[active]
        x = domain.bias + (low + unit * width) @ domain.decoder[active]
        mean, latents = encode(x).detach().double().mean(dim=0).topk(most)
        used = torch.where(mean[:, None] > 0, decoder[latents].double(), 0)
        inverse = torch.linalg.pinv(used)  # [D, M]: nothing for latents that are never active
        index[number], slopes[number] = latents, domain.decoder[active] @ inverse
        offset[number] = (domain.bias - bias) @ inverse
    return AffineLatents(decoder.double(), bias.double(), index, slopes, offset)

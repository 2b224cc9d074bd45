"""Keeping the m latents that contribute most to a neuron: between the largest alone and all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import MLPDictionary
from crossproof.kernels.torch_any import slots

_NUMBERS = 2**22
"""Numbers in the largest temporary: 16 MiB in float32."""

Kept = tuple[Float[Tensor, "B N"], Float[Tensor, "B N"] | None]
"""Contributions of the latents kept, summed at each token and neuron: value and gate."""


def largest_kept(
    view: MLPDictionary, latents: SparseLatents, counts: Sequence[int]
) -> dict[int, Kept]:
    """For each m of `counts` what the m largest contributions at each token and neuron add up to.

    A contribution's size is |p_nh|, in a gated MLP |p^gate_nh| + |p_nh|, as for the dominant latent
    (m = 1). Memory: a few tokens' contributions at a time. No gradients.
    """
    tables = [G for G in (view.G, view.G_gate) if G is not None]
    shape = (len(counts), len(tables), latents.n_tokens, view.mlp.n_neurons)
    out = latents.values.new_zeros(shape)
    widest = int(latents.offsets.diff().max()) if latents.n_tokens else 0
    if widest == 0 or not counts:
        return _by_count(out, counts)
    step = max(1, _NUMBERS // (widest * view.mlp.n_neurons))
    most = min(max(counts), widest)
    with torch.no_grad():
        for low in range(0, latents.n_tokens, step):
            high = min(low + step, latents.n_tokens)
            present, entry = slots(latents.offsets[low : high + 1], widest)
            values = (latents.values[entry] * present)[..., None]
            paths = [values * G[latents.indices[entry]] for G in tables]
            sizes = torch.stack([path.abs() for path in paths]).sum(0)
            order = sizes.topk(most, dim=1).indices
            for at, path in enumerate(paths):
                sums = path.gather(1, order).cumsum(1)
                for row, count in enumerate(counts):
                    out[row, at, low:high] = sums[:, min(count, most) - 1]
    return _by_count(out, counts)


def _by_count(out: Float[Tensor, "M paths B N"], counts: Sequence[int]) -> dict[int, Kept]:
    return {
        count: (paths[0], paths[1] if len(paths) > 1 else None)
        for count, paths in zip(counts, out, strict=True)
    }

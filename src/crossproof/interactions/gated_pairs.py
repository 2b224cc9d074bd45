"""Pair sums of a gated MLP: theorem T3's explicit terms, both paths, and the pair form Q.

With i the owner of neuron n, w = ‖o_n‖, g and u the magnitudes |p^gate| and |p^linear|:
I(i, j) = w (L |υ_dom| g_j + |σ(γ_dom)| u_j); AND(j, k) = w L g_j u_k for j, k other than i; and
Q(h, k) = w (M Υ g_h g_k + L (g_h u_k + g_k u_h)), Υ the largest |υ| on the hull.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.kernels.torch_any import CHUNK_ELEMENTS, slots, upper
from crossproof.lm.constants import CURVATURE, LIPSCHITZ


def gated_pairs(
    latents: SparseLatents,
    starts: Int[Tensor, " bounds"],
    view: MLPDictionary,
    dominance: Dominance,
) -> tuple[Float[Tensor, "pairs 5"], Float[Tensor, " nnz"]]:
    """Columns I(h,k), I(k,h), AND(h,k), AND(k,h), Q of every token's pairs, and AND(j,j), float64.

    Pairs stand as in `kernels.plain_pairs`. Q is infinite for activations with a kink (ReLU), whose
    σ'' is not bounded, wherever two latents meet on the gate.
    """
    out = torch.empty(int(starts[-1]), 5, dtype=torch.float64, device=latents.values.device)
    own = torch.zeros(len(latents.indices), dtype=torch.float64, device=out.device)
    if len(latents.indices) == 0:
        return out, own
    widest = int(latents.offsets.diff().max())
    step = max(1, CHUNK_ELEMENTS // (widest * max(view.mlp.n_neurons, widest)))
    for low in range(0, latents.n_tokens, step):
        high = min(low + step, latents.n_tokens)
        present, entry = slots(latents.offsets[low : high + 1], widest)
        chunk = _Chunk(latents, view, dominance, low, high, present, entry)
        charged, both, q = chunk.charged(), chunk.both(), chunk.q()
        columns = [charged, charged.mT, both, both.mT, q]
        out[starts[low] : starts[high]] = torch.stack(columns, -1)[upper(present)]
        own[entry[present]] = both.diagonal(dim1=1, dim2=2)[present]
    return out, own


class _Chunk:
    """A few tokens with their magnitudes g and u, [B, K, N], and who owns which neuron."""

    def __init__(
        self,
        latents: SparseLatents,
        view: MLPDictionary,
        dominance: Dominance,
        low: int,
        high: int,
        present: Bool[Tensor, "B K"],
        entry: Int[Tensor, "B K"],
    ) -> None:
        assert view.G_gate is not None
        assert view.baseline_gate is not None
        assert dominance.gate is not None
        values = (latents.values[entry] * present).double()[..., None]
        rows = latents.indices[entry]
        self.gate, self.linear = values * view.G_gate[rows], values * view.G[rows]
        self.g, self.u = self.gate.abs(), self.linear.abs()
        self.owned = (entry[..., None] == dominance.owner[low:high, None]) & present[..., None]
        self.norms = view.output_norms.double()
        self.slope = LIPSCHITZ[view.mlp.activation]
        self.bend = CURVATURE[view.mlp.activation]
        self.baseline = view.baseline.double()
        self.value = (self.baseline + dominance.value[low:high].double()).abs()
        opened = view.baseline_gate.double() + dominance.gate[low:high].double()
        self.opening = view.mlp.activation(opened).abs()

    def charged(self) -> Float[Tensor, "B K K"]:
        """Row: the owner; column: the latent charged against it."""
        through_gate = (self.owned * (self.slope * self.norms * self.value)[:, None]) @ self.g.mT
        return through_gate + (self.owned * (self.norms * self.opening)[:, None]) @ self.u.mT

    def both(self) -> Float[Tensor, "B K K"]:
        """Row: on the gate; column: on the linear path; neither owns the neuron."""
        free = ~self.owned
        left = free * self.g * (self.slope * self.norms)
        return left @ (free * self.u).mT

    def q(self) -> Float[Tensor, "B K K"]:
        high = self.baseline + self.linear.clamp_min(0).sum(1)
        low = self.baseline + self.linear.clamp_max(0).sum(1)
        reach = torch.maximum(high.abs(), low.abs())
        crossed = (self.g * (self.slope * self.norms)) @ self.u.mT
        on_gate = (self.g * (self.norms * reach)[:, None]) @ self.g.mT
        bent = torch.where(on_gate > 0, self.bend * on_gate, 0)
        return bent + crossed + crossed.mT

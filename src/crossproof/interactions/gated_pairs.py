"""Pair sums of a gated MLP: theorem T3's explicit terms, both paths, and the pair form Q.

With i the owner of neuron n, w = ‖o_n‖, g and u the magnitudes |p^gate| and |p^linear|: latent i
is charged w (L |υ_dom| g_j + |σ(γ_dom)| u_j) with every other j, and AND(j, k) = w L g_j u_k is
charged to any j, k other than i. I(h, k) is all that is charged to h with k; Q is
`gated_pair_form`. Products over neurons are matrix products of a few tokens at a time; the smaller
of two contributions, which is none, is left to the kernel.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof import kernels
from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.interactions.gated import gated_pair_form, gated_terms
from crossproof.kernels.torch_any import slots, token_runs, upper
from crossproof.lm.constants import LIPSCHITZ

_NUMBERS = 2**20
"""Numbers in the largest temporary: 8 MiB in float64."""


def gated_pairs(
    latents: SparseLatents,
    starts: Int[Tensor, " bounds"],
    view: MLPDictionary,
    dominance: Dominance,
) -> tuple[Float[Tensor, "pairs 5"], Float[Tensor, " nnz"]]:
    """Columns I(h,k), I(k,h), AND(h,k), AND(k,h), Q of every token's pairs, and AND(j,j), float64.

    Pairs stand as in `kernels.plain_pairs`.
    """
    out = torch.empty(int(starts[-1]), 5, dtype=torch.float64, device=latents.values.device)
    diagonal = torch.zeros(len(latents.indices), dtype=torch.float64, device=out.device)
    if len(latents.indices) == 0:
        return out, diagonal
    swings = torch.empty(dominance.owner.shape, dtype=torch.float64, device=out.device)
    active = latents.offsets.diff().tolist()
    for low, high, widest in token_runs(active, _NUMBERS, view.mlp.n_neurons):
        present, entry = slots(latents.offsets[low : high + 1], widest)
        values = (latents.values[entry] * present).double()[..., None]
        owned = (entry[..., None] == dominance.owner[low:high, None]) & present[..., None]
        rows = _Rows(
            view.of_tokens(slice(low, high)),
            dominance,
            slice(low, high),
            values,
            latents.indices[entry],
            owned,
        )
        both = rows.both()
        charged = rows.charged() + both
        swings[low:high], crossed = rows.pair_form()
        columns = [charged, charged.mT, both, both.mT, crossed]
        out[starts[low] : starts[high]] = torch.stack(columns, -1)[upper(present)]
        diagonal[entry[present]] = both.diagonal(dim1=1, dim2=2)[present]
    out[:, 4] += _smaller(latents, starts, view, dominance, swings)
    return out, diagonal


def _smaller(
    latents: SparseLatents,
    starts: Int[Tensor, " bounds"],
    view: MLPDictionary,
    dominance: Dominance,
    swings: Float[Tensor, "B N"],
) -> Float[Tensor, " pairs"]:
    """Σ_n s_n min(|p^γ_h|, |p^γ_k|) of every pair, which `plain_pairs` sums beside what it owns."""
    assert view.G_gate is not None
    sums = swings.new_empty(int(starts[-1]), 5)
    entries = latents.offsets, starts, latents.indices, latents.values.double()
    each = torch.ones_like(swings[0])
    kernels.plain_pairs(*entries, view.G_gate.double(), dominance.owner, each, swings, sums)
    return sums[:, 4]


class _Rows:
    """A few tokens with their contributions to both paths, [B, K, N], and who owns which neuron."""

    def __init__(
        self,
        view: MLPDictionary,
        dominance: Dominance,
        tokens: slice,
        values: Float[Tensor, "B K 1"],
        latents: Int[Tensor, "B K"],
        owned: Tensor,
    ) -> None:
        assert view.G_gate is not None
        assert view.baseline_gate is not None
        assert dominance.gate is not None
        self.activation, self.owned = view.mlp.activation, owned
        self.gate, self.linear = values * view.G_gate[latents], values * view.G[latents]
        self.sizes = self.gate.abs(), self.linear.abs()
        self.norms = view.output_norms.double()
        self.baselines = view.baseline_gate.double(), view.baseline.double()
        opened = self.baselines[0] + dominance.gate[tokens].double()
        value = (self.baselines[1] + dominance.value[tokens].double()).abs()
        self.terms = gated_terms(
            LIPSCHITZ[self.activation],
            self.activation(opened).abs()[:, None],
            value[:, None],
            *self.sizes,
        )

    def charged(self) -> Float[Tensor, "B K K"]:
        """I without AND. Row: the owner; column: the latent charged against it."""
        return (self.owned * self.norms) @ self.terms.alone.mT

    def both(self) -> Float[Tensor, "B K K"]:
        """AND. Row: on the gate; column: on the linear path; neither owns the neuron."""
        free = ~self.owned
        gate, linear = (free * size for size in self.sizes)
        return (gate * (LIPSCHITZ[self.activation] * self.norms)) @ linear.mT

    def pair_form(self) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B K K"]]:
        """Q: what its minima are multiplied by, and the rest of it."""
        paths = self.gate, self.linear
        return gated_pair_form(self.activation, *self.baselines, *paths, self.norms)

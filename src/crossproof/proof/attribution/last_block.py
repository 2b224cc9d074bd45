"""The last block with its exact resid_mid: predictions that a simplified MLP provably keeps.

Nothing is propagated here, so that the bound can be tight: margins are bounded functional by
functional (T1, T2.2 or T3 at each neuron), and through the final norm by T4's margin form. The
claim is about real arithmetic with the stored weights, from the resid_mid that the model has; each
product's rounding is charged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.lm.mlp import MLPWeights
from crossproof.lm.norms import correct_through_norm, margins_through_norm
from crossproof.lm.unembedding import Unembedding
from crossproof.proof.attribution.simplified import Simplified, joined
from crossproof.proof.bounds.outputs import gram_bound, label_margins
from crossproof.rounding import gamma, length, upward

RIVALS = 8
"""Classes looked at first; a token that fails there needs no look at the whole vocabulary."""
CHUNK_ELEMENTS = 1 << 22
"""Entries of a [tokens, V] tensor held at once."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """What replacing the MLP by a simplified one does to B tokens' predictions."""

    prediction: Int[Tensor, " B"]
    """The simplified model's."""
    unchanged: Bool[Tensor, " B"]
    """Whether it is the model's too: the truth."""
    certified: Bool[Tensor, " B"]
    """Whether the bound proves so."""
    error: Float[Tensor, " B"]
    """‖MLP - simplified MLP‖: the truth."""
    bound: Float[Tensor, " B"]
    """An upper bound on it, √(δᵀ|G|δ)."""
    excess: Float[Tensor, " B"]
    """How far the margin to the runner-up may move, over that margin: certified needs < 1."""
    terms: Int[Tensor, " B"]
    """(Neuron, latent) pairs that the simplified MLP reads."""


@dataclass(frozen=True, eq=False)
class LastBlock:
    """The last MLP, the final norm and the unembedding, in float64; O = W_out Uᵀ folded once."""

    mlp: MLPWeights
    unembedding: Unembedding

    @cached_property
    def directions(self) -> Float[Tensor, "V D"]:
        """ũ_v, as in `LogitBall`."""
        return self.unembedding.norm.directions(self.unembedding.weight)

    @cached_property
    def readout(self) -> Float[Tensor, "N V"]:
        """<ũ_v, o_n>."""
        return self.mlp.W_out @ self.directions.T

    def judge(
        self,
        mid: Float[Tensor, "B D"],
        neurons: Float[Tensor, "B N"],
        simplified: Simplified,
    ) -> Replacement:
        """Compares the model whose last MLP's neurons are `neurons` with the simplified one."""
        step = max(1, CHUNK_ELEMENTS // max(len(self.directions), RIVALS * self.mlp.n_neurons))
        parts = [slice(start, start + step) for start in range(0, max(len(mid), 1), step)]
        pieces = [self._judge(mid[p], neurons[p], simplified.rows(p)) for p in parts]
        return joined(Replacement, pieces)

    def _judge(self, mid: Tensor, neurons: Tensor, simplified: Simplified) -> Replacement:
        true = neurons @ self.mlp.W_out + self.mlp.b_out
        r, gap = mid + simplified.output, simplified.gap
        slack, lost = self._rounding(mid, simplified)
        bound = gram_bound(gap, self.mlp.W_out)
        low, high = self.unembedding.norm.scale_range(r, bound + lost)
        prediction, excess = self._rivals(r, gap, (low, high), slack)
        certified = excess < 1
        if certified.any():
            some = certified.nonzero()[:, 0]
            ends = low[some], high[some]
            certified[some] = self._certified(
                r[some], prediction[some], gap[some], ends, slack[some]
            )
        unchanged = self.unembedding(mid + true).argmax(1) == prediction
        error = length(true - simplified.output)
        return Replacement(prediction, unchanged, certified, error, bound, excess, simplified.terms)

    def _rivals(
        self, r: Tensor, gap: Tensor, scales: tuple[Tensor, Tensor], slack: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The prediction, and the worst of α / margin over its few nearest rivals.

        Both sides are those of `correct_through_norm`: 1 or more cannot be certified.
        """
        count, width = min(RIVALS, len(self.directions)), self.unembedding.norm.width
        top = self.unembedding(r).topk(count, dim=1).indices
        label, others = top[:, :1], top[:, 1:]
        vectors = self.directions[label] - self.directions[others]
        readout = self.readout.T[label] - self.readout.T[others]
        moved = (readout.abs() @ gap[:, :, None])[..., 0]
        moved = math.sqrt(width) * (upward(moved, gap.shape[1] + 8) + slack[:, None])
        shift = self.unembedding.offsets[label] - self.unembedding.offsets[others]
        margin = correct_through_norm((vectors @ r[:, :, None])[..., 0], shift, scales, width)
        ratio = torch.where(margin > 0, moved / margin.clamp_min(1e-300), math.inf)
        return label[:, 0], ratio.amax(1) if count > 1 else slack.new_zeros(len(r))

    def _certified(
        self,
        r: Tensor,
        labels: Tensor,
        gap: Tensor,
        scales: tuple[Tensor, Tensor],
        slack: Tensor,
    ) -> Tensor:
        """Whether every margin over the whole vocabulary is proved to be above 0.

        sum_n |<u_y - u_c, o_n>| δ_n is at most the sum of the same for u_y and for u_c, one product
        for all classes; the classes that this leaves open are looked at exactly.
        """
        width, neurons = self.unembedding.norm.width, self.mlp.n_neurons
        apart = label_margins(r @ self.directions.T, labels)
        offsets = self.unembedding.offsets
        shift = offsets[labels][:, None] - offsets
        single = gap @ self._magnitudes
        moved = upward(single + single.gather(1, labels[:, None]), neurons + 8) + slack[:, None]
        mu = margins_through_norm(apart - moved, shift, scales, width)
        unsettled = ~(mu > 0)
        unsettled[torch.arange(len(labels)), labels] = False
        token, rival = unsettled.nonzero().unbind(1)
        failed = torch.zeros_like(labels, dtype=torch.bool)
        for pairs in torch.arange(len(token)).split(max(1, CHUNK_ELEMENTS // neurons)):
            b, c = token[pairs], rival[pairs]
            both = (self.readout.T[labels[b]] - self.readout.T[c]).abs_().mul_(gap[b]).sum(1)
            least = apart[b, c] - upward(both, neurons + 8) - slack[b]
            ends = scales[0][b], scales[1][b]
            mu_pair = margins_through_norm(least[:, None], shift[b, c][:, None], ends, width)
            failed[b[~(mu_pair[:, 0] > 0)]] = True
        return ~failed

    @cached_property
    def _magnitudes(self) -> Float[Tensor, "N V"]:
        """|<ũ_v, o_n>|."""
        return self.readout.abs()

    def _rounding(self, mid: Tensor, simplified: Simplified) -> tuple[Tensor, Tensor]:
        """What rounding may do to any <ũ_y - ũ_c, r> (with its share of κ), and to ‖r‖."""
        width, neurons = self.unembedding.norm.width, self.mlp.n_neurons
        outward = simplified.neurons.abs() @ self.mlp.W_out.norm(dim=1)
        size = mid.norm(dim=1) + outward + self.mlp.b_out.norm()
        lost = gamma(4 * (width + neurons) + 64, mid.dtype)
        longest = self.directions.norm(dim=1).max()
        charge = size + (simplified.gap @ self.mlp.W_out.norm(dim=1))
        scale, offset = self.unembedding.norm.scale(mid + simplified.output), self._largest_offset
        # κ is multiplied by s / √D where it meets <ũ, r>, and s by what `scale_range` allows.
        share = (scale + charge) * offset / math.sqrt(width)
        slack = 4 * lost * (longest * charge + share)
        return upward(slack, 64), upward(lost * size, 64)

    @cached_property
    def _largest_offset(self) -> Tensor:
        """The sum of magnitudes behind the largest offset."""
        weight, bias = self.unembedding.weight, self.unembedding.bias
        sizes = weight.norm(dim=1) * self.unembedding.norm.bias.norm() + bias.abs()
        largest: Tensor = sizes.max()
        return largest

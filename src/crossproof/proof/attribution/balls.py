"""How far a ball of residual streams spreads through a norm, an MLP, an attention, the logits.

Every function bounds what happens to any r' with ‖r' - r‖ ≤ radius, one radius a token. Both the
norm's output and therefore everything behind it are bounded sets, so no bound here grows without
limit: that is what keeps Lipschitz constants from multiplying for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.interactions.gated import gated_terms
from crossproof.lm.attention import AttentionWeights
from crossproof.lm.constants import lipschitz
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.norms import Norm
from crossproof.lm.unembedding import Unembedding
from crossproof.proof.bounds.attention import EXACT, value_residual, variation_of_error
from crossproof.proof.bounds.outputs import (
    cross_entropy_bound,
    gram_bound,
    label_margins,
    spectral_norm,
)
from crossproof.rounding import length, upward

LOGITS = 1 << 18
"""Entries of a [tokens, V] tensor handled at once: few enough to stay in the cache."""


def turned(
    norm: Norm, r: Float[Tensor, "*batch D"], radius: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Bounds ‖Pr'/s(r') - Pr/s(r)‖: the chord 2 sin(θ/2) with sin θ = radius / s(r).

    (Pr, √(D·epsilon)) / s(r) is a unit vector, which a displacement of `radius` turns by at most
    θ; beyond s(r) the most is 1 + ‖Pr‖ / s(r), for both have norms below 1.
    """
    scale = norm.scale(r)
    sine = radius / scale
    chord = 2 * torch.sin(torch.asin(sine.clamp_max(1)) / 2)
    most = 1 + length(norm.centre(r)) / scale
    bound = torch.where(sine < 1, torch.minimum(chord, most), most)
    return torch.where(radius > 0, upward(bound, 64), 0)


def through_norm(
    norm: Norm, r: Float[Tensor, "*batch D"], radius: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Bounds ‖norm(r') - norm(r)‖: max |weight| · √D times `turned`."""
    most = norm.weight.abs().max() * math.sqrt(norm.width)
    return upward(most * turned(norm, r, radius))


@dataclass(frozen=True, eq=False)
class MLPBall:
    """An MLP with the norms of its matrices, which are the same for all tokens."""

    mlp: MLPWeights

    @cached_property
    def _sizes(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """‖W_out‖₂, ‖W_in‖₂ and ‖W_gate‖₂."""
        gate = None if self.mlp.W_gate is None else spectral_norm(self.mlp.W_gate)
        return spectral_norm(self.mlp.W_out), spectral_norm(self.mlp.W_in), gate

    def output_bound(self, gap: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
        """Bounds ‖sum_n o_n Δ_n‖ for |Δ_n| ≤ gap: the lesser of √(δᵀ|G|δ) and ‖W_out‖₂‖δ‖₂."""
        spectral = upward(self._sizes[0] * length(gap), gap.shape[1] + 8)
        bound = torch.minimum(gram_bound(gap, self.mlp.W_out), spectral)
        return torch.where((gap > 0).any(1), bound, 0)

    def spread(self, x: Float[Tensor, "B D"], radius: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Bounds ‖MLP(x') - MLP(x)‖ on the ball, through neurons or through singular values."""
        mlp = self.mlp
        linear = x @ mlp.W_in + mlp.b_in
        reach = radius[:, None] * mlp.W_in.norm(dim=0)
        if mlp.W_gate is None or mlp.b_gate is None:
            slope = lipschitz(mlp.activation, linear - reach, linear + reach)
            gap, whole = slope * reach, slope.amax(1) * self._sizes[1] * radius
        else:
            gap, whole = self._gated(x, linear, reach, radius)
        whole = upward(self._sizes[0] * whole, mlp.n_neurons + 8)
        bound = torch.minimum(self.output_bound(upward(gap, mlp.d_model + 8)), whole)
        return torch.where(radius > 0, bound, 0)

    def _gated(
        self, x: Tensor, linear: Tensor, reach: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        """T3's three terms at each neuron, and a bound on the norm of all neurons' changes."""
        mlp, sizes = self.mlp, self._sizes
        assert mlp.W_gate is not None
        assert mlp.b_gate is not None
        assert sizes[2] is not None
        gate, moved = x @ mlp.W_gate + mlp.b_gate, radius[:, None] * mlp.W_gate.norm(dim=0)
        slope = lipschitz(mlp.activation, gate - moved, gate + moved)
        opening = mlp.activation(gate).abs()
        gap = gated_terms(slope, opening, linear.abs(), moved, reach).total
        value = (slope * (linear.abs() + reach)).amax(1)
        whole = (value * sizes[2] + opening.amax(1) * sizes[1]) * radius
        return gap, whole


@dataclass(frozen=True, eq=False)
class AttentionBall:
    """An attention with the norms of its matrices, which are the same for all sequences."""

    attention: AttentionWeights

    @cached_property
    def _sizes(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """‖W_Q‖₂, ‖W_K‖₂, W_OV and ‖W_OV‖₂ of each head."""
        weights = self.attention
        sizes = []
        for head in range(weights.n_heads):
            group, ov = weights.group(head), weights.ov(head)
            norms = spectral_norm(weights.W_Q[head]), spectral_norm(weights.W_K[group])
            sizes.append((*norms, ov, spectral_norm(ov)))
        return sizes

    def spread(
        self, x: Float[Tensor, "S T D"], radius: Float[Tensor, "S T"]
    ) -> Float[Tensor, "S T"]:
        """Bounds ‖Attn(x') - Attn(x)‖ at each position, every position moving within its radius.

        Scores move by at most τ (from their bilinear form), attention by tanh(τ/2) in total
        variation, values by ‖W_OV‖ times the radius (THEORY section 5); heads add up.
        """
        weights = self.attention
        visible = weights.mask(torch.arange(x.shape[1], device=x.device))
        pattern = weights.pattern(weights.scores(x))
        total = torch.zeros_like(radius)
        for head, (_, _, ov, size) in enumerate(self._sizes):
            tau = self._score_error(head, x, radius).masked_fill(~visible, 0)
            variation = variation_of_error(tau.amax(-1))
            moved = size * radius
            # What is not seen has no weight; it must not lower the least of what is.
            seen = torch.where(visible, moved[:, None], moved.amin(1)[:, None, None])
            total = total + value_residual(pattern[:, head], variation, seen)
            total = total + variation * _diameters(x @ ov)
        return torch.where((radius > 0).any(1)[:, None], upward(total, 256), 0)

    def _score_error(self, head: int, x: Tensor, radius: Tensor) -> Tensor:
        """τ [S, T, T]: |<q + δq, k + δk> - <q, k>| for what the radii allow."""
        weights, (q_size, k_size, _, _) = self.attention, self._sizes[head]
        group, rotary = weights.group(head), weights.rotary
        q = (x @ weights.W_Q[head] + weights.b_Q[head]).norm(dim=-1)[:, :, None]
        k = (x @ weights.W_K[group] + weights.b_K[group]).norm(dim=-1)[:, None]
        q_moved, k_moved = q_size * radius[:, :, None], k_size * radius[:, None]
        stretch = 1.0 if rotary is None else max(1.0, abs(rotary.scaling)) ** 2
        error: Tensor = q_moved * (k + k_moved) + q * k_moved
        return abs(weights.scale) * stretch * error


def _diameters(values: Float[Tensor, "S T D"]) -> Float[Tensor, "S T"]:
    """The largest distance between two values at or before each position."""
    apart = torch.cdist(values, values, compute_mode=EXACT).tril().amax(-1)
    largest: Tensor = apart.cummax(-1).values
    return largest


@dataclass(frozen=True, eq=False)
class LogitBall:
    """The logits of every residual stream in a ball."""

    unembedding: Unembedding

    @cached_property
    def directions(self) -> Float[Tensor, "V D"]:
        """ũ_v: <ũ_v, r> √D / s(r) + offset is the logit of v."""
        return self.unembedding.norm.directions(self.unembedding.weight)

    def claimed_losses(
        self, r: Float[Tensor, "B D"], labels: Int[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Cross-entropy of the logits of r itself: the claim, before any ball."""
        logits = self.unembedding(r)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    def loss_bounds(
        self,
        r: Float[Tensor, "B D"],
        labels: Int[Tensor, " B"],
        radii: Float[Tensor, "stages B"],
    ) -> Float[Tensor, "stages B"]:
        """Upper bounds on the cross-entropy of any r' within each stage's radius of r.

        m_yc is √D <ũ_yc, Pr / s> + κ_yc, and Pr / s moves by at most `turned`.
        """
        step = max(1, LOGITS // len(self.directions))
        parts = []
        for start in range(0, len(r), step):
            part = slice(start, start + step)
            parts.append(self._chunk(r[part], labels[part], radii[:, part]))
        return torch.cat(parts, 1) if parts else radii.new_zeros(radii.shape)

    def _chunk(self, r: Tensor, labels: Tensor, radii: Tensor) -> Tensor:
        norm, offsets = self.unembedding.norm, self.unembedding.offsets
        shift = offsets[labels][:, None] - offsets
        exact = label_margins(r @ self.directions.T, labels)
        exact = math.sqrt(norm.width) * exact / norm.scale(r)[:, None] + shift
        apart = upward(math.sqrt(norm.width) * self._apart(labels))
        # Pr / s has norm below 1, so no ball can push a margin below this.
        least = shift - apart
        rows = []
        for radius in radii:
            turn = turned(norm, r, radius)[:, None]
            rows.append(cross_entropy_bound(torch.maximum(exact - apart * turn, least), labels))
        return torch.stack(rows)

    def _apart(self, labels: Tensor) -> Tensor:
        """‖ũ_y - ũ_c‖ of each token's label and every class."""
        unique, row = labels.unique(return_inverse=True)
        distances = torch.cdist(self.directions[unique], self.directions, compute_mode=EXACT)
        return upward(distances, self.unembedding.norm.width + 8)[row]

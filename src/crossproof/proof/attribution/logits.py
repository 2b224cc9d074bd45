"""From a ball around the decoded residual stream to margins and a bound on the cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.lm.unembedding import Unembedding
from crossproof.proof.attribution.balls import turned
from crossproof.proof.bounds.attention import EXACT
from crossproof.proof.bounds.outputs import cross_entropy_bound, label_margins
from crossproof.rounding import upward

CHUNK_ELEMENTS = 1 << 18
"""Entries of a [tokens, V] tensor handled at once: few enough to stay in the cache."""


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
        step = max(1, CHUNK_ELEMENTS // len(self.directions))
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
        unique, place = labels.unique(return_inverse=True)
        distances = torch.cdist(self.directions[unique], self.directions, compute_mode=EXACT)
        return upward(distances, self.unembedding.norm.width + 8)[place]

"""Jacobian SAEs (Farnik et al. 2025, arXiv 2502.18147): what they are trained and judged by.

Two SAEs side by side, one at an MLP's input and one at its output, and the Jacobian of the second's
active latents in the first's: J = E_out W_out diag σ′(z) W_in D_in, z being the model's own
pre-activations. Activations count in units of their decoder vectors: J_ij ‖d_i‖ / ‖d_j‖ in scaled
space, where the original fixes the vectors' lengths. Without that, longer activations and
shorter vectors make any J small and change nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder import Crosscoder, LatentGroup, Layout, SparseLatents
from crossproof.lm import MLPWeights
from crossproof.training import Step

SMALL = 0.01
"""The original's threshold of an element that counts."""
KEPT = 0.9
"""Share of a token's sum of |J| that its largest elements are to hold."""


def pair_layout(latents: int) -> Layout:
    """As many latents that read and write place 0 alone as read and write place 1 alone."""
    return Layout((LatentGroup(latents, (0,), (0,)), LatentGroup(latents, (1,), (1,))))


@dataclass(frozen=True, eq=False)
class ActiveJacobian:
    """The elements between latents that are active at each token."""

    values: Float[Tensor, "B k k"]
    """Rows are latents of the output; zero where fewer are active."""
    counts: Int[Tensor, " B"]
    """How many elements are between active latents."""

    @classmethod
    def of(
        cls, crosscoder: Crosscoder, mlp: MLPWeights, latents: SparseLatents, x: Tensor
    ) -> ActiveJacobian:
        """Of a dictionary in `pair_layout`; `x` [B, D] are the MLP's own inputs, raw."""
        half, k = crosscoder.n_latents // 2, crosscoder.config.k
        scale, norms = crosscoder.scale, crosscoder.W_dec[:, 0].norm(dim=1).clamp_min(1e-8)
        read = crosscoder.W_dec[:half, 0] / norms[:half, None] / scale[0] @ mlp.W_in
        written = crosscoder.W_enc[half:, 0] * norms[half:, None] * scale[1] @ mlp.W_out.T
        with torch.no_grad():
            z = (x @ mlp.W_in + mlp.b_in).requires_grad_()
            with torch.enable_grad():
                (slopes,) = torch.autograd.grad(mlp.activation(z).sum(), z)
            inputs, outputs = latents.dense().detach().split(half, dim=1)
            (a_in, j), (a_out, i) = inputs.topk(k), outputs.topk(k)
            active = (a_out > 0)[:, :, None] & (a_in > 0)[:, None]
        blocks = (written[i] * slopes[:, None]) @ read[j].transpose(1, 2)
        return cls(blocks * active, active.sum((1, 2)))

    def mean(self) -> Float[Tensor, ""]:
        """mean |J| over the active blocks, the penalty; differentiable."""
        return self.values.abs().sum() / self.counts.sum().clamp_min(1)

    def above(self) -> float:
        """Share of active elements beyond `SMALL`."""
        return float((self.values.abs() > SMALL).sum() / self.counts.sum().clamp_min(1))

    def edges(self) -> float:
        """Mean over tokens of how many elements hold `KEPT` of the sum of |J|."""
        sizes = self.values.abs().flatten(1).sort(dim=1, descending=True).values
        missing = sizes.cumsum(1) < KEPT * sizes.sum(1, keepdim=True)
        return float((missing.sum(1) + 1).double().mean())


@dataclass(frozen=True, eq=False)
class JacobianPenalty:
    """The term of the loss: a function of a step, of one MLP; register it with per="step"."""

    mlp: MLPWeights

    def __call__(self, step: Step) -> Tensor:
        """mean |J|."""
        x = step.x[:, 0] / step.crosscoder.scale[0]
        return ActiveJacobian.of(step.crosscoder, self.mlp, step.encoding.latents, x).mean()

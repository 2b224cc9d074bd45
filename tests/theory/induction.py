"""T4 by Lipschitz constants: a ball around the reconstruction, pushed through a block.

If ‖r - r̂(a)‖ ≤ ρ before r -> r + MLP(norm r), then behind it

 ρ' ≤ Lip·ρ + ‖MLP(norm r̂) - MLP_abs(a)‖ + κ(a),

where Lip is a Lipschitz constant on the ball. The middle term is T1, T2.2 or T3 at x = norm r̂, so
that the norm's defect ν takes the place of the residual: e_n = |<w_n, norm(r̂) - x̂>|. κ is the
dictionary's own inconsistency, a function of latents alone. What ships (`attribution.chain`)
spreads the ball neuron by neuron instead of by one constant.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import MLPDictionary
from crossproof.lm.constants import slope_range
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.norms import Norm
from crossproof.proof.bounds.additive import steps
from crossproof.proof.bounds.outputs import spectral_norm
from crossproof.rounding import gamma, upward
from theory.rounding import preactivation_slack


def block_step(
    radius: Float[Tensor, " B"],
    lipschitz: Float[Tensor, " B"],
    interaction: Float[Tensor, " B"],
    defect: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """ρ_{k+1} = Lip_k ρ_k + I + κ_k."""
    return upward(lipschitz * radius + interaction + defect)


def mlp_lipschitz(
    mlp: MLPWeights, x: Float[Tensor, "B D"], radius: Float[Tensor, " B"], skip: bool = False
) -> Float[Tensor, " B"]:
    """A Lipschitz constant of a plain MLP on the ball of `radius` around each x.

    On the ball the Jacobian is W_in diag(σ') W_out with σ'_n between its extremes on
    <w_n, x> + b_n ± ‖w_n‖ρ. With c and h the middle and half of that range,
    Lip ≤ ‖W_in diag(c) W_out‖₂ + ‖W_in √h‖₂ ‖√h W_out‖₂, exact as the ball shrinks. `skip`
    includes the residual stream: Lip of x -> x + MLP(x). Costs a singular value decomposition
    of [D, D] a token. Raises CrossproofError for a gated MLP.
    """
    plain = mlp.plain("The Lipschitz constant of an MLP")
    z = x @ plain.W_in + plain.b_in
    reach = radius[:, None] * plain.W_in.norm(dim=0)
    reach = upward(reach, plain.d_model + 8) + preactivation_slack(x, plain.W_in, plain.b_in)
    bottom, top = slope_range(plain.activation, z - reach, z + reach)
    middle, half = (top + bottom) / 2, ((top - bottom) / 2).clamp_min(0)
    jacobian = (plain.W_in * middle[:, None]) @ plain.W_out
    if skip:
        jacobian = jacobian + torch.eye(plain.d_model, dtype=x.dtype, device=x.device)
    spread = half.sqrt()
    left = spectral_norm(plain.W_in * spread[:, None])
    right = spectral_norm(spread[:, :, None] * plain.W_out)
    return upward(spectral_norm(jacobian) + left * right, plain.n_neurons + 16)


def block_lipschitz(
    mlp: MLPWeights, norm: Norm, r: Float[Tensor, "B D"], radius: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Lip of r -> r + MLP(norm r) on the ball around each r: 1 + Lip(norm)·Lip(MLP)."""
    through = norm_lipschitz(norm, r, radius)
    inner = mlp_lipschitz(mlp, norm(r), upward(through * radius))
    return upward(1 + through * inner)


def norm_defect(
    mlp: MLPWeights,
    norm: Norm,
    r: Float[Tensor, "B D"],
    x_hat: Float[Tensor, "B D"],
) -> Float[Tensor, "B N"]:
    """|<w_n, norm(r̂) - x̂>|: ν as each neuron sees it, T1's e_n in an induction step."""
    return ((norm(r) - x_hat) @ mlp.W_in).abs()


def consistency_defect(
    before: Float[Tensor, "B D"], after: Float[Tensor, "B D"], mlp_output: Float[Tensor, "B D"]
) -> Float[Tensor, " B"]:
    """κ = ‖r̂_{k+1} - (r̂_k + MLP_abs)‖, of the reconstructions at consecutive hookpoints."""
    return upward((after - (before + mlp_output)).norm(dim=1), 2 * before.shape[1])


def separable_defect(
    view: MLPDictionary,
    latents: SparseLatents,
    decoder_steps: Float[Tensor, "H D"],
    bias_step: Float[Tensor, " D"],
) -> Float[Tensor, " B"]:
    """κ for MLP_add, latent by latent: at least `consistency_defect`, each latent checked alone.

    ‖bias_step - b_out - sum_n o_n σ(β_n)‖ + sum_h ‖a_h step_h - f_h(a_h)‖, where `decoder_steps`
    and `bias_step` are the differences of decoder vectors and biases between the two hookpoints.
    """
    mlp = view.mlp.plain("The separable defect")
    constant = bias_step - mlp.b_out - mlp.activation(view.baseline) @ mlp.W_out
    alone = latent_defects(view, latents, decoder_steps)
    total = alone.new_zeros(latents.n_tokens).index_add(0, latents.token_index, alone)
    return upward(total + constant.norm(), 2 * mlp.d_model)


def latent_defects(
    view: MLPDictionary, latents: SparseLatents, decoder_steps: Float[Tensor, "H D"]
) -> Float[Tensor, " entries"]:
    """‖a_h step_h - f_h(a_h)‖ of each active entry."""
    mlp, values = view.mlp, latents.values[:, None]
    moved = steps(mlp.activation, view.baseline, values * view.G[latents.indices])
    defects: Tensor = (values * decoder_steps[latents.indices] - moved @ mlp.W_out).norm(dim=1)
    return defects


def norm_lipschitz(
    norm: Norm, r: Float[Tensor, "*batch D"], radius: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """A Lipschitz constant of the norm on the ball: max |weight| · √D / s_lo.

    The Jacobian of √D Pr / s is (√D / s)(I - (Pr)(Pr)ᵀ / s²)P, of norm at most √D / s.
    """
    low, _ = norm.scale_range(r, radius)
    return norm.weight.abs().max() * math.sqrt(norm.width) / low * (1 + gamma(8, r.dtype))

"""The pre-activations that a bound compares: the model's, all latents', the dominant latent's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.autograd import sparse_product
from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.rounding import gamma, product_slack, upward


@dataclass(frozen=True, eq=False)
class Preactivations:
    """One path of an MLP (the only one of a plain MLP) at each token and neuron.

    z = `true` is the model's pre-activation; ẑ = `reconstructed` = β + sum_h p_h that of all
    latents; `kept` = β + p_i that of the dominant one.
    """

    baseline: Float[Tensor, " N"]
    """β_n."""
    dominant: Float[Tensor, "B N"]
    """p_n,i(n), signed."""
    low: Float[Tensor, "B N"]
    """sum_h min(p_nh, 0)."""
    high: Float[Tensor, "B N"]
    """sum_h max(p_nh, 0)."""
    true: Float[Tensor, "B N"]
    """z_n; equal to `reconstructed` where there is no residual to speak of."""
    slack: Float[Tensor, "B N"] | None = None
    """Rounding error of all of the above together (`rounding_slack`); None ignores it."""

    @property
    def reconstructed(self) -> Float[Tensor, "B N"]:
        """ẑ_n."""
        return self.baseline + (self.low + self.high)

    @property
    def kept(self) -> Float[Tensor, "B N"]:
        """ẑ^dom_n."""
        return self.baseline + self.dominant

    @property
    def error(self) -> Float[Tensor, "B N"]:
        """e_n = |z_n - ẑ_n|, plus the slack."""
        gap = (self.true - self.reconstructed).abs()
        return gap if self.slack is None else gap + self.slack

    @property
    def signed_rest(self) -> Float[Tensor, "B N"]:
        """s_n = sum of p_nj over j other than i(n)."""
        return (self.low + self.high) - self.dominant

    @property
    def rest(self) -> Float[Tensor, "B N"]:
        """sum of |p_nj| over j other than i(n); exactly zero where at most one latent acts."""
        return ((self.high - self.low) - self.dominant.abs()).clamp_min(0)

    def between(
        self, one: Float[Tensor, "B N"], other: Float[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """The interval between two of the pre-activations, widened by the slack."""
        return self._widened(torch.minimum(one, other), torch.maximum(one, other))

    def _widened(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return (low, high) if self.slack is None else (low - self.slack, high + self.slack)


def linear_path(
    view: MLPDictionary,
    latents: SparseLatents,
    x: Float[Tensor, "B D"] | None = None,
    dominance: Dominance | None = None,
    rigorous: bool = False,
) -> Preactivations:
    """The linear path (the only one of a plain MLP) of every token.

    Without `x` the model is taken to run on the reconstruction. `dominance` defaults to the
    largest contribution; any choice is sound. `rigorous` fills in the rounding slack.
    """
    dominance = view.dominance(latents) if dominance is None else dominance
    weights = view.mlp.W_in, view.mlp.b_in
    return _path(view.G, view.baseline, latents, dominance.value, x, weights, rigorous)


def gate_path(
    view: MLPDictionary,
    latents: SparseLatents,
    x: Float[Tensor, "B D"] | None = None,
    dominance: Dominance | None = None,
    rigorous: bool = False,
) -> Preactivations:
    """The gate of a gated MLP, like `linear_path`; raises CrossproofError for a plain one."""
    dominance = view.dominance(latents) if dominance is None else dominance
    W, b = view.mlp.W_gate, view.mlp.b_gate
    if W is None or b is None or view.G_gate is None or view.baseline_gate is None:
        raise CrossproofError("A plain MLP has no gate; use linear_path alone.")
    assert dominance.gate is not None  # a dominance of this view has both paths
    return _path(view.G_gate, view.baseline_gate, latents, dominance.gate, x, (W, b), rigorous)


def _path(
    G: Tensor,
    baseline: Tensor,
    latents: SparseLatents,
    dominant: Tensor,
    x: Tensor | None,
    weights: tuple[Tensor, Tensor],
    rigorous: bool,
) -> Preactivations:
    low, high = signed_sums(latents, G)
    true = baseline + (low + high) if x is None else x @ weights[0] + weights[1]
    slack = None
    if rigorous:
        slack = rounding_slack(latents, baseline, high - low)
        slack = slack if x is None else slack + product_slack(x, *weights)
    return Preactivations(baseline, dominant, low, high, true, slack)


def signed_sums(
    latents: SparseLatents, G: Float[Tensor, "H N"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """The negative and the positive contributions of each token, summed at each neuron."""
    positive, negative = G.clamp_min(0), G.clamp_max(0)
    if not bool((latents.values < 0).any()):
        return sparse_product(latents, negative), sparse_product(latents, positive)
    up = latents.with_values(latents.values.clamp_min(0))
    down = latents.with_values(latents.values.clamp_max(0))
    low = sparse_product(up, negative) + sparse_product(down, positive)
    return low, sparse_product(up, positive) + sparse_product(down, negative)


def rounding_slack(
    latents: SparseLatents, baseline: Float[Tensor, " N"], magnitude: Float[Tensor, "B N"]
) -> Float[Tensor, "B N"]:
    """What rounding may change in all sums of β and contributions together."""
    counts = latents.offsets.diff()
    terms = int(counts.max()) if len(counts) else 0
    return upward(gamma(8 * terms + 32, magnitude.dtype) * (baseline.abs() + magnitude), 2)


def contributions(latents: SparseLatents, G: Float[Tensor, "H N"]) -> Float[Tensor, "B K N"]:
    """p of each token's active latents in turn, K being the largest number of them; 0 beyond.

    Takes [B, K, N] memory: for the bounds that have to sort or pair contributions.
    """
    counts = latents.offsets.diff()
    width = int(counts.max()) if len(counts) else 0
    slots = torch.arange(len(latents.indices), device=counts.device)
    slots = slots - latents.offsets[latents.token_index]
    out = G.new_zeros(latents.n_tokens, width, G.shape[1])
    p = latents.values[:, None] * G[latents.indices]
    return out.index_put((latents.token_index, slots), p)

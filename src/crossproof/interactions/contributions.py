"""Contributions of latents to neurons, and the dominant one.

p_nh = a_h <w_n, d_h>: what active latent h adds to the pre-activation of neuron n. The bias is
counted once, in the baseline beta_n = <w_n, b> + b_n, never inside a contribution. All functions
are pure and differentiable in latents, decoder and virtual weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossproof import kernels
from crossproof.crosscoder.autograd import sparse_product
from crossproof.crosscoder.latents import SparseLatents
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.norms import Norm


class _Owned(torch.autograd.Function):
    """Contributions of given owners; `value` is already known to the caller."""

    @staticmethod
    def forward(
        ctx: Any,
        activations: Tensor,
        G: Tensor,
        value: Tensor,
        owner: Tensor,
        latents: SparseLatents,
    ) -> Tensor:
        ctx.save_for_backward(activations, G, owner)
        ctx.latents = latents
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        activations, G, owner = ctx.saved_tensors
        latents: SparseLatents = ctx.latents
        arguments = latents.indices, activations, G, owner, grad.contiguous()
        gradients = kernels.dominant_backward(*arguments, lambda: latents.transposed)
        return *gradients, None, None, None


def dominant_contributions(
    latents: SparseLatents, G: Float[Tensor, "H N"]
) -> tuple[Float[Tensor, "B N"], Int[Tensor, "B N"]]:
    """The signed contribution of the dominant latent i(n) = argmax_h |p_nh|, and its entry.

    The entry is a position in `latents.indices`, -1 where no latent contributes; the lowest latent
    wins ties. The gradient reaches one latent per token and neuron.
    """
    latents = latents.to(G.dtype)
    detached, weights = latents.values.detach(), G.detach()
    value, owner = kernels.dominant(latents.offsets, latents.indices, detached, weights)
    out: Tensor = _Owned.apply(latents.values, G, value, owner, latents)
    return out, owner


def owned_contributions(
    latents: SparseLatents, G: Float[Tensor, "H N"], owner: Int[Tensor, "B N"]
) -> Float[Tensor, "B N"]:
    """The contribution through `G` of the entry that `owner` names at each token and neuron."""
    if len(latents.indices) == 0:
        return G.new_zeros(owner.shape)
    latents = latents.to(G.dtype)
    entry = owner.to(torch.int64)
    neurons = torch.arange(G.shape[1], device=G.device)
    weights = G.detach()[latents.indices[entry.clamp_min(0)], neurons]
    detached = latents.values.detach()
    activations = detached[entry.clamp_min(0)]
    value = torch.where(entry >= 0, weights * activations, 0)
    out: Tensor = _Owned.apply(latents.values, G, value, owner, latents)
    return out


def magnitudes(latents: SparseLatents, G: Float[Tensor, "H N"]) -> Float[Tensor, "B N"]:
    """Sum over active latents of |p_nh| at each token and neuron."""
    if _differentiable(latents, G):
        return sparse_product(latents.with_values(latents.values.abs()), G.abs())
    negative, positive = _by_sign(latents, G)
    return positive - negative


def _differentiable(latents: SparseLatents, G: Tensor) -> bool:
    return torch.is_grad_enabled() and (G.requires_grad or latents.values.requires_grad)


def _by_sign(
    latents: SparseLatents, G: Float[Tensor, "H N"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Sums of the negative and of the positive contributions."""
    values = latents.values.detach().to(G.dtype)
    return kernels.sums_by_sign(latents.offsets, latents.indices, values, G.detach())


@dataclass(frozen=True)
class Dominance:
    """What the dominant latent contributes at each token and neuron."""

    value: Float[Tensor, "B N"]
    """Its contribution to the linear path (the only path of a plain MLP)."""
    owner: Int[Tensor, "B N"]
    """Its entry in the latents, -1 where none is active."""
    gate: Float[Tensor, "B N"] | None = None
    """Its contribution to the gate, in a gated MLP."""


@dataclass(frozen=True, eq=False)
class MLPDictionary:
    """A dictionary as one MLP sees it: virtual weights and baselines.

    G[h, n] = <w_n, d_h>; of a gated MLP, G is the linear path and G_gate the gate's.
    """

    mlp: MLPWeights
    G: Float[Tensor, "H N"]
    baseline: Float[Tensor, "*tokens N"]
    """One for all tokens, or each token's own."""
    G_gate: Float[Tensor, "H N"] | None = None
    baseline_gate: Float[Tensor, "*tokens N"] | None = None
    written: Float[Tensor, "N D"] | None = None
    """What the stream takes of each neuron, o_n, where a norm follows the MLP's output weights."""

    @classmethod
    def build(
        cls, mlp: MLPWeights, decoder: Float[Tensor, "H D"], bias: Float[Tensor, "*tokens D"]
    ) -> MLPDictionary:
        """From decoder vectors and bias at the MLP's input, in the units the MLP reads.

        A bias of each token's own ([B, D]) gives each its own baseline. All in the dictionary's
        dtype, float32 at least, whatever the model's.
        """
        dtype = torch.promote_types(decoder.dtype, torch.float32)
        mlp, decoder, bias = mlp.to(dtype=dtype), decoder.to(dtype), bias.to(dtype)
        G, baseline = decoder @ mlp.W_in, bias @ mlp.W_in + mlp.b_in
        if mlp.W_gate is None or mlp.b_gate is None:
            return cls(mlp, G, baseline)
        return cls(mlp, G, baseline, decoder @ mlp.W_gate, bias @ mlp.W_gate + mlp.b_gate)

    @property
    def output_vectors(self) -> Float[Tensor, "N D"]:
        """o_n."""
        return self.mlp.W_out if self.written is None else self.written

    @cached_property
    def output_norms(self) -> Float[Tensor, " N"]:
        """‖o_n‖."""
        norms: Tensor = self.output_vectors.norm(dim=1)
        return norms

    def shifted(self, x: Float[Tensor, "*tokens D"]) -> MLPDictionary:
        """The same with `x` added to what the MLP reads beside the latents."""
        baseline, mlp, gate = self.baseline + x @ self.mlp.W_in, self.mlp, self.baseline_gate
        if gate is not None and mlp.W_gate is not None:
            gate = gate + x @ mlp.W_gate
        return replace(self, baseline=baseline, baseline_gate=gate)

    def with_second_norm(self, second: Norm | None) -> MLPDictionary:
        """The same where a norm follows the MLP: o_n is weight ⊙ C o_n, over its denominator.

        That is each token's own, `TokenView.weight`. None: itself.
        """
        if second is None:
            return self
        return replace(self, written=second.to(self.mlp.W_out).linear(self.mlp.W_out))

    def of_tokens(self, tokens: slice | Int[Tensor, " tokens"]) -> MLPDictionary:
        """The same at some of the tokens, where baselines are each token's own."""
        if self.baseline.dim() == 1:
            return self
        gate = None if self.baseline_gate is None else self.baseline_gate[tokens]
        return replace(self, baseline=self.baseline[tokens], baseline_gate=gate)

    def dominance(self, latents: SparseLatents) -> Dominance:
        """The dominant latent of each token and neuron.

        i(n) maximises |p_nh|; in a gated MLP |p^gate_nh| + |p_nh| (any choice is sound, T3).
        """
        if self.G_gate is None:
            return Dominance(*dominant_contributions(latents, self.G))
        with torch.no_grad():
            values = latents.values.detach().to(self.G.dtype)
            entries = latents.offsets, latents.indices, values
            owner = kernels.dominant_of_both(*entries, self.G, self.G_gate)
        return self.dominance_of(latents, owner)

    def dominance_of(self, latents: SparseLatents, owner: Int[Tensor, "B N"]) -> Dominance:
        """Contributions of the entries that `owner` names, dominant or not."""
        value = owned_contributions(latents, self.G, owner)
        if self.G_gate is None:
            return Dominance(value, owner)
        return Dominance(value, owner, owned_contributions(latents, self.G_gate, owner))

    def output(
        self, value: Float[Tensor, "B N"], gate: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B D"]:
        """The MLP's output when contributions sum to `value` (and `gate`) above the baselines."""
        return self.neurons(value, gate) @ self.mlp.W_out + self.mlp.b_out

    def neurons(
        self, value: Float[Tensor, "B N"], gate: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B N"]:
        """The neurons' values behind `output`."""
        linear = self.baseline + value
        if self.baseline_gate is None or gate is None:
            return self.mlp.activation(linear)
        return self.mlp.activation(self.baseline_gate + gate) * linear

    def sums(
        self, latents: SparseLatents
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"] | None]:
        """Contributions of all active latents, summed at each neuron: value and gate."""
        gate = None if self.G_gate is None else sparse_product(latents, self.G_gate)
        return sparse_product(latents, self.G), gate

    def hull(self, latents: SparseLatents) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """Least and largest pre-activation that any subset of the active latents gives a neuron.

        Of a gated MLP, on the linear path.
        """
        return _hull(latents, self.G, self.baseline)


def _hull(
    latents: SparseLatents, G: Float[Tensor, "H N"], baseline: Float[Tensor, "*tokens N"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    if not _differentiable(latents, G):
        low, high = _by_sign(latents, G)
        return baseline + low, baseline + high
    up, down = G.clamp_min(0), G.clamp_max(0)
    high, low = sparse_product(latents, up), sparse_product(latents, down)
    if (latents.values < 0).any():  # dictionaries of others may have such activations
        positive = latents.with_values(latents.values.clamp_min(0))
        negative = latents.with_values(latents.values.clamp_max(0))
        high = sparse_product(positive, up) + sparse_product(negative, down)
        low = sparse_product(positive, down) + sparse_product(negative, up)
    return baseline + low, baseline + high

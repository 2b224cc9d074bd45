"""The formulas of the theory, written out densely in float64: what the fast code must equal.

Nothing here imports the package. Contributions are explicit tensors p[b, n, h]; activations and
masks are dense [B, H].
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

LIPSCHITZ = {
    "relu": 1.0,
    "gelu": 1.1289041451851548,
    "gelu_tanh": 1.1289930686587718,
    "silu": 1.0998393201288669,
    "quick_gelu": 1.0998393201288669,
    "identity": 1.0,
}
ACTIVATIONS = tuple(LIPSCHITZ)


def act(name: str, x: Tensor) -> Tensor:
    if name == "relu":
        return torch.where(x > 0, x, torch.zeros_like(x))
    if name == "gelu":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    if name == "gelu_tanh":
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    if name == "silu":
        return x / (1 + torch.exp(-x))
    if name == "quick_gelu":
        return x / (1 + torch.exp(-1.702 * x))
    return x


class DenseMLP:
    """An MLP as plain float64 tensors."""

    def __init__(self, weights: object) -> None:
        for name in ("W_in", "b_in", "W_out", "b_out", "W_gate", "b_gate"):
            value = getattr(weights, name)
            setattr(self, name, None if value is None else value.detach().double())
        self.name: str = weights.activation.value
        self.L = LIPSCHITZ[self.name]

    def __call__(self, x: Tensor) -> Tensor:
        gate = None if self.W_gate is None else x @ self.W_gate + self.b_gate
        return self.out(x @ self.W_in + self.b_in, gate)

    def out(self, linear: Tensor, gate: Tensor | None) -> Tensor:
        neurons = act(self.name, linear) if gate is None else act(self.name, gate) * linear
        return neurons @ self.W_out + self.b_out

    def norms(self) -> Tensor:
        return self.W_out.pow(2).sum(1).sqrt()


class DenseView:
    """Contributions, baselines and the dominant latent at one MLP, with p[b, n, h] spelt out."""

    def __init__(self, mlp: DenseMLP, activations: Tensor, decoder: Tensor, bias: Tensor) -> None:
        self.mlp = mlp
        self.p = torch.einsum("bh,hd,dn->bnh", activations, decoder, mlp.W_in)
        self.beta = bias @ mlp.W_in + mlp.b_in
        self.gated = mlp.W_gate is not None
        strength = self.p.abs()
        if self.gated:
            self.q = torch.einsum("bh,hd,dn->bnh", activations, decoder, mlp.W_gate)
            self.beta_gate = bias @ mlp.W_gate + mlp.b_gate
            strength = strength + self.q.abs()
        self.strength = strength
        self.owner = strength.detach().argmax(2, keepdim=True)
        self.rest = self.p.abs().sum(2) - self._at(self.p).abs()

    def _at(self, p: Tensor) -> Tensor:
        return p.gather(2, self.owner)[..., 0]

    def dominant_output(self) -> Tensor:
        gate = self.beta_gate + self._at(self.q) if self.gated else None
        return self.mlp.out(self.beta + self._at(self.p), gate)

    def additive_output(self) -> Tensor:
        base = act(self.mlp.name, self.beta)
        curves = act(self.mlp.name, self.beta[:, None] + self.p) - base[:, None]
        return (base + curves.sum(2)) @ self.mlp.W_out + self.mlp.b_out

    def interaction(self, weights: Tensor | None = None) -> Tensor:
        weights = self.mlp.norms() if weights is None else weights
        if not self.gated:
            return self.rest @ weights
        rest_gate = self.q.abs().sum(2) - self._at(self.q).abs()
        linear = (self.beta + self._at(self.p)).abs()
        opening = act(self.mlp.name, self.beta_gate + self._at(self.q)).abs()
        slope = self.mlp.L
        charge = slope * linear * rest_gate + opening * self.rest + slope * rest_gate * self.rest
        return charge @ weights

    def residual(self, x: Tensor, x_hat: Tensor) -> Tensor:
        mlp, error = self.mlp, x - x_hat
        linear = (error @ mlp.W_in).abs()
        if not self.gated:
            return mlp.L * linear @ mlp.norms()
        gate = (error @ mlp.W_gate).abs()
        value = (x_hat @ mlp.W_in + mlp.b_in).abs()
        opening = act(mlp.name, x_hat @ mlp.W_gate + mlp.b_gate).abs()
        return (mlp.L * value * gate + opening * linear + mlp.L * gate * linear) @ mlp.norms()

    def share(self) -> Tensor:
        """Largest over summed magnitude; 1 where nothing contributes."""
        total = self.strength.sum(2)
        largest = self.strength.gather(2, self.owner)[..., 0]
        return torch.where(total > 0, largest / torch.where(total > 0, total, 1.0), 1.0)


def batch_topk_mask(pre: Tensor, k: int) -> Tensor:
    """True at the k·B largest pre-activations, by sorting all of them."""
    order = pre.flatten().argsort(descending=True)[: k * len(pre)]
    mask = torch.zeros(pre.numel(), dtype=torch.bool)
    mask[order] = True
    return mask.view_as(pre) & (pre > 0)


def second_norm(mlp: DenseMLP, second: object, x: Tensor) -> tuple[DenseMLP, Tensor]:
    """The MLP behind the linear part of a norm on its output, and 1 / s of that norm at x."""

    def centred(v: Tensor) -> Tensor:
        return v - v.mean(-1, keepdim=True) if second.centred else v

    made = copy.copy(mlp)
    made.W_out, made.b_out = (second.weight * centred(v) for v in (mlp.W_out, mlp.b_out))
    return made, 1 / (centred(mlp(x)).pow(2).mean(1) + second.epsilon).sqrt()


def block_terms(
    mlp: DenseMLP,
    activations: Tensor,
    decoder: Tensor,
    bias: Tensor,
    x: Tensor,
    x_hat: Tensor,
    second: object = None,
) -> dict[str, Tensor]:
    """Every objective term of one MLP, in raw units; `second`: a norm on its output."""
    own = torch.ones(len(x), dtype=x.dtype)
    if second is not None:
        mlp, own = second_norm(mlp, second, x)
    view, target = DenseView(mlp, activations, decoder, bias), own[:, None] * mlp(x)
    spread = (target - target.mean(0)).pow(2).sum(1).mean()
    norms, bound = mlp.norms(), view.interaction()

    def relative_error(output: Tensor) -> Tensor:
        return (own[:, None] * output - target).pow(2).sum(1).mean() / spread

    certified = view.residual(x, x_hat) + (bound if view.gated else mlp.L * bound)
    by_size = view.interaction(norms / norms.mean())
    return {
        "interaction": view.interaction(torch.ones_like(norms)).mean() / len(norms),
        "output_norm": (own * by_size).mean() / own.mean() / len(norms),
        "keep_largest": relative_error(view.dominant_output()),
        "all_latents": relative_error(mlp(x_hat)),
        "certified": (own * certified).mean() / spread.sqrt(),
        "dominant_share": 1 - view.share().mean(),
        "mlp_in": (x - x_hat).pow(2).sum(1).mean() / (x - x.mean(0)).pow(2).sum(1).mean(),
    }

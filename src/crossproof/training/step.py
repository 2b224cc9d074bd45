"""A training step as the terms of the objective see it: data, latents, decoder vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder, Encoding
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.lm.mlp import MLPWeights


@dataclass(frozen=True, eq=False)
class TargetMLP:
    """One MLP that terms are about, and the crosscoder's hookpoint at its input."""

    hookpoint: int
    mlp: MLPWeights
    rotation: Float[Tensor, "D D"]
    """Orthogonal; the control turns the neurons' input weights by it."""

    @classmethod
    def build(cls, hookpoint: int, mlp: MLPWeights, seed: int) -> TargetMLP:
        """With a random rotation, from `seed` and the hookpoint."""
        generator = torch.Generator().manual_seed(seed * 1000 + hookpoint)
        noise = torch.randn(mlp.d_model, mlp.d_model, generator=generator)
        rotation = torch.linalg.qr(noise)[0]
        return cls(hookpoint, mlp, rotation.to(mlp.W_in))

    def reading(self, scale: Float[Tensor, ""]) -> TargetMLP:
        """The same MLP for inputs that have been multiplied by `scale`."""
        gate = None if self.mlp.W_gate is None else self.mlp.W_gate / scale
        return replace(self, mlp=replace(self.mlp, W_in=self.mlp.W_in / scale, W_gate=gate))

    def rotated(self) -> TargetMLP:
        """The same form with the wrong neurons: input weights turned by one random rotation."""
        gate = None if self.mlp.W_gate is None else self.rotation @ self.mlp.W_gate
        turned = replace(self.mlp, W_in=self.rotation @ self.mlp.W_in, W_gate=gate)
        return replace(self, mlp=turned)


@dataclass(frozen=True, eq=False)
class BlockStep:
    """One MLP's part of a training step: what a term `per="mlp"` is a function of.

    All is in scaled space, and `target.mlp` reads scaled inputs: contributions a_h ⟨w_n, d_h⟩ are
    those of raw activations, in the model's own units. What follows from the fields is computed
    when a term first asks for it, once for all terms.
    """

    target: TargetMLP
    latents: SparseLatents
    """Of the B tokens; values and, through them, the encoder are differentiable."""
    x: Float[Tensor, "B D"]
    """The MLP's inputs: data, without gradient."""
    x_hat: Float[Tensor, "B D"]
    """Their reconstruction."""
    decoder: Float[Tensor, "H D"]
    """Decoder vectors at the MLP's input."""
    bias: Float[Tensor, " D"]

    @cached_property
    def view(self) -> MLPDictionary:
        """Virtual weights ⟨w_n, d_h⟩ and what else the interaction measures need."""
        return MLPDictionary.build(self.target.mlp, self.decoder, self.bias)

    @cached_property
    def dominance(self) -> Dominance:
        """The latent of largest contribution at every token and neuron."""
        return self.view.dominance(self.latents)

    @cached_property
    def output(self) -> Float[Tensor, "B D"]:
        """MLP(x), the model's own output."""
        with torch.no_grad():
            return self.target.mlp(self.x)

    @cached_property
    def variance(self) -> Tensor:
        """Mean squared distance of the MLP's output from its mean, over the batch."""
        return (self.output - self.output.mean(0)).pow(2).sum(1).mean()

    def relative_error(self, output: Float[Tensor, "B D"]) -> Tensor:
        """Mean squared error of an MLP output over the output's variance."""
        return (output - self.output).pow(2).sum(1).mean() / self.variance


@dataclass(frozen=True, eq=False)
class Step:
    """A training step: what a term `per="step"` is a function of. All is in scaled space."""

    crosscoder: Crosscoder
    encoding: Encoding
    x: Float[Tensor, "B P D"]
    x_hat: Float[Tensor, "B P D"]
    targets: Sequence[TargetMLP]
    """The MLPs that terms are about."""
    decoder: Float[Tensor, "H M D"]
    """Scaled decoder vectors at the hookpoints of the M targets."""
    fraction: float = 1.0
    """Of the tokens, the first of a shuffled batch, that terms about MLPs are computed on."""

    @classmethod
    def build(
        cls,
        crosscoder: Crosscoder,
        encoding: Encoding,
        x: Float[Tensor, "B P D"],
        targets: Sequence[TargetMLP],
        fraction: float = 1.0,
    ) -> Step:
        """Decodes; `targets` are the MLPs that the objective has terms about."""
        if not targets:
            x_hat = crosscoder.decode_scaled(encoding.latents).view_as(x)
            return cls(crosscoder, encoding, x, x_hat, targets, crosscoder.W_dec[:, :0])
        where = torch.tensor([target.hookpoint for target in targets], device=x.device)
        decoded, decoder = crosscoder.decode_with_vectors(encoding.latents, where)
        return cls(crosscoder, encoding, x, decoded.view_as(x), targets, decoder, fraction)

    @cached_property
    def blocks(self) -> list[BlockStep]:
        """The step of each target MLP, on `fraction` of the tokens."""
        where = torch.tensor([target.hookpoint for target in self.targets], device=self.x.device)
        tokens = max(1, round(self.fraction * len(self.x)))
        latents = self.encoding.latents
        latents = latents if tokens == len(self.x) else latents.rows(0, tokens)
        x, x_hat = (t[:tokens, where].unbind(1) for t in (self.x, self.x_hat))
        decoder, bias = self.decoder.unbind(1), self.crosscoder.b_dec[where].unbind(0)
        scales = self.crosscoder.scale[where].unbind(0)
        return [
            BlockStep(target.reading(scale), latents, *values)
            for target, scale, *values in zip(
                self.targets, scales, x, x_hat, decoder, bias, strict=True
            )
        ]

"""What a crosscoder is trained for, one small function a term.

Every term is a mean over tokens (and blocks); the loss is their sum, weighted by `Objective`.
Reconstruction is the squared error summed over hookpoints and dimensions of scaled activations,
as in the paper, so that strengths compare with its λ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder, Encoding
from crossproof.crosscoder.sparsity import JumpReLU
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.interactions.penalty import dominant_share, interaction, residual
from crossproof.lm.constants import LIPSCHITZ
from crossproof.lm.mlp import MLPWeights


@dataclass(frozen=True)
class Objective:
    """Strength of each term beside the reconstruction error; 0 leaves a term out."""

    interaction: float = 0.0
    """The paper's penalty: mean over block, token and neuron of Σ|p| - max|p| (its λ)."""
    interaction_weights: Literal["uniform", "output_norm"] = "uniform"
    """Weight neurons equally, as the paper trains, or by ‖o_n‖, as its measure is defined."""
    transition: float = 0.0
    """The exact error of keeping one latent per neuron, ‖MLP(x) - MLP_dom‖², over the variance
    of the MLP's output: the left-hand side of the theorem whose bound `interaction` shrinks."""
    all_latents: float = 0.0
    """‖MLP(x) - MLP(x̂)‖² over the same variance: keeps the full reconstruction intact."""
    certified: float = 0.0
    """R + L·I (theorem T1), the bound itself: shrinking the reconstruction does not lower it."""
    share: float = 0.0
    """1 - dominant share: scale-free."""
    l1: float = 0.0
    """Control, and the sparsity of `relu`: sum of a_h ‖d_h‖."""
    l0: float = 0.0
    """Sparsity of `jumprelu`: active latents a token."""
    mlp_in: float = 0.0
    """Control: extra reconstruction error at the MLPs' inputs."""
    rotated: float = 0.0
    """Control: the `interaction` penalty on neurons whose input weights are randomly rotated."""

    def strengths(self) -> dict[str, float]:
        """The non-zero strengths by term."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, float | int) and v != 0}

    def describe(self) -> str:
        """A short label: the non-zero terms and their strengths."""
        terms = ", ".join(f"{name} {value:g}" for name, value in self.strengths().items())
        return terms or "reconstruction only"


@dataclass(frozen=True, eq=False)
class Site:
    """One MLP and the hookpoint of the crosscoder at its input; `spin` rotates its neurons."""

    hookpoint: int
    mlp: MLPWeights
    spin: Float[Tensor, "D D"]

    @classmethod
    def build(cls, hookpoint: int, mlp: MLPWeights, seed: int) -> Site:
        """A site with a random rotation (orthogonal, from `seed` and the hookpoint)."""
        generator = torch.Generator().manual_seed(seed * 1000 + hookpoint)
        noise = torch.randn(mlp.d_model, mlp.d_model, generator=generator)
        spin = torch.linalg.qr(noise)[0]
        return cls(hookpoint, mlp, spin.to(mlp.W_in))

    def reading(self, scale: Float[Tensor, ""]) -> Site:
        """The same site for inputs that have been multiplied by `scale`."""
        gate = None if self.mlp.W_gate is None else self.mlp.W_gate / scale
        return replace(self, mlp=replace(self.mlp, W_in=self.mlp.W_in / scale, W_gate=gate))

    def rotated(self) -> Site:
        """The same form with the wrong neurons: input weights turned by one random rotation."""
        gate = None if self.mlp.W_gate is None else self.spin @ self.mlp.W_gate
        turned = replace(self.mlp, W_in=self.spin @ self.mlp.W_in, W_gate=gate)
        return replace(self, mlp=turned)


@dataclass(frozen=True, eq=False)
class BlockStep:
    """One block's part of a training step; dominance is computed on demand.

    All is in scaled space, and the site's MLP reads scaled inputs: contributions are the same.
    """

    site: Site
    latents: SparseLatents
    x: Float[Tensor, "B D"]
    x_hat: Float[Tensor, "B D"]
    decoder: Float[Tensor, "H D"]
    bias: Float[Tensor, " D"]

    @cached_property
    def view(self) -> MLPDictionary:
        return MLPDictionary.build(self.site.mlp, self.decoder, self.bias)

    @cached_property
    def dominance(self) -> Dominance:
        return self.view.dominance(self.latents)

    @cached_property
    def target(self) -> Float[Tensor, "B D"]:
        """MLP(x), the model's own output."""
        with torch.no_grad():
            return self.site.mlp(self.x)

    @cached_property
    def variance(self) -> Tensor:
        """Mean squared distance of the MLP's output from its mean, over the batch."""
        return (self.target - self.target.mean(0)).pow(2).sum(1).mean()

    def relative_error(self, output: Float[Tensor, "B D"]) -> Tensor:
        """Mean squared error of an MLP output over the output's variance."""
        return (output - self.target).pow(2).sum(1).mean() / self.variance


@dataclass(frozen=True, eq=False)
class Step:
    """A training step as the objectives see it; `x` and `x_hat` are scaled, [B, P, D]."""

    crosscoder: Crosscoder
    encoding: Encoding
    x: Float[Tensor, "B P D"]
    x_hat: Float[Tensor, "B P D"]
    sites: Sequence[Site]
    decoder: Float[Tensor, "H M D"]
    """Scaled decoder vectors at the M sites' hookpoints."""
    share: float = 1.0
    """Fraction of the tokens, the first of a shuffled batch, that block terms are computed on."""

    @classmethod
    def build(
        cls,
        crosscoder: Crosscoder,
        encoding: Encoding,
        x: Float[Tensor, "B P D"],
        sites: Sequence[Site],
        share: float = 1.0,
    ) -> Step:
        """Decodes; `sites` are the MLPs that the objective has terms about."""
        if not sites:
            x_hat = crosscoder.decode_scaled(encoding.latents).view_as(x)
            return cls(crosscoder, encoding, x, x_hat, sites, crosscoder.W_dec[:, :0])
        where = torch.tensor([site.hookpoint for site in sites], device=x.device)
        decoded, decoder = crosscoder.decode_with_vectors(encoding.latents, where)
        return cls(crosscoder, encoding, x, decoded.view_as(x), sites, decoder, share)

    @cached_property
    def blocks(self) -> list[BlockStep]:
        where = torch.tensor([site.hookpoint for site in self.sites], device=self.x.device)
        tokens = max(1, round(self.share * len(self.x)))
        latents = self.encoding.latents
        latents = latents if tokens == len(self.x) else latents.rows(0, tokens)
        x, x_hat = (t[:tokens, where].unbind(1) for t in (self.x, self.x_hat))
        decoder, bias = self.decoder.unbind(1), self.crosscoder.b_dec[where].unbind(0)
        scales = self.crosscoder.scale[where].unbind(0)
        return [
            BlockStep(site.reading(scale), latents, *values)
            for site, scale, *values in zip(
                self.sites, scales, x, x_hat, decoder, bias, strict=True
            )
        ]


def reconstruction(step: Step) -> Tensor:
    return (step.x - step.x_hat).pow(2).sum((1, 2)).mean()


def _interaction(block: BlockStep, weights: Tensor) -> Tensor:
    latents, dominance = block.latents, block.dominance
    return interaction(block.view, latents, dominance, weights).mean() / len(weights)


def uniform_interaction(block: BlockStep) -> Tensor:
    return _interaction(block, torch.ones_like(block.site.mlp.b_in))


def norm_interaction(block: BlockStep) -> Tensor:
    norms = block.view.output_norms
    return _interaction(block, norms / norms.mean())


def rotated_interaction(block: BlockStep) -> Tensor:
    return uniform_interaction(replace(block, site=block.site.rotated()))


def transition(block: BlockStep) -> Tensor:
    return block.relative_error(block.view.output(block.dominance.value, block.dominance.gate))


def all_latents(block: BlockStep) -> Tensor:
    return block.relative_error(block.site.mlp(block.x_hat))


def certified(block: BlockStep) -> Tensor:
    bound = interaction(block.view, block.latents, block.dominance)
    if not block.site.mlp.gated:  # the gated form carries its constant inside
        bound = bound * LIPSCHITZ[block.site.mlp.activation]
    return (residual(block.view, block.x, block.x_hat) + bound).mean() / block.variance.sqrt()


def share(block: BlockStep) -> Tensor:
    return 1 - dominant_share(block.view, block.latents, block.dominance).mean()


def mlp_in(block: BlockStep) -> Tensor:
    spread = (block.x - block.x.mean(0)).pow(2).sum(1).mean()
    return (block.x - block.x_hat).pow(2).sum(1).mean() / spread


def l1(step: Step) -> Tensor:
    norms = step.crosscoder.W_dec.flatten(1).norm(dim=1)
    latents = step.encoding.latents
    total: Tensor = (latents.values.abs() * norms[latents.indices]).sum()
    return total / latents.n_tokens


def l0(step: Step) -> Tensor:
    sparsity = step.crosscoder.sparsity
    if not isinstance(sparsity, JumpReLU):
        return step.x.new_zeros(())
    return sparsity.l0(step.encoding.entries)


BLOCK_TERMS: dict[str, Callable[[BlockStep], Tensor]] = {
    "interaction": uniform_interaction,
    "transition": transition,
    "all_latents": all_latents,
    "certified": certified,
    "share": share,
    "mlp_in": mlp_in,
    "rotated": rotated_interaction,
}
STEP_TERMS: dict[str, Callable[[Step], Tensor]] = {"l1": l1, "l0": l0}


def penalties(objective: Objective, step: Step) -> Iterator[tuple[str, float, Tensor]]:
    """(name, strength, value) of every term with a strength; block terms as means over blocks."""
    for name, strength in objective.strengths().items():
        if name in STEP_TERMS:
            yield name, strength, STEP_TERMS[name](step)
        elif step.sites:
            term = BLOCK_TERMS[name]
            if name == "interaction" and objective.interaction_weights == "output_norm":
                term = norm_interaction
            yield name, strength, torch.stack([term(block) for block in step.blocks]).mean()

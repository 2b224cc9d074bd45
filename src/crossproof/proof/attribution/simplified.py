"""Simplified MLPs and what each neuron may be off by: the abstract models of the proof.

`keep(m)` lets the m largest contributions reach every neuron (m = 1: the dominant latent alone,
T1 and T3), `keep_centred(m)` adds the first-order part of the rest (T1c); `additive` lets every
latent move every neuron from its baseline as if it were alone (T2.2). Bounds are per neuron, to be
weighted by what the neuron writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.proof.bounds.additive import additive_gap, steps
from crossproof.proof.bounds.dominant import centred_gap, dominant_gap, residual_gap
from crossproof.proof.bounds.gated import gated_additive_bound, gated_gap, gated_residual
from crossproof.proof.bounds.preactivations import (
    Preactivations,
    contributions,
    gate_path,
    linear_path,
)
from crossproof.rounding import upward

CHUNK_ELEMENTS = 1 << 22
"""Entries of a contributions tensor [B, K, N] held at once."""

T = TypeVar("T")
Engine = Literal["dominant", "additive"]
ENGINES: tuple[Engine, ...] = ("dominant", "additive")


@dataclass(frozen=True, eq=False)
class Simplified:
    """A simplified MLP at B tokens."""

    output: Float[Tensor, "B D"]
    """What it puts out."""
    neurons: Float[Tensor, "B N"]
    """Its neurons' values."""
    gap: Float[Tensor, "B N"]
    """Bounds how far each neuron is from that of the MLP it stands for."""
    terms: Int[Tensor, " B"]
    """(Neuron, latent) pairs that pass through σ (a centred one reads the others linearly)."""

    def rows(self, part: slice) -> Simplified:
        """Of some of the tokens."""
        return Simplified(self.output[part], self.neurons[part], self.gap[part], self.terms[part])


@dataclass(frozen=True, eq=False)
class Neurons:
    """One MLP and the code of B tokens: contributions spelt out, and the model's input if known.

    Without `x` every gap is against the MLP of all latents, MLP(x̂); with it, against MLP(x).
    `rigorous` covers rounding in the gaps. Takes [B, K, N] memory: see `chunks`.
    """

    view: MLPDictionary
    latents: SparseLatents
    x: Float[Tensor, "B D"] | None = None
    x_error: Float[Tensor, " B"] | None = None
    """How far `x` may be from the input that is meant, by rounding."""
    rigorous: bool = False

    @cached_property
    def p(self) -> Float[Tensor, "B K N"]:
        """Contributions to the linear path (the only one of a plain MLP)."""
        return contributions(self.latents, self.view.G)

    @cached_property
    def p_gate(self) -> Float[Tensor, "B K N"] | None:
        """Contributions to the gate."""
        return None if self.view.G_gate is None else contributions(self.latents, self.view.G_gate)

    @cached_property
    def strength(self) -> Float[Tensor, "B K N"]:
        """Magnitudes by which contributions are ranked; both paths together in a gated MLP."""
        return self.p.abs() if self.p_gate is None else self.p.abs() + self.p_gate.abs()

    @cached_property
    def linear(self) -> Preactivations:
        """The linear path with the dominant latent kept."""
        path = linear_path(self.view, self.latents, self.x, self._dominance, self.rigorous)
        return self._blurred(path, self.view.mlp.W_in)

    @cached_property
    def gate(self) -> Preactivations | None:
        """The gate with the dominant latent kept; None for a plain MLP."""
        if self.view.mlp.W_gate is None:
            return None
        path = gate_path(self.view, self.latents, self.x, self._dominance, self.rigorous)
        return self._blurred(path, self.view.mlp.W_gate)

    @cached_property
    def _dominance(self) -> Dominance:
        return self.view.dominance(self.latents)

    def _blurred(self, path: Preactivations, W: Tensor) -> Preactivations:
        if self.x_error is None or path.slack is None:
            return path
        return replace(path, slack=path.slack + upward(self.x_error[:, None] * W.norm(dim=0), 64))

    @cached_property
    def rounding(self) -> Float[Tensor, "B N"]:
        """Bounds what rounding does to any simplified neuron, a sum of at most 2K + 1 values of σ.

        |σ(x)| ≤ |x| for every activation, so no value is above |β| + sum_h |p_h| (in a gated MLP:
        the product of both paths'), and each is wrong by a few machine epsilons of that.
        """
        size = self.view.baseline.abs() + self.p.abs().sum(1)
        if self.p_gate is not None and self.view.baseline_gate is not None:
            size = size * (self.view.baseline_gate.abs() + self.p_gate.abs().sum(1))
        return 64 * (self.p.shape[1] + 4) ** 2 * torch.finfo(size.dtype).eps * size

    def residual(self) -> Float[Tensor, "B N"]:
        """Bounds each neuron's change from MLP(x̂) to MLP(x): R's terms, with local slopes."""
        activation = self.view.mlp.activation
        if self.gate is None:
            return residual_gap(activation, self.linear)
        return upward(gated_residual(activation, self.gate, self.linear, local=True).total)

    def keep(self, m: int | None) -> Simplified:
        """The m largest contributions at every neuron; all of them for None."""
        value, gate, terms = self._kept(m)
        return self._finished(self.view.neurons(value, gate), self._kept_gap(value, gate), terms)

    def keep_centred(self, m: int | None) -> Simplified:
        """`keep` and the first-order part of what it misses (T1c): a centre with a smaller gap.

        In a gated MLP the linear path is taken whole and the gate is centred:
        |σ(γ) υ - (σ(γ') + s (γ - γ')) υ| is at most T1c's gap times |υ|.
        """
        value, gate, terms = self._kept(m)
        activation, linear = self.view.mlp.activation, replace(self.linear, dominant=value)
        path = linear if self.gate is None or gate is None else replace(self.gate, dominant=gate)
        centred = centred_gap(activation, path)
        neurons, gap = activation(path.kept) + centred.step, centred.gap
        lost = 64 * torch.finfo(neurons.dtype).eps * (path.true - path.kept).abs()
        if path is not linear:
            blur = 0 if linear.slack is None else linear.slack
            gap = gap * (linear.true.abs() + blur) + neurons.abs() * blur
            neurons, lost = neurons * linear.true, lost * linear.true.abs()
        return self._finished(neurons, upward(gap + lost) if self.rigorous else gap, terms)

    def _kept(self, m: int | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Sums of the m largest contributions on both paths, and how many there are."""
        if m is None or m >= self.p.shape[1]:
            return *self.view.sums(self.latents), (self.strength > 0).sum((1, 2))
        chosen = self.strength.topk(m, dim=1).indices
        gate = None if self.p_gate is None else self.p_gate.gather(1, chosen).sum(1)
        terms = (self.strength.gather(1, chosen) > 0).sum((1, 2))
        return self.p.gather(1, chosen).sum(1), gate, terms

    def additive(self) -> Simplified:
        """Every latent as if it were alone at every neuron."""
        mlp, terms = self.view.mlp, (self.strength > 0).sum((1, 2))
        if self.p_gate is None:
            moved = steps(mlp.activation, self.view.baseline, self.p).sum(1)
            neurons = mlp.activation(self.view.baseline) + moved
            gap = additive_gap(mlp.activation, self.linear, self.p)
        else:
            neurons = _gated_additive(self.view, self.p_gate, self.p)
            gap = upward(self.residual() + self._gated_additive_gap())
        return self._finished(neurons, gap, terms)

    def simplified(self, engine: Engine) -> Simplified:
        """One latent a neuron, or the additive model."""
        return self.keep(1) if engine == "dominant" else self.additive()

    def _finished(self, neurons: Tensor, gap: Tensor, terms: Tensor) -> Simplified:
        mlp = self.view.mlp
        gap = upward(gap + self.rounding) if self.rigorous else gap
        return Simplified(neurons @ mlp.W_out + mlp.b_out, neurons, gap, terms)

    def _kept_gap(self, value: Tensor, gate: Tensor | None) -> Tensor:
        activation, linear = self.view.mlp.activation, replace(self.linear, dominant=value)
        if self.gate is None or gate is None:
            return dominant_gap(activation, linear)
        return gated_gap(activation, replace(self.gate, dominant=gate), linear)

    def _gated_additive_gap(self) -> Tensor:
        view = self.view
        assert self.p_gate is not None
        assert view.baseline_gate is not None
        baselines = view.baseline_gate, view.baseline
        return gated_additive_bound(view.mlp.activation, baselines, self.p_gate, self.p)


def chunks(view: MLPDictionary, latents: SparseLatents) -> Iterator[tuple[slice, SparseLatents]]:
    """The tokens in pieces whose contributions to one MLP fit into memory."""
    counts = latents.offsets.diff()
    active = int(counts.max()) if len(counts) else 0
    step = max(1, CHUNK_ELEMENTS // max(1, active * view.mlp.n_neurons))
    for start in range(0, latents.n_tokens, step):
        part = slice(start, min(start + step, latents.n_tokens))
        yield part, latents.rows(part.start, part.stop)


def joined(kind: type[T], pieces: Sequence[T]) -> T:
    """A dataclass of tensors from those of consecutive tokens; of none where there are none."""
    columns = {name: [getattr(piece, name) for piece in pieces] for name in kind.__annotations__}
    empty = torch.zeros(0, dtype=torch.float64)
    return kind(**{name: torch.cat(rows) if rows else empty for name, rows in columns.items()})


def _gated_additive(view: MLPDictionary, p_gate: Tensor, p: Tensor) -> Tensor:
    """F(β) + sum_h (F(β + p_h) - F(β)), F(γ, υ) = σ(γ) υ."""
    assert view.baseline_gate is not None
    sigma = view.mlp.activation
    base = sigma(view.baseline_gate) * view.baseline
    alone = sigma(view.baseline_gate + p_gate) * (view.baseline + p)
    acting = (p_gate != 0) | (p != 0)
    return base + torch.where(acting, alone - base, 0).sum(1)

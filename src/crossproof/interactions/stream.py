"""A dictionary that writes the residual stream, as an MLP downstream reads it (THEORY T6, T7).

The MLP reads u = N(r), the norm of a stream r that holds what the dictionary describes beside
everything else. N is affine in r once its denominator s(r) is the model's own run's, so latent h
adds p_nh = (a_h / s) ⟨ŵ_n, d_h⟩ to neuron n, ŵ_n = Cᵀ(γ ⊙ w_n): virtual weights that no text
changes, and activations divided by one number a token. Everything that is defined for an
`MLPDictionary` and its latents then holds for what `StreamView.at` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.autograd import sparse_product
from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.gated import gated_terms
from crossproof.lm.constants import LIPSCHITZ
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.norms import Norm

K = TypeVar("K")
_NUMBERS = 2**22
"""Numbers in the largest temporary: 16 MiB in float32."""


@dataclass(frozen=True, eq=False)
class TokenView:
    """What the latents of B tokens do to one MLP."""

    dictionary: MLPDictionary
    latents: SparseLatents
    weight: Float[Tensor, " B"] | None = None
    """What sums over ‖o_n‖ are to be multiplied by at each token: 1 / s of a norm on the output,
    the router's weight of an expert."""
    routed: Float[Tensor, " B"] | None = None
    """The router's weight, where the MLP is one expert of a mixture."""

    def output(
        self, value: Float[Tensor, "B N"], gate: Float[Tensor, "B N"] | None
    ) -> Float[Tensor, "B D"]:
        """What the MLP puts out where contributions sum to these."""
        out = self.dictionary.output(value, gate)
        return out if self.routed is None else out * self.routed[:, None]

    def rows(self, start: int, stop: int) -> TokenView:
        """The view of the tokens `start:stop`."""
        tokens = slice(start, stop)
        weight, routed = (
            None if each is None else each[tokens] for each in (self.weight, self.routed)
        )
        latents = self.latents.rows(start, stop)
        return TokenView(self.dictionary.of_tokens(tokens), latents, weight, routed)

    def weighed(self, values: Float[Tensor, "B *parts"]) -> Float[Tensor, "B *parts"]:
        """Sums over neurons at each token, as the stream takes them."""
        if self.weight is None:
            return values
        return values * self.weight.view(-1, *(1 for _ in values.shape[1:]))


@dataclass(frozen=True, eq=False)
class ExpertView:
    """One expert of a mixture, and the tokens that are routed to it."""

    expert: int
    """Which of all."""
    tokens: Int[Tensor, " T"]
    """Ascending."""
    view: TokenView
    """What it sees of them."""


@dataclass(frozen=True, eq=False)
class TokenMixture:
    """What the latents of B tokens do to a mixture of experts, at the model's own routing."""

    experts: tuple[ExpertView, ...]
    """Those that have tokens."""
    n_tokens: int
    n_neurons: int
    """Those that a token meets."""
    widths: tuple[int, ...]
    """Neurons of every expert."""

    def added_by_name(self, of: Callable[[ExpertView], dict[K, Tensor]]) -> dict[K, Tensor]:
        """Adds up at each token what `of` gives of the tokens of each expert, name by name."""
        out: dict[K, Tensor] = {}
        for expert in self.experts:
            for name, values in of(expert).items():
                if name not in out:
                    out[name] = values.new_zeros(self.n_tokens, *values.shape[1:])
                out[name].index_add_(0, expert.tokens, values)
        return out

    def rows(self, start: int, stop: int) -> TokenMixture:
        """The mixture at the tokens `start:stop`."""
        experts = []
        for each in self.experts:
            ends = torch.tensor([start, stop], device=each.tokens.device)
            low, high = torch.searchsorted(each.tokens, ends).tolist()
            if low < high:
                tokens = each.tokens[low:high] - start
                experts.append(ExpertView(each.expert, tokens, each.view.rows(low, high)))
        return TokenMixture(tuple(experts), stop - start, self.n_neurons, self.widths)


Views = Mapping[int, MLPDictionary | TokenView]
"""By block: how its MLP reads a dictionary, for all tokens alike or at a batch's own."""
AnyViews = Mapping[int, MLPDictionary | TokenView | TokenMixture]
"""The same where mixtures of experts may be among them."""


def seen_by_mlps(latents: SparseLatents, views: Views) -> dict[int, TokenView]:
    """What each MLP sees of `latents`; none is a mixture of experts."""
    return {
        block: view if isinstance(view, TokenView) else TokenView(view, latents)
        for block, view in views.items()
    }


def experts_by_mlps(
    latents: SparseLatents, views: AnyViews
) -> dict[int, tuple[tuple[ExpertView, ...], tuple[int, ...]]]:
    """What each expert of every mixture sees, and how many neurons all have.

    An MLP that is no mixture is one expert for all tokens.
    """
    every = torch.arange(latents.n_tokens, device=latents.values.device)
    out = {}
    for block, view in views.items():
        if isinstance(view, TokenMixture):
            out[block] = view.experts, view.widths
            continue
        seen = view if isinstance(view, TokenView) else TokenView(view, latents)
        out[block] = (ExpertView(0, every, seen),), (seen.dictionary.mlp.n_neurons,)
    return out


@dataclass(frozen=True, eq=False)
class StreamView:
    """Decoder vectors upstream of an MLP, in the units of the stream, read through its norm."""

    frozen: MLPDictionary
    """The MLP behind the linear part of its norm; baselines hold its and the norm's biases."""
    norm: Norm
    decoder: Float[Tensor, "H D"]

    @classmethod
    def build(
        cls, mlp: MLPWeights, norm: Norm, decoder: Float[Tensor, "H D"], second: Norm | None = None
    ) -> StreamView:
        """`mlp` in the space that `norm` writes from the stream; `second`: a norm behind it."""
        norm = norm.to(decoder)
        frozen = MLPDictionary.build(behind(norm, mlp), decoder, torch.zeros_like(decoder[0]))
        return cls(frozen.with_second_norm(second), norm, decoder)

    def at(
        self,
        latents: SparseLatents,
        stream: Float[Tensor, "B D"],
        rest: Float[Tensor, " D"] | None = None,
    ) -> TokenView:
        """The view of B tokens, at the denominators of `stream`, the norm's input.

        `rest` is what the stream holds, divided by s, beside the dictionary: each token's own
        (None: pre-activations are then the model's), or one vector for all, such as the mean of
        `rest_of`.
        """
        by_entry = self.denominators(stream)[latents.token_index]
        scaled = latents.with_values(latents.values / by_entry)
        if rest is None:
            rest = self.rest_of(latents, stream)
        return TokenView(self.frozen.shifted(rest), scaled)

    def denominators(self, stream: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """s(r) of each token."""
        return self.norm.denominator(stream)

    def rest_of(self, latents: SparseLatents, stream: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """(r - Σ_h a_h d_h) / s: decoder bias, reconstruction error and all other writers."""
        rest = stream - sparse_product(latents, self.decoder)
        return rest / self.denominators(stream)[:, None]

    def norm_interaction(
        self, stream: Float[Tensor, "B D"], removed: Float[Tensor, "B D"]
    ) -> Float[Tensor, " B"]:
        """What freezing the denominator hides when `removed` leaves the stream (THEORY T7).

        Σ_n ‖o_n‖ |s(r) / s(r_S) - 1| |⟨ŵ_n, r_S⟩| / s(r), r_S = stream - removed. In a gated MLP
        both paths move by their own, and T3's charge at the frozen pre-activations is taken.
        """
        left, mlp = stream - removed, self.frozen.mlp
        before, after = self.denominators(stream), self.denominators(left)
        frozen = left / before[:, None]
        return self._hidden(before / after, *(frozen @ W for W in mlp.inputs))

    def single_norm_interactions(
        self, latents: SparseLatents, stream: Float[Tensor, "B D"]
    ) -> Float[Tensor, " nnz"]:
        """The same of each active latent's own part of the stream.

        What it takes from a neuron is known, p_nh, so no entry needs a product with the MLP.
        """
        token, before = latents.token_index, self.denominators(stream)
        whole = [(stream / before[:, None]) @ W for W in self.frozen.mlp.inputs]
        tables = [G for G in (self.frozen.G, self.frozen.G_gate) if G is not None]
        parts = [stream.new_zeros(0)]
        step = max(1, _NUMBERS // self.frozen.mlp.n_neurons)
        for rows in torch.arange(len(token), device=token.device).split(step):
            at, latent, value = token[rows], latents.indices[rows], latents.values[rows, None]
            after = self.denominators(stream[at] - value * self.decoder[latent])
            scaled = value / before[at, None]
            paths = (z[at] - scaled * G[latent] for z, G in zip(whole, tables, strict=True))
            parts.append(self._hidden(before[at] / after, *paths))
        return torch.cat(parts)

    def _hidden(
        self,
        ratio: Float[Tensor, " X"],
        linear: Float[Tensor, "X N"],
        gate: Float[Tensor, "X N"] | None = None,
    ) -> Float[Tensor, " X"]:
        """What paths that hold these (without biases) hide, s over the denominator after being
        `ratio`."""
        mlp, shift = self.frozen.mlp, (ratio - 1).abs()[:, None]
        moved = shift * linear.abs()
        if gate is None or mlp.b_gate is None:
            return moved @ self.frozen.output_norms
        opening = mlp.activation(gate + mlp.b_gate).abs()
        sizes = opening, (linear + mlp.b_in).abs(), shift * gate.abs(), moved
        return gated_terms(LIPSCHITZ[mlp.activation], *sizes).total @ self.frozen.output_norms


def behind(norm: Norm, mlp: MLPWeights) -> MLPWeights:
    """The MLP as a function of r / s(r): ŵ_n = Cᵀ(γ ⊙ w_n), and biases b_n + ⟨w_n, β⟩."""

    def through(weights: Float[Tensor, "D N"]) -> Float[Tensor, "D N"]:
        return norm.centre((norm.weight[:, None] * weights).T).T

    moved = replace(mlp, W_in=through(mlp.W_in), b_in=mlp.b_in + norm.bias @ mlp.W_in)
    if mlp.W_gate is None or mlp.b_gate is None:
        return moved
    b_gate = mlp.b_gate + norm.bias @ mlp.W_gate
    return replace(moved, W_gate=through(mlp.W_gate), b_gate=b_gate)

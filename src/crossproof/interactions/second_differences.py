"""Second differences: how far a pair of latents is from adding up inside an MLP (THEORY T2.2).

At neuron n, δ²_n(h, k) = F(r + p_h + p_k) - F(r + p_h) - F(r + p_k) + F(r), where p are the
contributions, r the neuron's pre-activation without the two, and F the activation, or σ(γ)υ of a
gated MLP with both its paths. Nothing is bounded here: these are the true values, of which
Q(h, k) = sum_n ‖o_n‖ ω_n min(|p_nh|, |p_nk|) is an upper bound; a gated MLP's Q bounds those of
pairs alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.exact import active_latents, entry_contributions, in_float64
from crossproof.interactions.pairs import Pairs
from crossproof.kernels.torch_any import entry_pairs, ragged

OtherLatents = Literal["alone", "others"]
"""What else the neuron sees. alone: r is the baseline β, no other latent is active. others: r is
β plus the contributions of the token's other active latents."""

_NUMBERS = 2**18
"""Numbers in the largest temporary: 2 MiB in float64."""


@dataclass(frozen=True, eq=False)
class SecondDifferences:
    """Second differences of M pairs, summed over tokens; add those of several batches up."""

    pairs: Int[Tensor, "M 2"]
    tokens: Int[Tensor, " M"]
    """Tokens at which both latents are active."""
    neurons: Float[Tensor, " M"]
    """Sum over tokens of sum_n ‖o_n‖ |δ²_n|, float64."""
    output: Float[Tensor, " M"]
    """Sum over tokens of ‖sum_n o_n δ²_n‖: how much the MLP's output is from additive, float64."""

    def __add__(self, other: SecondDifferences) -> SecondDifferences:
        """Sums over the tokens of both; raises CrossproofError if the pairs differ."""
        if not torch.equal(self.pairs, other.pairs):
            raise CrossproofError("These sums are of different pairs; give every batch the same.")
        totals = self.tokens + other.tokens, self.neurons + other.neurons
        return SecondDifferences(self.pairs, *totals, self.output + other.output)


def second_difference_sums(
    view: MLPDictionary,
    latents: SparseLatents,
    pairs: Int[Tensor, "M 2"],
    context: OtherLatents = "alone",
    weights: Float[Tensor, " B"] | None = None,
) -> SecondDifferences:
    """Second differences of chosen pairs, summed over the tokens of one batch.

    `weights` multiply what each token adds: 1 / s of a norm on the MLP's output.

    Only co-active pairs are touched. Everything is computed in float64, since the differences
    cancel most of what they are taken of. Raises CrossproofError for latents outside the
    dictionary, activations that are not finite and latents of another dictionary.
    """
    chosen = Pairs(pairs.to(view.G.device), view.G.shape[0])
    exact = in_float64(view)
    norms = exact.output_norms
    sums = norms.new_zeros(2, chosen.n_distinct)
    counts = torch.zeros(chosen.n_distinct, dtype=torch.int64, device=norms.device)
    for start, rows in _blocks(active_latents(view, latents)):
        first, second = entry_pairs(rows.offsets)
        seen = exact.of_tokens(slice(start, start + rows.n_tokens))
        row = chosen.find(rows.indices[first], rows.indices[second])
        first, second, row = (entries[row >= 0] for entries in (first, second, row))
        counts += torch.bincount(row, minlength=len(counts))
        for part, delta in _deltas(seen, rows, first, second, context):
            if weights is not None:
                delta = delta * weights[start + rows.token_index[first[part]], None]
            sums[0].index_add_(0, row[part], delta.abs() @ norms)
            sums[1].index_add_(0, row[part], (delta @ exact.output_vectors).norm(dim=1))
    return SecondDifferences(pairs, chosen.spread(counts), *map(chosen.spread, sums))


def second_difference_scores(
    view: MLPDictionary,
    latents: SparseLatents,
    context: OtherLatents = "alone",
    form: Literal["neurons", "output"] = "neurons",
) -> Float[Tensor, " B"]:
    """The second differences of all pairs of active latents, summed for each token; float64.

    form: sum_n ‖o_n‖ |δ²_n| of a pair, or ‖sum_n o_n δ²_n‖. Raises as `second_difference_sums`.
    """
    exact = in_float64(view)
    norms = exact.output_norms
    scores = norms.new_zeros(latents.n_tokens)
    for start, rows in _blocks(active_latents(view, latents)):
        first, second = entry_pairs(rows.offsets)
        token = start + rows.token_index[first]
        seen = exact.of_tokens(slice(start, start + rows.n_tokens))
        for part, delta in _deltas(seen, rows, first, second, context):
            if form == "neurons":
                sizes = delta.abs() @ norms
            else:
                sizes = (delta @ exact.output_vectors).norm(dim=1)
            scores.index_add_(0, token[part], sizes)
    return scores


def _blocks(latents: SparseLatents) -> Iterator[tuple[int, SparseLatents]]:
    """Runs of tokens, few enough that all pairs of their entries can be listed."""
    widest = int(latents.offsets.diff().max()) if latents.n_tokens else 0
    tokens = max(1, _NUMBERS // max(1, widest * widest))
    for start in range(0, latents.n_tokens, tokens):
        yield start, latents.rows(start, min(start + tokens, latents.n_tokens))


def _deltas(
    view: MLPDictionary,
    latents: SparseLatents,
    first: Int[Tensor, " C"],
    second: Int[Tensor, " C"],
    context: OtherLatents,
) -> Iterator[tuple[slice, Float[Tensor, "c N"]]]:
    """δ²_n of each two entries, a slice of them at a time.

    The neuron's value with one latent moved is shared by all pairs of that latent at the token.
    With the others present, latents are taken away from the sum of all instead of added to the
    baseline; a second difference does not change when both its steps change sign.
    """
    size = max(1, _NUMBERS // view.mlp.n_neurons)
    for start in range(0, len(first), size):
        part = slice(start, start + size)
        entries, slots = torch.cat([first[part], second[part]]).unique(return_inverse=True)
        tokens, token = latents.token_index[entries].unique(return_inverse=True)
        roots = _roots(view, latents, tokens, context)
        sign = 1 if context == "alone" else -1
        steps = [sign * step for step in entry_contributions(view, latents, entries)]
        moved = [root[token] + step for root, step in zip(roots, steps, strict=True)]
        one, other = slots[: len(first[part])], slots[len(first[part]) :]
        both = [value[one] + step[other] for value, step in zip(moved, steps, strict=True)]
        seen = view.of_tokens(tokens)
        at = seen.of_tokens(token)
        single, still = at.neurons(*moved), seen.neurons(*roots)
        together = at.of_tokens(one).neurons(*both)
        yield part, together - single[one] - single[other] + still[token[one]]


def _roots(
    view: MLPDictionary, latents: SparseLatents, tokens: Int[Tensor, " U"], context: OtherLatents
) -> list[Float[Tensor, "U N"]]:
    """What reaches the neurons of the tokens, on each path, before latents are moved."""
    paths = 1 if view.G_gate is None else 2
    roots = [view.baseline.new_zeros(len(tokens), view.mlp.n_neurons) for _ in range(paths)]
    if context == "alone":
        return roots
    owner, entries = ragged(latents.offsets[tokens], latents.offsets.diff()[tokens])
    for root, step in zip(roots, entry_contributions(view, latents, entries), strict=True):
        root.index_add_(0, owner, step)
    return roots

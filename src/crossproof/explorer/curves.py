"""Single neurons at single tokens: all contributions, and what two latents do there together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.crosscoder.latents import SparseLatents
from crossproof.explorer.detail_tally import NeuronNumbers, SeenPart, parts
from crossproof.explorer.strongest import Ints
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.exact import in_float64
from crossproof.interactions.stream import TokenView
from crossproof.interactions.views import MLPView, read_by

NEURONS = 6
"""Of a pair, those that are furthest from adding up."""
SHOWN = 24
"""Contributions of a neuron that are listed."""
_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Wanted:
    """Places in the text: something's number (a pair's row, a neuron's number) at each of them."""

    number: Ints
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    place: Ints
    """The number of each place."""

    def of(self, batch: EncodedBatch) -> tuple[Ints, Ints]:
        """Those in a batch: their indices, and the encoded position of each."""
        row = self.sequence - batch.first
        inside = ((row >= 0) & (row < len(batch.tokens))).nonzero()[0]
        flat = batch.scored.cpu().numpy()
        token_of = flat.ravel().cumsum().reshape(flat.shape) - 1
        return inside, token_of[row[inside], self.position[inside]]


def pair_neurons(
    batch: EncodedBatch, views: Mapping[int, MLPView], wanted: Wanted, key: Ints, n_latents: int
) -> dict[int, list[dict[str, Any]]]:
    """Where pairs meet at places of the batch, by the place's index, furthest from additive first.

    `key` of a pair is h·H + k. Every number is that of the token, its other latents present.
    """
    at, token = wanted.of(batch)
    found: dict[int, list[dict[str, Any]]] = {int(i): [] for i in at}
    if len(at) == 0:
        return found
    numbers = NeuronNumbers.of(views)
    for part in parts(read_by(views, batch), numbers):
        for start in range(0, len(at), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            pairs = key[wanted.number[at[some]]]
            _meetings(part, at[some], token[some], np.divmod(pairs, n_latents), found)
    for each in found.values():
        each.sort(key=lambda neuron: -abs(neuron["difference"]) * neuron["norm"])
        del each[NEURONS:]
        for neuron in each:
            neuron["block"], neuron["neuron"] = numbers.named(neuron["neuron"])
    return found


def _meetings(
    part: SeenPart,
    at: Ints,
    token: Ints,
    pair: tuple[Ints, Ints],
    found: dict[int, list[dict[str, Any]]],
) -> None:
    """Adds neurons of one MLP or expert, by their numbers among all: of those with the largest
    smaller contribution, which bounds the second difference, the furthest from additive."""
    row = token if part.tokens is None else np.searchsorted(part.tokens, token)
    if part.tokens is not None:
        inside = row < len(part.tokens)
        inside[inside] = part.tokens[row[inside]] == token[inside]
        at, row, pair = at[inside], row[inside], (pair[0][inside], pair[1][inside])
    if len(at) == 0:
        return
    view, seen = part.view, torch.from_numpy(row).to(part.view.latents.indices.device)
    sides = [_entries(view.latents, seen, torch.from_numpy(latent)) for latent in pair]
    met = _Meeting.of(view, seen, sides[0], sides[1])
    for index, each in zip(at.tolist(), met.furthest(part.first_neuron), strict=True):
        found[index] += each


Table = Float[Tensor, "C K"]


@dataclass(frozen=True, eq=False)
class _Meeting:
    """Two latents at K neurons of each of C tokens, in float64; lists have an entry a path."""

    neurons: Int[Tensor, "C K"]
    norms: Table
    rest: list[Table]
    first: list[Table]
    second: list[Table]
    corners: list[Table]

    def furthest(self, first_neuron: int) -> list[list[dict[str, Any]]]:
        """Of each token the neurons that are furthest from additive, counted from this one on."""
        none, one, other, both = self.corners
        difference = both - one - other + none
        top = (difference.abs() * self.norms).topk(min(NEURONS, difference.shape[1]), 1).indices
        numbers = self.neurons + first_neuron
        single = {"neuron": numbers, "norm": self.norms, "difference": difference}
        several = {"rest": self.rest, "first": self.first, "second": self.second}
        several["values"] = self.corners
        columns = {name: _listed(values.gather(1, top)) for name, values in single.items()}
        for name, paths in several.items():
            columns[name] = _listed(torch.stack([path.gather(1, top) for path in paths], 2))
        names = tuple(columns)
        return [
            [dict(zip(names, neuron, strict=True)) for neuron in zip(*token, strict=True)]
            for token in zip(*columns.values(), strict=True)
        ]

    @classmethod
    def of(
        cls,
        view: TokenView,
        tokens: Int[Tensor, " C"],
        one: Int[Tensor, " C"],
        other: Int[Tensor, " C"],
    ) -> _Meeting:
        """`one` and `other` are the entries of two latents at each of the tokens."""
        dictionary, latents = view.dictionary, view.latents
        tables = [G for G in (dictionary.G, dictionary.G_gate) if G is not None]
        sizes = [
            torch.stack([(latents.values[e, None] * G[latents.indices[e]]).abs() for G in tables])
            for e in (one, other)
        ]
        smaller = torch.minimum(sizes[0].sum(0), sizes[1].sum(0)) * dictionary.output_norms
        neurons = smaller.topk(min(4 * NEURONS, smaller.shape[1]), 1).indices

        def at(entries: Int[Tensor, " C"]) -> list[Table]:
            values = latents.values[entries].double()[:, None]
            rows = latents.indices[entries][:, None]
            return [values * G[rows, neurons].double() for G in tables]

        first, second = at(one), at(other)
        whole = [_summed(latents, tokens, G, neurons) for G in tables]
        rest = [
            base + total - p - q
            for base, total, p, q in zip(
                _at_neurons(dictionary, tokens, neurons), whole, first, second, strict=True
            )
        ]
        activation = dictionary.mlp.activation
        paths = [
            rest,
            [r + p for r, p in zip(rest, first, strict=True)],
            [r + q for r, q in zip(rest, second, strict=True)],
            [r + p + q for r, p, q in zip(rest, first, second, strict=True)],
        ]
        corners = [activation(p[0]) if len(p) == 1 else activation(p[1]) * p[0] for p in paths]
        norms = dictionary.output_norms[neurons].double()
        if view.weight is not None:
            norms = norms * view.weight[tokens, None]
        return cls(neurons, norms, rest, first, second, corners)


def _listed(values: Tensor) -> list[Any]:
    """As lists: numpy makes them ten times as fast."""
    listed: list[Any] = values.cpu().numpy().tolist()
    return listed


def _summed(
    latents: SparseLatents, tokens: Int[Tensor, " C"], G: Float[Tensor, "H N"], neurons: Tensor
) -> Table:
    """What all latents of the tokens add up to at some neurons of each."""
    rows = latents.take(tokens)
    steps = rows.values.double()[:, None] * G[rows.indices[:, None], neurons[rows.token_index]]
    return steps.new_zeros(neurons.shape).index_add(0, rows.token_index, steps)


def _at_neurons(
    dictionary: MLPDictionary, tokens: Int[Tensor, " C"], neurons: Int[Tensor, "C K"]
) -> list[Table]:
    """Baselines at some neurons of each token, path by path."""
    seen = dictionary.of_tokens(tokens)
    whole = [b.expand(len(tokens), b.shape[-1]) for b in _baselines(seen)]
    return [each.gather(1, neurons).double() for each in whole]


def neuron_examples(
    batch: EncodedBatch, views: Mapping[int, MLPView], wanted: Wanted
) -> dict[int, dict[str, Any]]:
    """All contributions to neurons at places of the batch, by the place's index."""
    at, token = wanted.of(batch)
    found: dict[int, dict[str, Any]] = {}
    numbers = NeuronNumbers.of(views)
    for part in parts(read_by(views, batch), numbers):
        width = part.view.dictionary.mlp.n_neurons
        neuron = wanted.number[at] - part.first_neuron
        row = token if part.tokens is None else np.searchsorted(part.tokens, token)
        mine = (neuron >= 0) & (neuron < width)
        if part.tokens is not None:
            mine &= row < len(part.tokens)
            mine[mine] = part.tokens[row[mine]] == token[mine]
        exact = in_float64(part.view.dictionary)
        for index in mine.nonzero()[0]:
            found[int(at[index])] = stacked(part.view, exact, int(row[index]), int(neuron[index]))
    return found


def stacked(view: TokenView, exact: MLPDictionary, token: int, neuron: int) -> dict[str, Any]:
    """Everything that reaches one neuron at one token: contributions by latent, and its value.

    Paths: the linear one and, of a gated MLP, the gate's. `exact` is the view's dictionary in
    float64. `more` is the sum of the contributions that are not listed.
    """
    row = view.latents.rows(token, token + 1)
    row = row.keep(row.values != 0)
    tables = [G for G in (exact.G, exact.G_gate) if G is not None]
    steps = [row.values.double() * G[row.indices, neuron].double() for G in tables]
    here = exact.of_tokens(slice(token, token + 1))
    baselines = [float(b.reshape(-1, b.shape[-1])[0, neuron]) for b in _baselines(here)]
    order = torch.stack([step.abs() for step in steps]).sum(0).argsort(descending=True)
    latents, shown = row.indices[order].tolist(), order[:SHOWN]
    totals = [float(step.sum()) for step in steps]
    weight = 1.0 if view.weight is None else float(view.weight[token])
    return {
        "norm": float(exact.output_norms[neuron]) * weight,
        "baseline": baselines,
        "latents": latents[:SHOWN],
        "contributions": [[float(step[i]) for i in shown] for step in steps],
        "more": [
            total - float(step[shown].sum()) for total, step in zip(totals, steps, strict=True)
        ],
        "input": [b + total for b, total in zip(baselines, totals, strict=True)],
        "value": _value(here, [b + total for b, total in zip(baselines, totals, strict=True)]),
    }


def _value(dictionary: MLPDictionary, paths: list[float]) -> float:
    """What the neuron gives for its pre-activations."""
    values = [torch.tensor(path, dtype=torch.float64) for path in paths]
    if len(values) == 1:
        return float(dictionary.mlp.activation(values[0]))
    return float(dictionary.mlp.activation(values[1]) * values[0])


def _baselines(dictionary: MLPDictionary) -> list[Tensor]:
    gate = dictionary.baseline_gate
    return [dictionary.baseline] if gate is None else [dictionary.baseline, gate]


def _entries(
    latents: SparseLatents, tokens: Int[Tensor, " C"], indices: Int[Tensor, " C"]
) -> Int[Tensor, " C"]:
    """The entry of a latent at a token, which must be active there."""
    wide = latents.n_latents
    keys = latents.token_index * wide + latents.indices
    return torch.searchsorted(keys, tokens * wide + indices.to(tokens.device))

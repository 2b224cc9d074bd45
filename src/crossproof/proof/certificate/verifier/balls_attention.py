"""Groups of sequences derived again in ball arithmetic, from the network alone.

Whatever a group was proved by, what it says is about the network: its queries' exact margins on
the worst sequence of the group must be certainly positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import Indices
from crossproof.proof.certificate.verifier.balls import (
    SAMPLE,
    Balls,
    insist,
    matrix,
    plus,
    ready,
    times,
    total,
    vector,
)
from crossproof.proof.certificate.verifier.circuits import LayerWeights
from crossproof.proof.certificate.verifier.groups import Group
from crossproof.proof.certificate.verifier.sequences import Enumeration


class LayerInBalls:
    """The network in balls."""

    def __init__(self, weights: LayerWeights) -> None:
        self.weights = weights
        self.read = matrix(weights.W_V) * matrix(weights.W_O) * matrix(weights.W_U)
        self.unembed = matrix(weights.W_U)
        self.asked = matrix(weights.W_Q) * matrix(weights.W_K).transpose()
        self.known: dict[tuple[int, int], Balls] = {}

    def stream(self, token: int, position: int) -> Balls:
        """What is read there."""
        return plus(vector(self.weights.W_E[token]), vector(self.weights.W_pos[position]))

    def values(self, token: int, position: int) -> Balls:
        """What that writes to the logits."""
        if (token, position) not in self.known:
            self.known[token, position] = times(self.stream(token, position), self.read)
        return self.known[token, position]

    def weighted(self, query: int, position: int, tokens: Indices) -> list[Balls]:
        """e^score times what each token and the query write, a class each."""
        asker = self.stream(query, self.weights.length - 1)
        key, direct = times(asker, self.asked), times(asker, self.unembed)
        rows = []
        for token in tokens.tolist():
            x = self.stream(token, position)
            weight = total([a * b for a, b in zip(key, x, strict=True)]).exp()
            rows.append([weight * v for v in plus(self.values(token, position), direct)])
        return rows

    def margins(self, query: int, label: int, choices: list[Indices]) -> Balls:
        """The least margins over sequences with these tokens to choose from, times Z."""
        sums = None
        for position, tokens in enumerate([*choices, np.array([query])]):
            rows = self.weighted(query, position, tokens)
            gaps = [[r[label] - other for other in r] for r in rows]
            least = [_least(list(column)) for column in zip(*gaps, strict=True)]
            sums = least if sums is None else plus(sums, least)
        assert sums is not None
        return sums


def _least(balls: Balls) -> Any:
    smallest = balls[0]
    for ball in balls[1:]:
        smallest = smallest.min(ball)
    return smallest


def check_groups(weights: LayerWeights, grouped: list[tuple[Indices, Group]]) -> tuple[int, int]:
    """Derives a fresh draw of the groups again; how many, of how many."""
    ready()
    nonempty = [(q, group, i) for q, group in grouped for i in np.flatnonzero(group.sequences)]
    generator, layer = np.random.default_rng(), LayerInBalls(weights)
    drawn = generator.permutation(len(nonempty))[:SAMPLE]
    for queries, group, i in (nonempty[number] for number in drawn):
        below = int(group.below[i])
        choices = [np.array([group.label]) if there else np.arange(below) for there in group.there]
        query = int(queries[i]) if len(queries) else int(generator.choice(choices.pop()))
        margins = layer.margins(query, group.label, choices)
        insist(margins, group.label, f"the group of query {query} and label {group.label}")
    return len(drawn), len(nonempty)


def check_sequences(enumeration: Enumeration) -> int:
    """Derives a fresh draw of the sequences that were counted as right again; how many."""
    ready()
    weights, generator, derived = enumeration.weights, np.random.default_rng(), 0
    layer = LayerInBalls(weights)
    for query in generator.integers(weights.vocabulary, size=SAMPLE).tolist():
        tokens = generator.integers(weights.vocabulary, size=weights.length - 1)
        label = max(query, int(tokens.max()))
        rows = enumeration.rows(query)
        logits = rows[-1, query] + sum(rows[p, t] for p, t in enumerate(tokens.tolist()))
        if enumeration.right(logits[None], np.array([label]))[0]:
            margins = layer.margins(query, label, [np.array([token]) for token in tokens])
            insist(margins, label, f"the sequence {[*tokens.tolist(), query]}")
            derived += 1
    return derived

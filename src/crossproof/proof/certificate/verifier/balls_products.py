"""Pairs of a group's elements derived again in ball arithmetic (python-flint)."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import Array
from crossproof.proof.certificate.verifier.balls import (
    Balls,
    ball,
    insist,
    insist_entropy,
    joined,
    length,
    matrix,
    plus,
    ready,
    relu,
    row,
    sample,
    times,
    vector,
)
from crossproof.proof.certificate.verifier.products import ProductsProblem


def check_products(problem: ProductsProblem, worst: Array, entropy: Array) -> int:
    """Derives margins and cross-entropies of pairs again; how many."""
    ready()
    (inputs, width), p = problem.weights.W_in.shape, len(problem.left)
    chosen, pairs = sample(worst.size, (inputs + 3 * width) * (width + p)), PairsInBalls(problem)
    for a, b in zip(*(i.tolist() for i in np.divmod(chosen, p)), strict=True):
        margins, label = pairs.margins(a, b), int(problem.table[a, b])
        if worst[a, b] > 0:
            insist(margins, label, f"the pair ({a}, {b})")
        insist_entropy(margins, label, float(entropy[a, b]), f"the pair ({a}, {b})")
    return len(chosen)


class PairsInBalls:
    """Lower bounds on margins, a pair at a time."""

    def __init__(self, problem: ProductsProblem) -> None:
        self.problem, weights = problem, problem.weights
        self.W_in, self.W_out = matrix(weights.W_in), matrix(weights.W_out)
        self.skip = matrix(weights.skip)
        self.blocks = self._spanned()
        rest = self.W_out - self.blocks
        self.columns = [row(rest.transpose(), c) for c in range(rest.ncols())]

    def _spanned(self) -> Any:
        """The owned output rows on the atoms of their block, [N, p]; zero for others."""
        problem, rows = self.problem, []
        for n, owner in enumerate(problem.owners.tolist()):
            atoms = problem.atoms[problem.blocks == owner]
            fitted = problem.weights.W_out[n] @ atoms.T
            spanned = times(vector(fitted), matrix(atoms)) if len(atoms) else None
            rows.append(spanned or [ball(0)] * problem.atoms.shape[1])
        return joined(rows)

    def margins(self, a: int, b: int) -> Balls:
        """Of a pair, 0 at its label."""
        problem, weights = self.problem, self.problem.weights
        label, x = int(problem.table[a, b]), plus(vector(problem.left[a]), vector(problem.right[b]))
        active = [relu(z) for z in plus(times(x, self.W_in), vector(weights.b_in))]
        where = (a, b, label, int(problem.quotient[a, b]))
        additive = plus(*(vector(e[i]) for e, i in zip(problem.effects, where, strict=True)))
        interaction = [h - e for h, e in zip(active, additive, strict=True)]
        outputs = times(additive, self.W_out), times(interaction, self.blocks)
        logits = plus(times(x, self.skip), vector(weights.b_out), *outputs)
        size, mine = length(interaction), self.columns[label]
        far = [length([y - o for y, o in zip(mine, other, strict=True)]) for other in self.columns]
        return [logits[label] - logits[c] - size * far[c] for c in range(len(logits))]

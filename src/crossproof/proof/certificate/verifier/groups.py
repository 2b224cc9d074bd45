"""Sequences in groups: the worst of each group is a sum of minima, one a position.

A group is a query, a largest token y, the positions where y stands, and a bound on the tokens
elsewhere. Of a sum of one term a position the smallest is the sum of the smallest terms, so that a
group is right as soon as that one sum is positive for every other class. Bounds on tokens rise as
long as it is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.verifier.arithmetic import Arithmetic, Array, Indices


@dataclass(frozen=True, eq=False)
class Group:
    """Sequences with one largest token, for several queries, that are certainly right."""

    label: int
    there: tuple[bool, ...]
    """Where the label stands, of the positions that are free."""
    below: Indices
    """[Q]: all tokens below this may stand elsewhere; where there is no elsewhere, 1 or 0."""

    @property
    def sequences(self) -> Indices:
        """[Q]: how many they are."""
        elsewhere = len(self.there) - sum(self.there)
        counts: Indices = self.below**elsewhere if elsewhere else self.below
        return counts


@dataclass(frozen=True, eq=False)
class Terms:
    """Lower bounds on what stands in the sum, for one label y."""

    free: Array
    """[F, Q, y + 1, R]: of the tokens up to y at each free position; R classes."""
    own: Array
    """[Q, R]: of the query itself; 0 where it is a free position."""
    floor: float
    """What the sum must exceed."""


def groups(
    count: Arithmetic, terms: Terms, label: int, needed: npt.NDArray[np.bool_]
) -> list[Group]:
    """The groups of a label; `needed` [Q] says for which queries it must stand at a free position.

    A group may be empty: `below` is then 0 for some queries.
    """
    smallest = np.minimum.accumulate(terms.free[:, :, :label], axis=2)
    at_label = terms.free[:, :, label]
    count.operations += smallest.size
    made = list[Group]()
    below: Indices
    for there in itertools.product((False, True), repeat=len(terms.free)):
        fixed, lowest = terms.own, None
        for p, is_label in enumerate(there):
            if is_label:
                fixed = fixed + at_label[p]
            else:
                lowest = smallest[p] if lowest is None else lowest + smallest[p]
        count.operations += sum(there) * fixed.size
        if lowest is None:
            below = np.where(np.all(fixed > terms.floor, axis=-1), 1, 0)
            count.operations += fixed.size
        else:
            holds = (lowest + fixed[:, None] > terms.floor).all(axis=-1)
            below = np.sum(np.logical_and.accumulate(holds, axis=1), axis=1, dtype=np.int64)
            count.operations += (len(there) - sum(there) + 1) * lowest.size
        if not any(there):
            below = np.where(needed, 0, below)
        made.append(Group(label, there, below))
    return made

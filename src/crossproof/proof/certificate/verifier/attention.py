"""A one-layer attention-only transformer on all sequences, its circuits worked out one by one.

Three grains, each coarser and cheaper than the one before: the worst of a group of sequences is
found for every query and class; for every query, with the worst class of each term; or for all
queries at once, whose scores are then said to be `asked`[q] · `read`[p, t] plus what is left.
Every number in `proof.*` may be a lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crossproof.proof.certificate.format import Certificate, CertificateError, Limits
from crossproof.proof.certificate.verifier.arithmetic import UNIT, UP, Arithmetic, Array, Indices
from crossproof.proof.certificate.verifier.checks import within
from crossproof.proof.certificate.verifier.circuits import (
    Circuits,
    LayerWeights,
    check_domain,
    computed,
    exponentials,
    floor,
    relative_error,
)
from crossproof.proof.certificate.verifier.groups import Group, Terms, groups
from crossproof.proof.certificate.verifier.sequences import circuit_needs
from crossproof.proof.certificate.verifier.streams import Streams, through

CLASS, QUERY, LABEL = 1, 2, 3
"""Grains: a bound for every (query, label, class), (query, label) or label."""
CHUNK = 1_000_000
"""Numbers of the terms that are taken together."""


@dataclass(frozen=True, eq=False)
class AttentionProblem:
    """Everything of an `attention` certificate, checked; tokens by rank."""

    weights: LayerWeights
    grain: int
    asked: Array
    read: Array
    streams: Streams | None
    """The dictionary's latents, if the proof goes through one."""


def read(certificate: Certificate, limits: Limits) -> AttentionProblem:
    """Checks the grain, the latents, and what the proof needs."""
    check_domain(certificate)
    proof, order = certificate.part("proof"), certificate.tensors["domain.order"]
    if len(proof["grain"]) != 1:
        raise CertificateError("proof.grain must be one number.")
    within("proof.grain", proof["grain"], CLASS, LABEL)
    grain = int(proof["grain"][0])
    memory, operations = _needs(certificate, grain)
    more = Streams.needs(certificate) if "kept" in proof else (0, 0)
    limits.check(memory + more[0], operations + more[1])
    weights = LayerWeights.of(certificate)
    streams = Streams.of(certificate, order) if "kept" in proof else None
    return AttentionProblem(weights, grain, proof["asked"][order], proof["read"][:, order], streams)


def _needs(certificate: Certificate, grain: int) -> tuple[int, int]:
    """Bytes and operations, rounded up."""
    V, C = certificate.sizes["V"], certificate.sizes["C"]
    memory, operations = circuit_needs(certificate.sizes)
    subsets, classes = 2 ** (C - 1), V - 1 if grain == CLASS else 1
    if grain == LABEL:
        each = V * V * (14 * C + 2 * subsets * (C + 2)) + 20 * C * V * V
        return certificate.memory + memory + 8 * 30 * C * V * V, operations + each
    at_once = CHUNK + 8 * C * V * classes
    memory += 8 * (8 * at_once + 4 * C * V * V)
    terms = V * (V + 1) * (V + 2) // 6 * classes  # query and token up to the label
    each = terms * (5 * C + subsets * (C + 2)) + 2 * V * V * subsets * C * classes
    return certificate.memory + memory, operations + each + 12 * C * V * V * (classes + 4)


def evaluate(count: Arithmetic, problem: AttentionProblem) -> Iterator[tuple[Indices, Group]]:
    """Groups of sequences that are certainly right, and the queries [Q] of each.

    No sequence is in two groups. Where the query is a free position, `queries` is empty.
    """
    if problem.streams is None:
        circuits = computed(count, problem.weights)
    else:
        circuits = through(count, problem.weights, problem.streams)
    if problem.grain == LABEL:
        return _by_label(count, problem, circuits)
    return _by_query(count, circuits, problem.grain == CLASS)


def right(grouped: tuple[Indices, Group]) -> int:
    """How many sequences a group holds."""
    return int(grouped[1].sequences.sum())


class Gaps:
    """By how much the label's logit exceeds another, position by position: lower bounds."""

    def __init__(self, count: Arithmetic, circuits: Circuits, relative: float, each: bool) -> None:
        """`each`: of every class by itself; else of the worst, by position."""
        self.count, self.circuits, self.relative, self.each = count, circuits, relative, each
        self.absolute = 4 * circuits.logit_error * (1 + relative) * UP
        charges = circuits.charges
        if not each:
            self.values, self.direct = (self._lead(t) for t in (circuits.values, circuits.direct))
            if charges is not None:
                farthest = charges.distance.max(axis=1)
                self.values = self._charged(self.values, charges.values, farthest)
                self.direct = self._charged(self.direct, charges.direct, farthest)
            self.values, self.direct = (
                self._lowered(self.values, self.absolute),
                self._lowered(self.direct, 0.0),
            )

    def of(self, label: int) -> tuple[Array, Array]:
        """[C, y + 1, R] of tokens, and [y + 1, R] of queries."""
        here = slice(label + 1)
        if not self.each:
            return self.values[:, here, label, None], self.direct[here, label, None]
        values, direct = (
            self._against(t[..., here, :], label)
            for t in (self.circuits.values, self.circuits.direct)
        )
        charges = self.circuits.charges
        if charges is not None:
            far = np.delete(charges.distance[label], label)
            values = self._charged(values, charges.values[:, here], far)
            direct = self._charged(direct, charges.direct[here], far)
        return self._lowered(values, self.absolute), self._lowered(direct, 0.0)

    def _against(self, table: Array, label: int) -> Array:
        self.count.operations += table.size
        return table[..., label, None] - np.delete(table, label, axis=-1)

    def _lead(self, table: Array) -> Array:
        """Every entry less the largest of the others in its row."""
        self.count.operations += 4 * table.size
        ordered = np.partition(table, table.shape[-1] - 2, axis=-1)
        first, second = ordered[..., -1:], ordered[..., -2:-1]
        return table - np.where(table == first, second, first)

    def _charged(self, gap: Array, size: Array, distance: Array) -> Array:
        self.count.operations += 4 * gap.size
        return gap - (size[..., None] * distance * UP + 4 * UNIT * np.abs(gap))

    def _lowered(self, gap: Array, absolute: float) -> Array:
        """Less what exponentials, products and sums may be off by, which is relative."""
        self.count.operations += 3 * gap.size
        return gap - (self.relative * np.abs(gap) + absolute)


def _times(count: Arithmetic, low: Array, high: Array, gap: Array) -> Array:
    """Lower bounds on e^s · gap for e^s between `low` and `high`, which may be the same array."""
    if high is low:
        terms: Array = low * gap
    else:
        terms = np.where(gap >= 0, low, high) * gap
        count.operations += 2 * terms.size
    count.operations += terms.size
    return terms


def _by_query(count: Arithmetic, circuits: Circuits, each: bool) -> Iterator[tuple[Indices, Group]]:
    weight = exponentials(count, circuits.low, circuits.high, circuits.score_error)
    gaps = Gaps(count, circuits, weight.relative, each)
    length, vocabulary = circuits.values.shape[:2]
    for label in range(vocabulary):
        values, direct = gaps.of(label)
        lowest = floor(length, values, direct)
        step = max(CHUNK // values.size, 1)
        for start in range(0, label + 1, step):
            queries = np.arange(start, min(start + step, label + 1))
            gap = values[:, None] + direct[None, queries, None]
            count.operations += gap.size
            low = weight.low[:, queries, : label + 1, None]
            high = low
            if weight.high is not weight.low:
                high = weight.high[:, queries, : label + 1, None]
            terms = _times(count, low, high, gap)
            own = terms[-1, np.arange(len(queries)), queries]
            made = groups(count, Terms(terms[:-1], own, lowest), label, queries < label)
            yield from ((queries, group) for group in made)


def _by_label(
    count: Arithmetic, problem: AttentionProblem, circuits: Circuits
) -> Iterator[tuple[Indices, Group]]:
    """For all queries up to the label at once: e^s is e^{asked · read} times what is left of it."""
    asked, read = problem.asked, problem.read
    product = asked[:, None] * read[:, None]
    least, most = (
        bound.accumulate(table - product, axis=1)  # over queries up to the label
        for bound, table in ((np.minimum, circuits.low), (np.maximum, circuits.high))
    )
    fewest, largest = np.minimum.accumulate(asked), np.maximum.accumulate(asked)
    size = 8 * np.abs(asked).max() * np.abs(read).max()
    size += max(np.abs(circuits.low).max(), np.abs(circuits.high).max())
    relative = relative_error(circuits.score_error + 16 * UNIT * float(size), len(read))
    gaps = Gaps(count, circuits, relative, each=False)
    direct = np.minimum.accumulate(gaps.direct, axis=0).diagonal()
    count.operations += 5 * product.size + direct.size
    for label in range(len(asked)):
        here, mine = slice(label + 1), slice(label, label + 1)
        apart = read[:, here] - read[0, label]
        ends = fewest[label] * apart, largest[label] * apart
        highest = np.maximum(*ends) + most[:, label, here]
        shift = highest.max()  # a positive factor of the whole sum, lest a term overflow
        low = np.exp(np.minimum(*ends) + least[:, label, here] - shift)
        high = np.exp(highest - shift)
        gap = gaps.values[:, here, label] + direct[mine]
        terms = _times(count, low, high, gap)
        count.operations += 13 * terms.size
        lowest = floor(len(read), gaps.values[:, here, label], direct[mine])
        whole = Terms(terms[:, None, :, None], np.zeros((1, 1)), lowest)
        made = groups(count, whole, label, np.array([True]))
        yield from ((np.array([], np.int64), group) for group in made)

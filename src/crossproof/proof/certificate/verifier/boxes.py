"""A continuum: boxes of activations, split until each is proved or given up (THEORY T5).

The certificate stores how boxes were split, not the boxes: leaves of a tree of halvings cannot
overlap, and their masses add up by construction. A leaf counts when its label is constant and one
of the three bounds puts every margin above zero; all other mass counts as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.format import Certificate, CertificateError, Limits
from crossproof.proof.certificate.verifier.additive import Additive
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic, Array, Indices, Rounded
from crossproof.proof.certificate.verifier.checks import NetworkWeights, within
from crossproof.proof.certificate.verifier.curves import Latents
from crossproof.proof.certificate.verifier.enclosures import Boxes, Enclosures

BOUNDS = ("interval", "additive", "linear")
"""Leaf k > 0 of a tree is proved by BOUNDS[k - 1]; 0 is given up; -1 - j halves activation j."""
LARGEST_TREE, DEEPEST = 2_000_000, 64
CHUNK, SCORES = 1024, 4_000_000
"""Boxes whose margins are taken together, and scores of boxes whose labels are."""


@dataclass(frozen=True, eq=False)
class Leaves:
    """Leaves of all trees: their sets, boxes, codes and masses (rounded down)."""

    sets: Indices
    low: Array
    high: Array
    code: Indices
    mass: Array

    def __getitem__(self, which: npt.NDArray[np.bool_] | Indices) -> Leaves:
        """Some of the leaves."""
        return Leaves(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class BoxesDomain:
    """Boxes of activations of active features, and what labels them."""

    decoder: Array
    bias: Array
    low: Array
    high: Array
    active_sets: Indices
    readout: Array


@dataclass(frozen=True, eq=False)
class BoxesProblem:
    """Everything of a `boxes` certificate, checked."""

    weights: NetworkWeights
    domain: BoxesDomain
    latents: Latents
    tree: Indices


def read(certificate: Certificate, limits: Limits) -> BoxesProblem:
    """Checks index ranges and what the certificate asks for."""
    sizes, proof = certificate.sizes, certificate.part("proof")
    parts, dictionary = certificate.part("domain"), certificate.part("dictionary")
    domain = BoxesDomain(decoder=parts.pop("atoms"), **parts)
    within("proof.latent_index", proof["latent_index"], 0, sizes["H"] - 1)
    within("proof.tree", proof["tree"], -sizes["K"], len(BOUNDS))
    within("domain.active_sets", domain.active_sets, 0, sizes["F"] - 1)
    if sizes["L"] > LARGEST_TREE:
        raise CertificateError(f"proof.tree has more than {LARGEST_TREE:,} nodes.")
    limits.check(*_needs(certificate))
    if (np.diff(np.sort(domain.active_sets, axis=1), axis=1) == 0).any():
        raise CertificateError("An active set of the domain names a feature twice.")
    if (domain.low > domain.high).any():
        raise CertificateError("A feature of the domain has low above high.")
    latents = Latents(
        decoder=dictionary["atoms"],
        bias=dictionary["bias"],
        index=proof["latent_index"],
        slopes=proof["latent_slopes"],
        offset=proof["latent_offset"],
    )
    return BoxesProblem(NetworkWeights.of(certificate), domain, latents, proof["tree"])


def _needs(certificate: Certificate) -> tuple[int, int]:
    """Bytes and operations, rounded up."""
    D, N, V, F, H = (certificate.sizes[letter] for letter in "DNVFH")
    G, K, M, L = (certificate.sizes[letter] for letter in "GKML")
    levels, rows = N.bit_length() + 1, min(L, CHUNK)
    curves = H * N * (12 + V * (2 * levels + 6))
    tables = curves + 3 * (D + F + H) * (N + V) + 8 * G * (K + M) * (N + V) + 8 * N * V
    chunk = rows * (14 * (K + M) * (N + V) + 20 * (N + V) + 2 * M * (6 * N + 8 * V))
    scores = min((L + 1) * K * V, SCORES + K * V)
    memory = 8 * (tables + chunk + 8 * scores + 12 * (L + G) * (K + 4))
    calls = min(3 * V, L) + L // CHUNK + 1
    boxes = L * (16 * (K + M + 3) * (N + 1) * (V + 1) + 100 * (K + M) * (N + V))
    work = 4 * (F + H + 4) * (D + 1) * (N + V) + 10 * G * (M + 1) * (K + 1) * (N + V)
    work += 3 * H * N * (N + 2) * (V + 4) + calls * (H + 8) * N * V * (levels + 8) + boxes
    return certificate.memory + memory, work


def leaves(problem: BoxesProblem) -> Leaves:
    """Walks the trees, one a set in order, each in preorder with the lower half first.

    Raises CertificateError if the codes are not exactly G whole trees.
    """
    domain, codes = problem.domain, problem.tree
    count, nodes, leaf = int((codes >= 0).sum()), iter(codes.tolist()), 0
    sets = np.empty(count, dtype=np.int64)
    low, high = np.empty((2, count, domain.active_sets.shape[1]))
    for number, active in enumerate(domain.active_sets):
        stack = [(domain.low[active], domain.high[active], 0)]
        while stack:
            bottom, top, depth = stack.pop()
            code = next(nodes, None)
            if code is None:
                raise CertificateError("proof.tree ends in the middle of a tree.")
            if code < 0:
                stack.extend(_halves(bottom, top, -1 - code, depth))
                continue
            sets[leaf], low[leaf], high[leaf] = number, bottom, top
            leaf += 1
    if next(nodes, None) is not None:
        raise CertificateError("proof.tree goes on after the last tree.")
    return Leaves(sets, low, high, codes[codes >= 0], masses(domain, sets, low, high))


def _halves(low: Array, high: Array, side: int, depth: int) -> Iterator[tuple[Array, Array, int]]:
    """The upper and the lower half, in the order in which a stack returns the lower first."""
    middle = (low[side] + high[side]) / 2
    if not low[side] < middle < high[side] or depth >= DEEPEST:
        raise CertificateError("proof.tree splits a box that cannot be halved.")
    upper, lower = low.copy(), high.copy()
    upper[side] = lower[side] = middle
    yield upper, high, depth + 1
    yield low, lower, depth + 1


def masses(domain: BoxesDomain, sets: Indices, low: Array, high: Array) -> Array:
    """The probability of each box, rounded down."""
    active = domain.active_sets[sets]
    whole = domain.high[active] - domain.low[active]
    share = np.divide(high - low, whole, out=np.ones_like(whole), where=whole > 0)
    # Differences and quotients are each off by one rounding; products by one a side.
    mass: Array = share.prod(axis=1) / len(domain.active_sets) * (1 - 1e-14 * (low.shape[1] + 1))
    return mass


class Prover:
    """Margins of boxes by any of the three bounds, and their labels."""

    def __init__(self, arithmetic: Arithmetic, problem: BoxesProblem) -> None:
        self.arithmetic, self.domain = arithmetic, problem.domain
        domain = problem.domain
        self.enclosures = Enclosures(arithmetic, problem.weights, domain.decoder, domain.bias)
        self.readout = arithmetic.exact(domain.readout)
        active = domain.active_sets
        sets = np.arange(len(active))
        whole = Boxes(sets, active, domain.low[active], domain.high[active], 0)
        self.additive = Additive(self.enclosures, problem.weights, problem.latents, whole)

    def labels(self, sets: Indices, low: Array, high: Array) -> tuple[Indices, Indices]:
        """The label at each box's centre, and which boxes have it everywhere (their indices)."""
        label, constant = np.empty(len(sets), dtype=np.int64), []
        step = max(SCORES // (low.shape[1] * self.domain.readout.shape[1]), 1)
        for start in range(0, len(sets), step):
            rows = np.arange(start, min(start + step, len(sets)))
            label[rows], holds = self._labels(sets[rows], low[rows], high[rows])
            constant.append(rows[holds])
        return label, np.concatenate(constant)

    def _labels(self, sets: Indices, low: Array, high: Array) -> tuple[Indices, Indices]:
        active = self.domain.active_sets[sets]
        score = np.einsum("bk,bkv->bv", low + high, self.domain.readout[active])  # twice the centre
        self.arithmetic.operations += 2 * score.size * low.shape[1]
        label = score.argmax(axis=1)
        constant = []
        for y in np.unique(label):
            rows = np.flatnonzero(label == y)
            boxes = Boxes(sets[rows], active[rows], low[rows], high[rows], int(y))
            slopes = self.enclosures.against(self.readout, int(y))[boxes.active]
            constant.append(rows[self._positive(self.enclosures.smallest(slopes, boxes), int(y))])
        return label, np.concatenate(constant)

    def proves(self, boxes: Boxes, bound: str) -> npt.NDArray[np.bool_]:
        """Whether `bound` puts every margin above zero, box by box."""
        if bound == "additive":
            return self._positive(self.additive.margins(boxes), boxes.label)
        found = {"interval": self.enclosures.interval, "linear": self.enclosures.linear}
        return self._positive(found[bound](boxes), boxes.label)

    def _positive(self, margins: Rounded, label: int) -> npt.NDArray[np.bool_]:
        low = margins.low
        self.arithmetic.operations += 2 * low.size
        low[:, label] = np.inf
        found: npt.NDArray[np.bool_] = low.min(axis=1) > 0
        return found


@dataclass(frozen=True, eq=False)
class Proved:
    """What is left of a certificate's claims: the leaves whose inequality holds."""

    accuracy: float
    """Their mass, rounded down."""
    by_bound: dict[str, float]
    leaves: Indices
    """Their numbers, in the order of `leaves`."""
    majority: float
    """The mass of the likeliest label, rounded up: a box that may have several counts for it."""


def evaluate(arithmetic: Arithmetic, problem: BoxesProblem) -> Proved:
    """Checks every leaf that claims to be proved, each by the bound it names."""
    prover, everything = Prover(arithmetic, problem), leaves(problem)
    claimed = np.flatnonzero(everything.code > 0)
    of_label = np.zeros(problem.weights.W_out.shape[1])
    proved: list[Indices] = [np.zeros(0, np.int64)]
    if len(claimed):
        claimed, label = _labelled(prover, everything, claimed, of_label)
        codes = everything.code[claimed]
        for y, code in sorted({*zip(label.tolist(), codes.tolist(), strict=True)}):
            rows = claimed[(label == y) & (codes == code)]
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                proved.append(chunk[_holds(prover, everything[chunk], y, BOUNDS[code - 1])])
    spent, given_up = arithmetic.operations, np.flatnonzero(everything.code == 0)
    if len(given_up):
        _labelled(prover, everything, given_up, of_label)
        arithmetic.operations = spent  # what guessing achieves is no part of the proof
    numbers = np.sort(np.concatenate(proved))
    mass, code = everything.mass[numbers], everything.code[numbers]
    return Proved(
        accuracy=math.fsum(mass),
        by_bound={name: math.fsum(mass[code == k]) for k, name in enumerate(BOUNDS, start=1)},
        leaves=numbers,
        majority=min(1 - (math.fsum(of_label) - of_label.max()) + 1e-9, 1.0),
    )


def _labelled(
    prover: Prover, leaves: Leaves, which: Indices, of_label: Array
) -> tuple[Indices, Indices]:
    """Those of some leaves that have one label, and it; adds their masses to `of_label`."""
    label, constant = prover.labels(leaves.sets[which], leaves.low[which], leaves.high[which])
    which, label = which[constant], label[constant]
    np.add.at(of_label, label, leaves.mass[which])
    return which, label


def _holds(prover: Prover, leaves: Leaves, label: int, bound: str) -> npt.NDArray[np.bool_]:
    active = prover.domain.active_sets[leaves.sets]
    return prover.proves(Boxes(leaves.sets, active, leaves.low, leaves.high, label), bound)

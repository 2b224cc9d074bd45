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

from crossproof.proof.certificate.format import Certificate, CertificateError
from crossproof.proof.certificate.verifier import checks
from crossproof.proof.certificate.verifier.additive import Additive
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic, Array, Indices, Rounded
from crossproof.proof.certificate.verifier.curves import Latents
from crossproof.proof.certificate.verifier.enclosures import Boxes, Enclosures

BOUNDS = ("interval", "additive", "linear")
"""Leaf k > 0 of a tree is proved by BOUNDS[k - 1]; 0 is given up; -1 - j halves activation j."""
LARGEST_TREE, DEEPEST, CHUNK = 2_000_000, 64, 1024
LARGEST_WORK, LARGEST_TABLE = 10**13, 10**8


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

    weights: checks.NetworkWeights
    domain: BoxesDomain
    latents: Latents
    tree: Indices


def read(certificate: Certificate) -> BoxesProblem:
    """Checks shapes, index ranges and budgets."""
    sizes: checks.Sizes = {}
    weights = checks.network(certificate, sizes)
    shapes = {"atoms": "F D", "bias": "D", "low": "F", "high": "F"}
    shapes |= {"active_sets": "G K", "readout": "F V"}
    parts = checks.part(certificate, "domain", shapes, sizes, frozenset({"active_sets"}))
    domain = BoxesDomain(decoder=parts.pop("atoms"), **parts)
    dictionary = checks.part(certificate, "dictionary", {"atoms": "H D", "bias": "D"}, sizes)
    shapes = {"latent_index": "G M", "latent_slopes": "G K M", "latent_offset": "G M", "tree": "L"}
    integers = frozenset({"latent_index", "tree"})
    proof = checks.part(certificate, "proof", shapes, sizes, integers)
    checks.within("proof.latent_index", proof["latent_index"], 0, sizes["H"] - 1)
    checks.within("proof.tree", proof["tree"], -sizes["K"], len(BOUNDS))
    checks.within("domain.active_sets", domain.active_sets, 0, sizes["F"] - 1)
    checks.budget("tree nodes", sizes["L"], LARGEST_TREE)
    work = (sizes["L"] + sizes["G"]) * sizes["N"] * sizes["V"] * (sizes["K"] + sizes["M"])
    checks.budget("operations", work + sizes["H"] * sizes["N"] ** 2 * sizes["V"], LARGEST_WORK)
    table = sizes["G"] * (sizes["K"] + sizes["M"]) * max(sizes["N"], sizes["V"])
    checks.budget("table entries", table, LARGEST_TABLE)
    checks.budget("table entries", 8 * sizes["H"] * sizes["N"] * sizes["V"], LARGEST_TABLE)
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
    return BoxesProblem(weights, domain, latents, proof["tree"])


def leaves(problem: BoxesProblem) -> Leaves:
    """Walks the trees, one a set in order, each in preorder with the lower half first.

    Raises CertificateError if the codes are not exactly G whole trees.
    """
    domain, codes = problem.domain, iter(problem.tree.tolist())
    found: list[tuple[int, list[float], list[float], int]] = []
    for number, active in enumerate(domain.active_sets):
        stack = [(domain.low[active].tolist(), domain.high[active].tolist(), 0)]
        while stack:
            low, high, depth = stack.pop()
            code = next(codes, None)
            if code is None:
                raise CertificateError("proof.tree ends in the middle of a tree.")
            if code >= 0:
                found.append((number, low, high, code))
                continue
            stack.extend(_halves(low, high, -1 - code, depth))
    if next(codes, None) is not None:
        raise CertificateError("proof.tree goes on after the last tree.")
    sets = np.array([leaf[0] for leaf in found])
    low, high = np.array([leaf[1] for leaf in found]), np.array([leaf[2] for leaf in found])
    mass = masses(domain, sets, low, high)
    return Leaves(sets, low, high, np.array([leaf[3] for leaf in found]), mass)


def _halves(
    low: list[float], high: list[float], side: int, depth: int
) -> Iterator[tuple[list[float], list[float], int]]:
    """The upper and the lower half, in the order in which a stack returns the lower first."""
    middle = (low[side] + high[side]) / 2
    if not low[side] < middle < high[side] or depth >= DEEPEST:
        raise CertificateError("proof.tree splits a box that cannot be halved.")
    yield [*low[:side], middle, *low[side + 1 :]], high, depth + 1
    yield low, [*high[:side], middle, *high[side + 1 :]], depth + 1


def masses(domain: BoxesDomain, sets: Indices, low: Array, high: Array) -> Array:
    """The probability of each box, rounded down."""
    active = domain.active_sets[sets]
    whole = domain.high[active] - domain.low[active]
    share = np.where(whole > 0, (high - low) / np.where(whole > 0, whole, 1.0), 1.0)
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
        active = self.domain.active_sets[sets]
        score = np.einsum("bk,bkv->bv", (low + high) / 2, self.domain.readout[active])
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


def evaluate(arithmetic: Arithmetic, problem: BoxesProblem) -> Proved:
    """Checks every leaf that claims to be proved, each by the bound it names."""
    prover, everything = Prover(arithmetic, problem), leaves(problem)
    claimed = np.flatnonzero(everything.code > 0)
    found: list[Indices] = []
    if len(claimed):
        part = everything[claimed]
        label, constant = prover.labels(part.sets, part.low, part.high)
        claimed, label = claimed[constant], label[constant]
        codes = everything.code[claimed]
        for y, code in sorted({*zip(label.tolist(), codes.tolist(), strict=True)}):
            rows = claimed[(label == y) & (codes == code)]
            for start in range(0, len(rows), CHUNK):
                chunk = rows[start : start + CHUNK]
                found.append(chunk[_holds(prover, everything[chunk], y, BOUNDS[code - 1])])
    proved = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
    mass, code = everything.mass[proved], everything.code[proved]
    by_bound = {name: math.fsum(mass[code == k]) for k, name in enumerate(BOUNDS, start=1)}
    return Proved(max(math.fsum(mass) * (1 - 1e-15), 0.0), by_bound, proved)


def _holds(prover: Prover, leaves: Leaves, label: int, bound: str) -> npt.NDArray[np.bool_]:
    active = prover.domain.active_sets[leaves.sets]
    return prover.proves(Boxes(leaves.sets, active, leaves.low, leaves.high, label), bound)

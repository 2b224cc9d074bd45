"""Addition modulo p, all p² pairs: additive effects, frequency blocks, and a bounded rest.

Neuron n's activation h_n(a, b) is split into four additive effects and an interaction,
h_n = u_n[a] + v_n[b] + s_n[a+b] + t_n[a-b] + g_n(a, b). The effects reach the logits exactly,
through tables that cost 1/p of running the network. Only g passes through an approximation: its
output row is replaced by its part on the one frequency that owns the neuron (a block, THEORY
T2.5), or by nothing. What is left of the row, E_n, is charged in functional margin form:
|Σ_n g_n (E_ny - E_nc)| <= ‖g‖ ‖E_y - E_c‖. Neurons may be rescaled by powers of two first, which
changes neither the network nor soundness, and makes that inequality tighter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from crossproof.proof.certificate.format import Certificate, CertificateError, Limits
from crossproof.proof.certificate.verifier.arithmetic import (
    Arithmetic,
    Array,
    Indices,
    Rounded,
    join,
    log_sum,
)
from crossproof.proof.certificate.verifier.checks import NetworkWeights, within

LARGEST_SCALE = 40
"""Neurons are rescaled by at most 2 to this power."""


@dataclass(frozen=True, eq=False)
class PairsProblem:
    """The rescaled network and the certificate's tables, checked."""

    weights: NetworkWeights
    left: Array
    right: Array
    effects: tuple[Array, Array, Array, Array]
    """u, v, s, t [p, N]: of the first summand, the second, the sum and the difference."""
    owners: Indices
    """[N]: the frequency that owns a neuron; 0 for none."""


def read(certificate: Certificate, limits: Limits) -> PairsProblem:
    """Checks the certificate's tensors and rescales the network."""
    domain = certificate.part("domain")
    proof, p = certificate.part("proof"), certificate.sizes["p"]
    if certificate.sizes["V"] != p:
        raise CertificateError(
            f"Addition modulo {p} needs {p} classes, not {certificate.sizes['V']}."
        )
    within("proof.owners", proof["owners"], 0, p // 2)
    frequencies = len(np.unique(proof["owners"][proof["owners"] > 0]))
    limits.check(*_needs(certificate, frequencies))
    weights, effects, owners = rescaled(certificate)
    return PairsProblem(weights, domain["left"], domain["right"], effects, owners)


def rescaled(
    certificate: Certificate,
) -> tuple[NetworkWeights, tuple[Array, Array, Array, Array], Indices]:
    """The network with neurons rescaled and ordered by owner, their effects and their owners.

    Raises CertificateError for a scale that is out of range or loses digits.
    """
    weights, proof = NetworkWeights.of(certificate), certificate.part("proof")
    within("proof.scale", proof["scale"], -LARGEST_SCALE, LARGEST_SCALE)
    scale = np.ldexp(1.0, proof["scale"].astype(np.int32))
    order = np.argsort(proof["owners"], kind="stable")  # a block is a slice of neurons
    ours = NetworkWeights(
        W_in=(weights.W_in * scale)[:, order],
        b_in=(weights.b_in * scale)[order],
        W_out=(weights.W_out / scale[:, None])[order],
        b_out=weights.b_out,
        skip=weights.skip,
    )
    scale = scale[order]
    undone = ours.W_in / scale, ours.b_in / scale, ours.W_out * scale[:, None]
    given = weights.W_in[:, order], weights.b_in[order], weights.W_out[order]
    if not all(map(np.array_equal, undone, given)):
        raise CertificateError("proof.scale loses digits of the network: use smaller powers of 2.")
    names = ("left", "right", "sum", "difference")
    tables = [proof[f"effect_{name}"][:, order] for name in names]
    return ours, (tables[0], tables[1], tables[2], tables[3]), proof["owners"][order]


def _needs(certificate: Certificate, frequencies: int) -> tuple[int, int]:
    """Bytes and operations, rounded up."""
    D, N, p = (certificate.sizes[letter] for letter in "DNp")
    memory = 8 * (20 * p * N + 5 * D * (N + p) + 6 * frequencies * p + 40 * p * p)
    tables = 4 * (p + 4) * D * (N + p) + 12 * (p + 2) * N * p + 8 * N * p * p
    pair = 20 * N + 5 * frequencies * p + 40 * p
    return certificate.memory + memory, tables + p * (p + 2) * pair


@dataclass(frozen=True, eq=False)
class OutputBlocks:
    """The blocks in use, the neurons they own, and what they leave of the output rows."""

    slices: list[slice]
    coefficients: list[Rounded]
    """[neurons, functions] a block; of a frequency two, cos and sin."""
    basis: Rounded | None
    """Those functions of every class, [functions in use, V]."""
    distance: Rounded
    """[V, V]: ‖E_y - E_c‖ over neurons."""


def waves(p: int, frequency: int) -> Array:
    """cos and sin of 2π · frequency · c / p, [2, p]; any stored numbers would be sound."""
    angle = 2 * np.pi * ((frequency * np.arange(p)) % p) / p
    return np.stack([np.cos(angle), np.sin(angle)])


def build_blocks(arithmetic: Arithmetic, problem: PairsProblem) -> OutputBlocks:
    """Projects every owned output row on its frequency and measures what is left."""
    p = len(problem.left)
    rows = arithmetic.exact(problem.weights.W_out)
    slices, coefficients, bases = [], [], []
    rest = [rows[problem.owners == 0]]
    for frequency in np.unique(problem.owners[problem.owners > 0]):
        owned = np.flatnonzero(problem.owners == frequency)
        slices.append(slice(owned[0], owned[-1] + 1))
        basis = waves(p, int(frequency))
        norms = np.maximum((basis * basis).sum(axis=1), 1.0)
        # The coefficients are whatever they are: the row minus what they span is charged.
        fitted = arithmetic.exact((rows.value[slices[-1]] @ basis.T) / norms)
        arithmetic.operations += 4 * owned.size * p
        span = arithmetic.product(fitted, arithmetic.exact(basis))
        rest.append(arithmetic.subtract(rows[slices[-1]], span))
        coefficients.append(fitted)
        bases.append(basis)
    left_over = join(rest, axis=0)
    joined = arithmetic.exact(np.concatenate(bases)) if bases else None
    return OutputBlocks(slices, coefficients, joined, distances(arithmetic, left_over))


def distances(arithmetic: Arithmetic, rows: Rounded) -> Rounded:
    """‖E_y - E_c‖ over neurons, for rows E [N, V]."""
    columns = rows.transposed()
    classes = range(len(columns.value))
    distance = [arithmetic.norm(arithmetic.subtract(columns, columns[y])) for y in classes]
    return join(distance).transposed()


@dataclass(frozen=True, eq=False)
class EffectTables:
    """What each of the four effects adds to the logits, [p, V], and the pre-activations."""

    first: Rounded
    second: Rounded
    effects: list[Rounded]
    logits: list[Rounded]


@runtime_checkable
class Effective(Protocol):
    """A network of two summed inputs, and what its activations depend on."""

    @property
    def weights(self) -> NetworkWeights: ...
    @property
    def left(self) -> Array: ...
    @property
    def right(self) -> Array: ...
    @property
    def effects(self) -> tuple[Array, Array, Array, Array]: ...


def build_tables(arithmetic: Arithmetic, problem: Effective) -> EffectTables:
    """Everything that depends on one of a, b, a+b, a-b alone."""
    weights = problem.weights
    W_in, W_out = arithmetic.exact(weights.W_in), arithmetic.exact(weights.W_out)
    left, right = arithmetic.exact(problem.left), arithmetic.exact(problem.right)
    first = arithmetic.product(left, W_in)
    first = arithmetic.add(first, arithmetic.exact(weights.b_in))
    second = arithmetic.product(right, W_in)
    effects = [arithmetic.exact(effect) for effect in problem.effects]
    logits = [arithmetic.product(effect, W_out) for effect in effects]
    logits[0] = arithmetic.add(logits[0], arithmetic.exact(weights.b_out))
    if weights.skip.any():
        skip = arithmetic.exact(weights.skip)
        logits[0] = arithmetic.add(logits[0], arithmetic.product(left, skip))
        logits[1] = arithmetic.add(logits[1], arithmetic.product(right, skip))
    return EffectTables(first, second, effects, logits)


def margins(
    arithmetic: Arithmetic,
    problem: PairsProblem,
    tables: EffectTables,
    blocks: OutputBlocks,
    a: int,
) -> Rounded:
    """Lower bounds on the margins of (a, b) against every class, [b, V]; 0 at the label."""
    p = len(problem.left)
    b = np.arange(p)
    return table_margins(arithmetic, tables, blocks, (a, b, (a + b) % p, (a - b) % p))


def table_margins(
    arithmetic: Arithmetic,
    tables: EffectTables,
    blocks: OutputBlocks,
    where: tuple[int, Indices, Indices, Indices],
) -> Rounded:
    """Lower bounds on margins where the four effects are read at `where`; the third are labels."""
    first, _, label, _ = where
    active = arithmetic.relu(arithmetic.add(tables.second, tables.first[first]))
    logits = None
    for effect, table, index in zip(tables.effects, tables.logits, where, strict=True):
        active = arithmetic.subtract(active, effect[index])
        logits = table[index] if logits is None else arithmetic.add(table[index], logits)
    assert logits is not None
    if blocks.basis is not None:
        spectrum = [
            arithmetic.product(active.columns(neurons), coefficients)
            for neurons, coefficients in zip(blocks.slices, blocks.coefficients, strict=True)
        ]
        logits = arithmetic.add(logits, arithmetic.product(join(spectrum), blocks.basis))
    gap = arithmetic.subtract(logits.pick(label), logits)
    charge = arithmetic.times(arithmetic.norm(active), blocks.distance[label])
    return arithmetic.subtract(gap, charge)


def evaluate(arithmetic: Arithmetic, problem: PairsProblem) -> Iterator[tuple[int, Array, Array]]:
    """For every a: the worst margin of each b (a lower bound) and its CE (an upper bound)."""
    tables, blocks = build_tables(arithmetic, problem), build_blocks(arithmetic, problem)
    p = len(problem.left)
    b = np.arange(p)
    for a in range(p):
        low = margins(arithmetic, problem, tables, blocks, a).low
        arithmetic.operations += 2 * low.size  # the lower bound itself and its minimum
        low[b, (a + b) % p] = np.inf
        yield a, low.min(axis=1), log_sum(arithmetic, low)

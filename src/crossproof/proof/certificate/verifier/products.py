"""Multiplication in a finite group, all pairs: effects, blocks of output atoms, a bounded rest.

As `pairs` does for addition modulo p: neuron n's activation is split into effects of a, b, ab and
ab⁻¹ and an interaction. The effects reach the logits exactly, through tables. The interaction
reaches them through what its output row is on the atoms of one block (functions on the group, such
as an irrep's; any numbers are sound); what is left of the row is charged by ‖g‖ ‖E_y - E_c‖.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
from crossproof.proof.certificate.verifier.pairs import (
    EffectTables,
    OutputBlocks,
    build_tables,
    distances,
    rescaled,
    table_margins,
)


@dataclass(frozen=True, eq=False)
class ProductsProblem:
    """The rescaled network, the group and the certificate's tables, checked."""

    weights: NetworkWeights
    left: Array
    right: Array
    effects: tuple[Array, Array, Array, Array]
    """Of a, b, ab and ab⁻¹ [p, N]."""
    owners: Indices
    """[N], rising: the block of a neuron; 0 for none."""
    atoms: Array
    """[H, p]: functions on the group."""
    blocks: Indices
    """[H]: the block of an atom, from 1."""
    table: Indices
    """[p, p]: ab."""
    quotient: Indices
    """[p, p]: ab⁻¹."""


def quotients(table: Indices) -> Indices:
    """ab⁻¹ for all pairs [p, p].

    Raises CertificateError unless the table is that of a group.
    """
    number = np.arange(len(table))
    within("domain.table", table, 0, len(table) - 1)
    neutral = np.flatnonzero((table == number).all(axis=1))
    if len(neutral) != 1 or not np.array_equal(table[:, neutral[0]], number):
        raise CertificateError("domain.table has no neutral element: it is not that of a group.")
    inverse = table == neutral[0]
    if (inverse.sum(axis=1) != 1).any():
        raise CertificateError("domain.table lacks inverses: it is not that of a group.")
    for a in number:
        if not np.array_equal(table[table[a]], table[a][table]):
            raise CertificateError("domain.table is not associative: it is not that of a group.")
    result: Indices = table[:, inverse.argmax(axis=1)]
    return result


def read(certificate: Certificate, limits: Limits) -> ProductsProblem:
    """Checks the group and the certificate's tensors, and rescales the network."""
    domain, proof = certificate.part("domain"), certificate.part("proof")
    dictionary, p = certificate.part("dictionary"), certificate.sizes["p"]
    if certificate.sizes["V"] != p:
        raise CertificateError(
            f"Multiplication of {p} elements needs {p} classes, not {certificate.sizes['V']}."
        )
    within("proof.blocks", proof["blocks"], 1, certificate.sizes["H"])
    within("proof.owners", proof["owners"], 0, int(proof["blocks"].max()))
    limits.check(*_needs(certificate, proof["owners"], proof["blocks"]))
    weights, effects, owners = rescaled(certificate)
    return ProductsProblem(
        weights=weights,
        left=domain["left"],
        right=domain["right"],
        effects=effects,
        owners=owners,
        atoms=dictionary["atoms"],
        blocks=proof["blocks"],
        table=domain["table"],
        quotient=quotients(domain["table"]),
    )


def _needs(certificate: Certificate, owners: Indices, blocks: Indices) -> tuple[int, int]:
    """Bytes and operations, rounded up."""
    D, N, p, H = (certificate.sizes[letter] for letter in "DNpH")
    size = np.bincount(blocks)
    shared = int(size[owners].sum())  # of neurons with the atoms of their block
    memory = 8 * (24 * p * N + 5 * D * (N + p) + 4 * H * (p + N) + 48 * p * p)
    tables = 4 * (p + 4) * D * (N + p) + 12 * (p + 2) * N * p + 8 * N * p * p + 6 * shared * p
    tables += 2 * p**3
    pair = 20 * N + 3 * (shared + 4 * H) + 3 * H * p + 40 * p
    return certificate.memory + memory, tables + p * (p + 2) * pair


def build_blocks(count: Arithmetic, problem: ProductsProblem) -> OutputBlocks:
    """Projects every owned output row on its block's atoms and measures what is left.

    All of a row is left whose owner is 0, or a block without atoms.
    """
    rows, p = count.exact(problem.weights.W_out), len(problem.left)
    slices, coefficients, used = [], [], []
    owned_by_atoms = np.isin(problem.owners, problem.blocks)
    rest = [rows[~owned_by_atoms]]
    for block in np.unique(problem.owners[owned_by_atoms]):
        owned = np.flatnonzero(problem.owners == block)
        atoms = problem.atoms[problem.blocks == block]
        slices.append(slice(owned[0], owned[-1] + 1))
        # The coefficients are whatever they are: the row minus what they span is charged.
        fitted = count.exact(rows.value[slices[-1]] @ atoms.T)
        count.operations += 2 * owned.size * p * len(atoms)
        span = count.product(fitted, count.exact(atoms))
        rest.append(count.subtract(rows[slices[-1]], span))
        coefficients.append(fitted)
        used.append(atoms)
    joined = count.exact(np.concatenate(used)) if used else None
    return OutputBlocks(slices, coefficients, joined, distances(count, join(rest, axis=0)))


def margins(
    count: Arithmetic, problem: ProductsProblem, tables: EffectTables, blocks: OutputBlocks, a: int
) -> Rounded:
    """Lower bounds on the margins of (a, b) against every class, [b, p]; 0 at the label."""
    label = problem.table[a]
    return table_margins(
        count, tables, blocks, (a, np.arange(len(label)), label, problem.quotient[a])
    )


def evaluate(count: Arithmetic, problem: ProductsProblem) -> Iterator[tuple[int, Array, Array]]:
    """For every a: the worst margin of each b (a lower bound) and its CE (an upper bound)."""
    tables, blocks = build_tables(count, problem), build_blocks(count, problem)
    for a, label in enumerate(problem.table):
        low = margins(count, problem, tables, blocks, a).low
        count.operations += 2 * low.size  # the lower bound itself and its minimum
        low[np.arange(len(label)), label] = np.inf
        yield a, low.min(axis=1), log_sum(count, low)

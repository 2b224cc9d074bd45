"""Searches a certificate for multiplication in a finite group; the verifier believes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import GroupDomain, Network
from crossproof.proof.certificate.provers.pairs import Effects, effects, scaled_effects
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.products import quotients
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate

LEFT_OUT = (0.0, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0)
"""Shares of a component's power that its atoms may leave out; the cheapest that proves most."""


def components(table: Int[Array, "p p"], seed: int = 0) -> list[Float[Array, "dim p"]]:
    """Orthonormal bases of the real isotypic components of the functions on a group.

    They are the eigenspaces of convolution with a generic function that is constant on conjugacy
    classes and on inverses: such convolutions commute with all translations, and by Schur's lemma
    they are a multiple of the identity on each component.
    """
    p, by_inverse = len(table), quotients(table)
    neutral = by_inverse[0, 0]
    inverse = by_inverse[neutral]
    representative = table[table, inverse[:, None]].min(axis=0)  # of the class of xgx⁻¹
    generic = np.random.default_rng(seed).standard_normal(p)[representative]
    values, vectors = np.linalg.eigh((generic + generic[inverse])[by_inverse])
    steps = np.flatnonzero(np.diff(values) > 1e-8 * p)
    return np.split(vectors.T, steps + 1)


def products_draft(network: Network, domain: GroupDomain, found: Effects, left_out: float) -> Draft:
    """A certificate whose atoms leave out that share of each component's power at most.

    Raises CrossproofError if the network's classes are not the group's elements.
    """
    if network.n_classes != domain.p:
        raise CrossproofError(
            f"A network with {network.n_classes} classes does not multiply {domain.p} elements."
        )
    rows = network.W_out.numpy() - network.W_out.numpy().mean(axis=1, keepdims=True)
    weight = (found.interaction**2).mean(axis=(0, 1))
    bases = [
        basis for basis in components(domain.table.numpy()) if abs(basis.sum()) < 1e-6 * domain.p
    ]
    power = np.stack([((rows @ basis.T) ** 2).sum(axis=1) for basis in bases])
    owner, rest = power.argmax(axis=0), rows.copy()
    owners = np.zeros(len(rows), np.int64)
    atoms, blocks = list[Array](), list[int]()
    for number, basis in enumerate(bases):
        mine = np.flatnonzero(owner == number)
        chosen = _atoms(rows[mine] * np.sqrt(weight[mine, None]), basis, left_out)
        if not len(chosen):
            continue
        block = len(atoms) + 1
        owners[mine] = block
        rest[mine] -= rows[mine] @ chosen.T @ chosen
        atoms.append(chosen)
        blocks += [block] * len(chosen)
    if not atoms:  # a certificate has no use for empty tensors
        atoms, blocks = [np.zeros((1, domain.p))], [1]
    scale, tables = scaled_effects(found, rest, weight)
    return Draft(
        kind="products",
        network={name: tensor.numpy() for name, tensor in network.tensors().items()},
        domain={name: tensor.numpy() for name, tensor in domain.tensors().items()},
        proof=tables | {"owners": owners, "scale": scale, "blocks": np.array(blocks)},
        dictionary={"atoms": np.concatenate(atoms)},
    )


def _atoms(
    rows: Float[Array, "n p"], basis: Float[Array, "dim p"], left_out: float
) -> Float[Array, "atoms p"]:
    """The rows' principal directions in a component, as few as leave out no more than that."""
    if not len(rows):
        return basis[:0]
    _, size, directions = np.linalg.svd(rows @ basis.T, full_matrices=False)
    after = np.append(np.cumsum(size[::-1] ** 2)[::-1], 0.0)
    allowed = max(left_out, 1e-24) * after[0]
    chosen: Array = directions[: int((after > allowed).sum())] @ basis
    return chosen


def product_drafts(network: Network, domain: GroupDomain) -> Iterator[Draft]:
    """Certificates that leave out more and more of the output rows: cheaper, and weaker."""
    found = effects(network, domain)
    for left_out in LEFT_OUT:
        yield products_draft(network, domain, found, left_out)


def best_products(
    network: Network, domain: GroupDomain, arithmetic: Arithmetic | None = None
) -> Draft:
    """The cheapest certificate among those of highest accuracy; `arithmetic` counts the search."""
    count = arithmetic or Arithmetic()
    best, reached = None, (-1.0, 0)
    count.operations += 10 * domain.p**2 * network.W_in.shape[1]  # activations and effects
    for draft in product_drafts(network, domain):
        verdict = judge(as_certificate(draft))
        count.operations += verdict.operations
        if (verdict.accuracy, -verdict.operations) > reached:
            best, reached = draft, (verdict.accuracy, -verdict.operations)
    assert best is not None
    return best

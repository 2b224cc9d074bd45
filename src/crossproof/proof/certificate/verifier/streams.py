"""The same circuits, through the latents of a dictionary of the residual stream.

What is read at a position is x = Σ_h a_h d_h + b + ε, with latents that the certificate names. The
score of two such sums is the sum of their parts' pair scores, of which the certificate keeps some;
all others, and what ε does, are charged to it. Values and the direct path go through the latents
alone; what ε does to them is charged in functional margin form. (docs/theory/attention.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from crossproof.proof.certificate.format import Certificate, CertificateError
from crossproof.proof.certificate.verifier.arithmetic import (
    Arithmetic,
    Array,
    Indices,
    Rounded,
    join,
)
from crossproof.proof.certificate.verifier.checks import within
from crossproof.proof.certificate.verifier.circuits import (
    Charges,
    Circuits,
    LayerWeights,
    off,
)


@dataclass(frozen=True, eq=False)
class Streams:
    """The dictionary and its latents at every token and position; tokens by rank."""

    parts: Array
    """[H + 1, D]: decoder vectors, and the bias as one more."""
    activations: Array
    """[C, V, H + 1]: of the parts; 1 for the bias."""
    kept: Array
    """[H + 1, H + 1]: 1 for pairs (query's part, key's part) whose score counts, else 0."""

    @classmethod
    def of(cls, certificate: Certificate, order: Indices) -> Streams:
        """The dictionary of a certificate; its latents are listed position by position.

        Raises CertificateError if the list or the kept pairs do not fit the dictionary.
        """
        sizes, proof = certificate.sizes, certificate.part("proof")
        V, C, H = sizes["V"], sizes["C"], sizes["H"]
        if sizes["B"] != V * C + 1 or sizes["J"] != H + 1:
            raise CertificateError(
                f"proof.offsets must be {V * C + 1} long and proof.kept [{H + 1}, {H + 1}]."
            )
        within("proof.indices", proof["indices"], 0, H - 1)
        within("proof.kept", proof["kept"], 0, 1)
        offsets = proof["offsets"]
        if offsets[0] or offsets[-1] != sizes["E"] or (offsets[1:] < offsets[:-1]).any():
            raise CertificateError("proof.offsets must rise from 0 to the number of latents.")
        dense = np.zeros((V * C, H + 1))
        rows = np.repeat(np.arange(V * C), np.diff(offsets))
        where = rows * (H + 1) + proof["indices"]
        if len(np.unique(where)) != len(where):
            raise CertificateError("proof.indices names a latent twice at one token and position.")
        dense.flat[where] = proof["values"]
        dense[:, H] = 1.0
        dictionary = certificate.part("dictionary")
        return cls(
            np.concatenate([dictionary["atoms"], dictionary["bias"][None]]),
            dense.reshape(C, V, H + 1)[:, order],
            proof["kept"].astype(np.float64),
        )

    @staticmethod
    def needs(certificate: Certificate) -> tuple[int, int]:
        """Bytes and operations, beyond those of the circuits, rounded up."""
        sizes: Mapping[str, int] = certificate.sizes
        V, C, D, A, H = (sizes[letter] for letter in "VCDAH")
        J, rows = H + 1, V * C
        memory = 8 * (3 * rows * J + 8 * J * J + 6 * rows * (D + A + V) + 24 * C * V * V)
        memory += 8 * (6 * V * V + J * (D + A + V)) + 40 * sizes["E"]
        operations = 2 * (rows + J + 4) * D * (4 * A + 2 * D + V) + 4 * J * J * (A + 4)
        operations += 4 * (V + 2) * J * J + 2 * (rows + V + 4) * J * (2 * D + 3 * V)
        return memory, operations + 6 * (V + 2) * rows * A + 20 * C * V * V + 6 * V * V * D


def through(count: Arithmetic, weights: LayerWeights, streams: Streams) -> Circuits:
    """The circuits through the latents, with everything else charged."""
    W_Q, W_K = count.exact(weights.W_Q), count.exact(weights.W_K)
    parts = count.exact(streams.parts)
    active = [count.exact(position) for position in streams.activations]
    positions, last = count.exact(weights.W_pos), len(weights.W_pos) - 1
    tokens = count.exact(weights.W_E)
    x = [count.add(tokens, positions[p]) for p in range(last + 1)]
    rebuilt = [count.product(a, parts) for a in active]
    rest = [count.subtract(true, ours) for true, ours in zip(x, rebuilt, strict=True)]

    pairs = count.product(count.product(parts, W_Q), count.product(parts, W_K).transposed())
    kept, dropped = _split(count, pairs, streams.kept)
    queries = active[last]
    by_part, charge_by_part = (
        count.product(queries, kept),
        count.product(count.absolute(queries), dropped),
    )
    asked = [count.product(part, W_Q) for part in (rebuilt[last], rest[last])]
    scores, errors = [], []
    for p, a in enumerate(active):
        scores.append(count.product(by_part, a.transposed()))
        missed = count.product(charge_by_part, count.absolute(a).transposed())
        for error in _residual(count, asked, rebuilt[p], rest[p], W_K):
            missed = count.add(missed, count.absolute(error))
        errors.append(missed)
    tau = np.stack([missed.high for missed in errors])
    table = np.stack([score.value for score in scores])
    count.operations += 3 * table.size

    W_O, W_U = count.exact(weights.W_O), count.exact(weights.W_U)
    written = count.product(count.exact(weights.W_V), W_O)
    outputs = count.product(count.product(parts, written), W_U)
    values = [count.product(a, outputs) for a in active]
    direct = count.product(queries, count.product(parts, W_U))
    sizes = [count.norm(count.product(missed, written)) for missed in rest]
    return Circuits(
        low=table - tau,
        high=table + tau,
        score_error=max(map(off, scores)) + float(np.abs(tau).max()) * 2.0**-50,
        values=np.stack([value.value for value in values]),
        direct=direct.value,
        logit_error=max(map(off, [*values, direct])),
        charges=Charges(
            np.stack([size.high[:, 0] for size in sizes]),
            count.norm(rest[last]).high[:, 0],
            _distances(count, W_U),
        ),
    )


def _split(count: Arithmetic, pairs: Rounded, kept: Array) -> tuple[Rounded, Rounded]:
    """The pair scores that are kept, and the sizes of those that are not."""
    count.operations += 2 * kept.size
    ours = Rounded(pairs.value * kept, *pairs.bounds)
    return ours, count.absolute(Rounded(pairs.value * (1.0 - kept), *pairs.bounds))


def _residual(
    count: Arithmetic, asked: list[Rounded], rebuilt: Rounded, rest: Rounded, W_K: Rounded
) -> list[Rounded]:
    """ε_q M x̂_k, x̂_q M ε_k and ε_q M ε_k, [V, V] each."""
    ours, missed = (count.product(part, W_K).transposed() for part in (rebuilt, rest))
    return [
        count.product(asked[1], ours),
        count.product(asked[0], missed),
        count.product(asked[1], missed),
    ]


def _distances(count: Arithmetic, W_U: Rounded) -> Array:
    """Upper bounds on ‖U_y - U_c‖, [V, V]; 0 on the diagonal."""
    columns = W_U.transposed()
    rows = [count.norm(count.subtract(columns, columns[y])) for y in range(len(columns.value))]
    distance: Array = join(rows).high.T.copy()
    np.fill_diagonal(distance, 0.0)
    return distance

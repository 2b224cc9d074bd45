"""Searches a certificate for addition modulo p; nothing here is believed by the verifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Network, PairDomain
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate


@dataclass(frozen=True, eq=False)
class Effects:
    """The four additive effects of every neuron, and what they leave."""

    tables: dict[str, Float[Array, "p N"]]
    interaction: Float[Array, "p p N"]


def effects(network: Network, domain: PairDomain) -> Effects:
    """Means of the neurons' activations over everything but a, b, a+b or a-b, one by one."""
    p = domain.p
    first = (domain.left @ network.W_in + network.b_in).numpy()
    second = (domain.right @ network.W_in).numpy()
    rest = np.maximum(first[:, None] + second[None], 0.0)
    a, b = np.divmod(np.arange(p * p), p)
    tables = {}
    for name, index in {
        "left": a,
        "right": b,
        "sum": domain.labels().numpy(),
        "difference": domain.quotients().numpy(),
    }.items():
        order = np.argsort(index, kind="stable").reshape(p, p)
        flat = rest.reshape(p * p, -1)
        tables[name] = flat[order].mean(axis=1)
        rest = (flat - tables[name][index]).reshape(p, p, -1)
    return Effects(tables, rest)


def best_frequencies(network: Network) -> tuple[Int[Array, " N"], Float[Array, "N V"]]:
    """The frequency with most power in each neuron's output row, and the row without it."""
    rows = network.W_out.numpy()
    spectrum = np.fft.rfft(rows, axis=1)
    power = np.abs(spectrum) ** 2
    power[:, 0] = -1.0
    owner = power.argmax(axis=1)
    kept = np.arange(power.shape[1])[None] == owner[:, None]
    part = np.fft.irfft(np.where(kept, spectrum, 0), n=rows.shape[1], axis=1)
    return owner, rows - rows.mean(axis=1, keepdims=True) - part


def pairs_draft(network: Network, domain: PairDomain, found: Effects, blocks: int) -> Draft:
    """A certificate with the `blocks` frequencies that explain most of the interaction.

    Raises CrossproofError if the network's classes are not the p residues.
    """
    if network.n_classes != domain.p:
        raise CrossproofError(
            f"A network with {network.n_classes} classes does not add modulo {domain.p}."
        )
    owner, left_over = best_frequencies(network)
    rows = network.W_out.numpy() - network.W_out.numpy().mean(axis=1, keepdims=True)
    weight = (found.interaction**2).mean(axis=(0, 1))
    gain = weight * ((rows**2).sum(axis=1) - (left_over**2).sum(axis=1))
    by_frequency = np.bincount(owner, weights=gain, minlength=domain.p // 2 + 1)
    used = np.argsort(-by_frequency, kind="stable")[:blocks]
    used = used[by_frequency[used] > 0]
    owned = np.isin(owner, used)
    rest = np.where(owned[:, None], left_over, rows)
    scale, tables = scaled_effects(found, rest, weight)
    return Draft(
        kind="pairs",
        network={name: tensor.numpy() for name, tensor in network.tensors().items()},
        domain={name: tensor.numpy() for name, tensor in domain.tensors().items()},
        proof=tables | {"owners": np.where(owned, owner, 0), "scale": scale},
    )


def scaled_effects(
    found: Effects, rest: Float[Array, "N V"], weight: Float[Array, " N"]
) -> tuple[Int[Array, " N"], dict[str, Array]]:
    """Powers of two that make the charge of `rest` least, and the effects of neurons so scaled.

    `weight` is the mean square of each neuron's interaction.
    """
    # ‖g/s‖ ‖sE‖ is smallest where s² = rms(g)/‖E‖; a power of two loses next to nothing.
    ratio = np.maximum(np.linalg.norm(rest, axis=1), 1e-9) / np.maximum(np.sqrt(weight), 1e-9)
    scale = np.clip(np.round(np.log2(ratio) / 2), -30, 30).astype(np.int64)
    tables = {
        f"effect_{name}": np.ldexp(table, scale).astype(np.float32)
        for name, table in found.tables.items()
    }
    return scale, tables


def best_draft(
    network: Network, domain: PairDomain, most: int = 16, arithmetic: Arithmetic | None = None
) -> Draft:
    """The cheapest certificate among those of highest accuracy, with up to `most` blocks.

    `arithmetic` counts the search.
    """
    count = arithmetic or Arithmetic()
    found, best, reached = effects(network, domain), None, (-1.0, 0)
    count.operations += 10 * found.interaction.size  # activations, four means, four differences
    for blocks in range(most + 1):
        draft = pairs_draft(network, domain, found, blocks)
        verdict = judge(as_certificate(draft))
        count.operations += verdict.operations
        if (verdict.accuracy, -verdict.operations) > reached:
            best, reached = draft, (verdict.accuracy, -verdict.operations)
        if verdict.accuracy == 1 or draft.proof["owners"].all():
            break
    assert best is not None
    return best

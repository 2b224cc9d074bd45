"""Small networks, domains and drafts for the tests of certificates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.proof.bounds.network import Network, PairDomain, SparseDomain
from crossproof.proof.certificate import format as form
from crossproof.proof.certificate.cost import ProofCost
from crossproof.proof.certificate.provers.boxes import boxes_draft
from crossproof.proof.certificate.provers.latents import AffineLatents, generating_latents
from crossproof.proof.certificate.provers.pairs import effects, pairs_draft
from crossproof.proof.certificate.provers.points import points_draft
from crossproof.proof.certificate.writer import Draft, publish


def single(tensor: Tensor) -> Tensor:
    """Values that float32 can hold, as float64."""
    return tensor.float().double()


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_network(
    D: int, N: int, V: int, seed: int = 0, skip: float = 1.0, bias: float = 0.5
) -> Network:
    g = draws(seed)
    return Network(
        W_in=single(torch.randn(D, N, generator=g) / math.sqrt(D)),
        b_in=single(bias * torch.randn(N, generator=g)),
        W_out=single(torch.randn(N, V, generator=g) / math.sqrt(N)),
        b_out=single(bias * torch.randn(V, generator=g)),
        skip=single(skip * torch.randn(D, V, generator=g) / math.sqrt(D)),
    )


def modular(
    p: int, frequencies: tuple[int, ...], phases: int, noise: float = 0.0, seed: int = 0
) -> tuple[Network, PairDomain]:
    """A network that adds modulo p by trigonometric identities; `noise` spoils its weights."""
    g, D, N = draws(seed), 2 * len(frequencies), phases * len(frequencies)
    embedding, W_in, W_out = torch.zeros(p, D), torch.zeros(D, N), torch.zeros(N, p)
    number = torch.arange(p)
    for i, frequency in enumerate(frequencies):
        angle = 2 * math.pi * ((frequency * number) % p) / p
        embedding[:, 2 * i], embedding[:, 2 * i + 1] = angle.cos(), angle.sin()
        for j in range(phases):
            phase, n = 2 * math.pi * j / phases, i * phases + j
            W_in[2 * i, n], W_in[2 * i + 1, n] = math.cos(phase), math.sin(phase)
            W_out[n] = torch.cos(angle - 2 * phase)

    def spoiled(tensor: Tensor) -> Tensor:
        return single(tensor + noise * torch.randn(tensor.shape, generator=g))

    network = Network(
        spoiled(W_in), single(torch.zeros(N)), spoiled(W_out), single(torch.zeros(p)),
        single(noise * torch.randn(D, p, generator=g)),
    )  # fmt: skip
    return network, PairDomain(spoiled(embedding), spoiled(embedding))


def sparse(
    F: int = 5, D: int = 6, N: int = 12, V: int = 3, K: int = 2, seed: int = 0, noise: float = 0.3
) -> tuple[Network, SparseDomain]:
    """A network that is right most of the time: its skip path reads labels, its MLP disturbs."""
    g = draws(seed)
    decoder = torch.randn(F, D, generator=g)
    readout = torch.randn(F, V, generator=g)
    sets = torch.combinations(torch.arange(F), K)
    low = 0.25 * torch.ones(F)
    high = low + 0.25 + 0.75 * torch.rand(F, generator=g)
    bias = 0.2 * torch.randn(D, generator=g)
    domain = SparseDomain(
        *(single(t) for t in (decoder, bias, low, high)), active_sets=sets, readout=single(readout)
    )
    network, skip = (
        random_network(D, N, V, seed + 1, skip=0.0),
        torch.linalg.pinv(decoder) @ readout,
    )
    return replace(
        network,
        W_out=single(noise * network.W_out),
        b_out=single(0.1 * noise * network.b_out - bias @ skip),
        skip=single(skip),
    ), domain


def learned_like(
    domain: SparseDomain, M: int = 2, noise: float = 0.05, seed: int = 0
) -> AffineLatents:
    """A dictionary near the features, with latents near the true activations (M of them)."""
    g, (G, K) = draws(seed), domain.active_sets.shape

    def near(tensor: Tensor) -> Tensor:
        return tensor + noise * torch.randn(tensor.shape, generator=g, dtype=torch.float64)

    index = torch.zeros(G, M, dtype=torch.int64)
    index[:, :K] = domain.active_sets[:, :M]
    slopes = torch.zeros(G, K, M, dtype=torch.float64)
    slopes[:, range(min(K, M)), range(min(K, M))] = 1.0
    return AffineLatents(
        near(domain.decoder), near(domain.bias), index, near(slopes), near(slopes[:, 0] * 0)
    )


def sample_draft(
    network: Network, domain: SparseDomain, count: int, seed: int = 0, noise: float = 0.0
) -> tuple[Draft, Tensor, Tensor]:
    """A `points` draft from the generating features (disturbed by `noise`), inputs and labels."""
    g = draws(seed)
    activations, labels = domain.sample(count, g)
    inputs = domain.inputs(activations)
    wrong = noise * torch.randn(activations.shape, generator=g, dtype=torch.float64)
    activations = torch.where(activations != 0, activations + wrong, 0)
    decoder = domain.decoder + noise * torch.randn(domain.decoder.shape, generator=g).double()
    latents = SparseLatents.from_dense(activations)
    return points_draft(network, inputs, labels, decoder, domain.bias, latents), inputs, labels


def true_margins(network: Network, inputs: Tensor, labels: Tensor) -> np.ndarray:
    """[B, V]; +infinity at the label."""
    logits = network.logits(inputs)
    margins = logits.gather(1, labels[:, None]) - logits
    return margins.scatter(1, labels[:, None], math.inf).numpy()


@dataclass(frozen=True)
class Truth:
    accuracy: float
    cross_entropy: float


def truth(network: Network, inputs: Tensor, labels: Tensor) -> Truth:
    margins = true_margins(network, inputs, labels)
    entropy = torch.nn.functional.cross_entropy(network.logits(inputs), labels).item()
    return Truth(float((margins.min(axis=1) > 0).mean()), entropy)


def with_proof(draft: Draft, **changes: Any) -> Draft:
    """The same draft with other proof tensors (of the same names)."""
    assert set(changes) <= set(draft.proof)
    return replace(draft, proof={**draft.proof, **changes})


NOTHING = ProofCost(0, 0.0, 0)


def drafts() -> dict[str, Draft]:
    network, domain = sparse(noise=0.5)
    adder, pairs = modular(7, (1, 2), 6, noise=0.05)
    return {
        "points": sample_draft(network, domain, 30)[0],
        "pairs": pairs_draft(adder, pairs, effects(adder, pairs), 1),
        "boxes": boxes_draft(network, domain, generating_latents(domain), nodes=200),
    }


def edit_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    header = json.loads((folder / form.HEADER).read_text())
    change(header)
    (folder / form.HEADER).write_text(json.dumps(header))


def edit_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(folder / form.TENSORS)
    change(tensors)
    save_file(tensors, folder / form.TENSORS)
    parts = ("network", "domain", "dictionary")  # a liar writes the hashes that fit

    def rehash(header: dict[str, Any]) -> None:
        for part in parts:
            mine = {
                k.removeprefix(f"{part}."): t.astype(float if t.dtype.kind == "f" else int)
                for k, t in tensors.items()
                if k.startswith(f"{part}.")
            }
            header[part] = form.tensors_hash(mine) if mine else None

    edit_header(folder, rehash)


def published(factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a certificate of each kind."""
    folders = {}
    for kind, draft in drafts().items():
        folders[kind] = factory.mktemp(kind) / "proof"
        assert publish(draft, folders[kind], {"name": "test"}, NOTHING).holds
    return folders


def copied(folder: Path, to: Path) -> Path:
    """The same certificate elsewhere, to be spoiled."""
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to

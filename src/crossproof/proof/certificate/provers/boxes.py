"""Searches a certificate for a continuum: splits boxes, largest mass first, until none is left.

The bounds are the verifier's own, so that a box found here is a box proved there; the certificate
can be cut short at any moment and is sound.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Network, SparseDomain
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.provers.latents import AffineLatents
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.boxes import BOUNDS, DEEPEST, Prover, read
from crossproof.proof.certificate.verifier.enclosures import Boxes
from crossproof.proof.certificate.writer import Draft, as_certificate

SearchProgress = Callable[[int, float], None]
"""Called with the boxes looked at and the mass proved so far."""
HOPELESS = 1 / 16
"""Priority of a box where the network was wrong at the centre and at all corners."""


@dataclass
class _Trees:
    """Nodes of all trees; children are the node's `below` and the one after it."""

    sets: list[int] = field(default_factory=list)
    low: list[np.ndarray] = field(default_factory=list)
    high: list[np.ndarray] = field(default_factory=list)
    code: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    mass: list[float] = field(default_factory=list)

    def add(self, number: int, low: np.ndarray, high: np.ndarray, mass: float) -> int:
        self.sets.append(number)
        self.low.append(low)
        self.high.append(high)
        self.code.append(0)
        self.below.append(-1)
        self.mass.append(mass)
        return len(self.code) - 1

    def halve(self, node: int, side: int) -> tuple[int, int]:
        low, high = self.low[node], self.high[node]
        middle = (low[side] + high[side]) / 2
        upper_low, lower_high = low.copy(), high.copy()
        upper_low[side], lower_high[side] = middle, middle
        number, mass = self.sets[node], self.mass[node] / 2
        lower = self.add(number, low, lower_high, mass)
        self.code[node], self.below[node] = -1 - side, lower
        return lower, self.add(number, upper_low, high, mass)

    def preorder(self, roots: int) -> np.ndarray:
        codes, stack = [], list(range(roots))[::-1]
        while stack:
            node = stack.pop()
            codes.append(self.code[node])
            if self.code[node] < 0:
                stack += [self.below[node] + 1, self.below[node]]
        return np.array(codes, dtype=np.int64)


def boxes_draft(
    network: Network,
    domain: SparseDomain,
    latents: AffineLatents,
    *,
    nodes: int = 50_000,
    bounds: Sequence[str] = BOUNDS,
    batch: int = 1024,
    arithmetic: Arithmetic | None = None,
    progress: SearchProgress | None = None,
) -> Draft:
    """A certificate from looking at no more than about `nodes` boxes.

    Each box is proved by the first of `bounds` that can. `arithmetic` counts the search. Raises
    CrossproofError for a bound that does not exist.
    """
    unknown = [name for name in bounds if name not in BOUNDS]
    if unknown:
        raise CrossproofError(f"There is no bound '{unknown[0]}'; choose {', '.join(BOUNDS)}.")
    draft = _draft(network, domain, latents, np.zeros(domain.n_sets, dtype=np.int64))
    problem = read(as_certificate(draft), Limits())
    with np.errstate(all="ignore"):
        prover = Prover(arithmetic or Arithmetic(), problem)
        tree = _search(network, prover, nodes, bounds, batch, progress)
    return _draft(network, domain, latents, tree)


def _draft(
    network: Network, domain: SparseDomain, latents: AffineLatents, tree: np.ndarray
) -> Draft:
    return Draft(
        kind="boxes",
        network={name: tensor.numpy() for name, tensor in network.tensors().items()},
        domain={name: tensor.numpy() for name, tensor in domain.tensors().items()},
        dictionary={"atoms": latents.decoder.numpy(), "bias": latents.bias.numpy()},
        proof={
            "latent_index": latents.index.numpy(),
            "latent_slopes": latents.slopes.numpy(),
            "latent_offset": latents.offset.numpy(),
            "tree": tree,
        },
    )


def _search(
    network: Network,
    prover: Prover,
    nodes: int,
    bounds: Sequence[str],
    batch: int,
    progress: SearchProgress | None,
) -> np.ndarray:
    domain, trees = prover.domain, _Trees()
    sets = len(domain.active_sets)
    queue = []
    for number, active in enumerate(domain.active_sets):
        root = trees.add(number, domain.low[active], domain.high[active], 1 / sets)
        queue.append((-1 / sets, root))
    proved = 0.0
    while queue and len(trees.code) < nodes:
        here = [heapq.heappop(queue)[1] for _ in range(min(batch, len(queue)))]
        label, codes = _settle(prover, trees, here, bounds)
        wrong = _wrong_everywhere(network, prover, trees, here, label)
        for node, code, hopeless in zip(here, codes.tolist(), wrong.tolist(), strict=True):
            if code:
                trees.code[node] = code
                proved += trees.mass[node]
                continue
            side = int(np.argmax(trees.high[node] - trees.low[node]))
            smallest = 2.0 ** (2 - DEEPEST) / sets
            if trees.mass[node] <= smallest or len(trees.code) + 1 >= nodes:
                continue
            if not trees.high[node][side] > trees.low[node][side]:
                continue
            for child in trees.halve(node, side):
                share = HOPELESS if hopeless else 1.0
                heapq.heappush(queue, (-trees.mass[child] * share, child))
        if progress is not None:
            progress(len(trees.code), proved)
    return trees.preorder(sets)


def _settle(
    prover: Prover, trees: _Trees, here: list[int], bounds: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels at the centres, and for each box the code of the first bound that proves it, or 0."""
    sets = np.array([trees.sets[node] for node in here])
    low = np.stack([trees.low[node] for node in here])
    high = np.stack([trees.high[node] for node in here])
    label, constant = prover.labels(sets, low, high)
    codes = np.zeros(len(here), dtype=np.int64)
    for y in np.unique(label[constant]):
        left = constant[label[constant] == y]
        for bound in bounds:
            active = prover.domain.active_sets[sets[left]]
            boxes = Boxes(sets[left], active, low[left], high[left], int(y))
            holds = prover.proves(boxes, bound)
            codes[left[holds]] = BOUNDS.index(bound) + 1
            left = left[~holds]
            if not len(left):
                break
    return label, codes


def _wrong_everywhere(
    network: Network, prover: Prover, trees: _Trees, here: list[int], label: np.ndarray
) -> np.ndarray:
    """Where the network misses the label at the centre and at two opposite corners."""
    domain = prover.domain
    active = domain.active_sets[[trees.sets[node] for node in here]]
    low = np.stack([trees.low[node] for node in here])
    high = np.stack([trees.high[node] for node in here])
    wrong = np.ones(len(here), dtype=bool)
    for at in (low, high, (low + high) / 2):
        x = np.einsum("bk,bkd->bd", at, domain.decoder[active]) + domain.bias
        wrong &= network.logits(torch.from_numpy(x)).argmax(dim=1).numpy() != label
    return wrong

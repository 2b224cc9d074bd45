"""What proving, verifying and brute force cost, in the same unit."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.proof.bounds.attention_network import AttentionNetwork, SequenceDomain
from crossproof.proof.bounds.network import Network, PairDomain
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic


@dataclass(frozen=True)
class ProofCost:
    """Arithmetic operations (a multiply-add is two), wall time and bytes read."""

    operations: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class BruteForce:
    """The truth, from running the network on every input."""

    accuracy: float
    """An input counts as right when the label's logit is above all others."""
    cross_entropy: float
    cost: ProofCost


def brute_force(
    network: Network, inputs: Float[Tensor, "T D"], labels: Int[Tensor, " T"]
) -> BruteForce:
    """Runs the network on a list of inputs, counted as everything else is."""
    began, count = time.perf_counter(), Arithmetic()
    x, y = inputs.numpy(), labels.numpy()
    hidden = _plus(count, _times(count, x, network.W_in.numpy()), network.b_in.numpy())
    hidden = np.maximum(hidden, 0)
    count.operations += hidden.size
    logits = _plus(count, _times(count, hidden, network.W_out.numpy()), network.b_out.numpy())
    logits = _plus(count, _times(count, x, network.skip.numpy()), logits)
    right, entropy = _score(count, logits, y)
    size = sum(t.numel() for t in (inputs, *network.tensors().values())) * 8 + labels.numel() * 8
    cost = ProofCost(count.operations, time.perf_counter() - began, size)
    return BruteForce(right / len(y), entropy / len(y), cost)


def brute_force_pairs(network: Network, domain: PairDomain) -> BruteForce:
    """Runs the network on all p² pairs, with both embeddings projected once."""
    began, count, p = time.perf_counter(), Arithmetic(), domain.p
    W_in, W_out, skip = (t.numpy() for t in (network.W_in, network.W_out, network.skip))
    left, right = domain.left.numpy(), domain.right.numpy()
    first = _plus(count, _times(count, left, W_in), network.b_in.numpy())
    second = _times(count, right, W_in)
    direct = [_times(count, side, skip) for side in (left, right)] if skip.any() else None
    good, entropy, labels = 0, 0.0, domain.labels().view(p, p).numpy()
    for a in range(p):
        hidden = np.maximum(_plus(count, second, first[a]), 0)
        count.operations += hidden.size
        logits = _plus(count, _times(count, hidden, W_out), network.b_out.numpy())
        if direct is not None:
            logits = _plus(count, _plus(count, logits, direct[0][a]), direct[1])
        more = _score(count, logits, labels[a])
        good, entropy = good + more[0], entropy + more[1]
    tensors = (*network.tensors().values(), *domain.tensors().values())
    cost = ProofCost(
        count.operations, time.perf_counter() - began, 8 * sum(t.numel() for t in tensors)
    )
    return BruteForce(good / p**2, entropy / p**2, cost)


def run_sequences(
    network: AttentionNetwork, domain: SequenceDomain, points: int, seed: int
) -> tuple[BruteForce, str]:
    """Runs the layer on all sequences if there are at most `points`, else on so many at random."""
    began, (length, width) = time.perf_counter(), network.W_pos.shape
    total = network.n_classes**length
    if total <= points:
        number, which = torch.arange(total), "Brute force"
        places = network.n_classes ** torch.arange(length)
        tokens = number[:, None] // places % network.n_classes
    else:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(network.n_classes, (points, length), generator=generator)
        which = f"The network on {points} random sequences"
    labels, count = domain.labels(tokens).numpy(), Arithmetic()
    logits = network.logits(tokens).numpy()
    inner, classes = network.W_Q.shape[1], network.n_classes
    each = 2 * inner * width * (4 * length + 2) + 4 * length * inner + 2 * width * classes
    count.operations += len(tokens) * each
    right, entropy = _score(count, logits, labels)
    size = 8 * (sum(t.numel() for t in network.tensors().values()) + tokens.numel())
    cost = ProofCost(count.operations, time.perf_counter() - began, size)
    return BruteForce(right / len(labels), entropy / len(labels), cost), which


def _times(count: Arithmetic, left: Any, right: Any) -> Any:
    count.operations += 2 * left.shape[0] * left.shape[1] * right.shape[1]
    return left @ right


def _plus(count: Arithmetic, left: Any, right: Any) -> Any:
    total = left + right
    count.operations += total.size
    return total


def _score(count: Arithmetic, logits: Any, labels: Any) -> tuple[int, float]:
    """How many labels have the largest logit, and the summed cross-entropy."""
    margins = np.take_along_axis(logits, labels[:, None], axis=1) - logits
    count.operations += 6 * margins.size  # margins, their minimum, and exp, log and sums
    np.put_along_axis(margins, labels[:, None], np.inf, axis=1)
    entropy = np.logaddexp.reduce(np.pad(-margins, ((0, 0), (0, 1))), axis=1)
    return int((margins.min(axis=1) > 0).sum()), math.fsum(entropy.tolist())

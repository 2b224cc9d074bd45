"""Tiny attention layers, and which of their sequences are right, to forty digits."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import torch

from crossproof.proof.bounds import AttentionNetwork, SequenceDomain
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import attention, sequences
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.writer import Draft, as_certificate

NAMES = ("W_E", "W_pos", "W_Q", "W_K", "W_V", "W_O", "W_U")


def network(weights: dict[str, np.ndarray]) -> AttentionNetwork:
    return AttentionNetwork(**{k: torch.from_numpy(weights[k]).double() for k in NAMES})


def random_layer(V: int, C: int, D: int, A: int, seed: int, size: float = 1.0) -> AttentionNetwork:
    g = np.random.default_rng(seed)
    shapes = {"W_E": (V, D), "W_pos": (C, D), "W_Q": (D, A), "W_K": (D, A), "W_V": (D, A)}
    shapes |= {"W_O": (A, D), "W_U": (D, V)}
    return network({k: g.standard_normal(s).astype(np.float32) * size for k, s in shapes.items()})


def maximum(
    V: int, C: int, seed: int = 0, sharp: float = 1.5, noise: float = 0.1
) -> AttentionNetwork:
    """Attends to the last token of `ordered(V, seed)` and copies it; `noise` makes it miss some."""
    g = np.random.default_rng(seed)
    D = V + 2
    W_E, W_pos = np.zeros((V, D)), np.zeros((C, D))
    W_E[:, :V], W_E[:, V], W_pos[-1, V + 1] = np.eye(V), np.arange(V), 1.0
    W_Q, W_K, W_V = np.zeros((D, D)), np.zeros((D, D)), np.zeros((D, D))
    W_Q[V + 1, 0], W_K[V, 0] = sharp, 1.0
    W_V[:V, :V] = np.eye(V)
    W_U = np.eye(D, V) * 0.3
    W_O = np.eye(D) * 4
    layer = {"W_E": W_E, "W_pos": W_pos, "W_Q": W_Q, "W_K": W_K, "W_V": W_V}
    layer |= {"W_O": W_O, "W_U": W_U}
    order = ordered(V, seed).order.numpy()
    spoiled = {
        k: (w + noise * g.standard_normal(w.shape)).astype(np.float32) for k, w in layer.items()
    }
    W_E[order], W_U[:, order] = spoiled["W_E"], spoiled["W_U"]
    spoiled["W_K"][V] *= 64  # what is read of a token's size is small in its embedding
    W_E[:, V] /= 64
    return network(spoiled | {"W_E": W_E, "W_U": W_U})


def sharper(layer: AttentionNetwork, by: float) -> AttentionNetwork:
    """The same with the sizes of tokens `by` times as far apart."""
    W_E = layer.W_E.clone()
    W_E[:, len(W_E)] *= by
    return replace(layer, W_E=W_E)


def swapped(layer: AttentionNetwork, seed: int = 0) -> AttentionNetwork:
    """The same with the two largest tokens' names exchanged, but not their sizes."""
    V = len(layer.W_E)
    last = ordered(V, seed).order[-2:]
    W_E = layer.W_E.clone()
    W_E[last, :V] = layer.W_E[last.flip(0), :V]
    return replace(layer, W_E=W_E)


def ordered(V: int, seed: int = 0) -> SequenceDomain:
    return SequenceDomain(torch.from_numpy(np.random.default_rng(seed).permutation(V)))


def margins(draft: Draft) -> dict[tuple[int, ...], Decimal]:
    """The least margin of every sequence (tokens by rank), to forty digits."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 60, 10**15, -(10**15)
        return _margins(draft)


def _margins(draft: Draft) -> dict[tuple[int, ...], Decimal]:
    order = draft.domain["order"]
    weights = {k: _decimal(draft.network[k]) for k in NAMES}
    weights["W_E"], weights["W_U"] = weights["W_E"][order], weights["W_U"][:, order]
    V, C = len(weights["W_E"]), len(weights["W_pos"])
    x = weights["W_E"] + weights["W_pos"][:, None]
    asked, key = x[-1] @ weights["W_Q"], x @ weights["W_K"]
    written = x @ weights["W_V"] @ weights["W_O"] @ weights["W_U"]
    direct = x[-1] @ weights["W_U"]
    least = {}
    for q in range(V):
        weight = np.array([[(asked[q] @ key[p, t]).exp() for t in range(V)] for p in range(C)])
        for tokens in itertools.product(range(V), repeat=C - 1):
            where = list(enumerate((*tokens, q)))
            total = sum(weight[p, t] for p, t in where)
            logits = sum(weight[p, t] * written[p, t] for p, t in where) / total + direct[q]
            label = max(*tokens, q)
            least[(*tokens, q)] = min(logits[label] - logits[c] for c in range(V) if c != label)
    return least


def _decimal(array: np.ndarray) -> Any:
    return np.vectorize(lambda number: Decimal(float(number)), otypes=[object])(array)


def proved(draft: Draft) -> list[tuple[int, ...]]:
    """Every sequence that the verifier counts, tokens by rank."""
    certificate, count, counted = as_certificate(draft), Arithmetic(), []
    with np.errstate(all="ignore"):
        if draft.kind == "sequences":
            weights = sequences.read(certificate, Limits())
            enumeration, free = sequences.Enumeration(count, weights), weights.length - 1
            for q in range(weights.vocabulary):
                blocks = np.stack(list(enumeration.blocks(q)))
                shape = (weights.vocabulary,) * free
                counted += [(*t, q) for t in np.argwhere(blocks.reshape(shape)).tolist()]
            return list(map(tuple, counted))
        problem = attention.read(certificate, Limits())
        for queries, group in attention.evaluate(count, problem):
            for row, below in enumerate(group.below.tolist()):
                if not group.sequences[row]:
                    continue
                choices = [[group.label] if there else range(below) for there in group.there]
                own = [[int(queries[row])]] if len(queries) else []
                counted += list(itertools.product(*choices, *own))
    return counted

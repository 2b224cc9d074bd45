"""Attention layers made to catch a verifier, as `hostile` makes networks."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import exact_sequences
import numpy as np
from hostile import STYLES, Generator, fast_fractions, legal, numbers, tensors

from crossproof.proof.certificate.writer import Draft

KINDS = ("sequences", "attention", "attention-latents")


def layer(g: Generator, styles: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Tokens that are larger score more and write themselves, spoiled; and a spare dimension.

    A query's last coordinate is 1 for it alone, and reaches the logits directly and no other way.
    """
    V, C = int(g.integers(2, 5)), int(g.integers(2, 4))
    D, A = V + 2, V
    style = str(g.choice(styles))
    W_E, W_pos = np.eye(V, D), np.zeros((C, D))
    W_E[:, V], W_pos[-1, V] = g.choice([0.0, 1.0, 3.0]) * np.arange(V), 1.0
    W_Q, W_K, W_V = np.zeros((D, A)), np.zeros((D, A)), np.zeros((D, V))
    W_Q[V, 0] = W_K[V, 0] = 1.0
    W_V[:V] = np.eye(V) * g.choice([1.0, 5.0])
    W_O, W_U = np.eye(V, D), np.eye(D, V)
    made = {"W_E": W_E, "W_pos": W_pos, "W_Q": W_Q, "W_K": W_K, "W_V": W_V, "W_O": W_O, "W_U": W_U}
    blur = g.choice([0.01, 0.3, 1.0])
    spoiled = {k: legal(w + blur * numbers(g, style, *w.shape)) for k, w in made.items()}
    size = g.choice([1.0, 1.0, 1e-6, 30.0, 700.0]) if "dense" not in styles else 1.0
    spoiled["W_K"] = legal(spoiled["W_K"] * size)
    for name in ("W_Q", "W_K", "W_V"):
        spoiled[name][-1] = 0.0
    spoiled["W_O"][:, -1], spoiled["W_pos"][:, -1] = 0.0, 0.0
    spoiled["W_E"][:, -1], spoiled["W_U"][-1] = 0.0, 0.0
    return spoiled


def attention(g: Generator, kind: str, styles: tuple[str, ...] = STYLES) -> Draft:
    """A certificate whose proof is nearly honest, or a lie."""
    net = layer(g, styles)
    (V, D), C = net["W_E"].shape, len(net["W_pos"])
    domain = {"order": g.permutation(V) if "dense" not in styles else np.arange(V)}
    if kind == "sequences":
        return Draft(kind, net, domain, {})
    dense = "dense" in styles
    style = "dense" if dense else str(g.choice(styles))
    x = net["W_E"] + net["W_pos"][:, None]
    asked, read = (x[-1] @ net["W_Q"])[:, 0], (x @ net["W_K"])[..., 0]
    off = g.choice([0.0, 0.1])
    proof = {
        "grain": np.array([g.integers(1, 4)]),
        "asked": legal(asked + off * numbers(g, style, V)),
        "read": legal(read + off * numbers(g, style, C, V)),
    }
    if kind == "attention":
        return Draft(kind, net, domain, proof)
    atoms = np.concatenate([net["W_E"], net["W_pos"]])
    blur = g.choice([0.0, 1e-9, 0.01])
    rows = np.stack([np.array([t, V + p]) for p in range(C) for t in range(V)])
    proof |= {
        "offsets": 2 * np.arange(V * C + 1),
        "indices": rows.ravel(),
        "values": legal(1.0 + blur * numbers(g, style, rows.size)),
        "kept": (g.random((len(atoms) + 1,) * 2) < g.choice([0.9, 1.0])).astype(np.int64),
    }
    dictionary = {"atoms": legal(atoms + blur * numbers(g, style, *atoms.shape))}
    dictionary["bias"] = legal(blur * numbers(g, style, D))
    return Draft(kind, net, domain, proof, dictionary)


def exact(draft: Draft) -> exact_sequences.Sequences:
    with fast_fractions():
        return exact_sequences.check(draft.kind, tensors(draft))


def at_the_edge(draft: Draft, g: Generator) -> Draft:
    """The same with one sequence's margins moved, by its query's own logits, to an ulp of zero."""
    net = {name: tensor.copy() for name, tensor in draft.network.items()}
    order, (V, C) = draft.domain["order"], (len(net["W_E"]), len(net["W_pos"]))
    tokens = [int(token) for token in g.integers(0, V, C)]
    net["W_E"][order[tokens[-1]], -1] = 1.0
    moved = exact_sequences.Layer.of(tensors(replace(draft, network=net)))
    label, x = max(tokens), [moved.read(p, t) for p, t in enumerate(tokens)]
    others = exact_sequences.others(label, V)
    for c, margin in zip(others, moved.gaps(x, label), strict=True):
        gap = np.float64(margin)
        for _ in range(int(g.integers(0, 3))):
            gap = np.nextafter(gap, g.choice([-1, 1]) * np.inf)
        net["W_U"][-1, order[c]] = legal(gap)
    return replace(draft, network=net)


def hostile(kind: str, seed: int) -> Draft:
    """A certificate of a kind, every other one with margins at the edge."""
    g = np.random.default_rng([seed, 17, KINDS.index(kind)])
    with np.errstate(all="ignore"):
        draft = attention(g, kind)
        return at_the_edge(draft, g) if seed % 2 else draft


def edge(draft: Draft) -> Decimal:
    """An ulp of the largest logit that was moved."""
    return Decimal(2.0**-51 * float(np.abs(draft.network["W_U"][-1]).max()))

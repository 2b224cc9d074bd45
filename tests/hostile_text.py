"""Ends of tiny language models, of any shape, as certificates of listed contexts."""

from __future__ import annotations

from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

import exact_text
import numpy as np
from hostile import legal

from crossproof.proof.certificate.format_contexts import (
    ACTIVATIONS,
    ContextsCertificate,
    ContextStatement,
    ModelShape,
    check_codes,
    check_shapes,
)

TREATMENTS = [(1, 0), (1, 1), (1, 2), (2, 1), (2, 3)]


def random_shape(g: np.random.Generator, mlps: int) -> ModelShape:
    norms = (*(f"mlp{i}" for i in range(mlps)), *(("attention",) if mlps > 1 else ()), "final")
    return ModelShape(
        mlps=mlps,
        activations=tuple(str(name) for name in g.choice(ACTIVATIONS, mlps)),
        gated=tuple(bool(gate) for gate in g.random(mlps) < 0.5),
        epsilons={name: float(g.choice([1e-5, 0.1])) for name in norms},
        centred={name: bool(g.random() < 0.5) for name in norms},
        scale=float(g.choice([0.5, 2.0])),
        window=None if g.random() < 0.5 else 2,
        rotary=mlps > 1 and bool(g.random() < 0.5),
    )


def model_end(seed: int, mlps: int) -> ContextsCertificate:
    """The end of a tiny model of any shape, at two contexts of four tokens."""
    g = np.random.default_rng([seed, mlps])
    shape = random_shape(g, mlps)
    sizes = {"D": 4, "N0": 5, "N1": 3, "H": 6, "A": 4, "R": 2, "F": 3, "P": 1, "V": 5}
    sizes |= {"S": 2, "T": 4}
    scored = np.array([[0, 1, 1, 1], [1, 1, 0, 1]])
    counts = g.integers(0, 4, scored.sum())
    counts[0] = 3
    sizes |= {"B": len(counts) + 1, "E": int(counts.sum())}
    tensors: dict[str, Any] = {}
    for name, letters in shape.layout.items():
        tensors[name] = g.standard_normal([sizes[letter] for letter in letters.split()])
    if shape.rotary:
        angle = g.uniform(0, 6, (4, 1))
        tensors["weights.attention.cos"] = np.cos(angle)
        tensors["weights.attention.sin"] = np.sin(angle)
    tensors["contexts.tokens"] = np.array([[0, 1, 2, 3], [4, 3, 2, 1]])
    tensors["contexts.scored"] = scored
    tensors["contexts.offsets"] = np.concatenate([[0], np.cumsum(counts)])
    tensors["contexts.indices"] = np.concatenate([g.permutation(6)[:n] for n in counts])
    described = {name: (t.shape, t.dtype == np.int64) for name, t in tensors.items()}
    statements = tuple(ContextStatement(n, m, 0, 1e30, 1e30) for n, m in TREATMENTS if n <= mlps)
    made = ContextsCertificate(
        shape, statements, tensors, check_shapes(shape, described), "0" * 16, "0" * 64
    )
    check_codes(made)
    return made


def extreme(seed: int, mlps: int) -> ContextsCertificate:
    """The same with tensors of tiny, huge and mixed magnitudes, and epsilons that hardly count.

    Activations are those that the exact checker has at any magnitude.
    """
    g, made = np.random.default_rng([seed, mlps, 7]), model_end(seed, mlps)
    style, tensors = int(g.integers(0, 4)), dict(made.tensors)
    for name, tensor in made.tensors.items():
        if tensor.dtype != np.float64 or name.endswith((".cos", ".sin")):
            continue
        powers = [
            lambda: -g.integers(10, 58),
            lambda: g.integers(3, 20),
            lambda: g.integers(-50, 25) * (g.random() < 0.4),
            lambda shape=tensor.shape: g.integers(-30, 15, shape),
        ][style]()
        zero = (g.random() < 0.2) & (g.random(tensor.shape) < 0.3)
        tensors[name] = legal(np.where(zero, 0.0, tensor * 10.0**powers))
    shape = replace(
        made.shape,
        activations=tuple(str(name) for name in g.choice(["relu", "identity"], mlps)),
        epsilons={name: float(g.choice([1e-5, 1.1e-30, 1e-12])) for name in made.shape.epsilons},
    )
    return replace(made, shape=shape, tensors=tensors)


def exactly(certificate: ContextsCertificate, mlps: int, keep: int) -> exact_text.Treated:
    tensors = {name: tensor.tolist() for name, tensor in certificate.tensors.items()}
    return exact_text.contexts(asdict(certificate.shape), tensors, mlps, keep)


def at_the_edge(certificate: ContextsCertificate, seed: int) -> ContextsCertificate:
    """The same with one prediction's two largest logits an ulp apart, or equal."""
    g = np.random.default_rng(seed)
    row = exactly(certificate, 1, 0).logits[int(g.integers(0, 4))]
    second, first = np.argsort([float(logit) for logit in row])[-2:]
    bias = certificate.tensors["weights.final.unembedding_bias"].copy()
    moved = np.float64(Decimal(float(bias[second])) + row[first] - row[second])
    for _ in range(int(g.integers(0, 3))):
        moved = np.nextafter(moved, g.choice([-1, 1]) * np.inf)
    bias[second] = moved
    tensors = {**certificate.tensors, "weights.final.unembedding_bias": bias}
    return replace(certificate, tensors=tensors)

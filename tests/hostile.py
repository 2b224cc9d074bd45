"""Certificates made to catch a verifier: tiny and huge numbers, ties, margins an ulp from zero."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import exact_checker
import exact_sequences
import flint
import numpy as np
import pytest
from jaxtyping import config

from crossproof.proof.certificate.format import LARGEST_VALUE, SMALLEST_VALUE
from crossproof.proof.certificate.writer import Draft

KINDS = ("points", "pairs", "boxes", "products")
STYLES = ("plain", "plain", "dyadic", "tiny", "huge", "mixed")
Generator = np.random.Generator


def legal(values: np.ndarray) -> np.ndarray:
    """The same within the range of certificates."""
    size = np.abs(values)
    values = np.where(size < SMALLEST_VALUE, 0.0, values)
    return np.where(size > LARGEST_VALUE, np.sign(values) * LARGEST_VALUE, values)


def numbers(g: Generator, style: str, *shape: int) -> np.ndarray:
    """Numbers of one style; some are zero, but of "dense" ones."""
    plain = g.standard_normal(shape)
    made = {
        "dense": lambda: plain,
        "plain": lambda: plain,
        "dyadic": lambda: np.round(2 * plain) / 2,
        "tiny": lambda: plain * 10.0 ** -g.integers(10, 50),
        "huge": lambda: plain * 10.0 ** g.integers(5, 20),
        "mixed": lambda: plain * 10.0 ** g.integers(-40, 15, shape),
    }[style]()
    return made if style == "dense" else legal(np.where(g.random(shape) < 0.1, 0.0, made))


def weights(g: Generator, D: int, N: int, V: int, styles: tuple[str, ...]) -> dict[str, np.ndarray]:
    def draw(*shape: int) -> np.ndarray:
        return numbers(g, str(g.choice(styles)), *shape)

    return {"W_in": draw(D, N), "b_in": draw(N), "W_out": draw(N, V), "b_out": draw(V),
            "skip": draw(D, V)}  # fmt: skip


def logits(net: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x @ net["W_in"] + net["b_in"], 0)
    return x @ net["skip"] + hidden @ net["W_out"] + net["b_out"]


def points(g: Generator, styles: tuple[str, ...] = STYLES, more: int = 1) -> Draft:
    ends = ((1, 4), (1, 4), (2, 5), (1, 5), (1, 6 * more + 1))
    D, N, V, H, T = (int(g.integers(*pair)) for pair in ends)
    net = weights(g, D, N, V, styles)
    atoms, bias = (numbers(g, str(g.choice(styles)), *s) for s in ((H, D), (D,)))
    counts = g.integers(0, 4, T)
    counts[0] = max(counts[0], 1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    indices = g.integers(0, H, offsets[-1])
    values = numbers(g, str(g.choice(styles)), offsets[-1])
    inputs = np.stack([
        bias + values[a:b] @ atoms[indices[a:b]] for a, b in itertools.pairwise(offsets)
    ])  # fmt: skip
    if g.random() < 0.5:
        inputs = inputs + numbers(g, str(g.choice(styles)), T, D) / 8
    inputs = legal(inputs)
    labels = logits(net, inputs).argmax(axis=1)
    labels = np.where(g.random(T) < 0.2, g.integers(0, V, T), labels)
    return Draft(
        "points",
        network=net,
        domain={"inputs": inputs, "labels": labels},
        dictionary={"atoms": atoms, "bias": bias},
        proof={"offsets": offsets, "indices": indices, "values": values},
    )


def pairs(g: Generator, styles: tuple[str, ...] = STYLES, more: int = 1) -> Draft:
    D, N, p = (int(g.integers(*ends)) for ends in ((1, 4), (1, 4), (2, 5 + more)))
    net = weights(g, D, N, p, styles)
    left, right = (numbers(g, str(g.choice(styles)), p, D) for _ in range(2))
    owners, scale = g.integers(0, p // 2 + 1, N), g.integers(-4, 5, N)
    if g.random() < 0.2:
        scale = g.integers(-40, 41, N)
    if styles == ("dense",):
        scale = np.clip(scale, -1, 1)
    if g.random() < 0.6:  # a network that adds: biased towards the label through its inputs
        left, right = np.eye(p, D), np.zeros((p, D))
        net["skip"] = legal(3 * np.eye(D, p) + net["skip"])
    number = np.arange(p)
    table, other = np.add.outer(number, number) % p, np.subtract.outer(number, number) % p
    tables = effects(net, left, right, scale, table, other)
    return Draft(
        "pairs",
        network=net,
        domain={"left": left, "right": right},
        proof=tables | {"owners": owners, "scale": scale},
    )


def effects(
    net: dict[str, np.ndarray], left: np.ndarray, right: np.ndarray, scale: np.ndarray,
    table: np.ndarray, other: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What the means over pairs with the same a, b, product and quotient explain, in turn."""
    rest = np.maximum((left[:, None] + right) @ net["W_in"] + net["b_in"], 0) * 2.0**scale
    a, b = np.indices(table.shape)
    made = {}
    for name, index in (("left", a), ("right", b), ("sum", table), ("difference", other)):
        effect = np.stack([rest[index == i].mean(axis=0) for i in range(len(table))])
        made[f"effect_{name}"], rest = legal(effect), rest - effect[index]
    return made


def group(g: Generator) -> np.ndarray:
    """The table of a small group, its elements shuffled."""
    cyclic = [np.add.outer(np.arange(n), np.arange(n)) % n for n in (2, 3, 4)]
    klein = np.bitwise_xor.outer(np.arange(4), np.arange(4))
    turns = list(itertools.permutations(range(3)))
    symmetric = np.array([[turns.index(tuple(a[i] for i in b)) for b in turns] for a in turns])
    table = [*cyclic, klein, symmetric][int(g.choice(5, p=(0.3, 0.3, 0.15, 0.15, 0.1)))]
    order = g.permutation(len(table))
    shuffled: np.ndarray = np.argsort(order)[table[order][:, order]]
    return shuffled


def products(g: Generator, styles: tuple[str, ...] = STYLES, more: int = 1) -> Draft:
    """Atoms have one entry each, a power of two: coefficients are what they are, without rounding.

    Where all are 1 nothing is left over, and the bound is the network's own margin.
    """
    table = group(g)
    p, (D, N) = len(table), (int(n) for n in g.integers(1, 3 + more, 2))
    net = weights(g, D, N, p, styles)
    left, right = (numbers(g, str(g.choice(styles)), p, D) for _ in range(2))
    scale = g.integers(-1, 2, N) if styles == ("dense",) else g.integers(-4, 5, N)
    identity = np.flatnonzero((table == np.arange(p)).all(axis=1))[0]
    inverse = (table == identity).argmax(axis=1)
    size = 2.0 ** g.choice([-1, 0, 0, 1], p) if g.random() < 0.5 else np.ones(p)
    blocks = g.integers(1, 3, p) if g.random() < 0.3 else np.ones(p, np.int64)
    proof = effects(net, left, right, scale, table, table[:, inverse])
    proof |= {"owners": g.integers(0, blocks.max() + 1, N), "scale": scale, "blocks": blocks}
    return Draft(
        "products",
        network=net,
        domain={"left": left, "right": right, "table": table},
        dictionary={"atoms": size[:, None] * np.eye(p)[g.permutation(p)]},
        proof=proof,
    )


def boxes(g: Generator, styles: tuple[str, ...] = STYLES, more: int = 1) -> Draft:
    F, D, N, V, M = (int(g.integers(*e)) for e in ((2, 5), (2, 4), (1, 4), (2, 4), (1, 4)))
    K = int(g.integers(1, min(F, 3) + 1))
    sets = np.array(list(itertools.combinations(range(F), K)))[:4]
    if styles == ("dense",):
        N = int(g.integers(1, 10))
    net = weights(g, D, N, V, styles)
    atoms, bias = (numbers(g, str(g.choice(styles)), *s) for s in ((F, D), (D,)))
    readout = numbers(g, str(g.choice(styles)), F, V)
    low = legal(np.abs(numbers(g, str(g.choice(styles)), F)))
    high = legal(low + low * g.choice([0.0, 1e-6, 0.3, 2.0], F) + g.choice([0.0, 0.1], F))
    if g.random() < 0.7:  # the skip path reads the labels
        path = np.linalg.lstsq(np.nan_to_num(atoms), readout, rcond=None)[0]
        net["skip"] = legal(np.clip(path, -LARGEST_VALUE, LARGEST_VALUE))
        net["b_out"], bias = net["b_out"] * 0, bias * float(g.random() < 0.3)
        net["W_out"] = legal(net["W_out"] * g.choice([1e-3, 0.1, 1.0]))
    index = g.integers(0, F, (len(sets), M))
    index[:, : min(K, M)] = sets[:, : min(K, M)]
    slopes = np.zeros((len(sets), K, M))
    slopes[:, range(min(K, M)), range(min(K, M))] = 1.0
    offset, blur = np.zeros((len(sets), M)), g.choice([0.0, 1e-9, 0.05])
    slopes = slopes + blur * g.standard_normal(slopes.shape)
    offset = offset + blur * g.standard_normal(offset.shape)
    if styles == ("dense",):  # no latent is exactly 0, where rounding makes it negative
        offset = offset + g.choice([0.01, 0.01, -0.6])
    own = atoms + blur * g.standard_normal(atoms.shape)
    return Draft(
        "boxes",
        network=net,
        domain={"atoms": atoms, "bias": bias, "low": low, "high": high, "active_sets": sets,
                "readout": readout},
        dictionary={"atoms": legal(own), "bias": legal(bias + blur * g.standard_normal(D))},
        proof={"latent_index": index, "latent_slopes": legal(slopes),
               "latent_offset": legal(offset),
               "tree": tree(g, low[sets], high[sets], 1 + more)},
    )  # fmt: skip


def tree(g: Generator, low: np.ndarray, high: np.ndarray, deepest: int) -> np.ndarray:
    """Random halvings of every set's box; leaves claim random bounds."""
    codes = []
    for bottom, top in zip(low, high, strict=True):
        stack = [(bottom, top, 0)]
        while stack:
            least, most, depth = stack.pop()
            side = int(g.integers(0, len(least)))
            middle = (least[side] + most[side]) / 2
            if depth > deepest or g.random() < 0.4 or not least[side] < middle < most[side]:
                codes.append(int(g.choice([1, 1, 2, 2, 3, 3, 0])))
                continue
            codes.append(-1 - side)
            upper, lower = least.copy(), most.copy()
            upper[side] = lower[side] = middle
            stack += [(upper, most, depth + 1), (least, lower, depth + 1)]
    return np.array(codes)


MAKERS = {"points": points, "pairs": pairs, "boxes": boxes, "products": products}


def tensors(draft: Draft) -> dict[str, Any]:
    """The draft as the exact checker reads it."""
    parts = {"network": draft.network, "domain": draft.domain, "proof": draft.proof}
    parts |= {} if draft.dictionary is None else {"dictionary": draft.dictionary}
    return {
        f"{part}.{name}": exact_checker.rational(tensor.tolist())
        for part, content in parts.items()
        for name, tensor in content.items()
    }


def scale(draft: Draft) -> float:
    """The largest sum of absolute values that a margin is made of."""
    net = {name: np.abs(tensor) for name, tensor in draft.network.items()}
    domain = {name: np.abs(tensor) for name, tensor in draft.domain.items()}
    if draft.kind in ("pairs", "products"):
        x = domain["left"].max(axis=0) + domain["right"].max(axis=0)
        scale = 2.0 ** -draft.proof["scale"]
        effects = sum(np.abs(t).max(axis=0) for k, t in draft.proof.items() if "effect" in k)
        hidden = x @ net["W_in"] + net["b_in"] + effects * scale
        return float((x @ net["skip"] + net["b_out"] + 9 * hidden @ net["W_out"]).max())
    assert draft.dictionary is not None
    atoms, bias = np.abs(draft.dictionary["atoms"]), np.abs(draft.dictionary["bias"])
    latents = np.abs(draft.proof["values"]).max() * np.diff(draft.proof["offsets"]).max()
    x = domain["inputs"].max(axis=0) + latents * atoms.max(axis=0) + bias
    hidden = x @ net["W_in"] + net["b_in"]
    return float((x @ net["skip"] + net["b_out"] + 9 * hidden @ net["W_out"]).max())


def exact(draft: Draft) -> exact_checker.Exact:
    made = exact_checker.check_tensors(draft.kind, tensors(draft))
    over, under = made.accuracy.numerator, made.accuracy.denominator
    return replace(made, accuracy=Fraction(int(over), int(under)))


@contextmanager
def fast_fractions() -> Iterator[None]:
    """Exact checkers compute with FLINT's rational numbers meanwhile: a fifth of the time."""

    def made(over: float | int = 0, under: int = 1) -> Any:
        whole = (over, under) if type(over) is int else map(int, over.as_integer_ratio())
        return flint.fmpq(*whole)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_checker, "Fraction", made)
        patch.setattr(exact_sequences, "Fraction", made)
        yield


@contextmanager
def untyped() -> Iterator[None]:
    """Shapes and types of arguments are not checked meanwhile, as everywhere else they are."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def at_the_edge(draft: Draft, g: Generator) -> Draft:
    """The same with all biases but one moved until a row of margins is within an ulp of zero."""
    made = exact(draft)
    if not made.margins:
        return draft
    row = int(g.integers(0, len(made.margins)))
    bias = draft.network["b_out"].copy()
    label = 0 if draft.kind == "boxes" else _label(draft, row)
    others = exact_checker.others(label, len(bias))
    for other, margin in zip(others, made.margins[row], strict=True):
        moved = np.float64(exact_checker.WIDE.add(Decimal(float(bias[other])), margin.decimal))
        for _ in range(int(g.integers(0, 3))):
            moved = np.nextafter(moved, g.choice([-1, 1]) * np.inf)
        bias[other] = legal(moved)
    return replace(draft, network={**draft.network, "b_out": bias})


def _label(draft: Draft, row: int) -> int:
    if draft.kind == "points":
        return int(draft.domain["labels"][row])
    if draft.kind == "products":
        return int(draft.domain["table"].flat[row])
    return sum(divmod(row, len(draft.domain["left"]))) % len(draft.domain["left"])


def hostile(kind: str, seed: int, more: int = 1) -> Draft:
    """A certificate of a kind, every other one with margins at the edge; `more` makes it larger."""
    g = np.random.default_rng([seed, KINDS.index(kind)])
    with np.errstate(all="ignore"):
        draft = MAKERS[kind](g, more=more)
        return at_the_edge(draft, g) if seed % 2 else draft

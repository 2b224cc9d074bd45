"""Attention certificates against exact ones: no sequence too many, and hardly one too few."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import hostile_layers as hostile
import layers_of_attention as layers
import numpy as np
import pytest
from hostile import untyped

from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import as_certificate


def compared(kind: str, seed: int) -> tuple[int, int]:
    """Asserts that nothing is certified that is not so; sequences, and those at the edge."""
    draft = hostile.hostile(kind, seed)
    exact, counted = hostile.exact(draft), layers.proved(draft)
    assert set(counted) <= exact.right
    assert set(counted) <= exact.proved
    assert judge(as_certificate(draft)).right == len(counted) == len(set(counted))
    ulp: Decimal = hostile.edge(draft)
    return len(exact.margins), sum(abs(margin) <= ulp for margin in exact.margins.values())


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_no_hostile_layer_proves_more_than_is_so(kind: str) -> None:
    seen = np.sum([compared(kind, seed) for seed in range(8)], axis=0)
    assert seen[0] > 80
    assert seen[1] > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_many_hostile_layers_prove_no_more_than_is_so(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    with untyped():
        seen = np.sum([compared(kind, seed) for seed in range(100, 1000)], axis=0)
    record_property("sequences", int(seen[0]))
    record_property("edges", int(seen[1]))


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_what_is_exact_is_reached(kind: str) -> None:
    """Where no number is at an edge the verifier counts the same sequences."""
    reached = 0
    for seed in range(7):
        draft = hostile.attention(np.random.default_rng([seed, 3]), kind, ("dense",))
        exact = hostile.exact(draft)
        assert exact.proved <= exact.right
        assert set(layers.proved(draft)) == exact.proved
        reached += len(exact.proved)
    assert reached > 20

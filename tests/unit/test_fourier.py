"""Shares of variance by frequency, against projections onto explicit bases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rounding import gamma
from torch import Tensor

from paper.toys.fourier import class_shares, pair_shares

P = 7


def waves(k: int) -> Tensor:
    """1, cos and sin of frequency k on Z_p, [3, p]."""
    angle = 2 * math.pi * k * torch.arange(P, dtype=torch.float64) / P
    return torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()])


def projected(table: Tensor, basis: Tensor) -> float:
    """Share of the table's squared distance from its mean in the span of `basis`."""
    flat = (table - table.mean()).flatten()
    q = torch.linalg.qr(basis.flatten(1).T)[0]
    return float((q.T @ flat).square().sum() / flat.square().sum())


@given(st.integers(0, 10_000), st.floats(-5, 5))
def test_shares_of_pairs_are_projections_onto_products_of_waves(seed: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(P, P, generator=generator, dtype=torch.float64) + shift
    shares = pair_shares(table[None])[0]
    for k in range(1, P // 2 + 1):
        products = (waves(k)[:, None, :, None] * waves(k)[None, :, None, :]).flatten(0, 1)[1:]
        assert shares[k - 1].item() == pytest.approx(projected(table, products), abs=1e-10)
    assert shares.sum().item() <= 1 + 1e-10


@given(st.integers(0, 10_000))
def test_shares_of_classes_are_projections_and_complete(seed: int) -> None:
    row = torch.randn(P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = class_shares(row[None])[0]
    for k in range(1, P // 2 + 1):
        assert shares[k - 1].item() == pytest.approx(projected(row, waves(k)[1:]), abs=1e-10)
    assert shares.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_one_frequency_has_everything(k: int) -> None:
    """Also of cos(k(a + b)), which a network that adds computes."""
    number = torch.arange(P, dtype=torch.float64)
    table = torch.cos(2 * math.pi * k * (number[:, None] + number) / P + 0.3) + 2.0
    assert pair_shares(table[None])[0, k - 1].item() == pytest.approx(1.0)
    assert class_shares(waves(k)[2:])[0, k - 1].item() == pytest.approx(1.0)


def test_a_constant_has_no_share() -> None:
    # Eight complex numbers that rounding leaves of the constant, after sums of P and of 2P
    # products, make a share; the total counts as 1e-20 of the constant's square at least.
    rounding = 16 * gamma(6 * P) ** 2 / 1e-20
    assert pair_shares(torch.full((1, P, P), 3.0)).abs().max() < rounding < 1e-7
    assert class_shares(torch.zeros(1, P)).abs().max() == 0

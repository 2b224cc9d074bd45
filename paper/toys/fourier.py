"""Fourier structure over Z_p: of functions of two summands, and of functions of their sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def power(table: Float[Tensor, "p N"]) -> Float[Tensor, "frequencies N"]:
    """Squared amplitude at frequencies 1 to p//2 of every column, constants left out."""
    spectrum = torch.fft.rfft(table, dim=0, norm="ortho")[1:]
    squared: Tensor = spectrum.real**2 + spectrum.imag**2
    return squared


def pair_shares(tables: Float[Tensor, "L p p"]) -> Float[Tensor, "L frequencies"]:
    """Share of each table's variance over (a, b) at frequencies 1 to p//2, for odd p.

    Frequency k has the functions that are products of 1, cos or sin(2πka/p) and 1, cos or
    sin(2πkb/p), the constant excepted: eight dimensions of p² - 1. A constant table has shares 0.
    """
    spectrum = torch.fft.fft2(tables.double())
    squared = spectrum.real**2 + spectrum.imag**2
    constant = squared[:, 0, 0].clone()
    squared[:, 0, 0] = 0
    p = tables.shape[1]
    k = torch.arange(1, p // 2 + 1)
    parts = (torch.zeros_like(k), k, p - k)
    explained = sum(squared[:, i, j] for i in parts for j in parts)
    assert isinstance(explained, Tensor)
    return _shares(explained, squared.sum((1, 2)), constant)


def class_shares(tables: Float[Tensor, "L p"]) -> Float[Tensor, "L frequencies"]:
    """Share of each row's variance over Z_p at frequencies 1 to p//2; 0 for a constant."""
    explained = power(tables.double().T).T
    return _shares(explained, explained.sum(1), tables.double().sum(1) ** 2)


def _shares(
    explained: Float[Tensor, "L frequencies"],
    total: Float[Tensor, " L"],
    constant: Float[Tensor, " L"],
) -> Float[Tensor, "L frequencies"]:
    rounding = 1e-20 * constant + torch.finfo(total.dtype).tiny  # what is left of a constant
    return explained / torch.maximum(total, rounding)[:, None]

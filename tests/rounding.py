"""Tolerances from bounds on rounding errors, instead of from what one machine gave.

A number that goes through k roundings, one after another, is off by at most γ_k = k u / (1 - k u)
of the summed magnitudes of what went into it, u being half the machine epsilon: in any order of
summation, with or without fused operations, on any processor (Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1). An inner product of length k has k roundings.
"""

from __future__ import annotations

import torch
from dictionaries import dense
from torch import Tensor

from crossproof.crosscoder import Crosscoder, SparseLatents


def gamma(roundings: int, dtype: torch.dtype = torch.float64) -> float:
    """γ_k: what k roundings in a row may change, relative to the summed magnitudes."""
    lost = roundings * torch.finfo(dtype).eps / 2
    return lost / (1 - lost)


def slack(roundings: int, size: Tensor | float, dtype: torch.dtype = torch.float64) -> float:
    """How far apart two computations of one number may be whose terms add up to `size`.

    Of a tensor, `size` is the largest magnitude. Each of the two has at most `roundings`.
    """
    largest = size.detach().abs().max().item() if isinstance(size, Tensor) else abs(size)
    return 2 * gamma(roundings, dtype) * largest


def close(
    roundings: int, size: Tensor | float, dtype: torch.dtype = torch.float64
) -> dict[str, float]:
    """`slack` as the tolerances of `torch.testing.assert_close` and `numpy.testing`."""
    return {"rtol": 0.0, "atol": slack(roundings, size, dtype)}


def encode_close(crosscoder: Crosscoder, x: Tensor) -> dict[str, float]:
    """`close` for latent activations of x [T, P, D], by weights into which scales are folded."""
    n_places = len(crosscoder.hookpoints)
    W = dense(crosscoder.layout, crosscoder.W_enc, "enc", n_places).flatten(1)
    b = crosscoder.b_enc
    return close(2 * W.shape[1] + 8, x.flatten(1).abs() @ W.abs().T + b.abs(), W.dtype)


def decode_close(crosscoder: Crosscoder, latents: SparseLatents) -> dict[str, float]:
    """`close` for what these latents decode to, by weights into which scales are folded."""
    W, b = crosscoder.whole_decoder().flatten(1), crosscoder.b_dec.flatten()
    size = latents.dense().abs() @ W.abs() + b.abs()
    if crosscoder.is_affine:  # a skip of unit-sized tokens, or their own scales and means
        skips = sum(
            s.abs().sum(0).max() for s in (crosscoder.W_skip if crosscoder.layout.skips else ())
        )
        size = size + 5 * (skips + b.abs().max() + 1)
    return close(2 * len(W) + 2 * crosscoder.d_model + 8, size, W.dtype)

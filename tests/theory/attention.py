"""Attention's parts (THEORY 5) that no command needs yet: scores bilinear in features, values.

Score of query x_q and key x_k: x_qᵀ M x_k · scale (1/√d_head in most models), M = W_Q W_Kᵀ ([D, D];
biases by a coordinate that is always 1, rotary positions by one M per offset). Leading dimensions
batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.proof.bounds.attention import EXACT
from crossproof.rounding import gamma, upward


def bilinear_scores(
    query: Float[Tensor, "*batch I D"],
    key: Float[Tensor, "*batch J D"],
    form: Float[Tensor, "*form D D"],
    scale: float,
) -> Float[Tensor, "*batch I J"]:
    """a_i a_j <d_i, M d_j> · scale for a query's and a key's parts; they add up to the score.

    Rows are the parts of x̂: each active latent's a_h d_h, and the decoder's bias as one more.
    I^QK(i, j) is the magnitude of an entry.
    """
    scores: Tensor = query @ form @ key.mT
    return scale * scores


def dominant_pair(scores: Float[Tensor, "*batch I J"]) -> Bool[Tensor, "*batch I J"]:
    """True at the one entry of largest magnitude (the first, in a tie)."""
    flat = scores.abs().flatten(-2)
    kept = torch.zeros_like(flat, dtype=torch.bool)
    return kept.scatter_(-1, flat.argmax(-1, keepdim=True), True).view_as(scores)


def score_error(
    scores: Float[Tensor, "*batch I J"],
    kept: Bool[Tensor, "*batch I J"],
    residual: Float[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """τ_qk ≥ |S - S^P|: the magnitudes of the pairs not `kept`, and the `score_residual`.

    S^P is the sum of the kept entries; any choice of pairs is sound.
    """
    error = torch.where(kept, 0, scores.abs()).sum((-2, -1))
    return error if residual is None else error + residual


def score_residual(
    query: tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]],
    key: tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]],
    form: Float[Tensor, "*form D D"],
    scale: float,
) -> Float[Tensor, "*batch"]:
    """(|ε_qᵀ M x̂_k| + |x̂_qᵀ M ε_k| + |ε_qᵀ M ε_k|) · scale; sides are (x̂, ε)."""

    def size(left: Tensor, right: Tensor) -> Tensor:
        return (left[..., None, :] @ form @ right[..., None])[..., 0, 0].abs()

    (x, x_error), (y, y_error) = query, key
    return abs(scale) * (size(x_error, y) + size(x, y_error) + size(x_error, y_error))


def weight_interval(
    approximate: Float[Tensor, "*batch J"], tau: Float[Tensor, "*batch J"]
) -> tuple[Float[Tensor, "*batch J"], Float[Tensor, "*batch J"]]:
    """The least and the largest A_k, for any scores within τ_k of those that give Â.

    A_k is largest where its own score rises by τ_k and all others fall by theirs. The interval
    lies within [e^{-2τ}Â, e^{2τ}Â], τ the largest τ_k.
    """
    tau = tau.clamp_max(300)  # far beyond it both ends are 0 and 1
    up, down = approximate * tau.exp(), approximate * (-tau).exp()
    rest_up = up.sum(-1, keepdim=True) - up
    rest_down = down.sum(-1, keepdim=True) - down
    low, high = down / (down + rest_up), up / (up + rest_down.clamp_min(0))
    lost = 4 * gamma(2 * approximate.shape[-1] + 16, approximate.dtype) * tau.mul(2).exp()
    return (low - lost).clamp_min(0), (high + lost).clamp_max(1)


def value_error(
    variation: Float[Tensor, "*batch"], values: Float[Tensor, "*batch J D"]
) -> Float[Tensor, "*batch"]:
    """TV · max over keys of ‖v_k - v_k'‖: bounds ‖sum_k (A - Â)_k v_k‖, v_k = W_OV x_k."""
    return upward(variation * torch.cdist(values, values, compute_mode=EXACT).amax((-2, -1)), 32)


def extremal_average(
    values: Float[Tensor, "*batch J"],
    low: Float[Tensor, "*batch J"],
    high: Float[Tensor, "*batch J"],
) -> Float[Tensor, "*batch"]:
    """The largest sum_k A_k <u, v_k> over low ≤ A ≤ high with sum_k A_k = 1, exactly.

    Fills the largest values first. The least is minus that of the negated values.
    """
    order = values.argsort(dim=-1, descending=True)
    least = low.gather(-1, order)
    room = high.gather(-1, order) - least
    left = 1 - least.sum(-1, keepdim=True)
    before = room.cumsum(-1) - room
    taken = least + torch.minimum(room, (left - before).clamp_min(0))
    return (taken * values.gather(-1, order)).sum(-1)

"""From bounds on neurons to bounds on outputs: norms, functionals, margins.

If |Δ_n| ≤ δ_n is all that is known, then for a linear functional u the supremum of
|<u, sum_n o_n Δ_n>| is sum_n |<u, o_n>| δ_n exactly (the support function of a zonotope), and no
norm of the output gives less. So margins are certified by functionals; norms are for propagation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.kernels.torch_any import CHUNK_ELEMENTS
from crossproof.rounding import gamma, upward


def functional_bound(
    delta: Float[Tensor, "B N"], readout: Float[Tensor, "N F"]
) -> Float[Tensor, "B F"]:
    """sup |<u_f, sum_n o_n Δ_n>| over |Δ_n| ≤ δ_n, with readout[n, f] = <u_f, o_n>.

    The readout counts as exact. Where it was computed, its own rounding is one more functional:
    add `functional_bound(delta, product_slack(W_out, Uᵀ))`.
    """
    return upward(delta @ readout.abs(), len(readout) + 8)


def margin_bound(
    delta: Float[Tensor, "B N"], readout: Float[Tensor, "N V"], labels: Int[Tensor, " B"]
) -> Float[Tensor, "B V"]:
    """sup |<u_y - u_c, sum_n o_n Δ_n>| for each token's label y and every class c; 0 at c = y.

    readout = W_out Uᵀ, folded once. Differences of rows are formed for one label at a time and a
    slice of classes, never for all pairs of classes.
    """
    neurons, classes = readout.shape
    step = max(1, CHUNK_ELEMENTS // max(neurons, 1))
    out = delta.new_zeros(len(delta), classes)
    for label in labels.unique().tolist():
        chosen = (labels == label).nonzero()[:, 0]
        own = readout[:, label, None]
        for low in range(0, classes, step):
            part = slice(low, low + step)
            out[chosen, part] = delta[chosen] @ (own - readout[:, part]).abs()
    out[torch.arange(len(labels), device=out.device), labels] = 0
    return torch.where(out > 0, upward(out, neurons + 8), 0)


def triangle_bound(delta: Float[Tensor, "B N"], W_out: Float[Tensor, "N D"]) -> Float[Tensor, " B"]:
    """sum_n ‖o_n‖ δ_n: bounds ‖sum_n o_n Δ_n‖, loosely where output columns are not parallel."""
    return upward(delta @ W_out.norm(dim=1), sum(W_out.shape) + 8)


def gram_bound(delta: Float[Tensor, "B N"], W_out: Float[Tensor, "N D"]) -> Float[Tensor, " B"]:
    """√(δᵀ|G|δ) with G = W_out W_outᵀ: bounds ‖sum_n o_n Δ_n‖, at most `triangle_bound`.

    Costs O(N²) a token; G is formed in slices.
    """
    step = max(1, CHUNK_ELEMENTS // max(len(W_out), 1))
    total = delta.new_zeros(len(delta))
    for low in range(0, len(W_out), step):
        part = slice(low, low + step)
        gram = (W_out[part] @ W_out.T).abs()
        # Rounding of <o_n, o_m> is at most γ_D ‖o_n‖‖o_m‖: what the triangle bound squared holds.
        total = total + (delta[:, part] * (delta @ gram.T)).sum(1)
    lost = gamma(2 * (sum(W_out.shape) + 8), delta.dtype) * (delta @ W_out.norm(dim=1)).square()
    return upward((total + lost).sqrt())


def spectral_bound(delta: Float[Tensor, "B N"], W_out: Float[Tensor, "N D"]) -> Float[Tensor, " B"]:
    """‖W_out‖₂ ‖δ‖₂; neither above nor below `triangle_bound` in general."""
    return upward(spectral_norm(W_out) * delta.norm(dim=1), delta.shape[1] + 8)


def spectral_norm(W: Float[Tensor, "... N D"]) -> Float[Tensor, "..."]:
    """‖W‖₂ from a singular value decomposition, raised by the size of its backward error.

    The decomposition is LAPACK's and backward stable; the factor 8(N + D)u stands for its modest
    constant, which is not proved.
    """
    norm: Tensor = torch.linalg.matrix_norm(W, 2)
    return upward(norm, 8 * (W.shape[-1] + W.shape[-2]))

"""What measures that take differences share: latents that are active, and float64."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary


def in_float64(view: MLPDictionary) -> MLPDictionary:
    """The view with all but the virtual weights, which are large, in float64; no gradients."""
    gate = None if view.baseline_gate is None else view.baseline_gate.detach().double()
    mlp = view.mlp.to(dtype=torch.float64)
    written = None if view.written is None else view.written.detach().double()
    baseline = view.baseline.detach().double()
    return replace(view, mlp=mlp, baseline=baseline, baseline_gate=gate, written=written)


def active_latents(view: MLPDictionary, latents: SparseLatents) -> SparseLatents:
    """The entries whose activation is not zero.

    Raises CrossproofError for a code of another dictionary's size and activations not finite.
    """
    if latents.n_latents != view.G.shape[0]:
        raise CrossproofError(
            f"The code has {latents.n_latents} latents and the dictionary {view.G.shape[0]}; "
            f"encode with the crosscoder that the dictionary was built from."
        )
    if not latents.values.isfinite().all():
        raise CrossproofError(
            "Some activations of latents are NaN or infinite; encode them anew.",
            code="CP-NOT-FINITE",
        )
    return latents.keep(latents.values != 0)


def entry_contributions(
    view: MLPDictionary, latents: SparseLatents, entries: Int[Tensor, " E"]
) -> list[Float[Tensor, "E N"]]:
    """p_nh of entries in float64: on the linear path and, if there is one, on the gate."""
    activations = latents.values[entries].detach().double()[:, None]
    indices = latents.indices[entries]
    paths = (view.G, view.G_gate)
    return [activations * G.detach()[indices] for G in paths if G is not None]

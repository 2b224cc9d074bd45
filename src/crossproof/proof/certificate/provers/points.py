"""Certificates over a list of inputs: the latents of a dictionary at each of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Network
from crossproof.proof.certificate.writer import Draft

Encode = Callable[[Float[Tensor, "B D"]], Float[Tensor, "B H"]]


def points_draft(
    network: Network,
    inputs: Float[Tensor, "T D"],
    labels: Int[Tensor, " T"],
    decoder: Float[Tensor, "H D"],
    bias: Float[Tensor, " D"],
    latents: SparseLatents,
) -> Draft:
    """A certificate that says which latents are active at each input.

    Raises CrossproofError if the latents are of another number of inputs or decoder vectors.
    """
    if latents.n_tokens != len(inputs) or latents.n_latents != len(decoder):
        raise CrossproofError(
            f"Latents of {latents.n_tokens} inputs and {latents.n_latents} decoder vectors do not "
            f"fit {len(inputs)} inputs and {len(decoder)} decoder vectors."
        )
    offsets, indices = latents.offsets, latents.indices
    values = latents.values.detach().double()
    if not len(indices):  # safetensors and shapes have no use for empty tensors
        offsets = offsets + 0
        offsets[1:] = 1
        indices, values = indices.new_zeros(1), values.new_zeros(1)
    return Draft(
        kind="points",
        network=_numpy(network.tensors()),
        domain={"inputs": inputs.double().numpy(), "labels": labels.numpy()},
        dictionary={"atoms": decoder.double().numpy(), "bias": bias.double().numpy()},
        proof={
            "offsets": offsets.numpy(),
            "indices": indices.numpy(),
            "values": values.numpy().astype(np.float64),
        },
    )


def _numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}

"""Certificates of attention layers: what the verifier is told, which is little."""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray as Array

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.proof.bounds.attention_network import AttentionNetwork, SequenceDomain
from crossproof.proof.bounds.network import Dictionary
from crossproof.proof.certificate.options import ProverOptions
from crossproof.proof.certificate.writer import Draft

GRAINS = {"class": 1, "query": 2, "label": 3}
NEGLIGIBLE = 1e-3
"""Pairs of latents that never move a score by more are not kept."""


def attention_draft(
    network: AttentionNetwork,
    domain: SequenceDomain,
    options: ProverOptions,
    dictionary: Dictionary | None = None,
) -> Draft:
    """A certificate of all sequences: group by group, through a dictionary if there is one.

    Raises CrossproofError for options of other kinds, or an order of other tokens.
    """
    if options.kind not in ("auto", "attention", "sequences"):
        raise CrossproofError(
            f"An attention layer is certified by kind 'attention' or 'sequences', not "
            f"'{options.kind}'."
        )
    if len(domain.order) != network.n_classes:
        raise CrossproofError(
            f"An order of {len(domain.order)} tokens is not one of the network's "
            f"{network.n_classes}."
        )
    tensors = {name: tensor.numpy() for name, tensor in network.tensors().items()}
    order = {"order": domain.order.numpy()}
    if options.kind == "sequences":
        if dictionary is not None:
            raise CrossproofError("Sequences one by one need no dictionary: give none.")
        return Draft("sequences", tensors, order, {})
    proof = {"grain": np.array([GRAINS[options.grain]]), **score_factors(network)}
    if dictionary is None:
        return Draft("attention", tensors, order, proof)
    atoms = {"atoms": dictionary.decoder.numpy(), "bias": dictionary.bias.numpy()}
    latents = stream_latents(network, dictionary)
    return Draft("attention-latents", tensors, order, proof | latents, atoms)


def score_factors(network: AttentionNetwork) -> dict[str, Array]:
    """The best scores of rank one, asked[q] · read[p, t]: the first singular direction's."""
    streams = network.streams()
    left, size, right = torch.linalg.svd(network.W_Q @ network.W_K.T)
    asked = streams[-1] @ (left[:, 0] * size[0])
    read = streams @ right[0]
    sign = 1.0 if asked.mean() >= 0 else -1.0
    return {"asked": (sign * asked).numpy(), "read": (sign * read).numpy()}


def stream_latents(network: AttentionNetwork, dictionary: Dictionary) -> dict[str, Array]:
    """The dictionary's latents at every token and position, and which pairs' scores to keep."""
    streams = network.streams()
    dense = dictionary.encode(streams.flatten(0, 1)).detach().double()
    sparse = SparseLatents.from_dense(dense)
    parts = torch.cat([dictionary.decoder, dictionary.bias[None]])
    ones = dense.new_ones(len(dense), 1)
    largest = torch.cat([dense, ones], 1).abs().unflatten(0, streams.shape[:2]).amax(dim=1)
    pairs = (parts @ network.W_Q) @ (parts @ network.W_K).T
    most = largest[-1][:, None] * largest.amax(dim=0) * pairs.abs()
    return {
        "offsets": sparse.offsets.numpy(),
        "indices": sparse.indices.numpy(),
        "values": sparse.values.detach().double().numpy(),
        "kept": (most > NEGLIGIBLE).numpy().astype(np.int64),
    }

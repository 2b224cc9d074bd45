"""What a certificate about listed contexts is made of: a model's end, and its own activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches, for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.keeping import largest_kept
from crossproof.lm.model import LanguageModel
from crossproof.lm.norms import Norm
from crossproof.lm.stream import mlp_out
from crossproof.lm.unembedding import attention_norm, check_sequential, mlp_norm, unembedding
from crossproof.proof.certificate.format_contexts import ModelShape
from crossproof.proof.certificate.provers.documents import predictions
from crossproof.proof.certificate.result_contexts import MeasuredContexts

TOGETHER = 4
"""Contexts that are run together when the truth is measured."""


def model_end(
    model: LanguageModel, crosscoder: Crosscoder, mlps: int, length: int
) -> tuple[ModelShape, dict[str, Any]]:
    """The shape and the tensors `weights.*` and `dictionary.*` of the last `mlps` blocks' ends.

    `length`: positions of a context. Raises CrossproofError unless these blocks add attention and
    MLP in turn, with norms, dense MLPs and an unembedding that have views, and the crosscoder
    decodes at the MLPs' inputs.
    """
    blocks = range(model.n_blocks - mlps, model.n_blocks)
    if mlps not in (1, 2) or mlps > model.n_blocks:
        raise CrossproofError(f"{mlps} MLPs cannot be replaced: give 1 or 2, as many as there are.")
    norms: dict[str, Norm] = {}
    tensors: dict[str, Any] = {}
    activations, gated = [], []
    for at, block in enumerate(blocks):
        check_sequential(model, block)
        mlp, place = model.mlp(block), crosscoder.hookpoints.blocks[block].mlp_in
        if place is None:
            raise CrossproofError(
                f"This crosscoder has no decoder at blocks.{block}.mlp.hook_in: a certificate of "
                f"listed contexts needs one at the input of every MLP that is replaced."
            )
        names = ["W_in", "b_in", "W_out", "b_out"] + (["W_gate", "b_gate"] if mlp.gated else [])
        tensors |= {f"weights.mlp{at}.{name}": getattr(mlp, name) for name in names}
        tensors[f"dictionary.mlp{at}.atoms"] = crosscoder.decoder_vectors(place)
        tensors[f"dictionary.mlp{at}.bias"] = crosscoder.decoder_bias(place)
        norms[f"mlp{at}"] = mlp_norm(model, block)
        activations.append(mlp.activation.value)
        gated.append(mlp.gated)
    view = unembedding(model)
    attention: dict[str, Any] = {}
    if mlps == 2:
        weights = model.attention(blocks[1])
        norms["attention"] = attention_norm(model, blocks[1])
        for name in ("W_Q", "b_Q", "W_K", "b_K", "W_V", "b_V", "W_O", "b_O"):
            tensors[f"weights.attention.{name}"] = getattr(weights, name)
        attention = {"scale": weights.scale, "window": weights.window}
        if weights.rotary is not None:
            angles = torch.arange(length).double()[:, None] * weights.rotary.frequencies.double()
            attention["rotary"] = True
            tensors["weights.attention.cos"] = weights.rotary.scaling * angles.cos()
            tensors["weights.attention.sin"] = weights.rotary.scaling * angles.sin()
    norms["final"] = view.norm
    tensors["weights.final.unembedding"] = view.weight
    tensors["weights.final.unembedding_bias"] = view.bias
    for name, norm in norms.items():
        tensors[f"weights.{name}.norm_weight"] = norm.weight
        tensors[f"weights.{name}.norm_bias"] = norm.bias
    shape = ModelShape(
        mlps,
        tuple(activations),
        tuple(gated),
        {name: norm.epsilon for name, norm in norms.items()},
        {name: norm.centred for name, norm in norms.items()},
        **attention,
    )
    return shape, {name: _numpy(tensor) for name, tensor in tensors.items()}


def context_tensors(
    model: LanguageModel, crosscoder: Crosscoder, tokens: Int[Tensor, "S T"], mlps: int
) -> dict[str, Any]:
    """The tensors `contexts.*`: tokens, which positions are scored, stream and latents there."""
    stream = f"blocks.{model.n_blocks - mlps}.hook_resid_mid"
    batches = list(encode_batches(model, for_figures(crosscoder), tokens, TOGETHER, [stream]))
    codes = [batch.latents for batch in batches]
    counts = torch.cat([code.offsets.diff() for code in codes])
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    indices = torch.cat([code.indices for code in codes])
    values = torch.cat([code.values for code in codes])
    if not len(indices):  # no tensor of a certificate is empty
        raise CrossproofError("No latent is active in these contexts: give others.")
    found = {
        "tokens": tokens,
        "scored": torch.cat([batch.scored for batch in batches]).long(),
        "stream": torch.cat([batch.model_activations[stream] for batch in batches]),
        "offsets": offsets,
        "indices": indices,
        "values": values,
    }
    return {f"contexts.{name}": _numpy(tensor) for name, tensor in found.items()}


def measured(
    model: LanguageModel,
    crosscoder: Crosscoder,
    tokens: Int[Tensor, "S T"],
    mlps: Sequence[int],
    keep: Sequence[int],
) -> list[MeasuredContexts]:
    """The truth: the model run with its last MLPs' outputs replaced, in its own precision."""
    crosscoder, blocks = for_figures(crosscoder), model.n_blocks
    names = {block: mlp_out(block) for block in range(blocks - max(mlps), blocks)}
    sums: dict[tuple[int, int], list[float]] = {(n, m): [0, 0] for n in mlps for m in keep}
    total = 0
    for batch in encode_batches(model, crosscoder, tokens, TOGETHER, list(names.values())):
        counted = batch.scored[:, :-1]
        total += int(counted.sum())
        losses, plain = predictions(model, batch.tokens)
        outputs = {block: _outputs(model, crosscoder, batch, block, keep) for block in names}
        for (n, m), sum_ in sums.items():
            patch = {}
            for block in range(blocks - n, blocks):
                whole = batch.model_activations[names[block]].clone()
                whole[batch.scored] = outputs[block][m].to(whole.dtype)
                patch[names[block]] = whole
            treated, best = predictions(model, batch.tokens, patch)
            sum_[0] += int(((best == plain) & counted).sum())
            sum_[1] += float(((treated - losses) * counted).double().sum())
    return [MeasuredContexts(n, m, a / total, b / total) for (n, m), (a, b) in sums.items()]


def _outputs(
    model: LanguageModel,
    crosscoder: Crosscoder,
    batch: EncodedBatch,
    block: int,
    keep: Sequence[int],
) -> dict[int, Tensor]:
    """What the MLP puts out when every neuron reads its m largest latents, by m."""
    place = crosscoder.hookpoints.blocks[block].mlp_in
    assert place is not None  # `model_end` looked
    with torch.no_grad():
        decoder, bias = crosscoder.decoder_vectors(place), crosscoder.decoder_bias(place)
        view = MLPDictionary.build(model.mlp(block), decoder, bias)
        sums = largest_kept(view, batch.latents, [m for m in keep if m])
        value, gate = view.sums(batch.latents)
        nothing = torch.zeros_like(value), None if gate is None else torch.zeros_like(gate)
        return {m: view.output(*(sums[m] if m else nothing)) for m in keep}


def _numpy(tensor: Tensor) -> np.ndarray:
    wide = torch.float64 if tensor.is_floating_point() else torch.int64
    return np.ascontiguousarray(tensor.detach().cpu().to(wide).numpy())

"""Makes certificates about listed contexts, and compares what they hold with a reader's model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from safetensors.numpy import save_file
from torch import Tensor, from_numpy

from crossproof.activations.corpus import TextSlice
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import atomic_folder, check_replaceable
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.proof.certificate.format import HEADER, SMALLEST_VALUE, TENSORS
from crossproof.proof.certificate.format_contexts import (
    ContextsCertificate,
    ContextStatement,
    check_codes,
    check_shapes,
    header_of,
    read_contexts,
)
from crossproof.proof.certificate.provers.contexts import context_tensors, measured, model_end
from crossproof.proof.certificate.provers.documents import dictionary_hash
from crossproof.proof.certificate.reading import CertificateError
from crossproof.proof.certificate.result_contexts import ContextsComparison, ContextsResult
from crossproof.proof.certificate.text_options import ContextOptions
from crossproof.proof.certificate.verifier.contexts import judge_contexts, verify_contexts

STREAM_TOLERANCE, CODES_ALIKE = 1e-3, 0.98
"""Of a typical entry of a stream; share of positions whose latents are the same: what a model may
differ by when it runs on another machine."""


def prove_contexts(
    model: LanguageModel,
    crosscoder: Crosscoder,
    text: TextSlice | Int[Tensor, "S T"],
    out: Path | str,
    options: ContextOptions = ContextOptions(),  # noqa: B008  (frozen)
) -> ContextsResult:
    """Saves a model's end and its activations, claims what the verifier reaches, and verifies.

    Raises CrossproofError as `model_end`, for a pair of models, for a context that occurs twice,
    and if the folder cannot be written.
    """
    began = time.perf_counter()
    check_replaceable(Path(out), (HEADER, TENSORS))
    if isinstance(model, ModelPair):
        raise CrossproofError("Contexts are certified of one model: give one of the two.")
    tokens = text.read(model) if isinstance(text, TextSlice) else text
    deepest = max(options.mlps)
    shape, tensors = model_end(model, crosscoder, deepest, tokens.shape[1])
    tensors |= context_tensors(model, crosscoder, tokens, deepest)
    tensors = {name: _settled(tensor) for name, tensor in tensors.items()}
    described = {name: (t.shape, t.dtype == np.int64) for name, t in tensors.items()}
    truth = measured(model, crosscoder, tokens, options.mlps, options.keep)
    draft = ContextsCertificate(
        shape,
        tuple(ContextStatement(n, m, 0, 1e30, 1e30) for n in options.mlps for m in options.keep),
        tensors,
        check_shapes(shape, described),
        model.weights_hash,
        dictionary_hash(crosscoder),
        {"model": model.name, "precision": str(model.dtype).removeprefix("torch.")},
        {"seconds": round(time.perf_counter() - began, 1)},
    )
    check_codes(draft)
    statements = tuple(
        ContextStatement(b.mlps, b.keep, b.kept, _outward(b.loss_change), _outward(b.token_change))
        for b in judge_contexts(draft).bounds
    )
    task = {**draft.task, "measured": [asdict(each) for each in truth]}
    write_contexts(Path(out), replace(draft, statements=statements, task=task))
    return replace(verify_contexts(out), measured=tuple(truth))


def write_contexts(folder: Path, certificate: ContextsCertificate) -> None:
    """Writes the folder, replacing an earlier one; CrossproofError if the place is not writable."""
    with atomic_folder(folder) as temporary:
        save_file({n: _compact(t) for n, t in certificate.tensors.items()}, temporary / TENSORS)
        header = json.dumps(header_of(certificate), indent=2)
        (temporary / HEADER).write_text(header + "\n")


def compare_contexts(
    folder: Path | str, model: LanguageModel, crosscoder: Crosscoder
) -> ContextsComparison:
    """Computes streams, latents and weights again, at the contexts that a certificate lists.

    Other latents may be active at some positions than saved: near ties fall as machines round, and
    predictions there and behind them rest on what is saved.

    Raises CertificateError if the model or the dictionary is another, weights are not exactly the
    model's, streams are further off than rounding explains, or latents are others.
    """
    held = read_contexts(Path(folder))
    told = {"model": model.weights_hash, "dictionary": dictionary_hash(crosscoder)}
    for name, hashed in told.items():
        if getattr(held, name) != hashed:
            raise CertificateError(
                f"{folder} speaks about the {name} {getattr(held, name)}, and yours is {hashed}."
            )
    tokens = from_numpy(held.tensors["contexts.tokens"])
    shape, ours = model_end(model, crosscoder, held.shape.mlps, tokens.shape[1])
    if shape != held.shape or shape.mlps != held.shape.mlps:
        raise CertificateError(f"{folder} describes another end of the model than yours has.")
    for name, tensor in ours.items():
        saved, turn = held.tensors[name], name.endswith((".cos", ".sin"))
        off = 1e-12 if turn else 0.0  # platforms round cosines differently
        if saved.shape != tensor.shape or not (np.abs(saved - _settled(tensor)) <= off).all():
            raise CertificateError(f"{name} in {folder} is not that of your model or dictionary.")
    return _compare_activations(held, context_tensors(model, crosscoder, tokens, held.shape.mlps))


def _compare_activations(held: ContextsCertificate, ours: dict[str, Any]) -> ContextsComparison:
    saved, stream = held.tensors, ours["contexts.stream"]
    if not np.array_equal(saved["contexts.scored"], ours["contexts.scored"]):
        raise CertificateError("The dictionary's rule scores other positions than are saved.")
    size = np.abs(stream)
    # Not the largest entry: it may be a thousand times the others, and hide what is wrong there.
    typical = np.maximum(np.median(size, axis=-1), 1e-3 * size.max(-1))
    off = np.abs(saved["contexts.stream"] - stream).max(-1) / typical
    if not (off <= STREAM_TOLERANCE).all():
        raise CertificateError(
            f"The streams saved are off by {off.max():.2g} times a position's typical entry: they "
            f"are not the model's at these contexts."
        )
    pairs = list(zip(_codes(saved), _codes(ours), strict=True))
    alike = [(mine[1], yours[1]) for mine, yours in pairs if np.array_equal(mine[0], yours[0])]
    close = all(np.allclose(mine, yours, rtol=1e-2, atol=1e-3) for mine, yours in alike)
    if not close or len(alike) < CODES_ALIKE * len(pairs):
        raise CertificateError("The latents saved are not those of the dictionary there.")
    return ContextsComparison(
        others=len(pairs) - len(alike),
        stream=float(off.max()),
        activation=max(float(np.abs(mine - yours).max(initial=0)) for mine, yours in alike),
    )


def _codes(tensors: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The latents that are active at each scored position, and their activations."""
    ends = tensors["contexts.offsets"][1:-1]
    indices, values = tensors["contexts.indices"], tensors["contexts.values"]
    return list(zip(np.split(indices, ends), np.split(values, ends), strict=True))


def _settled(tensor: np.ndarray) -> np.ndarray:
    """Without numbers too small for the verifier; no float32 weight of a model is."""
    return np.where(np.abs(tensor) < SMALLEST_VALUE, np.zeros_like(tensor), tensor)


def _compact(tensor: np.ndarray) -> np.ndarray:
    """As float32 or int32 where that holds the same numbers."""
    smaller = np.float32 if tensor.dtype == np.float64 else np.int32
    short = tensor.astype(smaller)
    return np.ascontiguousarray(short if np.array_equal(short, tensor) else tensor)


def _outward(bound: float) -> float:
    """Nine decimals, never below what was verified: sums may round otherwise elsewhere."""
    return max(math.ceil(bound * 1e9) / 1e9 + 1e-9, bound) if math.isfinite(bound) else 1e30

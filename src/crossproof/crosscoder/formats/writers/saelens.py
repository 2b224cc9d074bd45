"""SAELens 6: `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.writers.dictionary_files import (
    Content,
    Exported,
    check_rule,
    ends,
    in_folders,
    refusal,
    skip_of,
)

LIBRARY = "SAELens"
VERSION = "6.54.12"
"""The version whose layout this is; the library takes a configuration without one for a save of
before version 6, and then forgets where it reads."""


def write(dictionaries: Sequence[ForeignDictionary], model: str) -> list[Exported]:
    """SAELens 6: `cfg.json` and `sae_weights.safetensors`; SAEs and transcoders."""
    items = [_saelens(dictionary, model) for dictionary in dictionaries]
    names = [str(d.hooks[ends(d, LIBRARY)[1]]) for d in dictionaries]
    return in_folders(names, items)


_KINDS = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk", "abs_topk": "abstopk"}
_NORMALISATIONS = {None: "none", "layer_norm": "layer_norm", "unit_norm": "constant_norm_rescale"}


def _saelens(dictionary: ForeignDictionary, model: str) -> dict[str, Content]:
    read, written = ends(dictionary, LIBRARY)
    transcoder = read != written
    check_rule(dictionary, LIBRARY, *(("relu", "jumprelu") if transcoder else _KINDS))
    skip, kind = skip_of(dictionary), _KINDS[dictionary.rule]
    if skip is not None and not transcoder:
        raise refusal(dictionary, LIBRARY, "only transcoders have linear skips there")
    if transcoder:
        jump = "jumprelu_" if kind == "jumprelu" else ""
        kind = f"{jump}{'' if skip is None else 'skip_'}transcoder"
    tensors = {
        "W_enc": dictionary.W_enc[:, read].T,
        "W_dec": dictionary.W_dec[:, written],
        "b_enc": dictionary.b_enc,
        "b_dec": dictionary.b_dec[written],
    }
    if dictionary.threshold is not None:
        tensors["threshold"] = dictionary.threshold
    if skip is not None:
        tensors["W_skip"] = skip.T
    kept = dict.fromkeys(("center_writing_weights", "center_unembed", "fold_ln"), False)
    meta: dict[str, Any] = {"sae_lens_version": VERSION, "sae_lens_training_version": None}
    meta |= {"model_name": model, "hook_name": dictionary.hooks[read]}
    meta |= {"hook_name_out": dictionary.hooks[written]} if transcoder else {}
    meta["model_from_pretrained_kwargs"] = {**kept, "fold_value_biases": False}
    d_model = dictionary.b_dec.shape[1]
    config = {
        "d_in": d_model,
        "d_sae": dictionary.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": _NORMALISATIONS[dictionary.normalisation],
        "reshape_activations": "none",
        "metadata": meta,
        **({"d_out": d_model} if transcoder else {}),
        **({"k": dictionary.k} if "topk" in kind else {}),
        **({"rescale_acts_by_decoder_norm": False} if "topk" in kind else {}),
        "architecture": kind,
    }
    return {"cfg.json": json.dumps(config), "sae_weights.safetensors": tensors}

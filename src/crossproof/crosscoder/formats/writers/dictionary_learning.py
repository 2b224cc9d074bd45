"""dictionary_learning: `ae.pt` and `config.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.writers.dictionary_files import (
    Content,
    Exported,
    block_of,
    check_beside,
    check_rule,
    encoder_bias,
    ends,
    in_folders,
    refusal,
)

LIBRARY = "dictionary_learning"

_SUBMODULES = {"hook_resid_post": "resid_post", "mlp.hook_out": "mlp_out"}
_SUBMODULES |= {"attn.hook_out": "attention_out"}


def write(dictionaries: Sequence[ForeignDictionary], model: str) -> list[Exported]:
    """dictionary_learning: `ae.pt` and `config.json`; SAEs, and crosscoders as CrossCoder has them.

    BatchTopK is saved as the JumpReLU that it is in inference.
    """
    items = []
    for dictionary in dictionaries:
        check_beside(dictionary, LIBRARY)
        crossing = len(dictionary.hooks) > 1
        items.append((_crosscoder if crossing else _autoencoder)(dictionary, model))
    return in_folders(["+".join(map(str, d.hooks)) for d in dictionaries], items)


def _autoencoder(dictionary: ForeignDictionary, model: str) -> dict[str, Content]:
    ends(dictionary, LIBRARY)
    check_rule(dictionary, LIBRARY, "relu", "jumprelu", "topk")
    W_enc, W_dec, b_dec = dictionary.W_enc[:, 0], dictionary.W_dec[:, 0], dictionary.b_dec[0]
    linear = {"encoder.weight": W_enc, "encoder.bias": dictionary.b_enc, "decoder.weight": W_dec.T}
    kind, tensors = "AutoEncoderNew", linear | {"decoder.bias": b_dec}
    if dictionary.threshold is not None:
        kind = "JumpReluAutoEncoder"
        tensors = {"W_enc": W_enc.T, "b_enc": dictionary.b_enc, "W_dec": W_dec, "b_dec": b_dec}
        tensors["threshold"] = dictionary.threshold
    elif dictionary.rule == "topk":
        kind = "AutoEncoderTopK"
        tensors = {  # in the order of the library's own state_dict
            "b_dec": b_dec,
            "k": torch.tensor(dictionary.k, dtype=torch.int32),
            "threshold": torch.tensor(-1.0),
            "decoder.weight": W_dec.T,
            "encoder.weight": W_enc,
            "encoder.bias": encoder_bias(dictionary, 0),
        }
    trainer: dict[str, Any] = {"dict_class": kind, "lm_name": model}
    trainer |= {"activation_dim": len(b_dec), "dict_size": dictionary.n_latents}
    trainer |= {"k": dictionary.k} if dictionary.rule == "topk" else {}
    block, role = block_of(dictionary.hooks[0])
    if block is not None:
        trainer |= {
            "layer": block,
            "submodule_name": f"{_SUBMODULES.get(role, role)}_layer_{block}",
        }
    config = json.dumps({"trainer": trainer, "buffer": {}}, indent=4)
    return {"ae.pt": tensors, "config.json": config}


def _crosscoder(dictionary: ForeignDictionary, model: str) -> dict[str, Content]:
    """Code normalisation NONE: thresholds are compared with activations themselves."""
    threshold = dictionary.threshold
    check_rule(dictionary, LIBRARY, "relu", "jumprelu")
    tensors = {
        "encoder.weight": dictionary.W_enc.permute(1, 2, 0),
        "encoder.bias": dictionary.b_enc,
        "decoder.weight": dictionary.W_dec.permute(1, 0, 2),
        "decoder.bias": dictionary.b_dec,
        "code_normalization_id": torch.tensor(4),
    }
    if threshold is not None:
        if not bool((threshold == threshold[0]).all()):
            raise refusal(
                dictionary, LIBRARY, "its latents have thresholds of their own, crosscoders one"
            )
        tensors |= {"k": torch.tensor(0), "threshold": threshold[0]}
    config = {
        "activation_dim": dictionary.b_dec.shape[1],
        "dict_size": dictionary.n_latents,
        "num_layers": len(dictionary.hooks),
        "code_normalization": "none",
        "model_name": model,
        "hookpoints": list(dictionary.hooks),
    }
    return {"ae.pt": tensors, "config.json": json.dumps(config, indent=4)}

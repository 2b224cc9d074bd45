"""sparsify: a folder a module with `cfg.json` and `sae.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.writers.dictionary_files import (
    Content,
    Exported,
    block_of,
    check_beside,
    check_rule,
    encoder_bias,
    ends,
    refusal,
    skip_of,
)

LIBRARY = "sparsify"

_MODULES = {"hook_resid_post": "", "mlp.hook_out": ".mlp", "hook_mlp_out": ".mlp"}
_MODULES |= {"attn.hook_out": ".self_attn", "hook_attn_out": ".self_attn"}
_INPUTS = {"mlp.hook_in": "mlp.hook_out", "attn.hook_in": "attn.hook_out"}
"""By the hookpoint of a module's input, that of its output: sparsify's transcoders join them."""


def write(dictionaries: Sequence[ForeignDictionary], model: str) -> list[Exported]:
    """sparsify: a folder a module with `cfg.json` and `sae.safetensors`; topk and groupmax."""
    return [_sparsify(dictionary) for dictionary in dictionaries]


def _sparsify(dictionary: ForeignDictionary) -> Exported:
    check_rule(dictionary, LIBRARY, "topk", groups=True)
    check_beside(dictionary, LIBRARY, skips=True)
    read, written = ends(dictionary, LIBRARY)
    (block, role), (_, out) = (block_of(dictionary.hooks[place]) for place in (read, written))
    transcode = read != written
    if transcode and _INPUTS.get(role) != out.replace("hook_mlp_out", "mlp.hook_out"):
        raise refusal(
            dictionary, LIBRARY, "transcoders there go from a module's input to its output"
        )
    if block is None or out not in _MODULES:
        raise refusal(dictionary, LIBRARY, "its hookpoint is not the output of a module")
    skip, groups = skip_of(dictionary), dictionary.groups
    tensors = {
        "encoder.weight": dictionary.W_enc[:, read],
        "encoder.bias": dictionary.b_enc if transcode else encoder_bias(dictionary, read),
        "W_dec": dictionary.W_dec[:, written],
        "b_dec": dictionary.b_dec[written],
    }
    if skip is not None:
        tensors["W_skip"] = skip.T
    config = {
        "activation": "topk" if groups == 1 else "groupmax",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": dictionary.n_latents,
        "k": dictionary.k if groups == 1 else groups,
        "multi_topk": False,
        "skip_connection": skip is not None,
        "transcode": transcode,
        "d_in": dictionary.b_dec.shape[1],
    }
    files: dict[str, Content] = {"cfg.json": json.dumps(config), "sae.safetensors": tensors}
    return Exported(f"layers.{block}{_MODULES[out]}", files)

"""circuit-tracer: `config.yaml` with a transcoder for every layer, or a cross-layer transcoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import yaml
from torch import Tensor

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.writers.dictionary_files import (
    Content,
    Exported,
    block_of,
    check_beside,
    check_rule,
    ends,
    refusal,
    skip_of,
)
from crossproof.errors import CrossproofError

LIBRARY = "circuit-tracer"


_CHOOSE = " (--name, or the folder of one set, says which)"


def write(dictionaries: Sequence[ForeignDictionary], model: str) -> list[Exported]:
    """A transcoder for every layer from 0 on, or the one cross-layer transcoder of all.

    The library keeps the largest k nowhere that it reads them back, so topk is refused.
    """
    for dictionary in dictionaries:
        check_rule(dictionary, LIBRARY, "relu", "jumprelu", "signed_jumprelu")
    only = dictionaries[0] if len(dictionaries) == 1 else None
    if only is not None and len(only.hooks) > 2:
        check_beside(only, LIBRARY)
        return [Exported("", _cross_layer(only, model))]
    crossing = next((each for each in dictionaries if len(each.hooks) > 2), None)
    if crossing is not None:
        raise refusal(crossing, LIBRARY, f"a set is one cross-layer transcoder alone{_CHOOSE}")
    return [Exported("", _per_layer(dictionaries, model))]


def _per_layer(dictionaries: Sequence[ForeignDictionary], model: str) -> dict[str, Content]:
    layers: dict[int, ForeignDictionary] = {}
    roles = set()
    for dictionary in dictionaries:
        check_beside(dictionary, LIBRARY, skips=True)
        read, written = ends(dictionary, LIBRARY)
        block, role = block_of(dictionary.hooks[read])
        other, out = block_of(dictionary.hooks[written])
        if block is None or block != other or read == written:
            raise refusal(dictionary, LIBRARY, "a set has one transcoder a layer, and this is none")
        if block in layers:
            why = f"a set has one transcoder a layer, and this is the second of layer {block}"
            raise refusal(dictionary, LIBRARY, why + _CHOOSE)
        layers[block] = dictionary
        roles.add((role, out))
    _check_set(layers, roles)
    (role, out) = next(iter(roles))
    files: dict[str, Content] = {"config.yaml": _config("transcoder_set", role, out, model)}
    for layer, dictionary in sorted(layers.items()):
        read, written = ends(dictionary, LIBRARY)
        tensors = {
            "W_enc": dictionary.W_enc[:, read],
            "W_dec": dictionary.W_dec[:, written],
            "b_enc": dictionary.b_enc,
            "b_dec": dictionary.b_dec[written],
        }
        if dictionary.threshold is not None:
            tensors["activation_function.threshold"] = dictionary.threshold
        skip = skip_of(dictionary)
        if skip is not None:
            tensors["W_skip"] = skip.T
        files[f"layer_{layer}.safetensors"] = tensors
    return files


def _check_set(layers: dict[int, ForeignDictionary], roles: set[tuple[str, str]]) -> None:
    widths = {dictionary.n_latents for dictionary in layers.values()}
    if sorted(layers) != [*range(len(layers))] or len(roles) != 1 or len(widths) != 1:
        raise CrossproofError(
            f"circuit-tracer needs a transcoder for every layer from 0 on, alike in hookpoints and "
            f"in width, and these are of layers {', '.join(map(str, sorted(layers)))} with "
            f"{', '.join(map(str, sorted(widths)))} latents: export a whole set."
        )


def _cross_layer(dictionary: ForeignDictionary, model: str) -> dict[str, Content]:
    """Layer i's latents read its input and write the outputs of layers i, i + 1, ..."""
    W_enc, W_dec = dictionary.W_enc, dictionary.W_dec
    places = {block_of(hook): p for p, hook in enumerate(dictionary.hooks)}
    inputs = {b: p for (b, _), p in places.items() if b is not None and bool(W_enc[:, p].any())}
    outputs = {b: p for (b, _), p in places.items() if b is not None and p not in inputs.values()}
    count = len(inputs)
    roles = {
        side: {block_of(dictionary.hooks[p])[1] for p in at.values()}
        for side, at in (("input", inputs), ("output", outputs))
    }
    rows = dictionary.n_latents // max(count, 1)
    whole = sorted(inputs) == sorted(outputs) == [*range(count)] and rows * count == len(W_enc)
    if not whole or len(roles["input"]) != 1 or len(roles["output"]) != 1:
        raise refusal(dictionary, LIBRARY, "it is no transcoder of every layer's input and output")
    files: dict[str, Content] = {}
    kept = torch.zeros_like(W_enc, dtype=torch.bool), torch.zeros_like(W_dec, dtype=torch.bool)
    for i in range(count):
        at, later = slice(i * rows, (i + 1) * rows), [outputs[j] for j in range(i, count)]
        kept[0][at, inputs[i]] = True
        kept[1][at, later] = True
        encoder: dict[str, Tensor] = {
            f"W_enc_{i}": W_enc[at, inputs[i]],
            f"b_enc_{i}": dictionary.b_enc[at],
            f"b_dec_{i}": dictionary.b_dec[outputs[i]],
        }
        if dictionary.threshold is not None:
            encoder[f"threshold_{i}"] = dictionary.threshold[at]
        files[f"W_enc_{i}.safetensors"] = encoder
        files[f"W_dec_{i}.safetensors"] = {f"W_dec_{i}": W_dec[at][:, later]}
    if bool((W_enc * ~kept[0]).any() or (W_dec * ~kept[1]).any()):
        raise refusal(
            dictionary,
            LIBRARY,
            "its latents do not stand layer by layer, each writing from its own layer on",
        )
    (role,), (out,) = roles["input"], roles["output"]
    return files | {"config.yaml": _config("cross_layer_transcoder", role, out, model)}


def _config(kind: str, role: str, out: str, model: str) -> str:
    config = {"model_name": model, "model_kind": kind}
    config |= {"feature_input_hook": role, "feature_output_hook": out}
    text: str = yaml.safe_dump(config)
    return text

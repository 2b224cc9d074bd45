"""circuit-tracer: a folder of transcoders, one a layer, or of cross-layer transcoders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import Config, config_at, read_config
from crossproof.crosscoder.formats.foreign import ForeignDictionary, cross_layer
from crossproof.crosscoder.formats.save import Save
from crossproof.errors import CrossproofError

CONFIG = "config.yaml"
_LAYER = re.compile(r"layer_([0-9]+)\.safetensors")
_THRESHOLD = "activation_function.threshold"
_AS_IT_IS: dict[str, Any] = {"folded_norms": False}
"""circuit-tracer reads the model without folding the weights of norms."""


def recognise(path: Path) -> bool:
    """A folder with layer 0 of a set, or a config.yaml of its kind; or one layer's file."""
    if path.is_file():
        return _LAYER.fullmatch(path.name) is not None
    if not path.is_dir():
        return False
    begins = _begins(path, "layer") or _begins(path, "W_enc")
    return begins or "model_kind" in config_at(path / CONFIG)


def read(path: Path) -> list[ForeignDictionary]:
    """A transcoder a layer, or the one cross-layer transcoder of the folder.

    Raises CrossproofError for a missing or damaged file, or an activation it does not know.
    """
    folder = path.parent if path.is_file() else path
    config = read_config(folder / CONFIG, optional=True)
    activation = config.text("activation") or "relu"
    if activation not in ("relu", "jumprelu", "jump_relu", "topk"):
        raise CrossproofError(
            f"{path} has the activation {activation!r}: crossproof reads relu, jump_relu and topk."
        )
    if path.is_file():
        alone = _LAYER.fullmatch(path.name)
        if alone is None:
            raise CrossproofError(f"{path} is no layer_N.safetensors of a set: give its folder.")
        return [_layer(path, config, int(alone[1]))]
    crossing = config.get("model_kind") == "cross_layer_transcoder"
    if crossing or _begins(path, "W_enc"):
        return [_crossing(path, config, _layers(path, "W_enc"))]
    layers = _layers(path, "layer")
    gap = next((i for i in range(min(layers), max(layers)) if i not in layers), None)
    if gap is not None:
        raise CrossproofError(
            f"{path} lacks layer {gap} of its set: download it, or import the files of layers "
            f"that are there one by one."
        )
    return [_layer(file, config, i) for i, file in layers.items()]


def _begins(path: Path, stem: str) -> bool:
    return any(layer == 0 for layer, _ in _numbered(path, stem))


def _numbered(path: Path, stem: str) -> list[tuple[int, Path]]:
    """The folder's files of a stem with their numbers, in order.

    circuit-tracer itself writes and reads layer_1; others also write layer_01.
    """
    matches = (re.fullmatch(rf"{stem}_([0-9]+)\.safetensors", p.name) for p in path.iterdir())
    return sorted((int(match[1]), path / match[0]) for match in matches if match)


def _layers(path: Path, stem: str) -> dict[int, Path]:
    layers: dict[int, Path] = {}
    for layer, file in _numbered(path, stem):
        if (other := layers.setdefault(layer, file)) != file:
            raise CrossproofError(
                f"{path} holds layer {layer} twice, as {other.name} and {file.name}: leave the "
                f"one that belongs to the set."
            )
    if not layers:
        raise CrossproofError(
            f"{path} holds no {stem}_0.safetensors: download the transcoders that its {CONFIG} "
            f"names into it."
        )
    return layers


def _hooks(config: Config, layer: int) -> tuple[str | None, str | None]:
    names = (config.text(f"feature_{side}_hook") for side in ("input", "output"))
    read, written = (None if name is None else f"blocks.{layer}.{name}" for name in names)
    return read, written


def _rule(threshold: Tensor | None) -> dict[str, Any]:
    """circuit-tracer's JumpReLU has no ReLU: with a negative threshold latents may be negative."""
    if threshold is None:
        return {"rule": "relu"}
    rule = "signed_jumprelu" if bool((threshold < 0).any()) else "jumprelu"
    return {"rule": rule, "threshold": threshold.flatten()}


def _layer(path: Path, config: Config, layer: int) -> ForeignDictionary:
    save = Save(path, path, config)
    weights = save.take("W_enc h d", "b_enc h", "W_dec h e", "b_dec e")
    more = _rule(save.optional(_THRESHOLD))
    if config.get("activation") == "topk":  # nor has its TopK
        more = {"rule": "signed_topk", "k": _k(save)}
    more |= save.skip("W_skip e d", 2) | _AS_IT_IS | {"layer": layer}
    return save.dictionary(_hooks(config, layer), "per-layer transcoder", *weights, **more)


def _k(save: Save) -> int:
    k = save.whole("k") if "k" in save.tensors else save.config.whole("k")
    if k is None:
        raise CrossproofError(f"{save.path} is a topk transcoder, and no k says of how many.")
    return k


def _crossing(path: Path, config: Config, layers: dict[int, Path]) -> ForeignDictionary:
    """Reads every layer's input and writes every layer's output: 2L hookpoints."""
    missing = next((i for i in range(len(layers)) if i not in layers), None)
    if missing is not None:  # what it would have written is lacking in all layers behind it
        raise CrossproofError(
            f"{path} lacks layer {missing} of its cross-layer transcoder: download all of it."
        )
    parts = [_crossing_layer(i, file) for i, file in layers.items()]
    width, d_model = parts[0]["W_enc"].shape
    for i, part in enumerate(parts):
        for name, shape in (
            ("W_dec", (width, len(parts) - i, d_model)),
            ("W_enc", (width, d_model)),
        ):
            if part[name].shape != shape:
                raise CrossproofError(
                    f"{name}_{i} in {path} has shape {list(part[name].shape)}, not {list(shape)}: "
                    f"the folder lacks layers, or mixes two sets."
                )
    thresholds = [part["threshold"] for part in parts if "threshold" in part]
    read, written = zip(*(_hooks(config, i) for i in layers), strict=True)
    W_enc, b_enc, W_dec, b_dec = cross_layer(
        [(part["W_enc"], part["b_enc"], part["W_dec"], part["b_dec"]) for part in parts]
    )
    return ForeignDictionary(
        str(path),
        (*read, *written),
        W_enc,
        W_dec,
        b_enc,
        b_dec,
        **_rule(torch.cat(thresholds) if thresholds else None),
        **_AS_IT_IS,
        about={"architecture": "cross-layer transcoder", "config": dict(config)},
    )


def _crossing_layer(layer: int, encoder: Path) -> dict[str, Tensor]:
    decoder = encoder.with_name(encoder.name.replace("enc", "dec"))
    save = Save(encoder, encoder)
    save.tensors |= Save(decoder, decoder).tensors
    named = encoder.stem.removeprefix("W_enc_")  # 01 or 1: tensors may have it from their file
    i = named if f"W_enc_{named}" in save.tensors else str(layer)
    axes = {"W_enc": "h d", "b_enc": "h", "b_dec": "d", "W_dec": "h p d"}
    if f"threshold_{i}" in save.tensors:
        save.tensors[f"threshold_{i}"] = save.tensors[f"threshold_{i}"].flatten()
        axes["threshold"] = "h"
    taken = save.take(*(f"{name}_{i} {axis}" for name, axis in axes.items()))
    if (skip := f"W_skip_{i}") in save.tensors:
        raise CrossproofError(
            f"{encoder} holds {skip}: circuit-tracer saves no cross-layer transcoders with skips."
        )
    save.refuse_more(False)
    return dict(zip(axes, taken, strict=True))

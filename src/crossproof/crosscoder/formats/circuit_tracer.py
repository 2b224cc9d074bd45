"""circuit-tracer: a folder of transcoders, one a layer, or of cross-layer transcoders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import read_weights, read_yaml, take
from crossproof.crosscoder.formats.foreign import ForeignDictionary, refuse_skip, transcoder
from crossproof.errors import CrossproofError

CONFIG = "config.yaml"
_THRESHOLD = "activation_function.threshold"


def recognise(path: Path) -> bool:
    """A folder with layer_0.safetensors, W_enc_0.safetensors, or a config.yaml of its kind."""
    if not path.is_dir():
        return False
    files = "layer_0.safetensors", "W_enc_0.safetensors"
    if any((path / name).is_file() for name in files):
        return True
    return (path / CONFIG).is_file() and "model_kind" in read_yaml(path / CONFIG)


def read(path: Path) -> list[ForeignDictionary]:
    """A transcoder a layer, or the one cross-layer transcoder of the folder.

    Raises CrossproofError for a missing or damaged file, linear skips, topk (whose latents may be
    negative) and negative thresholds.
    """
    config = read_yaml(path / CONFIG) if (path / CONFIG).is_file() else {}
    if config.get("activation", "relu") not in ("relu", "jumprelu", "jump_relu"):
        raise CrossproofError(
            f"{path} has the activation {config['activation']!r}, which keeps pre-activations "
            f"even where they are negative: a crosscoder's latents are not."
        )
    crossing = config.get("model_kind") == "cross_layer_transcoder"
    if crossing or (path / "W_enc_0.safetensors").is_file():
        return [_crossing(path, config, _layers(path, "W_enc"))]
    layers = _layers(path, "layer")
    return [_layer(path / f"layer_{i}.safetensors", config, i) for i in layers]


def _layers(path: Path, stem: str) -> list[int]:
    matches = (re.fullmatch(rf"{stem}_(\d+)\.safetensors", p.name) for p in path.iterdir())
    found = sorted(int(match[1]) for match in matches if match)
    if not found:
        raise CrossproofError(
            f"{path} holds no {stem}_0.safetensors: download the transcoders that its {CONFIG} "
            f"names into it."
        )
    return found


def _hooks(config: dict[str, Any], layer: int) -> tuple[str | None, str | None]:
    names = (config.get(f"feature_{side}_hook") for side in ("input", "output"))
    first, last = (None if name is None else f"blocks.{layer}.{name}" for name in names)
    return first, last


def _rule(threshold: Tensor | None, path: Path) -> dict[str, Any]:
    if threshold is None:
        return {"rule": "relu"}
    if bool((threshold < 0).any()):
        raise CrossproofError(
            f"{path} has negative thresholds, so its latents may be negative: not a crosscoder."
        )
    return {"rule": "jumprelu", "threshold": threshold.reshape(-1)}


def _layer(path: Path, config: dict[str, Any], layer: int) -> ForeignDictionary:
    tensors = read_weights(path)
    refuse_skip(str(path), tensors.get("W_skip"))
    weights = take(tensors, path, "W_enc", "b_enc", "W_dec", "b_dec")
    about = {"architecture": "per-layer transcoder", "config": config}
    rule = _rule(tensors.get(_THRESHOLD), path)
    return transcoder(str(path), _hooks(config, layer), *weights, layer=layer, about=about, **rule)


def _crossing(path: Path, config: dict[str, Any], layers: list[int]) -> ForeignDictionary:
    """Reads every layer's input and writes every layer's output: 2L hookpoints."""
    parts = [_crossing_layer(path, i) for i in layers]
    count, (width, d_model) = len(parts), parts[0]["W_enc"].shape
    W_enc = torch.zeros(count * width, 2 * count, d_model)
    W_dec = torch.zeros_like(W_enc)
    b_dec = torch.zeros(2 * count, d_model)
    for i, part in enumerate(parts):
        rows = slice(i * width, (i + 1) * width)
        if part["W_dec"].shape != (width, count - i, d_model):
            raise CrossproofError(
                f"W_dec_{i} in {path} has shape {list(part['W_dec'].shape)}, not "
                f"{[width, count - i, d_model]}: the folder lacks layers, or mixes two sets."
            )
        W_enc[rows, i] = part["W_enc"]
        W_dec[rows, count + i :] = part["W_dec"]
        b_dec[count + i] = part["b_dec"]
    thresholds = [part["threshold"] for part in parts if "threshold" in part]
    threshold = torch.cat(thresholds) if thresholds else None
    pairs = [_hooks(config, i) for i in layers]
    return ForeignDictionary(
        str(path),
        (*(first for first, _ in pairs), *(last for _, last in pairs)),
        W_enc,
        W_dec,
        torch.cat([part["b_enc"] for part in parts]),
        b_dec,
        about={"architecture": "cross-layer transcoder", "config": config},
        **_rule(threshold, path),
    )


def _crossing_layer(path: Path, i: int) -> dict[str, Tensor]:
    encoder, decoder = (path / f"W_{part}_{i}.safetensors" for part in ("enc", "dec"))
    tensors = read_weights(encoder)
    names = "W_enc", "b_enc", "b_dec"
    found = dict(zip(names, take(tensors, encoder, *(f"{n}_{i}" for n in names)), strict=True))
    (found["W_dec"],) = take(read_weights(decoder), decoder, f"W_dec_{i}")
    if f"threshold_{i}" in tensors:
        found["threshold"] = tensors[f"threshold_{i}"].reshape(-1)
    return found

"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, of versions before 6 too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import config_at, read_json, read_weights, take
from crossproof.crosscoder.formats.foreign import (
    ForeignDictionary,
    autoencoder,
    less_decoder_bias,
    refuse_skip,
    transcoder,
    ungated,
)
from crossproof.errors import CrossproofError

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
TRANSCODERS = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
"""Training checkpoints; their finished saves are jumprelu."""
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", *BATCH_TOPK, *TRANSCODERS)


def recognise(path: Path) -> bool:
    """A folder whose cfg.json gives a `d_sae`."""
    return "d_sae" in config_at(path / CONFIG)


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary of the folder.

    Raises CrossproofError for a missing or damaged file, an architecture that is not in
    ARCHITECTURES, and normalisations or reshapes that no fixed crosscoder can express.
    """
    config = _modern(read_json(path / CONFIG), path)
    kind = config.get("architecture", "standard")
    if kind not in ARCHITECTURES:
        raise CrossproofError(
            f"{path} has the SAELens architecture {kind!r}, which is not a crosscoder: crossproof "
            f"imports {', '.join(ARCHITECTURES)}."
        )
    tensors = read_weights(path / WEIGHTS)
    refuse_skip(str(path), tensors.get("W_skip"))
    foreign = _build(kind, config, tensors, path)
    if kind not in TRANSCODERS and config.get("apply_b_dec_to_input", True):
        foreign = less_decoder_bias(foreign)
    return [_scaled(foreign, config, path)]


def _modern(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration in the spelling of version 6, which moved most keys into `metadata`."""
    meta = dict(config.get("metadata") or config)
    meta.setdefault("hook_name", config.get("hook_point"))
    meta.setdefault("hook_head_index", config.get("hook_point_head_index"))
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    config = config | {"metadata": meta}
    if activation == "topk":
        config |= {"architecture": "topk", "k": (config.get("activation_fn_kwargs") or {}).get("k")}
        config.setdefault("rescale_acts_by_decoder_norm", False)
    elif activation != "relu":
        raise CrossproofError(f"{path} has the activation function {activation!r}: not imported.")
    if config.get("finetuning_scaling_factor"):
        raise CrossproofError(f"{path} scales its latents after finetuning: not imported.")
    return config


def _build(
    kind: str, config: Mapping[str, Any], tensors: dict[str, Tensor], path: Path
) -> ForeignDictionary:
    meta = config["metadata"]
    if meta.get("hook_head_index") is not None:
        raise CrossproofError(
            f"{path} reads one attention head ({meta.get('hook_name')}, head "
            f"{meta['hook_head_index']}): crossproof reads hookpoints of the model's width."
        )
    W_enc, W_dec, b_dec = take(tensors, path / WEIGHTS, "W_enc", "W_dec", "b_dec")
    rule, b_enc, W_enc = _encoder(kind, config, tensors, W_enc.T, W_dec, path)
    if rule.pop("rescaled"):
        norm = W_dec.norm(dim=-1)
        W_dec = W_dec / norm.clamp_min(1e-30)[:, None]
    about = {"architecture": kind, "config": dict(config)}
    kwargs = meta.get("model_from_pretrained_kwargs") or {}
    more = rule | {"about": about, "centred": bool(kwargs.get("center_writing_weights"))}
    if kind in TRANSCODERS:
        hooks = meta.get("hook_name"), meta.get("hook_name_out")
        return transcoder(str(path), hooks, W_enc, b_enc, W_dec, b_dec, **more)
    return autoencoder(str(path), meta.get("hook_name"), W_enc, b_enc, W_dec, b_dec, **more)


def _encoder(
    kind: str,
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    W_enc: Tensor,
    W_dec: Tensor,
    path: Path,
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The rule's fields (with `rescaled`), b_enc [H] and W_enc [H, D]."""
    rule: dict[str, Any] = {"rescaled": False}
    if kind == "gated":
        parts = take(tensors, path / WEIGHTS, "b_gate", "b_mag", "r_mag")
        scale, b_enc, threshold = ungated(*parts)
        return rule | {"rule": "jumprelu", "threshold": threshold}, b_enc, W_enc * scale[:, None]
    (b_enc,) = take(tensors, path / WEIGHTS, "b_enc")
    if kind == "topk":
        rule |= {"rule": "topk", "k": _k(config, path)}
    elif kind in BATCH_TOPK:
        (threshold,) = take(tensors, path / WEIGHTS, "topk_threshold")
        rule |= {"rule": "jumprelu", "threshold": threshold.float().expand(len(b_enc))}
    elif kind.startswith("jumprelu"):
        logged = "log_threshold" in tensors  # of older training checkpoints
        (threshold,) = take(tensors, path / WEIGHTS, "log_threshold" if logged else "threshold")
        threshold = threshold.exp() if logged else threshold
        rule |= {"rule": "jumprelu", "threshold": threshold}
    if kind in ("topk", *BATCH_TOPK) and config.get(
        "rescale_acts_by_decoder_norm", kind in BATCH_TOPK
    ):
        norm = W_dec.norm(dim=-1)
        return rule | {"rescaled": True}, b_enc * norm, W_enc * norm[:, None]
    return rule, b_enc, W_enc


def _k(config: Mapping[str, Any], path: Path) -> int:
    if not isinstance(config.get("k"), int):
        raise CrossproofError(f"{path / CONFIG} gives no whole number k of active latents.")
    return int(config["k"])


def _scaled(foreign: ForeignDictionary, config: Mapping[str, Any], path: Path) -> ForeignDictionary:
    """Folds the scaling of activations that the dictionary was trained on."""
    kind = config.get("normalize_activations") or "none"
    if kind == "none" or kind is False:
        return foreign
    factor = config_at(path / SCALER).get("scaling_factor")
    if kind in ("expected_average_only_in", True) and factor is not None:
        inverse = torch.tensor(1.0 / factor)
        return replace(
            foreign,
            W_enc=foreign.W_enc * factor,
            W_dec=foreign.W_dec * inverse,
            b_dec=foreign.b_dec * inverse,
        )
    if kind in ("expected_average_only_in", True):
        raise CrossproofError(
            f"{path} was trained on scaled activations, and its files do not say by how much: put "
            f"the training's {SCALER} beside {WEIGHTS}, or fold the scale with SAELens."
        )
    raise CrossproofError(
        f"{path} normalises activations by {kind!r}, which no fixed crosscoder expresses (or which "
        f"SAELens has not folded yet): import one with normalize_activations 'none'."
    )

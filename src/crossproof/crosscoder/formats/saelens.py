"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, of versions before 6 too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import Config, config_at, read_config
from crossproof.crosscoder.formats.foreign import HEADS, ForeignDictionary, ungated
from crossproof.crosscoder.formats.save import Save
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
_OF_TOKENS = {"layer_norm": "layer_norm", "constant_norm_rescale": "unit_norm"}
"""How SAELens calls normalisations of each token by its own numbers."""
_TOPK = {"topk": "topk", "abstopk": "abs_topk"}
"""Architectures that keep k latents, and the rule they keep them by."""
ARCHITECTURES = ("standard", *_TOPK, "jumprelu", "gated", *BATCH_TOPK, *TRANSCODERS)


def recognise(path: Path) -> bool:
    """A folder whose cfg.json gives a `d_sae`."""
    return "d_sae" in config_at(path / CONFIG)


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary of the folder.

    Raises CrossproofError for a missing or damaged file, an architecture that is not in
    ARCHITECTURES, single heads of other hooks than hook_z, and normalisations it does not know.
    """
    config = read_config(path / CONFIG)
    kind, k = _architecture(config, path)
    save = Save(path, path / WEIGHTS, config)
    weights, rule = _weights(kind, k, save)
    meta = config.mapping("metadata") or config
    hooks: tuple[str | None, ...] = (meta.text("hook_name") or _old_hook(config),)
    if kind in TRANSCODERS:
        hooks += (meta.text("hook_name_out"),)
    less_bias = kind not in TRANSCODERS
    if config.flag("apply_b_dec_to_input", less_bias) and not less_bias:
        raise CrossproofError(
            f"{path / CONFIG} gives apply_b_dec_to_input as true, which SAELens's transcoders do "
            f"not have: their decoder bias is of what they write."
        )
    less_bias = less_bias and config.flag("apply_b_dec_to_input", True)
    more = rule | _model(config, meta) | {"less_decoder_bias": less_bias}
    more |= save.skip("W_skip e d", len(hooks)) | _head(hooks[0], meta, config, path)
    return [_scaled(save.dictionary(hooks, kind, *weights, **more), save)]


def _old_hook(config: Config) -> str | None:
    """The hookpoint as versions before 3 wrote it, in which "{layer}" may stand for the layer."""
    hook, layer = config.text("hook_point"), config.whole("hook_point_layer")
    return hook and hook.replace("{layer}", "{layer}" if layer is None else str(layer))


def _architecture(config: Config, path: Path) -> tuple[str, int | None]:
    """The architecture in the spelling of version 6, and k."""
    kind, k = config.text("architecture") or "standard", config.whole("k")
    activation = config.text("activation_fn_str") or config.text("activation_fn") or "relu"
    if activation == "topk":
        kind, k = "topk", config.mapping("activation_fn_kwargs").whole("k")
    elif activation != "relu":
        raise CrossproofError(f"{path} has the activation function {activation!r}: not imported.")
    if kind not in ARCHITECTURES:
        raise CrossproofError(
            f"{path} has the SAELens architecture {kind!r}, which is not a crosscoder: crossproof "
            f"imports {', '.join(ARCHITECTURES)}."
        )
    if config.get("architecture") is None and kind not in _TOPK and k is not None:
        raise CrossproofError(
            f"{path / CONFIG} names no architecture, and a k of active latents: write down which "
            f"it is (topk, ...)."
        )
    if kind in _TOPK and k is None:
        raise CrossproofError(f"{path / CONFIG} gives no whole number k of active latents.")
    if config.get("reshape_activations") not in (None, "none", "hook_z"):
        raise CrossproofError(
            f"{path} reshapes activations by {config['reshape_activations']!r}: crossproof knows "
            f"none and hook_z."
        )
    if config.get("finetuning_scaling_factor"):
        raise CrossproofError(f"{path} scales its latents after finetuning: not imported.")
    return kind, k


def _head(hook: str | None, meta: Config, config: Config, path: Path) -> dict[str, Any]:
    """The one head that is read, if there is one."""
    source = meta if "hook_head_index" in meta else config
    key = "hook_head_index" if source is meta else "hook_point_head_index"
    head = source.whole(key)
    if head is not None and not str(hook).endswith(HEADS):
        raise CrossproofError(
            f"{path} reads one attention head ({hook!r}, head {head!r}), and only what a head puts "
            f"out ({HEADS}) adds to the residual stream: it is no dictionary of the stream."
        )
    return {"head": head}


def _model(config: Config, meta: Config) -> dict[str, Any]:
    """How TransformerLens prepared the model, and the layer.

    Before SAELens wrote `model_from_pretrained_kwargs` down it left them at TransformerLens's
    defaults, which centre the residual stream; so does a HookedTransformer without that argument.
    """
    kwargs = meta.mapping("model_from_pretrained_kwargs")
    known = meta.get("model_from_pretrained_kwargs") is not None
    hooked = (meta.text("model_class_name") or "HookedTransformer") == "HookedTransformer"
    usual = hooked and (known or "metadata" not in config)
    return {
        "layer": meta.whole("hook_layer")
        if "hook_layer" in meta
        else meta.whole("hook_point_layer"),
        "centred": kwargs.flag("center_writing_weights", usual),
        "centring_known": known,
        "folded_norms": kwargs.flag("fold_ln", True) or not hooked,
        "values_folded": kwargs.flag("fold_value_biases", hooked),
    }


def _weights(
    kind: str, k: int | None, save: Save
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], dict[str, Any]]:
    """W_enc [H, D], b_enc [H], W_dec [H, D], b_dec [D], and the rule's fields."""
    bias = "b_mag h" if kind == "gated" else "b_enc h"
    names = "W_enc d h", bias, "W_dec h e", "b_dec e"
    W_enc, b_enc, W_dec, b_dec = save.take(*names)
    rule: dict[str, Any] = {"rule": "jumprelu"}
    if kind == "gated":
        parts = save.take("b_gate h", "b_mag h", "r_mag h")
        scale, b_enc, rule["threshold"] = ungated(*parts)
        W_enc = W_enc * scale[:, None]
    elif kind in _TOPK:
        rule = {"rule": _TOPK[kind], "k": k}
    elif kind in BATCH_TOPK:
        rule["threshold"] = torch.full_like(b_enc, save.scalar("topk_threshold"))
    elif kind.startswith("jumprelu"):
        logged = "log_threshold" in save.tensors  # of older training checkpoints
        (threshold,) = save.take("log_threshold h" if logged else "threshold h")
        rule["threshold"] = threshold.exp() if logged else threshold
    else:
        rule = {"rule": "relu"}
    batch = kind in BATCH_TOPK
    if (kind in _TOPK or batch) and save.config.flag("rescale_acts_by_decoder_norm", batch):
        norm = W_dec.norm(dim=-1)
        W_enc, b_enc = W_enc * norm[:, None], b_enc * norm
        W_dec = W_dec / norm.clamp_min(1e-30)[:, None]
    return (W_enc, b_enc, W_dec, b_dec), rule


def _scaled(foreign: ForeignDictionary, save: Save) -> ForeignDictionary:
    """Folds the scaling of activations that the dictionary was trained on."""
    kind = save.config.get("normalize_activations") or "none"
    factor = read_config(save.path / SCALER, optional=True).number("scaling_factor")
    if factor is not None and factor <= 0:
        raise CrossproofError(
            f"{save.path / SCALER} gives a scaling_factor of {factor:g}: it is a number above 0."
        )
    if kind == "none":
        save.refuse_scale(factor)
        return foreign
    if isinstance(kind, str) and kind in _OF_TOKENS:
        if len(foreign.hooks) > 1:
            raise CrossproofError(
                f"{save.path} is a transcoder of tokens normalised by {kind!r}: crossproof reads "
                f"such normalisations of SAEs alone."
            )
        save.refuse_scale(factor)
        return replace(foreign, normalisation=_OF_TOKENS[kind])
    if kind not in ("expected_average_only_in", True):
        raise CrossproofError(
            f"{save.path} normalises activations by {kind!r}, which no fixed crosscoder expresses "
            f"(or which SAELens has not folded yet): import one with normalize_activations 'none'."
        )
    if not factor:
        return replace(foreign, scale_missing=True)
    return foreign.scaled([factor] * len(foreign.hooks))

"""OpenMOSS: Llama Scope (`hyperparams.json`) and Llamascopium (`config.json` with `sae_type`)."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crossproof.crosscoder.formats.files import config_at, read_config
from crossproof.crosscoder.formats.foreign import ForeignDictionary, cross_layer
from crossproof.crosscoder.formats.save import Save
from crossproof.errors import CrossproofError

CONFIG, FORMER_CONFIG = "config.json", "hyperparams.json"
WEIGHTS = (
    *("sae_weights.safetensors", "sae_weights.pt"),
    *("checkpoints/pruned.safetensors", "checkpoints/pruned.pt"),
    *("checkpoints/final.safetensors", "checkpoints/final.pt"),
)
"""In the order in which the library looks for them."""
_BY_NORM = "sparsity_include_decoder_norm"
_NORM = "dataset_average_activation_norm."
_OTHERS = {
    "lorsa": "it replaces an attention, which is no function of one token",
    "molt": "its latents switch linear maps on and write no vector of their own",
}
_ENCODER = {"encoder.weight": "W_E", "encoder.bias": "b_E"}
_FORMER = _ENCODER | {"decoder.weight": "W_D", "decoder.bias": "b_D"}


def recognise(path: Path) -> bool:
    """A folder whose hyperparams.json gives `d_model`, or whose config.json `sae_type` or
    `norm_activation`."""
    config = config_at(path / CONFIG)
    kinds = {"sae_type", "norm_activation"} & config.keys()
    return bool(kinds) or "d_model" in config_at(path / FORMER_CONFIG)


def read(path: Path) -> list[ForeignDictionary]:
    """The one SAE, transcoder, cross-layer transcoder or crosscoder of the folder.

    A crosscoder compares its threshold, or its k largest, hookpoint by hookpoint: with those it
    is read as a latent a hookpoint, each of which reads all of them. Raises CrossproofError for a
    missing or damaged file, other kinds of dictionary, norms of tokens or batches, and rules that
    depend on the batch.
    """
    former = not (path / CONFIG).exists()
    config = read_config(path / (FORMER_CONFIG if former else CONFIG))
    kind = config.text("sae_type") or "sae"
    if kind not in _KINDS:
        why = _OTHERS.get(kind, "it is no kind that crossproof knows")
        raise CrossproofError(f"{path} is a dictionary of the kind {kind!r}: {why}.")
    if config.flag("use_glu_encoder"):
        raise CrossproofError(f"{path} has a gated linear unit for an encoder: not imported.")
    save = Save(path, _weights_file(path), config)
    _check_factor(save)
    return [_KINDS[kind](save)]


def _check_factor(save: Save) -> None:
    """Latents are not counted in its configurations, but told by a factor."""
    factor, d_model = (save.config.number(key) for key in ("expansion_factor", "d_model"))
    latents = save.tensors.get("b_E", torch.empty(0)).shape[-1:].numel()
    if factor and d_model and latents and int(factor * d_model) != latents:
        raise CrossproofError(
            f"{save.config.source} gives expansion_factor as {factor:g}, and {save.file} has "
            f"{latents} latents of width {d_model:g}: put the configuration and the weights of "
            f"one dictionary together."
        )


def _weights_file(path: Path) -> Path:
    found = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if found is None and (path / "sae_weights.dcp").exists():
        raise CrossproofError(
            f"{path} holds a distributed checkpoint (.dcp): let its library save safetensors."
        )
    return found or path / WEIGHTS[0]


def _autoencoder(save: Save) -> ForeignDictionary:
    config = save.config
    if "encoder.weight" in save.tensors:  # [F, D] and [D, F]; the other way round since
        renamed = {_FORMER.get(name, name): tensor for name, tensor in save.tensors.items()}
        save.tensors = renamed | {n: renamed[n].T for n in ("W_E", "W_D") if n in renamed}
    if "W_D" in save.tensors and not config.flag("use_decoder_bias", True):
        save.tensors.setdefault("b_D", torch.zeros(save.tensors["W_D"].shape[-1]))
    W_E, b_E, W_D, b_D = save.take("W_E d h", "b_E h", "W_D h e", "b_D e")
    hooks = [config.text(f"hook_point_{side}") for side in ("in", "out")]
    scales = [_scale(save, hook, side) for hook, side in zip(hooks, ("in", "out"), strict=True)]
    if hooks[1] in (None, hooks[0]):
        hooks, scales = hooks[:1], scales[:1]
    scores = W_D.norm(dim=-1) if config.flag(_BY_NORM, True) else None
    rule = _rule(save, scales[0], "b_E h")
    if rule["rule"] == "topk" and scores is not None:  # the largest are those times this
        W_E, b_E, W_D = W_E * scores[:, None], b_E * scores, W_D / scores.clamp_min(1e-30)[:, None]
    elif scores is not None and "threshold" in rule:
        rule["threshold"] = torch.where(scores > 0, rule["threshold"] / scores, torch.inf)
    less = config.flag("apply_decoder_bias_to_pre_encoder") and len(hooks) == 1
    more = rule | _MODEL | {"less_decoder_bias": less}
    made = save.dictionary(tuple(hooks), "sae", W_E, b_E, W_D, b_D, **more)
    return _scaled(made, scales)


def _crosscoder(save: Save) -> ForeignDictionary:
    weights = save.take("W_E p d h", "b_E p h", "W_D p h d", "b_D p d")
    W_E, b_E, W_D, b_D = weights
    points, width = len(b_D), len(W_E)
    hooks = _names(save, "hook_points", points)
    rule, b_enc = _rule(save, 1.0, "b_E p h"), b_E.sum(1)
    scales = [_scale(save, hook, hook) for hook in hooks]
    if rule["rule"] != "relu":  # one latent a hookpoint
        scores = W_D.norm(dim=-1).T.flatten()  # [P·H], as the rows below
        alone = torch.eye(points).repeat_interleave(width, 0)[:, :, None]
        W_E, b_enc = W_E.repeat(points, 1, 1), b_enc.repeat(points)
        W_D = W_D.repeat(points, 1, 1) * alone
        if rule["rule"] == "topk":
            W_E, b_enc = W_E * scores[:, None, None], b_enc * scores
            W_D, rule["groups"] = W_D / scores.clamp_min(1e-30)[:, None, None], points
        else:
            threshold = rule["threshold"].expand(points, width).flatten()
            rule["threshold"] = torch.where(scores > 0, threshold / scores, torch.inf)
    more = rule | _MODEL
    made = save.dictionary(tuple(hooks), "crosscoder", W_E, b_enc, W_D, b_D, **more)
    return _scaled(made, scales)


def _crossing(save: Save) -> ForeignDictionary:
    """W_D.i [i + 1, F, D] is what the latents of layers 0 to i write in layer i."""
    W_E, b_E = save.take("W_E p d h", "b_E p h")
    width, layers = b_E.shape
    hooks = [*_names(save, "hook_points_in", layers), *_names(save, "hook_points_out", layers)]
    written = [save.take(f"W_D.{i} p h d", f"b_D.{i} d") for i in range(layers)]
    for i, (decoder, _) in enumerate(written):
        if decoder.shape != (width, i + 1, W_E.shape[2]):
            raise CrossproofError(
                f"The tensors in {save.file} do not fit each other: W_D.{i} is of "
                f"{decoder.shape[1]} layers, {len(decoder)} latents and width {decoder.shape[2]}."
            )
    parts = []
    for i in range(layers):
        decoder = torch.stack([later[:, i] for later, _ in written[i:]], 1)
        parts.append((W_E[:, i], b_E[:, i], decoder, written[i][1]))
    W_enc, b_enc, W_dec, b_dec = cross_layer(parts)
    scores = W_dec.norm(dim=(1, 2)) if save.config.flag(_BY_NORM, True) else torch.ones_like(b_enc)
    rule = _rule(save, None, "b_E p h")
    if rule["rule"] == "topk":
        rule["groups"] = layers
        W_enc, b_enc = W_enc * scores[:, None, None], b_enc * scores
        W_dec = W_dec / scores.clamp_min(1e-30)[:, None, None]
    elif "threshold" in rule:
        threshold = rule["threshold"].flatten()
        rule["threshold"] = torch.where(scores > 0, threshold / scores, torch.inf)
    more = rule | _MODEL
    made = save.dictionary(tuple(hooks), "clt", W_enc, b_enc, W_dec, b_dec, **more)
    return _scaled(made, [_scale(save, hook, hook) for hook in hooks])


_KINDS = {"sae": _autoencoder, "crosscoder": _crosscoder, "clt": _crossing}

_MODEL = {"folded_norms": False}
"""The library reads models as they are."""


def _names(save: Save, key: str, count: int) -> list[str]:
    """The hookpoints under `key`; CrossproofError if they are not `count` names."""
    hooks = save.config.get(key)
    if not isinstance(hooks, list) or len(hooks) != count or not all(map(_is_name, hooks)):
        raise CrossproofError(f"{save.path} names {hooks!r} as its {count} hookpoints.")
    return hooks


def _is_name(hook: Any) -> bool:
    return isinstance(hook, str)


def _rule(save: Save, scale: float | None, bias: str) -> dict[str, Any]:
    """Rule with its threshold, of pre-activations of scaled tokens, or k; `bias` as in `take`."""
    config = save.config
    name = (config.text("act_fn") or "relu").lower()
    if name == "relu":
        return {"rule": "relu"}
    if name == "topk":
        return {"rule": "topk", "k": config.whole("top_k") or 0}
    logs = [key for key in save.tensors if key.endswith("log_jumprelu_threshold")]
    if name == "jumprelu" and logs:
        axes = "h" if save.tensors[logs[0]].dim() == 1 else bias.partition(" ")[2]
        logged = save.take(bias, f"{logs[0]} {axes}")[1].movedim(0, -1)  # [(P,) H], as in the file
        return {"rule": "jumprelu", "threshold": logged.exp()}
    fixed = config.number("jump_relu_threshold")
    if (
        name == "jumprelu" and fixed is not None and scale is not None
    ):  # Llama Scope's, of tokens that are not scaled
        width = save.take("b_E h")[0]
        return {"rule": "jumprelu", "threshold": torch.full_like(width, fixed * scale)}
    raise CrossproofError(
        f"{save.path} has the activation function {name!r}, which depends on the batch or lacks "
        f"its threshold: crossproof imports relu, topk and jumprelu."
    )


def _scale(save: Save, hook: str | None, side: str) -> float | None:
    """What tokens are multiplied by before they are encoded: √D over their average norm.

    None if the files do not say it.
    """
    way = save.config.text("norm_activation") or "dataset-wise"
    if way == "inference":
        return 1.0  # folded into the weights
    if way != "dataset-wise":
        raise CrossproofError(
            f"{save.path} normalises activations {way!r}, which no fixed dictionary does: import "
            f"one whose norm_activation is dataset-wise or inference."
        )
    norms, name = save.config.mapping("dataset_average_activation_norm"), f"{_NORM}{hook}"
    said = norms.number(side) or norms.number(str(hook))
    norm = save.scalar(name) if name in save.tensors else said
    d_model = save.config.number("d_model") or 0.0
    return math.sqrt(d_model) / norm if norm and norm > 0 and d_model > 0 else None


def _scaled(made: ForeignDictionary, scales: list[float | None]) -> ForeignDictionary:
    known = [scale for scale in scales if scale is not None]
    if len(known) == len(scales):
        return made.scaled(known)
    if not known:
        return replace(made, scale_missing=True)
    raise CrossproofError(
        f"{made.source} was trained on scaled activations, and its files say of some hookpoints "
        f"alone by how much: restore {_NORM}HOOKPOINT."
    )

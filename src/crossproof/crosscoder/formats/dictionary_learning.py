"""dictionary_learning: `ae.pt` with `config.json`, and its crosscoders, local or from the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import Config, config_at, read_config, read_weights
from crossproof.crosscoder.formats.foreign import ForeignDictionary, ungated
from crossproof.crosscoder.formats.save import Save
from crossproof.errors import CrossproofError

CONFIG, WEIGHTS, HUB_WEIGHTS = "config.json", "ae.pt", "model.safetensors"
_LINEAR = "encoder.weight h d", "encoder.bias h", "decoder.weight d h"
_PLAIN = "W_enc d h", "b_enc h", "W_dec h d", "b_dec d"
_GATED = "encoder.weight h d", "mag_bias h", "decoder.weight d h", "decoder_bias d"
_CLASSES = {
    "AutoEncoder": (*_LINEAR, "bias d"),
    "AutoEncoderNew": (*_LINEAR, "decoder.bias d"),
    "GatedAutoEncoder": _GATED,
    "JumpReluAutoEncoder": _PLAIN,
    "AutoEncoderTopK": (*_LINEAR, "b_dec d"),
    "BatchTopKSAE": (*_LINEAR, "b_dec d"),
    "MatryoshkaBatchTopKSAE": _PLAIN,
}
_ENCODE_X_ITSELF = "AutoEncoderNew", "JumpReluAutoEncoder"
"""The other classes encode x - b_dec."""
_SIGNS = {
    "gate_bias": "GatedAutoEncoder",
    "group_sizes": "MatryoshkaBatchTopKSAE",
    "W_enc": "JumpReluAutoEncoder",
    "decoder.bias": "AutoEncoderNew",
    "bias": "AutoEncoder",
}
"""What a class alone holds; TopK and BatchTopK save the same tensors."""
_SUBMODULES = {
    "resid_post": "blocks.{}.hook_resid_post",
    "mlp_out": "blocks.{}.mlp.hook_out",
    "attention_out": "blocks.{}.attn.hook_out",
}
_NORMALISATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}


def recognise(path: Path) -> bool:
    """A .pt file of such tensors, or a folder with ae.pt, or whose config.json is of its kind."""
    if path.is_file():
        return path.suffix == ".pt" and _recognised_file(path)
    config = config_at(path / CONFIG)
    hub = {"activation_dim", "dict_size"} <= config.keys()
    return (path / WEIGHTS).is_file() or hub or isinstance(config.get("trainer"), dict)


def _recognised_file(path: Path) -> bool:
    try:
        names = {name.removeprefix("_orig_mod.") for name in read_weights(path)}
    except CrossproofError:
        return True  # `read` says what is wrong with it
    return "encoder.weight" in names or {"W_enc", "b_enc", "W_dec", "b_dec"} <= names


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary of the folder or file.

    Raises CrossproofError for a missing or damaged file, a class it does not know, decoupled
    codes, or a threshold that training never set.
    """
    config, file = _config_of_checkpoint(path), path
    if path.is_dir():
        config = read_config(path / CONFIG, optional=True)
        hub = (path / HUB_WEIGHTS).is_file() and not (path / WEIGHTS).is_file()
        file = path / (HUB_WEIGHTS if hub else WEIGHTS)
    save = Save(path, file, config)
    save.tensors = {n.removeprefix("_orig_mod."): t for n, t in save.tensors.items()}
    kind = config.mapping("trainer").text("dict_class") or config.text("dict_class")
    crossing = save.tensors.get("encoder.weight", torch.empty(0)).dim() == 3
    return [_unnormalised((_crosscoder if crossing else _autoencoder)(save, kind), save.tensors)]


def _config_of_checkpoint(path: Path) -> Config:
    """Of checkpoints/ae_STEP.pt, the configuration of the training they are of; else nothing."""
    beside = path.parent.parent / CONFIG
    if path.parent.name == "checkpoints" and "trainer" in config_at(beside):
        return read_config(beside)
    return Config({}, path)


def _autoencoder(save: Save, kind: str | None) -> ForeignDictionary:
    kind = kind or next((kind for name, kind in _SIGNS.items() if name in save.tensors), None)
    if kind is None:
        raise CrossproofError(
            f"Which dictionary class {save.file} holds cannot be told from its tensors: put its "
            f"{CONFIG} beside it, whose trainer.dict_class says so."
        )
    if kind not in _CLASSES:
        raise CrossproofError(
            f"{save.file} holds the dictionary class {kind!r}, which is not imported."
        )
    W_enc, b_enc, W_dec, b_dec = save.take(*_CLASSES[kind])
    rule: dict[str, Any] = {"rule": "jumprelu"}
    if kind == "GatedAutoEncoder":
        scale, b_enc, rule["threshold"] = ungated(
            *save.take("gate_bias h", "mag_bias h", "r_mag h")
        )
        W_enc = W_enc * scale[:, None]
    elif kind == "JumpReluAutoEncoder":
        (rule["threshold"],) = save.take("threshold h")
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        rule["threshold"] = torch.full_like(b_enc, _threshold(save))
    elif kind == "AutoEncoderTopK":
        rule = {"rule": "topk", "k": _k(save)}
    else:
        rule = {"rule": "relu"}
    trainer = save.config.mapping("trainer")
    less_bias = kind not in _ENCODE_X_ITSELF
    more = rule | {"layer": trainer.whole("layer"), "less_decoder_bias": less_bias}
    return save.dictionary((_hook(trainer),), kind, W_enc, b_enc, W_dec, b_dec, **more)


def _k(save: Save) -> int:
    save.optional("threshold")  # of a rule that is an option of the library's encoder
    k = save.whole("k")
    said = save.config.mapping("trainer").whole("k")
    if said not in (None, k):
        raise CrossproofError(
            f"{save.path} has k = {k}, and its {CONFIG} gives {said}: put the configuration and "
            f"the weights of one dictionary together."
        )
    return k


def _hook(trainer: Config) -> str | None:
    """The hookpoint, from names like `resid_post_layer_8`; a layer alone is none.

    The name is the trainer's to choose: hookpoints themselves (`blocks.8.hook_resid_pre`), and
    those that our exports write (`hook_resid_pre_layer_8`), are taken too.
    """
    name = trainer.text("submodule_name") or ""
    if re.fullmatch(r"blocks\.[0-9]+\.(\w+\.)*hook_\w+", name):
        return name
    named = re.fullmatch(r"([\w.]+?)_layer_([0-9]+)", name)
    if named is None:
        return None
    itself = f"blocks.{{}}.{named[1]}" if re.match(r"(\w+\.)*hook_", named[1]) else None
    hook = _SUBMODULES.get(named[1], itself)
    return hook and hook.format(named[2])


def _threshold(save: Save) -> float:
    threshold = save.scalar("threshold")
    if threshold < 0:
        raise CrossproofError(
            f"The threshold in {save.file} was never set (training stopped before it was "
            f"estimated), so its code depends on the batch: train on, or set the threshold."
        )
    return threshold


def _crosscoder(save: Save, kind: str | None) -> ForeignDictionary:
    W_enc, b_enc = save.take("encoder.weight p d h", "encoder.bias h")
    W_dec, b_dec = save.take("decoder.weight p h d", "decoder.bias p d")
    read, written = W_enc.shape[1], len(b_dec)
    order = save.config.get("encoder_layers") or [*range(read)]
    if read != written or order != [*range(read)]:
        raise CrossproofError(
            f"{save.file} reads {read} layers and writes {written}, or reads them in another "
            f"order: give one that reads what it writes."
        )
    named = "code_normalization_id" in save.tensors
    identity = int(save.scalar("code_normalization_id")) if named else 1
    if identity not in (1, 2, 3, 4):
        name = _NORMALISATIONS.get(identity, str(identity))
        raise CrossproofError(
            f"{save.path} has {name} codes, one activation a layer and latent: a crosscoder's "
            f"latents have one activation each."
        )
    rule: dict[str, Any] = {}
    if "k" in save.tensors:
        norm = _code_norm(_NORMALISATIONS[identity], W_dec, save)
        # a latent without a decoder is never above its threshold in the library either
        threshold = torch.where(norm > 0, _threshold(save) / norm, torch.inf)
        rule = {"rule": "jumprelu", "threshold": threshold}
    kind = kind or ("BatchTopKCrossCoder" if rule else "CrossCoder")
    hooks = save.config.get("hookpoints")  # which our exports name, the library does not
    if not isinstance(hooks, list) or len(hooks) != written or {*map(type, hooks)} != {str}:
        hooks = [None] * written
    return save.dictionary(tuple(hooks), kind, W_enc, b_enc, W_dec, b_dec, **rule)


def _code_norm(name: str, W_dec: Tensor, save: Save) -> Tensor:
    """[H]: BatchTopK compares its threshold with activations times this."""
    sae: Tensor = W_dec.norm(dim=(1, 2))
    crosscoder: Tensor = W_dec.norm(dim=2).sum(1)
    if name == "MIXED":
        names = (f"code_normalization_alpha_{part}" for part in ("sae", "cc"))
        together, apart = map(save.config.number, names)
        if together is None or apart is None:
            raise CrossproofError(
                f"{save.path} mixes two code normalisations, and no {CONFIG} beside it gives "
                f"code_normalization_alpha_sae and code_normalization_alpha_cc: add them."
            )
        return sae * together + crosscoder * apart
    return {"CROSSCODER": crosscoder, "SAE": sae, "NONE": torch.ones_like(sae)}[name]


def _unnormalised(foreign: ForeignDictionary, tensors: Mapping[str, Tensor]) -> ForeignDictionary:
    """The dictionary of raw activations, where the saved one is of (x - mean) * scale."""
    names = "activation_mean", "activation_std", "activation_global_scale"
    mean, std, scale = (tensors.get(name) for name in names)
    if mean is None or std is None or scale is None or mean.isnan().any() or std.isnan().any():
        return foreign  # as the library decides it
    points = len(foreign.b_dec)
    fits = mean.numel() == foreign.b_dec.numel() and scale.numel() in (1, points)
    if not (fits and mean.is_floating_point() and scale.is_floating_point()):
        raise CrossproofError(
            f"The tensors in {foreign.source} do not fit each other: {names[0]} has shape "
            f"{list(mean.shape)}, {names[2]} {list(scale.shape)}, decoder biases "
            f"{list(foreign.b_dec.shape)}."
        )
    mean = mean.reshape(foreign.b_dec.shape)
    scale = scale.reshape(-1, 1).expand(points, 1)
    W_enc, back = foreign.W_enc * scale, scale + 1e-8  # the library's way back
    return replace(
        foreign,
        W_enc=W_enc,
        b_enc=foreign.b_enc - torch.einsum("hpd,pd->h", W_enc, mean),
        W_dec=foreign.W_dec / back,
        b_dec=foreign.b_dec / back + mean,
    )

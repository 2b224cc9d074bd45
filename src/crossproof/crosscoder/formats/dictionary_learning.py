"""dictionary_learning: `ae.pt` with `config.json`, and its crosscoders, local or from the Hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import config_at, read_weights, take
from crossproof.crosscoder.formats.foreign import (
    ForeignDictionary,
    autoencoder,
    less_decoder_bias,
    ungated,
)
from crossproof.errors import CrossproofError

CONFIG, WEIGHTS, HUB_WEIGHTS = "config.json", "ae.pt", "model.safetensors"
_SUBMODULES = {
    "resid_post": "blocks.{}.hook_resid_post",
    "mlp_out": "blocks.{}.mlp.hook_out",
    "attention_out": "blocks.{}.attn.hook_out",
}
_NORMALISATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}


def recognise(path: Path) -> bool:
    """A .pt file of such tensors, or a folder with ae.pt, or whose config.json is of its kind."""
    if path.is_file():
        return path.suffix == ".pt" and _ours(read_weights(path))
    config = config_at(path / CONFIG)
    trainer = config.get("trainer")
    hub = {"activation_dim", "dict_size"} <= config.keys()
    return (path / WEIGHTS).is_file() or hub or isinstance(trainer, dict)


def _ours(tensors: Mapping[str, Tensor]) -> bool:
    names = {name.removeprefix("_orig_mod.") for name in tensors}
    return "encoder.weight" in names or {"W_enc", "b_enc", "W_dec", "b_dec"} <= names


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary of the folder or file.

    Raises CrossproofError for a missing or damaged file, a class it does not know, decoupled
    codes, or a threshold that training never set.
    """
    config = config_at(path / CONFIG) if path.is_dir() else {}
    weights = path
    if path.is_dir():
        hub = (path / HUB_WEIGHTS).is_file() and not (path / WEIGHTS).is_file()
        weights = path / (HUB_WEIGHTS if hub else WEIGHTS)
    tensors = {n.removeprefix("_orig_mod."): t for n, t in read_weights(weights).items()}
    trainer = config.get("trainer", {})
    kind = trainer.get("dict_class") or config.get("dict_class") or _kind(tensors, weights)
    about = {"architecture": kind, "config": config}
    if tensors.get("encoder.weight", torch.empty(0)).dim() == 3:
        foreign = _crosscoder(tensors, weights, config, about)
    else:
        foreign = _autoencoder(kind, tensors, weights, trainer, about)
    return [_unnormalised(foreign, tensors)]


def _kind(tensors: Mapping[str, Tensor], path: Path) -> str:
    """The class, from what each alone holds; TopK and BatchTopK save the same tensors."""
    if "encoder.weight" in tensors and tensors["encoder.weight"].dim() == 3:
        return "BatchTopKCrossCoder" if "k" in tensors else "CrossCoder"
    signs = {
        "gate_bias": "GatedAutoEncoder",
        "group_sizes": "MatryoshkaBatchTopKSAE",
        "W_enc": "JumpReluAutoEncoder",
        "decoder.bias": "AutoEncoderNew",
        "bias": "AutoEncoder",
    }
    found = next((kind for name, kind in signs.items() if name in tensors), None)
    if found is None:
        raise CrossproofError(
            f"Which dictionary class {path} holds cannot be told from its tensors: put its "
            f"{CONFIG} beside it, whose trainer.dict_class says so."
        )
    return found


def _autoencoder(
    kind: str, tensors: dict[str, Tensor], path: Path, trainer: Mapping[str, Any], about: Any
) -> ForeignDictionary:
    hook, layer = _hook(trainer)

    def made(names: tuple[str, str, str, str], **more: Any) -> ForeignDictionary:
        W_enc, b_enc, W_dec, b_dec = take(tensors, path, *names)
        wide = W_enc.T if names[0] == "W_enc" else W_enc
        rows = W_dec if names[2] == "W_dec" else W_dec.T
        return autoencoder(
            str(path), hook, wide, b_enc, rows, b_dec, layer=layer, about=about, **more
        )

    linear = "encoder.weight", "encoder.bias", "decoder.weight"
    plain = "W_enc", "b_enc", "W_dec", "b_dec"
    match kind:
        case "AutoEncoder":
            return less_decoder_bias(made((*linear, "bias")))
        case "AutoEncoderNew":
            return made((*linear, "decoder.bias"))
        case "AutoEncoderTopK":
            (k,) = take(tensors, path, "k")
            return less_decoder_bias(made((*linear, "b_dec"), rule="topk", k=int(k)))
        case "BatchTopKSAE" | "MatryoshkaBatchTopKSAE":
            names = (*linear, "b_dec") if kind == "BatchTopKSAE" else plain
            threshold = _set_threshold(tensors, path)
            width = len(tensors[names[1]]) if names[1] in tensors else 0
            more = {"rule": "jumprelu", "threshold": threshold.expand(width)}
            return less_decoder_bias(made(names, **more))
        case "JumpReluAutoEncoder":
            (threshold,) = take(tensors, path, "threshold")
            return made(plain, rule="jumprelu", threshold=threshold)
        case "GatedAutoEncoder":
            parts = take(tensors, path, "gate_bias", "mag_bias", "r_mag")
            scale, b_enc, threshold = ungated(*parts)
            (W_enc,) = take(tensors, path, "encoder.weight")
            tensors |= {"encoder.weight": W_enc * scale[:, None], "encoder.bias": b_enc}
            more = {"rule": "jumprelu", "threshold": threshold}
            return less_decoder_bias(made((*linear, "decoder_bias"), **more))
    raise CrossproofError(f"{path} holds the dictionary class {kind!r}, which is not imported.")


def _hook(trainer: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Hookpoint and layer, from names like `resid_post_layer_8`; a layer alone says no place."""
    layer = trainer.get("layer")
    named = re.fullmatch(r"(\w+?)_layer_(\d+)", str(trainer.get("submodule_name")))
    if named and named[1] in _SUBMODULES:
        return _SUBMODULES[named[1]].format(named[2]), int(named[2])
    return None, layer if isinstance(layer, int) else None


def _set_threshold(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    (threshold,) = take(tensors, path, "threshold")
    if threshold.numel() != 1 or threshold < 0:
        raise CrossproofError(
            f"The threshold in {path} was never set (training stopped before it was estimated), "
            f"so its code depends on the batch: train on, or set the threshold."
        )
    return threshold.reshape(1)


def _crosscoder(
    tensors: dict[str, Tensor], path: Path, config: Mapping[str, Any], about: Any
) -> ForeignDictionary:
    names = "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"
    W_enc, b_enc, W_dec, b_dec = take(tensors, path, *names)
    layers = config.get("encoder_layers") or list(range(len(W_dec)))
    if len(W_enc) != len(W_dec) or layers != list(range(len(W_dec))):
        raise CrossproofError(
            f"{path} reads {len(W_enc)} layers and writes {len(W_dec)}, or reads them in another "
            f"order: give one that reads what it writes."
        )
    identity = int(tensors.get("code_normalization_id", torch.tensor(1)))
    if identity not in (1, 2, 3, 4):
        name = _NORMALISATIONS.get(identity, str(identity))
        raise CrossproofError(
            f"{path} has {name} codes, one activation a layer and latent: a crosscoder's latents "
            f"have one activation each."
        )
    more: dict[str, Any] = {}
    if "k" in tensors:
        norm = _code_norm(_NORMALISATIONS[identity], W_dec, config, path)
        threshold = _set_threshold(tensors, path) / norm
        # 0 / 0: a latent without a decoder is never above its threshold in the library either
        more = {"rule": "jumprelu", "threshold": threshold.nan_to_num(nan=torch.inf)}
    return ForeignDictionary(
        str(path),
        (None,) * len(b_dec),
        W_enc.permute(2, 0, 1),
        W_dec.permute(1, 0, 2),
        b_enc,
        b_dec,
        about=about,
        **more,
    )


def _code_norm(name: str, W_dec: Tensor, config: Mapping[str, Any], path: Path) -> Tensor:
    """[H]: BatchTopK compares its threshold with activations times this."""
    sae: Tensor = W_dec.norm(dim=(0, 2))
    crosscoder: Tensor = W_dec.norm(dim=2).sum(0)
    if name == "MIXED":
        alphas = [config.get(f"code_normalization_alpha_{part}") for part in ("sae", "cc")]
        if None in alphas:
            raise CrossproofError(
                f"{path} mixes two code normalisations, and no {CONFIG} beside it gives "
                f"code_normalization_alpha_sae and code_normalization_alpha_cc: add them."
            )
        return sae * float(alphas[0] or 0) + crosscoder * float(alphas[1] or 0)
    return {"CROSSCODER": crosscoder, "SAE": sae, "NONE": torch.ones_like(sae)}[name]


def _unnormalised(foreign: ForeignDictionary, tensors: Mapping[str, Tensor]) -> ForeignDictionary:
    """The dictionary of raw activations, where the saved one is of (x - mean) * scale."""
    names = "activation_mean", "activation_std", "activation_global_scale"
    mean, std, scale = (tensors.get(name) for name in names)
    if mean is None or std is None or scale is None or mean.isnan().any() or std.isnan().any():
        return foreign  # as the library decides it
    mean = mean.reshape(foreign.b_dec.shape)
    scale = scale.reshape(-1, 1).expand(len(mean), 1)
    W_enc, back = foreign.W_enc * scale, scale + 1e-8  # the library's way back
    return replace(
        foreign,
        W_enc=W_enc,
        b_enc=foreign.b_enc - torch.einsum("hpd,pd->h", W_enc, mean),
        W_dec=foreign.W_dec / back,
        b_dec=foreign.b_dec / back + mean,
    )

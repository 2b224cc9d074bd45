"""crosscode, and the interaction paper's own crosscoders: `model.pt` with `model_cfg.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crossproof.crosscoder.formats.files import read_config
from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.save import Save
from crossproof.errors import CrossproofError

CONFIG, WEIGHTS = "model_cfg.yaml", "model.pt"
_SKIP, _FACTORS = "W_skip_XdXd", "folded_scaling_factors"
_OLDER = {
    "W_enc_XDH": "_W_enc_XiDiL",
    "W_dec_HXD": "_W_dec_LXoDo",
    "b_enc_H": "b_enc_L",
    "b_dec_XD": "_b_dec_XoDo",
    "folded_scaling_factors_X": _FACTORS,
    "folded_scaling_factors_out_Xo": _FACTORS,
}
_SIGNED = {"topk": ("k",), "groupmax": ("k_groups", "n_groups", "k")}
"""Beginnings of activation functions without ReLU, and what their settings call k."""


def recognise(path: Path) -> bool:
    """A folder with model_cfg.yaml."""
    return (path / CONFIG).is_file()


def read(path: Path) -> list[ForeignDictionary]:
    """The one crosscoder of the folder; its hookpoints are nowhere in it.

    Raises CrossproofError for a missing or damaged file, several models, unfolded scales, and
    activation functions that depend on the batch.
    """
    save = Save(path, path / WEIGHTS, read_config(path / CONFIG))
    save.tensors = {_OLDER.get(name, name): tensor for name, tensor in save.tensors.items()}
    W_enc, W_dec = save.take("_W_enc_XiDiL m p d h", "_W_dec_LXoDo h m p d")
    models, width, points, d_model = W_dec.shape
    if models != 1:
        raise CrossproofError(
            f"{path} is a crosscoder of {models} models: crossproof imports those of one."
        )
    if "is_folded" not in save.tensors or not save.scalar("is_folded"):
        raise CrossproofError(
            f"{path} reads scaled activations, the scale not folded into its weights: save it "
            f"with its scaling factors folded."
        )
    save.tensors.setdefault("b_enc_L", torch.zeros(width))
    save.tensors.setdefault("_b_dec_XoDo", torch.zeros(1, points, d_model))
    _, b_enc, b_dec = save.take("_W_dec_LXoDo h m p d", "b_enc_L h", "_b_dec_XoDo m p d")
    rule, name = _rule(save)
    rule |= _skips(save, points, d_model)
    return [save.dictionary((None,) * points, name, W_enc[0], b_enc, W_dec[0], b_dec[0], **rule)]


def _skips(save: Save, points: int, d_model: int) -> dict[str, Any]:
    """Of a save with `skip_linear`: from every hookpoint to every other, side by side.

    The library folds scaling factors into all weights but these, which is right only where every
    hookpoint has the same factor.
    """
    if _SKIP not in save.tensors or not bool(save.tensors[_SKIP].any()):
        return {"skips": {}}
    (whole,) = save.take(f"{_SKIP} d e")
    factors = save.tensors.get(_FACTORS)
    if factors is None or not torch.allclose(factors, factors.flatten()[:1]):
        raise CrossproofError(
            f"{save.path} has a linear skip between hookpoints of different scaling factors, which "
            f"its library folds into all weights but the skip's: it is not what was trained."
        )
    if whole.shape != (points * d_model, points * d_model):
        raise CrossproofError(
            f"{_SKIP} in {save.file} has shape {list(whole.shape)}, not that of {points} "
            f"hookpoints of width {d_model} each way."
        )
    blocks = whole.unflatten(0, (points, -1)).unflatten(2, (points, -1))
    pairs = [(p, q) for p in range(points) for q in range(points)]
    return {"skips": {(p, q): blocks[p, :, q] for p, q in pairs if bool(blocks[p, :, q].any())}}


def _rule(save: Save) -> tuple[dict[str, Any], str]:
    name = save.config.mapping("activation_fn").text("classname")
    name = name or save.config.text("hidden_activation_classname") or "None"
    if "JumpReLU" in name:
        logs = [f"{key} h" for key in save.tensors if "log_threshold" in key]
        if len(logs) != 1:
            raise CrossproofError(f"{save.file} holds no log_threshold, as {name!r} needs.")
        (log_threshold,) = save.take(*logs)
        return {"rule": "jumprelu", "threshold": log_threshold.exp()}, name
    if name in ("ReLU", "ReLUActivation", "ReluActivation"):
        return {"rule": "relu"}, name
    settings = save.config.mapping("activation_fn").mapping("cfg")
    settings = settings or save.config.mapping("hidden_activation_cfg")
    for begins, keys in _SIGNED.items():
        k = next((k for key in keys if (k := settings.whole(key)) is not None), None)
        if name.lower().startswith(begins) and k is not None:
            number = {"k": 1, "groups": k} if begins == "groupmax" else {"k": k}
            return {"rule": "signed_topk", **number}, name
    raise CrossproofError(
        f"{save.path} has the activation function {name!r}, which depends on the batch or lacks "
        f"its k: crossproof imports ReLU, JumpReLU, TopK and GroupMax."
    )

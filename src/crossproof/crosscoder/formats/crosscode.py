"""crosscode, and the interaction paper's own crosscoders: `model.pt` with `model_cfg.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import read_weights, read_yaml, take
from crossproof.crosscoder.formats.foreign import ForeignDictionary, refuse_skip
from crossproof.errors import CrossproofError

CONFIG, WEIGHTS = "model_cfg.yaml", "model.pt"
_OLDER = {
    "W_enc_XDH": "_W_enc_XiDiL",
    "W_dec_HXD": "_W_dec_LXoDo",
    "b_enc_H": "b_enc_L",
    "b_dec_XD": "_b_dec_XoDo",
}


def recognise(path: Path) -> bool:
    """A folder with model_cfg.yaml."""
    return (path / CONFIG).is_file()


def read(path: Path) -> list[ForeignDictionary]:
    """The one crosscoder of the folder; its hookpoints are nowhere in it.

    Raises CrossproofError for a missing or damaged file, several models, unfolded scales, and
    activation functions whose latents may be negative or depend on the batch.
    """
    config = read_yaml(path / CONFIG)
    raw = read_weights(path / WEIGHTS)
    refuse_skip(str(path), raw.get("W_skip_XdXd"))
    tensors = {_OLDER.get(name, name): tensor for name, tensor in raw.items()}
    W_enc, W_dec = take(tensors, path / WEIGHTS, "_W_enc_XiDiL", "_W_dec_LXoDo")
    _check(path, tensors, W_enc, W_dec)
    width, (places, d_model) = len(W_dec), W_dec.shape[2:]
    b_enc = tensors.get("b_enc_L", torch.zeros(width))
    b_dec = tensors.get("_b_dec_XoDo", torch.zeros(1, places, d_model))
    rule, name = _rule(path, config, tensors)
    return [
        ForeignDictionary(
            str(path),
            (None,) * places,
            W_enc[0].permute(2, 0, 1),
            W_dec[:, 0],
            b_enc,
            b_dec[0],
            about={"architecture": name, "config": config},
            **rule,
        )
    ]


def _check(path: Path, tensors: dict[str, Tensor], W_enc: Tensor, W_dec: Tensor) -> None:
    if W_enc.dim() != 4 or W_dec.dim() != 4:
        raise CrossproofError(
            f"{path} is not a crosscoder over models and hookpoints (its encoder has "
            f"{W_enc.dim()} dimensions, not 4): not imported."
        )
    if W_dec.shape[1] != 1:
        raise CrossproofError(
            f"{path} is a crosscoder of {W_dec.shape[1]} models: crossproof imports those of one."
        )
    if not bool(tensors.get("is_folded", torch.tensor(False))):
        raise CrossproofError(
            f"{path} reads scaled activations, the scale not folded into its weights: save it "
            f"with its scaling factors folded."
        )


def _rule(
    path: Path, config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], str]:
    name = (config.get("activation_fn") or {}).get("classname")
    name = str(name or config.get("hidden_activation_classname"))
    if "JumpReLU" in name:
        found = [tensor for key, tensor in tensors.items() if "log_threshold" in key]
        if len(found) != 1:
            raise CrossproofError(f"{path / WEIGHTS} holds no log_threshold, as {name} needs.")
        return {"rule": "jumprelu", "threshold": found[0].exp()}, name
    if name in ("ReLU", "ReLUActivation", "ReluActivation"):
        return {"rule": "relu"}, name
    raise CrossproofError(
        f"{path} has the activation function {name}, which keeps the largest pre-activations even "
        f"where they are negative, or depends on the batch: crossproof imports ReLU and JumpReLU."
    )

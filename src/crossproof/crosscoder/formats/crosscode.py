"""crosscode, and the interaction paper's own crosscoders: `model.pt` with `model_cfg.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossproof.crosscoder.formats.files import Config, read_config, read_weights, scalar, take
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
    config, file = read_config(path / CONFIG), path / WEIGHTS
    saved = read_weights(file)
    refuse_skip(str(path), saved.get("W_skip_XdXd"))
    tensors = {_OLDER.get(name, name): tensor for name, tensor in saved.items()}
    W_enc, W_dec = take(tensors, file, "_W_enc_XiDiL m p d h", "_W_dec_LXoDo h m p d")
    models, width, points, d_model = W_dec.shape
    if models != 1:
        raise CrossproofError(
            f"{path} is a crosscoder of {models} models: crossproof imports those of one."
        )
    if "is_folded" not in tensors or not scalar(tensors, file, "is_folded"):
        raise CrossproofError(
            f"{path} reads scaled activations, the scale not folded into its weights: save it "
            f"with its scaling factors folded."
        )
    without = {"b_enc_L": torch.zeros(width), "_b_dec_XoDo": torch.zeros(1, points, d_model)}
    names = "_W_dec_LXoDo h m p d", "b_enc_L h", "_b_dec_XoDo m p d"
    _, b_enc, b_dec = take(without | tensors, file, *names)
    rule, name = _rule(config, tensors, path)
    hooks, about = (None,) * points, config.about(name)
    return [
        ForeignDictionary(
            str(path), hooks, W_enc[0], W_dec[0], b_enc, b_dec[0], **rule, about=about
        )
    ]


def _rule(config: Config, tensors: dict[str, Tensor], path: Path) -> tuple[dict[str, Any], str]:
    name = config.mapping("activation_fn").text("classname")
    name = name or config.text("hidden_activation_classname") or "None"
    if "JumpReLU" in name:
        logs = [f"{key} h" for key in tensors if "log_threshold" in key]
        if len(logs) != 1:
            raise CrossproofError(f"{path / WEIGHTS} holds no log_threshold, as {name!r} needs.")
        (log_threshold,) = take(tensors, path / WEIGHTS, *logs)
        return {"rule": "jumprelu", "threshold": log_threshold.exp()}, name
    if name in ("ReLU", "ReLUActivation", "ReluActivation"):
        return {"rule": "relu"}, name
    raise CrossproofError(
        f"{path} has the activation function {name!r}, which keeps the largest pre-activations "
        f"even where they are negative, or depends on the batch: crossproof imports ReLU and "
        f"JumpReLU."
    )

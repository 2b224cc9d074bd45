"""Gemma Scope: `params.npz`, and `params.safetensors` with `config.json` (the second release)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crossproof.crosscoder.formats.files import Config, read_config
from crossproof.crosscoder.formats.foreign import HEADS, INPUT_OF, ForeignDictionary
from crossproof.crosscoder.formats.paths import path_layer
from crossproof.crosscoder.formats.save import Save
from crossproof.errors import CrossproofError

NAMES = ("params.npz", "params.safetensors")
FIRST, SPLIT = "params_layer_0.safetensors", re.compile(r"params_layer_\d+\.safetensors")
"""Of crosscoders and cross-layer transcoders, a file a layer."""
_FOLDERS = {
    "resid_post": ("blocks.{}.hook_resid_post",),
    "attn_out": ("blocks.{}.attn.hook_z",),
    "mlp_out": ("blocks.{}.hook_mlp_out",),
    "transcoder": ("blocks.{}.mlp.hook_in", "blocks.{}.hook_mlp_out"),
}
"""What the second release calls its folders, with or without `_all`."""


def _file(path: Path) -> Path | None:
    if path.is_file():
        known = path.suffix in (".npz", ".npy") or path.name in NAMES or SPLIT.fullmatch(path.name)
        return path if known else None
    return next((path / name for name in (*NAMES, FIRST) if (path / name).is_file()), None)


def recognise(path: Path) -> bool:
    """An .npz file (or one that is called .npy), params.safetensors, params_layer_N.safetensors, or
    a folder with one."""
    return _file(path) is not None


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary; whether SAE or transcoder, the hookpoints given later say.

    Raises CrossproofError for a damaged file, or other tensors.
    """
    file = _file(path)
    if file is None:
        raise CrossproofError(f"{path / NAMES[0]} is missing: the folder is not complete.")
    if SPLIT.fullmatch(file.name):
        raise CrossproofError(
            f"{path} is a crosscoder or cross-layer transcoder of the second release, a file a "
            f"layer, which whole would take hundreds of gigabytes: import SAEs or per-layer "
            f"transcoders."
        )
    save = Save(path, file, read_config(file.parent / "config.json", optional=True))
    save.tensors = {name.replace("w_", "W_"): tensor for name, tensor in save.tensors.items()}
    if "W_dec" in save.tensors and save.tensors["W_dec"].dim() == 3:
        raise CrossproofError(
            f"{path} is one layer of a cross-layer transcoder, which as a crosscoder of all layers "
            f"would take hundreds of gigabytes: import per-layer transcoders."
        )
    names = "W_enc d h", "b_enc h", "W_dec h e", "b_dec e", "threshold h"
    W_enc, b_enc, W_dec, b_dec, threshold = save.take(*names)
    hooks = _hooks(save.config, file)
    more: dict[str, Any] = {"rule": "jumprelu", "threshold": threshold, "either": hooks == (None,)}
    more |= save.skip("affine_skip_connection d e", len(hooks))
    return [save.dictionary(hooks, "jumprelu", W_enc, b_enc, W_dec, b_dec, **more)]


def _hooks(config: Config, file: Path) -> tuple[str | None, ...]:
    """Where the second release's configuration says that it reads and writes, or its folder."""
    layer = path_layer(file)
    sides = [config.text(f"hf_hook_point_{side}") for side in ("in", "out")]
    if sides[0] is not None:
        return tuple(dict.fromkeys(_hook(side) for side in sides if side is not None))
    folders = [kind for part in file.parts if (kind := part.removesuffix("_all")) in _FOLDERS]
    if layer is None or not folders or file.suffix != ".safetensors":
        return (None,)
    return tuple(hook.format(layer) for hook in _FOLDERS[folders[-1]])


def _hook(module: str) -> str:
    """`model.layers.3.mlp.output` in the spelling of the other formats."""
    path, _, side = module.rpartition(".")
    heads = re.fullmatch(r"(?:\w+\.)*layers\.(\d+)\.self_attn\.o_proj", path)
    if heads and side == "input":
        return f"blocks.{heads[1]}.{HEADS}"
    return f"{INPUT_OF}{path}" if side == "input" else path

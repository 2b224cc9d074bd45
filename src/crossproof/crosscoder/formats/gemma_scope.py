"""Gemma Scope: `params.npz`, and `params.safetensors` with `config.json` (the second release)."""

from __future__ import annotations

import re
from pathlib import Path

from crossproof.crosscoder.formats.files import config_at, read_weights, take
from crossproof.crosscoder.formats.foreign import ForeignDictionary, autoencoder, refuse_skip
from crossproof.errors import CrossproofError

NAMES = ("params.npz", "params.safetensors")


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".npz" or path.name in NAMES else None
    return next((path / name for name in NAMES if (path / name).is_file()), None)


def recognise(path: Path) -> bool:
    """An .npz file, params.safetensors, or a folder that holds one."""
    return _file(path) is not None


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary; whether SAE or transcoder, the hookpoints given later say.

    Raises CrossproofError for a damaged file, other tensors, or a linear skip.
    """
    file = _file(path)
    if file is None:
        raise CrossproofError(f"{path / NAMES[0]} is missing: the folder is not complete.")
    found = read_weights(file)
    tensors = {name.replace("w_", "W_"): tensor for name, tensor in found.items()}
    refuse_skip(str(path), tensors.get("affine_skip_connection"))
    names = "W_enc", "b_enc", "W_dec", "b_dec", "threshold"
    W_enc, b_enc, W_dec, b_dec, threshold = take(tensors, file, *names)
    config = config_at(file.parent / "config.json")
    layer = re.search(r"layer_(\d+)", str(file.resolve()))
    return [
        autoencoder(
            str(path),
            None,
            W_enc.T,
            b_enc,
            W_dec,
            b_dec,
            rule="jumprelu",
            threshold=threshold,
            layer=int(layer[1]) if layer else None,
            either=True,
            about={"architecture": "jumprelu", "config": config},
        )
    ]

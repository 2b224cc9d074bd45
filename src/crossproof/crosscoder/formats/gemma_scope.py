"""Gemma Scope: `params.npz`, and `params.safetensors` with `config.json` (the second release)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossproof.crosscoder.formats.files import read_config
from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.save import Save
from crossproof.errors import CrossproofError

NAMES = ("params.npz", "params.safetensors")


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix in (".npz", ".npy") or path.name in NAMES else None
    return next((path / name for name in NAMES if (path / name).is_file()), None)


def recognise(path: Path) -> bool:
    """An .npz file (or one that is called .npy), params.safetensors, or a folder with either."""
    return _file(path) is not None


def read(path: Path) -> list[ForeignDictionary]:
    """The one dictionary; whether SAE or transcoder, the hookpoints given later say.

    Raises CrossproofError for a damaged file, or other tensors.
    """
    file = _file(path)
    if file is None:
        raise CrossproofError(f"{path / NAMES[0]} is missing: the folder is not complete.")
    save = Save(path, file, read_config(file.parent / "config.json", optional=True))
    save.tensors = {name.replace("w_", "W_"): tensor for name, tensor in save.tensors.items()}
    names = "W_enc d h", "b_enc h", "W_dec h e", "b_dec e", "threshold h"
    W_enc, b_enc, W_dec, b_dec, threshold = save.take(*names)
    more: dict[str, Any] = {"rule": "jumprelu", "threshold": threshold, "either": True}
    more |= save.skip("affine_skip_connection d e", 1)
    return [save.dictionary((None,), "jumprelu", W_enc, b_enc, W_dec, b_dec, **more)]

"""Reading what other libraries wrote: safetensors, npz, JSON, YAML, and pickles by torch alone."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.files import read_json, read_tensors

__all__ = ["config_at", "read_json", "read_weights", "read_yaml", "take"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .npz, .pt or .pth file, floating ones as float32.

    Pickled files are read by `torch.load(weights_only=True)`, which runs no code of theirs.
    Raises CrossproofError if the file is missing, truncated, or holds anything but tensors.
    """
    if not path.is_file():
        raise CrossproofError(f"{path} is missing: the folder is not complete.")
    readers = {".npz": _read_npz, ".pt": _read_pickle, ".pth": _read_pickle}
    tensors = readers.get(path.suffix, read_tensors)(path)
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CrossproofError(
            f"{path} is damaged or not an npz file ({error}): fetch it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise CrossproofError(
            f"{path} is damaged, or holds more than tensors and would have to run code to be "
            f"loaded ({reason}): save its state_dict alone."
        ) from error
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise CrossproofError(f"{path} is not a state_dict of tensors: save the state_dict alone.")
    return {str(name): value for name, value in content.items()}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values, and tuples as lists: some libraries write them with a Python tag."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of plain values; CrossproofError if it is missing or damaged."""
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError as error:
        raise CrossproofError(f"{path} is missing: the folder is not complete.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).split("\n")[0]
        raise CrossproofError(f"{path} cannot be read ({reason}): restore it.") from error
    if not isinstance(content, dict):
        raise CrossproofError(f"{path} does not hold a YAML mapping: restore it.")
    return content


def config_at(path: Path) -> dict[str, Any]:
    """The JSON object at `path`, or an empty one if there is none that can be read."""
    try:
        return read_json(path)
    except CrossproofError:
        return {}


def take(tensors: Mapping[str, Tensor], source: Path, *names: str) -> list[Tensor]:
    """The named tensors; CrossproofError naming those that are missing."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CrossproofError(
            f"{source} lacks {', '.join(missing)} (it holds {', '.join(sorted(tensors))}): it is "
            f"not the dictionary its configuration describes."
        )
    return [tensors[name] for name in names]

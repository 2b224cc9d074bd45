"""Reading what other libraries wrote: tensors, and configurations of plain values."""

from __future__ import annotations

import json
import math
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.files import read_json, read_tensors, refuse_pointer

DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(pickle.PickleError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
    yaml.YAMLError,
)
"""What the parsers of other libraries raise on damaged bytes, as fuzzing them has shown."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .npz, .pt or .pth file, floating ones as float32.

    Pickled files are read by `torch.load(weights_only=True)`, which runs no code of theirs.
    Raises CrossproofError if the file is missing, damaged, or holds anything but dense real
    tensors.
    """
    if not path.is_file():
        raise CrossproofError(f"{path} is missing: the folder is not complete.")
    read, otherwise = _READERS.get(path.suffix[:3], _SAFETENSORS)
    try:
        refuse_pointer(path)
        tensors = read(path)
        _refuse_scaled(path, tensors)
        return {name: _dense(path, name, tensor) for name, tensor in tensors.items()}
    except DAMAGE as error:
        raise CrossproofError(f"{path} {otherwise}.") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        native = {name: arrays[name] for name in arrays.files}
        return {
            name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
            for name, array in native.items()
        }


_INSIDE = "sae"
"""Under this Llamascopium's .pt files keep the state_dict, beside the library's version."""


def _read_pickle(path: Path) -> dict[str, Tensor]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and isinstance(content.get(_INSIDE), Mapping):
        content = content[_INSIDE]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise CrossproofError(f"{path} is not a state_dict of tensors: save the state_dict alone.")
    return {str(name): value for name, value in content.items()}


def _refuse_scaled(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Eight-bit weights with scales beside them are numbers of another unit."""
    short_ones = (t.dtype.is_floating_point and t.dtype.itemsize == 1 for t in tensors.values())
    scale = next((name for name in tensors if "scale" in name.lower()), None)
    if scale is not None and any(short_ones):
        raise CrossproofError(
            f"{path} holds weights of eight bits and {short(scale)}, which they are multiplied by: "
            f"save them multiplied, in float32."
        )


def _dense(path: Path, name: str, tensor: Tensor) -> Tensor:
    usual = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta)
    if not usual or tensor.is_complex():
        raise CrossproofError(
            f"{short(name)} in {path} is a sparse, quantised, complex or meta tensor: save it "
            f"dense and real."
        )
    return tensor.detach().float() if tensor.is_floating_point() else tensor


_SAFETENSORS = read_tensors, "holds tensors of a kind that PyTorch cannot convert"
_READERS = {
    ".np": (_read_npz, "is damaged or not an npz file of numbers: fetch it again"),
    ".pt": (
        _read_pickle,
        "is damaged, or holds more than tensors and would have to run code to be loaded: fetch it "
        "again, or save its state_dict alone",
    ),
}
"""By the beginning of a suffix (.npz, .npy, .pt, .pth): how it is read, and what is wrong else."""


class Config(dict[str, Any]):
    """A configuration's plain values. What is null is absent; an entry of another kind than the
    one asked for raises CrossproofError."""

    def __init__(self, content: Mapping[str, Any], source: Path) -> None:
        super().__init__(content)
        self.source = source

    def mapping(self, key: str) -> Config:
        """The mapping under `key`, empty if absent."""
        return Config(self._typed(key, dict, "a mapping") or {}, self.source)

    def text(self, key: str) -> str | None:
        """The words under `key`."""
        return cast("str | None", self._typed(key, str, "words"))

    def whole(self, key: str) -> int | None:
        """The whole number under `key`."""
        return cast("int | None", self._typed(key, int, "a whole number"))

    def number(self, key: str) -> float | None:
        """The finite number under `key`."""
        value = self._typed(key, (int, float), "a finite number")
        if value is None or math.isfinite(float(str(value))):  # float() of a longer int overflows
            return None if value is None else float(value)
        raise self._error(key, value, "a finite number")

    def flag(self, key: str, otherwise: bool = False) -> bool:
        """Whether `key` is true; `otherwise` if absent."""
        value = self.get(key)
        if value is None or isinstance(value, bool):
            return otherwise if value is None else value
        raise self._error(key, value, "true or false")

    def _typed(self, key: str, kind: Any, words: str) -> Any:
        value = self.get(key)
        if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        raise self._error(key, value, words)

    def _error(self, key: str, value: Any, words: str) -> CrossproofError:
        return CrossproofError(f"{self.source} gives {key} as {short(value)}, not {words}.")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values, and tuples as lists: some libraries write them with a Python tag."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)


def read_config(path: Path, optional: bool = False) -> Config:
    """The mapping of a .json or .yaml file; if `optional`, an empty one where there is no file.

    What JSON has not becomes words: dates, NaN and infinite numbers. Raises CrossproofError if it
    is missing or damaged.
    """
    if not path.exists():
        if optional:
            return Config({}, path)
        raise CrossproofError(f"{path} is missing: the folder is not complete.")
    try:
        content = read_json(path) if path.suffix == ".json" else _read_yaml(path)
        plain = json.loads(json.dumps(content, default=str), parse_constant=str)
    except DAMAGE as error:
        raise CrossproofError(f"{path} cannot be read: restore it.") from error
    if not isinstance(plain, dict):
        raise CrossproofError(f"{path} does not hold a mapping: restore it.")
    return Config(plain, path)


def _read_yaml(path: Path) -> Any:
    refuse_pointer(path)
    return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)


def config_at(path: Path) -> Config:
    """The same, or an empty one if there is none that can be read: to recognise a format by."""
    try:
        return read_config(path, optional=True)
    except CrossproofError:
        return Config({}, path)

"""Saves of dictionaries with something broken in them: bytes, configurations, or tensors."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load, save
from torch import Tensor

Files = dict[str, bytes]
"""A save by paths relative to its folder."""

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 3, 10**30, 10**400, 1.5, float("nan"), float("inf"), -float("inf")),
    *("", "x", "none", "a\nb", "\x1b[31m", "\ud800", "layer_1", "topk", "blocks.1.hook_resid_pre"),
    *([], [1, 2], ["x"], {}, {"x": None}, {"k": "3"}, [[]], "9" * 5000),
]
"""What stands where something else belongs."""
DTYPES = [torch.int8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64]
NUMBERS = [float("nan"), float("inf"), -float("inf"), 3e38, -1.0, 0.0, 1e-45]
YAML = [
    "a: [1",
    "- 1",
    "",
    "a: &x [*x]",
    "a: 2025-99-99",
    "? [1]\n: 2",
    "a: !!python/object:os.x 1",
]


def mutated(files: Files, draw: random.Random) -> Files:
    """The save with one thing changed, sometimes two."""
    changed = dict(files)
    for _ in range(draw.choice([1, 1, 1, 2])):
        name = draw.choice(sorted(changed))
        whole = changed[name] is files[name]  # a file that is damaged already has no structure
        changed[name] = (_mutated_file if whole else _bytes)(name, changed[name], draw)
        if draw.random() < 0.03:
            del changed[name]
        if not changed:
            return files
    return changed


def _mutated_file(name: str, content: bytes, draw: random.Random) -> bytes:
    structured = _config if name.endswith((".json", ".yaml")) else _tensors
    if draw.random() < 0.3:
        return _bytes(name, content, draw)
    try:
        return structured(name, content, draw)
    except (ValueError, RuntimeError, TypeError, LookupError):
        return _bytes(name, content, draw)  # such tensors cannot be saved


def _bytes(_: str, content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    where = draw.randrange(len(data) + 1)
    match draw.randrange(6):
        case 0:
            return bytes(data[:where])
        case 1:
            return bytes(data[:where] + data[where + draw.randrange(1, 9) :])
        case 2:
            return bytes(data[:where] + draw.randbytes(draw.randrange(1, 9)) + data[where:])
        case 3:
            return draw.choice([b"", b"\0" * 40, b"version https://git-lfs.github.com/spec/v1\n"])
    near = min(len(data), draw.choice([64, 400, len(data)]))  # headers are at the beginning
    for _ in range(draw.randrange(1, 9)):
        if near:
            data[draw.randrange(near)] = draw.randrange(256)
    return bytes(data)


def _config(name: str, content: bytes, draw: random.Random) -> bytes:
    if name.endswith(".yaml") and draw.random() < 0.2:
        return draw.choice(YAML).encode()
    tree = yaml.load(content, yaml.BaseLoader) if name.endswith(".yaml") else json.loads(content)
    parents = [tree]
    for parent in parents:
        parents += [each for each in parent.values() if isinstance(each, dict)]
    parent = draw.choice([each for each in parents if each])
    key = draw.choice(sorted(parent))
    value = parent.pop(key)
    match draw.randrange(4):
        case 0:
            parent[key + "_"] = value
        case 1 | 2:
            parent[key] = draw.choice(VALUES)
    dump = yaml.safe_dump if name.endswith(".yaml") else json.dumps
    return dump(tree).encode("utf-8", "surrogatepass")


def _tensors(name: str, content: bytes, draw: random.Random) -> bytes:
    whole: dict[str, Any] = _loaded(name, content)
    tensors: dict[str, Tensor] = dict(whole.get("sae", whole))  # Llamascopium's .pt
    key = draw.choice(sorted(tensors))
    tensor = tensors.pop(key)
    change: Callable[[Tensor, random.Random], Tensor] = draw.choice([_shape, _kind, _number])
    match draw.randrange(8):
        case 0:
            tensors[key + "_"] = tensor
        case 1:
            tensors |= {key: tensor, draw.choice(["W_skip", "scaling_factor", "threshold"]): tensor}
        case 2 | 3 | 4 | 5 | 6:
            tensors[key] = change(tensor, draw)
    return _saved(name, whole | {"sae": tensors} if "sae" in whole else tensors)


def _loaded(name: str, content: bytes) -> dict[str, Tensor]:
    if name.endswith(".npz"):
        with np.load(io.BytesIO(content)) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    if name.endswith(".pt"):
        return dict(torch.load(io.BytesIO(content), weights_only=True))
    return load(content)


def _saved(name: str, tensors: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".npz"):
        np.savez(buffer, **{key: tensor.numpy() for key, tensor in tensors.items()})
    elif name.endswith(".pt"):
        torch.save(tensors, buffer)
    else:
        return save({key: tensor.contiguous() for key, tensor in tensors.items()})
    return buffer.getvalue()


def _shape(tensor: Tensor, draw: random.Random) -> Tensor:
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.flatten(),
        lambda t: t.flatten()[:1].reshape(()),
        lambda t: t[None],
        lambda t: t[:0],
        lambda t: t[:-1],
        lambda t: t.transpose(0, -1),
        lambda t: t[..., None].expand(*t.shape, 2),
    ]
    return draw.choice(changes)(tensor)


def _kind(tensor: Tensor, draw: random.Random) -> Tensor:
    changes: list[Callable[[Tensor], Tensor]] = [
        *(lambda t, dtype=dtype: t.to(dtype) for dtype in DTYPES),
        lambda t: t.to(torch.complex64),
        lambda t: t.to_sparse(),
        lambda t: t.to("meta"),
        lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
        lambda t: t.to(torch.float8_e4m3fn),
    ]
    return draw.choice(changes)(tensor)


def _number(tensor: Tensor, draw: random.Random) -> Tensor:
    changed = tensor.clone()
    if draw.random() < 0.5 and changed.numel():
        changed.view(-1)[draw.randrange(changed.numel())] = draw.choice(NUMBERS)
    else:
        changed.fill_(draw.choice(NUMBERS))
    return changed

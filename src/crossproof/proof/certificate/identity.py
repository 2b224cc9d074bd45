"""Which network a certificate is about: the hash of one's own, from a file or a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.format import (
    ATTENTION,
    NETWORK,
    TENSORS,
    Limits,
    check_shape,
    part_of,
    tensors_hash,
)
from crossproof.proof.certificate.reading import CertificateError, load, quoted, read_entries

NAMES = ("network.safetensors", TENSORS, "model.safetensors")
"""Files that a folder's network is looked for in."""


def network_hash(path: Path | str, limits: Limits | None = None) -> str:
    """SHA-256 of the network in a safetensors file, or in a folder that holds one.

    Tensors are named as in certificates, with or without `network.`, or are the weights and biases
    of two linear layers [out, in]. Raises CertificateError for anything else, and before anything
    is read for tensors that need more memory than `limits` allow.
    """
    files = [Path(path)]
    if os.path.isdir(path):
        files = [Path(path) / name for name in NAMES]
    file = next(filter(os.path.exists, files), None)
    if file is None:
        raise CertificateError(
            f"{quoted(str(path))} is no network: give a safetensors file, a folder that holds "
            f"{', '.join(NAMES)}, or all 64 digits of a SHA-256."
        )
    entries = read_entries(file)
    (limits or Limits()).check(memory=24 * sum(entry.count for entry in entries.values()))
    tensors = {name: load(file, entry) for name, entry in entries.items()}
    return tensors_hash(network_tensors(part_of(tensors, "network") or tensors))


def network_tensors(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """W_in [D,N], b_in, W_out [N,V], b_out and skip [D,V] (0 if there is none), as float64.

    The tensors of an attention layer stay as they are. Raises CertificateError if `tensors` are
    neither that nor a network with one hidden layer.
    """
    wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    attention, sizes = set(wide) == set(ATTENTION), dict[str, int]()
    if not attention and set(wide) not in (set(NETWORK), set(NETWORK) - {"skip"}):
        wide = _from_layers(wide)
    for name, letters in (ATTENTION if attention else NETWORK).items():
        if name in wide:
            check_shape(name, wide[name].shape, letters.split(), sizes)
    return wide if attention else {"skip": np.zeros((sizes["D"], sizes["V"])), **wide}


def _from_layers(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    ordered = sorted(tensors, key=lambda name: [int(n) for n in re.findall(r"\d+", name)] or [0])
    weights = [name for name in ordered if name.endswith("weight") and tensors[name].ndim == 2]
    biases = [name.removesuffix("weight") + "bias" for name in weights]
    if len(weights) != 2 or set(tensors) != {*weights, *biases}:
        raise CertificateError(
            f"{quoted(sorted(tensors))} is no network of one hidden layer: it needs "
            f"{', '.join(NETWORK)}, or the weights and biases of two linear layers."
        )
    first, second = (tensors[name].T for name in weights)
    if first.shape[1] != second.shape[0]:
        raise CertificateError(
            f"{weights[0]} does not lead into {weights[1]}: their widths differ."
        )
    b_in, b_out = (tensors[name] for name in biases)
    return {"W_in": first, "b_in": b_in, "W_out": second, "b_out": b_out}

"""A small network and its domain in a folder: one safetensors file, named as in certificates."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.files import make_folder, read_tensors, write_tensors
from crossproof.proof.bounds.attention_network import AttentionNetwork, SequenceDomain
from crossproof.proof.bounds.network import GroupDomain, Network, PairDomain, SparseDomain
from crossproof.proof.certificate.format import ATTENTION as LAYER

NETWORK = "network.safetensors"
WEIGHTS = {"W_in": "DN", "b_in": "N", "W_out": "NV", "b_out": "V", "skip": "DV"}
PAIRS = {"left": "pD", "right": "pD"}
SPARSE = {"atoms": "FD", "bias": "D", "low": "F", "high": "F", "active_sets": "GK", "readout": "FV"}
ATTENTION = {name: shape.replace(" ", "") for name, shape in LAYER.items()}
SEQUENCES = {"order": "V"}
"""Tensors of each part, and their shapes."""
Domain = PairDomain | SparseDomain | SequenceDomain


def save_network(folder: Path | str, network: Network | AttentionNetwork, domain: Domain) -> None:
    """Writes `network.safetensors` into the folder, replacing an earlier one.

    Raises CrossproofError if it cannot be written.
    """
    parts = {"network": network.tensors(), "domain": domain.tensors()}
    make_folder(Path(folder))
    write_tensors(
        Path(folder) / NETWORK,
        {f"{part}.{name}": t for part, tensors in parts.items() for name, t in tensors.items()},
    )


def read_network(folder: Path | str) -> tuple[Network | AttentionNetwork, Domain]:
    """The network of a folder, in float64, and the inputs that certificates of it speak about.

    Raises CrossproofError for a missing or unreadable file, a tensor that is missing or whose shape
    does not fit the others, and for what `Network` and the domains refuse.
    """
    path = Path(folder) / NETWORK
    if not os.path.isdir(folder):
        raise CrossproofError(f"There is no folder {folder}: give one that holds {NETWORK}.")
    tensors = read_tensors(path)
    if "network.W_E" in tensors:
        return _read_attention(tensors, path)
    names = PAIRS if "domain.left" in tensors else SPARSE
    sizes: dict[str, int] = {}
    network = Network(**_part(tensors, "network", WEIGHTS, sizes, path))
    domain = _part(tensors, "domain", names, sizes, path)
    if names is PAIRS and "domain.table" in tensors:
        table = _part(tensors, "domain", {"table": "pp"}, sizes, path)["table"]
        return network, GroupDomain(**domain, table=table.long())
    if names is PAIRS:
        return network, PairDomain(**domain)
    active = tensors["domain.active_sets"]
    if active.is_floating_point():
        raise CrossproofError(f"domain.active_sets of {path} must hold whole numbers (int64).")
    domain["active_sets"] = active.long()
    return network, SparseDomain(decoder=domain.pop("atoms"), **domain)


def _read_attention(
    tensors: dict[str, Tensor], path: Path
) -> tuple[AttentionNetwork, SequenceDomain]:
    sizes: dict[str, int] = {}
    network = AttentionNetwork(**_part(tensors, "network", ATTENTION, sizes, path))
    order = _part(tensors, "domain", SEQUENCES, sizes, path)["order"]
    return network, SequenceDomain(order.long())


def _part(
    tensors: dict[str, Tensor],
    part: str,
    shapes: dict[str, str],
    sizes: dict[str, int],
    path: Path,
) -> dict[str, Tensor]:
    """The part's tensors in float64; `sizes` learns what each letter stands for."""
    for name, letters in shapes.items():
        tensor = tensors.get(f"{part}.{name}")
        wanted = ", ".join(letters)
        if tensor is None:
            raise CrossproofError(f"{path} lacks {part}.{name} [{wanted}].")
        fits = tensor.ndim == len(letters) and tensor.numel() > 0
        fits = fits and all(
            sizes.setdefault(letter, size) == size
            for letter, size in zip(letters, tensor.shape, strict=True)
        )
        if not fits:
            known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
            raise CrossproofError(
                f"{part}.{name} of {path} has shape {list(tensor.shape)}: it must be [{wanted}], "
                f"none of them 0, with {known}."
            )
    return {name: tensors[f"{part}.{name}"].double() for name in shapes}

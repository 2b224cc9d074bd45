"""From a draft to a certificate folder that claims exactly what the verifier confirms."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from crossproof.files import atomic_folder
from crossproof.proof.certificate.cost import ProofCost
from crossproof.proof.certificate.format import (
    HEADER,
    SCHEMA,
    SMALLEST_VALUE,
    TENSORS,
    Certificate,
    Tensors,
    check_layout,
    check_range,
    tensors_hash,
)
from crossproof.proof.certificate.result import VerificationResult
from crossproof.proof.certificate.verifier.verdict import judge, verify_network


@dataclass(frozen=True, eq=False)
class Draft:
    """A proof that has been found, before anybody has checked it."""

    kind: str
    network: Tensors
    domain: Tensors
    proof: Tensors
    dictionary: Tensors | None = None


def as_certificate(draft: Draft, claim: Mapping[str, float] | None = None) -> Certificate:
    """The draft as the verifier would read it.

    Raises CrossproofError if the verifier would refuse its tensors.
    """
    parts = _parts(draft)
    tensors: dict[str, npt.NDArray[Any]] = {
        f"{part}.{name}": tensor.astype(_wide(tensor))
        for part, content in parts.items()
        for name, tensor in content.items()
    }
    for name, tensor in tensors.items():
        check_range(name, tensor)
    described = {name: (t.shape, t.dtype == np.int64) for name, t in tensors.items()}
    return Certificate(
        kind=draft.kind,
        claim=claim or {},
        hashes={name: tensors_hash(parts[name]) for name in parts if name != "proof"},
        tensors=tensors,
        sizes=check_layout(draft.kind, described),
        task={},
        cost={},
        bytes=0,
        verifier=SCHEMA,
    )


def publish(
    draft: Draft, folder: Path, task: Mapping[str, Any], cost: ProofCost
) -> VerificationResult:
    """Writes the certificate and verifies the folder; `cost` is what finding the draft took.

    Raises CrossproofError if the folder cannot be written.
    """
    proved = judge(as_certificate(draft))
    claim = {"accuracy": proved.accuracy if draft.kind != "boxes" else _down(proved.accuracy)}
    if proved.cross_entropy is not None:
        claim["cross_entropy"] = _up(proved.cross_entropy)
    spent = replace(cost, operations=cost.operations + proved.operations)
    notes = {
        "prover": asdict(spent),
        "verifier_operations": proved.operations,
        "brute_force_operations": proved.brute_force,
    }
    write_certificate(folder, draft, claim, task, notes)
    return verify_network(folder)


def _parts(draft: Draft) -> dict[str, Tensors]:
    parts = {"network": draft.network, "domain": draft.domain, "proof": _settled(draft.proof)}
    if draft.dictionary is None:
        return parts
    return parts | {"dictionary": _settled(draft.dictionary)}


def _settled(tensors: Tensors) -> Tensors:
    """Numbers that any value may take the place of, without those too small for the verifier."""
    return {
        name: np.where(np.abs(t) < SMALLEST_VALUE, np.zeros_like(t), t)
        for name, t in tensors.items()
    }


def _wide(tensor: npt.NDArray[Any]) -> type:
    return np.float64 if np.issubdtype(tensor.dtype, np.floating) else np.int64


def write_certificate(
    folder: Path,
    draft: Draft,
    claim: Mapping[str, float],
    task: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder, replacing an earlier one; CrossproofError if the place is not writable."""
    parts = _parts(draft)
    header = {
        "schema": SCHEMA,
        "kind": draft.kind,
        "task": dict(task or {}),
        "claim": dict(claim),
        "network": tensors_hash(parts["network"]),
        "domain": tensors_hash(parts["domain"]),
        "dictionary": tensors_hash(parts["dictionary"]) if "dictionary" in parts else None,
        "verifier": SCHEMA,
        "cost": dict(cost or {}),
    }
    tensors = {
        f"{part}.{name}": _compact(tensor)
        for part, content in parts.items()
        for name, tensor in content.items()
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / TENSORS)
        (temporary / HEADER).write_text(json.dumps(header, indent=2) + "\n")


def _compact(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The smallest type that holds the same numbers: float32 before float64, int8 before int64."""
    smaller = np.float32 if np.issubdtype(tensor.dtype, np.floating) else np.int8
    with np.errstate(all="ignore"):
        short = tensor.astype(smaller)
    same = np.array_equal(short.astype(tensor.dtype), tensor)
    return np.ascontiguousarray(short if same else tensor)


def _down(value: float) -> float:
    """Nine decimals, never above what was verified: sums may round otherwise elsewhere."""
    return min(math.floor(value * 1e9) / 1e9, value)


def _up(value: float) -> float:
    """Six significant digits or nine decimals, never below what was verified."""
    step = 10.0 ** (math.floor(math.log10(value)) - 5) if value > 1e-3 else 1e-9
    return max(math.ceil(value / step) * step, value)

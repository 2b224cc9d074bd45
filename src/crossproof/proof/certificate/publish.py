"""From a draft to a certificate folder that claims exactly what the verifier confirms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossproof.proof.certificate.cost import Cost
from crossproof.proof.certificate.verifier import Verdict, verify
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate, write_certificate


def publish(draft: Draft, folder: Path, task: Mapping[str, Any], cost: Cost) -> Verdict:
    """Writes the certificate and verifies the folder; `cost` is what finding the draft took.

    Raises CrossproofError if the folder cannot be written.
    """
    found = judge(as_certificate(draft))
    claim = {"accuracy": found.accuracy if draft.kind != "boxes" else _down(found.accuracy)}
    if found.cross_entropy is not None:
        claim["cross_entropy"] = _up(found.cross_entropy)
    spent = replace(cost, operations=cost.operations + found.operations)
    notes = {
        "prover": dict(spent.as_dict()),
        "verifier_operations": found.operations,
        "brute_force_operations": found.brute_force,
    }
    write_certificate(folder, draft, claim, task, notes)
    return verify(folder)


def _down(value: float) -> float:
    """Nine decimals, never above what was verified: sums may round otherwise elsewhere."""
    return min(math.floor(value * 1e9) / 1e9, value)


def _up(value: float) -> float:
    """Six significant digits or nine decimals, never below what was verified."""
    step = 10.0 ** (math.floor(math.log10(value)) - 5) if value > 1e-3 else 1e-9
    return max(math.ceil(value / step) * step, value)

"""`crossproof verify`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError
from crossproof.proof.certificate.verifier import Verdict, verify


@dataclass(frozen=True)
class Verify:
    """Check certificates: recompute what they prove, trusting nothing in them."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders written by `crossproof prove`: certificate.json and tensors.safetensors."""
    network: str | None = None
    """SHA-256 of the network that the certificates must be about."""
    domain: str | None = None
    """SHA-256 of the domain that they must be about."""
    arb: bool = False
    """Derive the final inequalities again in ball arithmetic (needs python-flint)."""


def run(arguments: Sequence[str], began: float) -> None:
    """Prints the verdicts; exits with 1 if a claim is not verified."""
    options: Verify = parse(Verify, "verify", arguments)
    if not options.folders:
        raise CrossproofError("Nothing to verify: give the folder of a certificate.")
    verdicts = {
        folder: verify(folder, network=options.network, domain=options.domain, arb=options.arb)
        for folder in options.folders
    }
    first = next(iter(verdicts.values()))
    Console().print(verdict_table(first) if len(verdicts) == 1 else summary_table(verdicts))
    false = [str(folder) for folder, verdict in verdicts.items() if not verdict.holds]
    if false:
        print(f"crossproof: the claim of {', '.join(false)} is NOT verified.", file=sys.stderr)
        sys.exit(1)
    print("The claim is verified." if len(verdicts) == 1 else "All claims are verified.")


def summary_table(verdicts: Mapping[Path, Verdict]) -> Table:
    """A line a certificate."""
    table = Table(title="Certificates")
    table.add_column("", no_wrap=True)
    for heading in ("kind", "accuracy ≥", "CE ≤", "ops", "brute force", "claim"):
        table.add_column(heading, justify="right")
    for folder, verdict in verdicts.items():
        brute = verdict.brute_force
        table.add_row(
            folder.name,
            verdict.kind,
            f"{verdict.accuracy:.4f}",
            _number(verdict.cross_entropy),
            f"{verdict.operations / 1e6:.1f}M",
            "-" if brute is None else f"{brute / verdict.operations:.2f}x",
            "verified" if verdict.holds else "NOT verified",
        )
    return table


def verdict_table(verdict: Verdict) -> Table:
    """The certified figures beside the claim, and the cost beside brute force."""
    table = Table(title=f"Certificate of kind '{verdict.kind}'")
    for heading in ("", "certified", "claimed", "note"):
        table.add_column(heading, overflow="fold")
    chance = f"{_vacuous(verdict.accuracy_vacuous)}: chance is {verdict.chance:.4f}"
    claimed = _number(verdict.claimed_accuracy)
    table.add_row("accuracy, at least", f"{verdict.accuracy:.6f}", claimed, chance)
    uniform = f"{_vacuous(verdict.cross_entropy_vacuous)}: log V is {math.log(verdict.classes):.4f}"
    claimed = _number(verdict.claimed_cross_entropy)
    bound = _number(verdict.cross_entropy)
    table.add_row("cross-entropy, at most", bound, claimed, uniform if bound != "-" else "no bound")
    brute = verdict.brute_force
    note = "uncountable domain: no brute force"
    if brute is not None:
        note = f"brute force {brute:,}: {brute / verdict.operations:.2f}x"
    table.add_row("operations", f"{verdict.operations:,}", "", note)
    table.add_row("seconds", f"{verdict.seconds:.3f}", "", "")
    table.add_row("bytes", f"{verdict.bytes:,}", "", "network and domain included")
    for name, mass in verdict.by_bound.items():
        table.add_row(f"mass by {name}", f"{mass:.6f}", "", "")
    if verdict.balls:
        table.add_row("ball arithmetic", f"{verdict.balls}", "", "groups derived again")
    table.add_row("network", verdict.network, "", "SHA-256")
    table.add_row("domain", verdict.domain, "", "SHA-256")
    if verdict.dictionary is not None:
        table.add_row("dictionary", verdict.dictionary, "", "SHA-256")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def _vacuous(vacuous: bool) -> str:
    return "VACUOUS" if vacuous else "not vacuous"

"""`crossproof verify`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError


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

    from rich.console import Console

    from crossproof.proof.certificate.result import summary_table
    from crossproof.proof.certificate.verifier import verify

    results = {
        folder: verify(folder, network=options.network, domain=options.domain, arb=options.arb)
        for folder in options.folders
    }
    several = {folder.name: result for folder, result in results.items()}
    first = next(iter(results.values()))
    tables = first.tables() if len(results) == 1 else [summary_table(several)]
    for table in tables:
        Console().print(table.to_rich())
    false = [str(folder) for folder, result in results.items() if not result.holds]
    if false:
        print(f"crossproof: the claim of {', '.join(false)} is NOT verified.", file=sys.stderr)
        sys.exit(1)
    print("The claim is verified." if len(results) == 1 else "All claims are verified.")

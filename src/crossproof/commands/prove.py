"""`crossproof prove`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.commands.parsing import parse
from crossproof.proof.certificate.options import ProverOptions

Task = Literal["sparse", "coactive", "continuum", "modular-53", "modular-113"]


@dataclass(frozen=True)
class Prove:
    """Train a small network, search a certificate of its accuracy, and verify it.

    `sparse` and `coactive` certify a sample through the learned dictionary's latents, `continuum`
    all activations at once, and the modular tasks all pairs of summands.
    """

    task: Annotated[Task, tyro.conf.Positional]
    """What the network does."""
    out: Path
    """Folder for the certificate; an earlier one in it is replaced."""
    search: ProverOptions = field(default_factory=ProverOptions)


def run(arguments: Sequence[str], began: float) -> None:
    """Builds, proves, writes and verifies; exits with 1 if the written claim does not hold."""
    options: Prove = parse(Prove, "prove", arguments)
    from rich.console import Console

    from crossproof.proof.certificate.proving import prove

    result = prove(options.task, options.out, options.search)
    for table in result.tables():
        Console().print(table.to_rich())
    print(f"Certificate: {options.out}; `crossproof verify {options.out}` checks it anywhere.")
    if not result.verification.holds:
        print("crossproof: the claim as written is NOT verified.", file=sys.stderr)
        sys.exit(1)

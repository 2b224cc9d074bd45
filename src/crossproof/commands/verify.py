"""`crossproof verify`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.commands.parsing import parse
from crossproof.commands.prove_text import KINDS
from crossproof.commands.verify_text import TextSubject, report_text
from crossproof.errors import CrossproofError
from crossproof.working import working


@dataclass(frozen=True)
class Verify:
    """Check certificates: recompute what they prove, trusting nothing in them."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Folders written by `crossproof prove`: certificate.json and tensors.safetensors."""
    network: str | None = None
    """The network that the certificates must be about: its SHA-256, or a folder or safetensors
    file of yours. Without certificates, its hash is printed."""
    domain: str | None = None
    """SHA-256 of the domain that they must be about."""
    arb: bool = False
    """Derive the final inequalities again in ball arithmetic (needs python-flint)."""
    memory: float = 4.0
    """GiB that a certificate may ask for."""
    operations: float = 1e13
    """Arithmetic operations that it may ask for."""
    text_model: TextSubject = field(default_factory=TextSubject)


def run(arguments: Sequence[str], began: float) -> None:
    """Prints the verdicts; exits with 1 if a claim is not verified."""
    options: Verify = parse(Verify, "verify", arguments)
    try:
        verified = _report(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough: the exit code does not say "verified"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CrossproofError("The output was closed before the verdict was written.") from None
    if not verified:
        sys.exit(1)


def _report(options: Verify) -> bool:
    from rich.console import Console

    from crossproof.proof.certificate.format import Limits
    from crossproof.proof.certificate.format_statistical import kind_of
    from crossproof.proof.certificate.identity import network_hash
    from crossproof.proof.certificate.reading import printable
    from crossproof.proof.certificate.result import summary_tables
    from crossproof.proof.certificate.verifier import verify

    network = options.network
    if network is not None and not re.fullmatch("[0-9a-f]{64}", network):
        network = network_hash(network)
    if not options.folders:
        if network is None:
            raise CrossproofError("Nothing to verify: give the folder of a certificate.")
        print(network)
        return True
    limits = Limits(int(options.memory * 2**30), int(options.operations))
    kinds = {folder: kind_of(folder) for folder in options.folders}
    of_text = {folder: kind for folder, kind in kinds.items() if kind in KINDS}
    folders = [folder for folder in options.folders if folder not in of_text]
    if options.text_model.given and not of_text:
        raise CrossproofError(
            "--model, --dictionary and --text are of certificates of language models."
        )
    if not folders and (options.network or options.domain or options.arb):
        raise CrossproofError(
            "--network, --domain and --arb are of certificates of networks: give --model."
        )
    verified = not of_text or report_text(of_text, options.text_model, limits)
    if not folders:
        return verified
    results = {}
    for folder in folders:
        with working(f"verifying {folder}"):
            results[folder] = verify(
                folder, network=network, domain=options.domain, arb=options.arb, limits=limits
            )
    names = [folder.name for folder in results]
    several = {
        str(folder) if names.count(folder.name) > 1 else folder.name: result
        for folder, result in results.items()
    }
    first = next(iter(results.values()))
    for table in first.tables() if len(results) == 1 else summary_tables(several):
        Console().print(table.to_rich())
    if len(results) == 1 and first.holds:
        print(first.verdict)
    false = [printable(str(folder)) for folder, result in results.items() if not result.holds]
    if false:
        print(f"crossproof: the claim of {', '.join(false)} is NOT verified.", file=sys.stderr)
    elif len(results) > 1:
        empty = [printable(str(f)) for f, result in results.items() if result.claim_vacuous]
        print("All claims are verified.")
        if empty:
            print(f"True, and says nothing (guessing does as well): {', '.join(empty)}.")
    return verified and not false

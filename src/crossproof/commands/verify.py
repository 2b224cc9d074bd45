"""`crossproof verify`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from crossproof.commands.early import loading
from crossproof.commands.parsing import parse
from crossproof.commands.prove_text import KINDS
from crossproof.commands.verify_text import TextSubject, compared
from crossproof.errors import CrossproofError
from crossproof.working import working

if TYPE_CHECKING:
    from crossproof.proof.certificate.verifier.verdict import Verdict


@dataclass(frozen=True)
class Verify:
    """Check certificates: recompute what they prove, trusting nothing in them."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")] = ()
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
    verified = _report(options)
    if sys.stdout is not None:  # closed from the start: the exit code is the verdict
        sys.stdout.flush()
        if getattr(sys.stdout, "broken", False):  # nobody has seen what the exit code would say
            raise CrossproofError(
                "The output was closed before the verdict was written: read it to the end.",
                code="CP-FILE",
            )
    if not verified:
        sys.exit(1)


def _report(options: Verify) -> bool:
    with loading():
        from crossproof.proof.certificate.format import Limits, kind_of
        from crossproof.proof.certificate.identity import network_hash
        from crossproof.proof.certificate.verifier import verify

    limits = Limits(int(options.memory * 2**30), int(options.operations))
    network, domain = options.network, options.domain
    if network is not None:
        digits = network.strip().lower()
        network = digits if re.fullmatch("[0-9a-f]{64}", digits) else network_hash(network, limits)
    domain = None if domain is None else domain.strip().lower()
    if not options.folders:
        if network is None:
            raise CrossproofError("Nothing to verify: give the folder of a certificate.")
        print(network)
        return True
    of_text = {folder: kind_of(folder) in KINDS for folder in options.folders}
    if options.text_model.given and not any(of_text.values()):
        raise CrossproofError(
            "--model, --dictionary and --text are of certificates of language models."
        )
    if all(of_text.values()) and (options.network or options.domain or options.arb):
        raise CrossproofError(
            "--network, --domain and --arb are of certificates of networks: give --model."
        )
    results: dict[Path, Verdict] = {}
    for folder, text in of_text.items():
        with working(f"verifying {folder}"):
            results[folder] = (
                verify(folder, limits=limits)
                if text
                else verify(folder, network=network, domain=domain, arb=options.arb, limits=limits)
            )
    if options.text_model.given:
        with working("running the model again"):
            results = compared(results, options.text_model)
    _show(results)
    return all(result.holds for result in results.values())


def _show(results: Mapping[Path, Verdict]) -> None:
    """Prints tables and verdicts: of one certificate whole, of several a line each, by kind."""
    from rich.console import Console

    from crossproof.proof.certificate.reading import printable
    from crossproof.proof.certificate.result import VerificationResult, summary_tables
    from crossproof.proof.certificate.result_contexts import ContextsResult, contexts_table
    from crossproof.proof.certificate.result_statistical import StatisticalResult, statistical_table

    named = _named(results)
    networks = {n: r for n, r in named.items() if isinstance(r, VerificationResult)}
    statistical = {n: r for n, r in named.items() if isinstance(r, StatisticalResult)}
    contexts = {n: r for n, r in named.items() if isinstance(r, ContextsResult)}
    tables = summary_tables(networks) if networks else []
    tables += [statistical_table(statistical)] if statistical else []
    tables += [contexts_table(contexts)] if contexts else []
    first = next(iter(results.values()))
    for table in tables if len(results) > 1 else first.tables():
        Console().print(table.to_rich())
    false = [printable(str(folder)) for folder, result in results.items() if not result.holds]
    if false:
        print(f"crossproof: the claim of {', '.join(false)} is NOT verified.", file=sys.stderr)
    elif len(results) == 1:
        print(first.verdict)
    else:
        print(_all_verified(len(statistical), len(results)))
        empty = [printable(str(folder)) for folder, r in results.items() if r.claim_vacuous]
        if empty:
            print(f"True, and says nothing (guessing does as well): {', '.join(empty)}.")
    if not false:
        print(_next(results))


def _next(results: Mapping[Path, Verdict]) -> str:
    """What a reader can still ask: that a certificate is about what is theirs."""
    from crossproof.proof.certificate.reading import printable
    from crossproof.proof.certificate.result import VerificationResult

    for folder, result in results.items():
        network = isinstance(result, VerificationResult)
        if ("network" if network else "model") in result.pinned:
            continue
        yours = "--network YOURS" if network else "--model YOURS --dictionary YOURS"
        yours += " --text YOURS" if result.kind == "statistical" else ""
        asks = "asks whether it is about yours" if network else "runs yours again and compares"
        return f"Next: `crossproof verify {printable(str(folder))} {yours}` {asks}."
    return "Next: whoever has the folder can verify it, with nothing else from you."


def _all_verified(statistical: int, results: int) -> str:
    if statistical == results:
        return "All statistical claims are verified; they are no proofs about every input."
    others = "; the statistical ones are no proofs about every input" if statistical else ""
    return f"All claims are verified{others}."


def _named(results: Mapping[Path, Verdict]) -> dict[str, Verdict]:
    """By the folders' names, or where two are called alike by their paths."""
    names = [folder.name for folder in results]
    return {
        str(folder) if names.count(folder.name) > 1 else folder.name: result
        for folder, result in results.items()
    }

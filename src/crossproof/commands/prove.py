"""`crossproof prove`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.commands import prove_text
from crossproof.commands.early import check_folder, loading
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import holds_crosscoders
from crossproof.errors import CrossproofError, in_shell
from crossproof.proof.certificate.options import ProverOptions
from crossproof.working import working


@dataclass(frozen=True)
class Prove:
    """Search a certificate of a small network's accuracy, and verify it.

    All pairs of summands are certified through frequencies; sparse inputs, a sample of them or all
    activations at once, through the latents of a dictionary. Of a language model's run folder:
    --kind statistical and --kind contexts (their options: `crossproof prove --kind KIND --help`).
    """

    network: Annotated[Path, tyro.conf.Positional]
    """Folder with network.safetensors: the weights and the inputs (docs/certificate-format.md)."""
    out: Path
    """Folder for the certificate; an earlier one in it is replaced."""
    dictionary: Path | None = None
    """Folder of a crosscoder of the inputs; none: the features that generate them."""
    search: ProverOptions = field(default_factory=ProverOptions)


def run(arguments: Sequence[str], began: float) -> None:
    """Proves, writes and verifies; exits with 1 if the written claim does not hold."""
    if prove_text.kind_asked(arguments):
        prove_text.run(arguments, began)
        return
    options: Prove = parse(Prove, "prove", arguments)
    check_folder(options.network, "one that holds network.safetensors")
    if not (options.network / "network.safetensors").exists() and holds_crosscoders(
        options.network
    ):
        raise CrossproofError(
            f"{options.network} is a run of crosscoders, and --kind {options.search.kind} is about "
            f"small networks: add --kind statistical (what a dictionary costs on held-out text) or "
            f"--kind contexts (the same at a few contexts, proven)."
        )
    check_folder(options.dictionary, "that of a crosscoder")

    from rich.console import Console

    with loading():
        from crossproof.crosscoder.model import load_crosscoder
        from crossproof.proof.bounds.network import Dictionary
        from crossproof.proof.certificate.proving import prove

    dictionary = None
    if options.dictionary is not None:
        dictionary = Dictionary.of_crosscoder(load_crosscoder(options.dictionary)[0])
    with working("searching for a proof"):
        result = prove(options.network, options.out, options.search, dictionary=dictionary)
    for table in result.tables():
        Console().print(table.to_rich())
    print(f"Certificate: {options.out}")
    if not result.verification.holds:
        print("crossproof: the claim as written is NOT verified.", file=sys.stderr)
        sys.exit(1)
    print(f"Next: `crossproof verify {in_shell(options.out)}` checks it anywhere.")

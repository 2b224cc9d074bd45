"""`crossproof prove`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError

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
    seed: int = 0
    """Of the training, and of the sample."""
    quick: bool = False
    """Train for a shorter time."""
    kind: Literal["auto", "points", "boxes"] = "auto"
    """Certify a sample (points) or a continuum (boxes); auto: boxes for the task continuum."""
    dictionary: Literal["learned", "true"] = "learned"
    """The task's learned dictionary, or the features that generate its inputs."""
    points: int = 2000
    """Inputs in the sample."""
    nodes: int = 50_000
    """How many boxes to look at; more of them prove more."""
    blocks: int = -1
    """Frequencies of a modular certificate; -1 searches the cheapest of highest accuracy."""


def run(arguments: Sequence[str], began: float) -> None:
    """Builds, proves, writes and verifies; exits with 1 if the written claim does not hold."""
    options: Prove = parse(Prove, "prove", arguments)

    from crossproof.commands.verify import verdict_table
    from crossproof.proof.certificate.cost import Cost
    from crossproof.proof.certificate.publish import publish
    from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
    from crossproof.proof.tasks import build

    built = build(options.task, options.seed, quick=options.quick)
    began, count = time.perf_counter(), Arithmetic()
    draft, truth, note = _prove(options, built, count)
    cost = Cost(count.operations, time.perf_counter() - began, 0)
    task = {"name": options.task, "seed": options.seed, "quick": options.quick}
    verdict = publish(draft, options.out, task | {"prover": _plain(options)}, cost)
    Console().print(verdict_table(verdict))
    print(
        f"{note}: accuracy {truth.accuracy:.6f}, cross-entropy {truth.cross_entropy:.6f}, "
        f"{truth.cost.operations:,} operations in {truth.cost.seconds:.3f} s."
    )
    print(f"Certificate: {options.out}; `crossproof verify {options.out}` checks it anywhere.")
    if not verdict.holds:
        print("crossproof: the claim as written is NOT verified.", file=sys.stderr)
        sys.exit(1)


def _plain(options: Prove) -> dict[str, Any]:
    return {name: v for name, v in asdict(options).items() if name not in ("task", "out")}


def _prove(options: Prove, built: Any, count: Any) -> tuple[Any, Any, str]:
    """A draft, the truth beside it, and what that truth is of."""
    import torch

    from crossproof.crosscoder.latents import SparseLatents
    from crossproof.proof.bounds.network import PairDomain
    from crossproof.proof.certificate.cost import brute_force, brute_force_pairs
    from crossproof.proof.certificate.provers.boxes import boxes_draft
    from crossproof.proof.certificate.provers.pairs import best_draft, effects, pairs_draft
    from crossproof.proof.certificate.provers.points import points_draft

    network, domain = built.network.double(), built.domain
    if isinstance(domain, PairDomain):
        truth = brute_force_pairs(network, domain)
        if options.blocks < 0:
            return best_draft(network, domain, arithmetic=count), truth, "Brute force"
        draft = pairs_draft(network, domain, effects(network, domain), options.blocks)
        return draft, truth, "Brute force"
    generator = torch.Generator().manual_seed(options.seed)
    activations, labels = domain.sample(options.points, generator)
    inputs = domain.inputs(activations)
    truth = brute_force(network, inputs, labels)
    own = options.dictionary == "true"
    if built.dictionary is None and not own:
        raise CrossproofError(
            f"The task {options.task} has no learned dictionary: use --dictionary true."
        )
    kind = options.kind
    if kind == "boxes" or (kind == "auto" and options.task == "continuum"):
        draft = boxes_draft(
            network, domain, _affine(domain, built.dictionary, own), nodes=options.nodes,
            arithmetic=count,
        )  # fmt: skip
        return draft, truth, f"The network on {options.points} random inputs"
    if own:
        latents = SparseLatents.from_dense(activations)
        draft = points_draft(network, inputs, labels, domain.decoder, domain.bias, latents)
    else:
        learned = built.dictionary
        latents = SparseLatents.from_dense(learned.encode(inputs))
        draft = points_draft(network, inputs, labels, learned.decoder, learned.bias, latents)
    return draft, truth, "Brute force"


def _affine(domain: Any, learned: Any, own: bool) -> Any:
    from crossproof.proof.certificate.provers.latents import fitted_latents, generating_latents

    if own:
        return generating_latents(domain)
    return fitted_latents(domain, learned.decoder, learned.bias, learned.encode)

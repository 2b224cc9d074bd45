"""Searches a certificate of a small network's accuracy, writes it and verifies it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.files import check_replaceable
from crossproof.proof.bounds.attention_network import AttentionNetwork, SequenceDomain
from crossproof.proof.bounds.network import Dictionary, GroupDomain, Network, PairDomain
from crossproof.proof.bounds.network_folder import Domain, read_network
from crossproof.proof.certificate.cost import (
    BruteForce,
    ProofCost,
    brute_force,
    brute_force_pairs,
    run_sequences,
)
from crossproof.proof.certificate.format import HEADER, TENSORS
from crossproof.proof.certificate.options import ProverOptions
from crossproof.proof.certificate.provers.attention import attention_draft
from crossproof.proof.certificate.provers.boxes import boxes_draft
from crossproof.proof.certificate.provers.latents import fitted_latents, generating_latents
from crossproof.proof.certificate.provers.pairs import best_draft, effects, pairs_draft
from crossproof.proof.certificate.provers.points import points_draft
from crossproof.proof.certificate.provers.products import best_products
from crossproof.proof.certificate.result import VerificationResult
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.writer import Draft, publish
from crossproof.result import Result
from crossproof.tables import Row, Table, fixed


@dataclass(frozen=True, repr=False)
class ProofResult(Result):
    """A written certificate, what the verifier says of it, and the truth beside it."""

    folder: Path
    verification: VerificationResult
    truth: BruteForce
    truth_of: str
    """Which inputs the truth was measured on."""
    cost: ProofCost
    """What the search took."""

    def tables(self) -> list[Table]:
        """The verifier's tables, and what running the network gave."""
        truth = self.truth
        rows = (
            Row("accuracy", (truth.accuracy,), style=fixed(6)),
            Row("cross-entropy", (truth.cross_entropy,), style=fixed(6)),
            Row("operations", (truth.cost.operations,)),
            Row("seconds", (truth.cost.seconds,), style=fixed(3)),
        )
        return [*self.verification.tables(), Table("The truth", (self.truth_of,), rows)]


def prove(
    network: Network | AttentionNetwork | Path | str,
    out: Path | str,
    options: ProverOptions | None = None,
    *,
    domain: Domain | None = None,
    dictionary: Dictionary | None = None,
) -> ProofResult:
    """Writes a certificate folder, replacing an earlier one, and verifies what it says.

    `network` is a folder as `save_network` writes it, or a network in memory; then `domain` is what
    it is certified on, with the latents of `dictionary` (the features that generate the domain, if
    there is none; pairs need neither, an attention layer is certified without one too).

    Raises CrossproofError for a folder that is not one, a network without domain, classes or a
    dictionary that do not fit the domain, counts below 1, or a folder that cannot be written.
    """
    options = options or ProverOptions()
    if min(options.points, options.nodes) < 1:
        raise CrossproofError(
            f"points {options.points} and nodes {options.nodes} must be at least 1 each."
        )
    check_replaceable(Path(out), (HEADER, TENSORS))  # before the search
    about: dict[str, object] = {}
    if not isinstance(network, Network | AttentionNetwork):
        about["name"] = Path(network).resolve().name
        network, domain = read_network(network)
    if domain is None:
        raise CrossproofError("A network is certified on a domain: give one.")
    _check_dictionary(network, domain, dictionary)
    began, count = time.perf_counter(), Arithmetic()
    draft, truth, truth_of = _search(network.double(), domain, dictionary, options, count)
    cost = ProofCost(count.operations, time.perf_counter() - began, 0)
    verification = publish(draft, Path(out), about | {"prover": asdict(options)}, cost)
    return ProofResult(Path(out), verification, truth, truth_of, cost)


def _check_dictionary(
    network: Network | AttentionNetwork, domain: Domain, dictionary: Dictionary | None
) -> None:
    if dictionary is None:
        return
    if isinstance(domain, PairDomain):
        raise CrossproofError("Pairs of summands are certified without a dictionary: give none.")
    first = network.W_Q if isinstance(network, AttentionNetwork) else network.W_in
    ours, theirs = len(first), dictionary.decoder.shape[1]
    if ours != theirs:
        raise CrossproofError(
            f"The dictionary's vectors have width {theirs}, the network's inputs {ours}: it must "
            f"be a dictionary of these inputs."
        )


def _search(
    network: Network | AttentionNetwork,
    domain: Domain,
    learned: Dictionary | None,
    options: ProverOptions,
    count: Arithmetic,
) -> tuple[Draft, BruteForce, str]:
    """A draft, the truth beside it, and what that truth is of."""
    if isinstance(network, AttentionNetwork) or isinstance(domain, SequenceDomain):
        if not (isinstance(network, AttentionNetwork) and isinstance(domain, SequenceDomain)):
            raise CrossproofError("An attention layer is certified on a SequenceDomain: give one.")
        draft = attention_draft(network, domain, options, learned)
        return draft, *run_sequences(network, domain, options.points, options.seed)
    if options.kind not in ("auto", "points", "boxes"):
        raise CrossproofError(f"Kind '{options.kind}' certifies attention layers alone.")
    if isinstance(domain, PairDomain):
        truth = brute_force_pairs(network, domain)
        if isinstance(domain, GroupDomain):
            return best_products(network, domain, count), truth, "Brute force"
        if options.blocks < 0:
            return best_draft(network, domain, arithmetic=count), truth, "Brute force"
        draft = pairs_draft(network, domain, effects(network, domain), options.blocks)
        return draft, truth, "Brute force"
    generator = torch.Generator().manual_seed(options.seed)
    activations, labels = domain.sample(options.points, generator)
    inputs = domain.inputs(activations)
    truth = brute_force(network, inputs, labels)
    if options.kind == "boxes":
        latents = (
            generating_latents(domain)
            if learned is None
            else fitted_latents(domain, learned.decoder, learned.bias, learned.encode)
        )
        draft = boxes_draft(network, domain, latents, nodes=options.nodes, arithmetic=count)
        return draft, truth, f"The network on {options.points} random inputs"
    if learned is None:
        sparse = SparseLatents.from_dense(activations)
        decoder, bias = domain.decoder, domain.bias
    else:
        sparse = SparseLatents.from_dense(learned.encode(inputs))
        decoder, bias = learned.decoder, learned.bias
    draft = points_draft(network, inputs, labels, decoder, bias, sparse)
    return draft, truth, "Brute force"

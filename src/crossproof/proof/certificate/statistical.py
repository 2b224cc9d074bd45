"""Makes statistical certificates of language models, and runs models again to check them."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from torch import from_numpy

from crossproof.activations.corpus import TextSlice
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import atomic_folder, check_replaceable
from crossproof.interactions.config import MLPs
from crossproof.interactions.views import mlp_views
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.proof.certificate.format import HEADER, SCHEMA, TENSORS, tensors_hash
from crossproof.proof.certificate.format_statistical import (
    Statement,
    StatisticalCertificate,
    read_statistical,
    treatments_of,
)
from crossproof.proof.certificate.header_statistical import ASSUMPTIONS, KIND
from crossproof.proof.certificate.provers.documents import (
    KEEP,
    SPLICED,
    Documents,
    DocumentValues,
    Progress,
    Treatments,
    dictionary_hash,
    document_values,
    independent_documents,
)
from crossproof.proof.certificate.reading import CertificateError
from crossproof.proof.certificate.result_statistical import Recomputation, StatisticalResult
from crossproof.proof.certificate.text_options import DocumentSlice, StatisticalOptions
from crossproof.proof.certificate.verifier.statistical import judge_statistical, verify_statistical

LOSS_TOLERANCE, CHANGED_TOLERANCE = 1e-3, 0.02
"""Nats a token, and of a share of tokens beside one token: what a model may differ by when it runs
on another machine (another order of float32 sums, near ties that fall the other way)."""
FEWEST = 16


def prove_statistical(
    model: LanguageModel,
    crosscoder: Crosscoder,
    text: DocumentSlice,
    out: Path | str,
    options: StatisticalOptions = StatisticalOptions(),  # noqa: B008  (frozen)
    mlps: MLPs = "next",
    progress: Progress | None = None,
) -> StatisticalResult:
    """Measures held-out documents, claims what the verifier confirms, and verifies the folder.

    `mlps`: where m latents a neuron are kept, as in `mlp_views`. The dictionary must not have seen
    the documents, and nothing may have been chosen by looking at them: nobody can check that but
    the reader. Raises CrossproofError as `independent_documents` and `document_values`, for a pair
    of models, if fewer than two documents have a prediction that counts, and if the folder cannot
    be written.
    """
    began = time.perf_counter()
    check_replaceable(Path(out), (HEADER, TENSORS))
    if isinstance(model, ModelPair):
        raise CrossproofError("A statistical certificate is of one model: give one of the two.")
    treatments = treated(model, crosscoder, options, mlps)
    where = TextSlice(text.text, text.split, options.documents, text.context, text.skip)
    documents = independent_documents(model, where)
    values = document_values(model, crosscoder, documents, treatments, progress)
    about = {
        "sha256": "",
        "split": text.split,
        "skip": text.skip,
        "context": text.context,
        "vocabulary": model.vocab_size,
    }
    precision = str(model.dtype).removeprefix("torch.")
    draft = replace(
        _draft(documents, values, treatments, options),
        model=model.weights_hash,
        dictionary=dictionary_hash(crosscoder),
        text=about,
        task={"model": model.name, "precision": precision, "text": text.text},
        cost={"seconds": round(time.perf_counter() - began, 1)},
    )
    write_statistical(Path(out), claiming(draft))
    return verify_statistical(out)


def _draft(
    documents: Documents,
    values: DocumentValues,
    treatments: Treatments,
    options: StatisticalOptions,
) -> StatisticalCertificate:
    """The documents of which a prediction counts, with nothing claimed of them."""
    counted = np.flatnonzero(values.tokens > 0)
    if len(counted) < 2:
        raise CrossproofError(
            f"{len(counted)} documents have a prediction that the dictionary's rule counts: a "
            f"statistical certificate needs many."
        )
    return StatisticalCertificate(
        delta=options.delta,
        low=-options.range,
        high=options.range,
        spliced=treatments.spliced,
        mlps=treatments.mlps,
        statements=tuple(Statement(name, 1e30, 1e30, 1e30) for name in treatments.names),
        digests=documents.digests[counted],
        tokens=values.tokens[counted],
        loss=values.loss[counted],
        treated_loss=values.treated_loss[counted],
        changed=values.changed[counted],
    )


def claiming(draft: StatisticalCertificate) -> StatisticalCertificate:
    """The certificate that claims what the verifier reaches."""
    each = iter(judge_statistical(draft).bounds)
    statements = tuple(
        Statement(gap.treatment, *(_outward(b.bound) for b in (gap, changed, beyond)))
        for gap, changed, beyond in zip(each, each, each, strict=True)
    )
    return replace(draft, statements=statements)


def treated(
    model: LanguageModel, crosscoder: Crosscoder, options: StatisticalOptions, mlps: MLPs
) -> Treatments:
    """What options ask for, of a crosscoder; CrossproofError if that cannot be."""
    written = tuple(crosscoder.hookpoints.names[at] for at in crosscoder.written)
    spliced = written if options.splice == ("all",) else options.splice
    spliced = () if spliced == ("none",) else spliced
    blocks = tuple(mlp_views(model, crosscoder, mlps)) if options.keep else ()
    treatments = Treatments(spliced, options.keep, blocks)
    treatments.checked(crosscoder)
    return treatments


def write_statistical(folder: Path, certificate: StatisticalCertificate) -> None:
    """Writes the folder, replacing an earlier one; CrossproofError if the place is not writable."""
    text = {"digests": certificate.digests, "tokens": certificate.tokens}
    names = ("loss", "treated_loss", "changed")
    values = {name: getattr(certificate, name) for name in names}
    header = {
        "schema": SCHEMA,
        "verifier": SCHEMA,
        "kind": KIND,
        "claim": {
            "delta": certificate.delta,
            "range": [certificate.low, certificate.high],
            "documents": len(certificate.tokens),
            "spliced": list(certificate.spliced),
            "mlps": list(certificate.mlps),
            "statements": [asdict(statement) for statement in certificate.statements],
        },
        "assumptions": list(ASSUMPTIONS),
        "model": certificate.model,
        "dictionary": certificate.dictionary,
        "text": {**certificate.text, "sha256": tensors_hash(text)},
        "values": tensors_hash(values),
        "task": dict(certificate.task),
        "cost": dict(certificate.cost),
    }
    tensors: dict[str, Any] = {f"text.{name}": tensor for name, tensor in text.items()}
    tensors |= {f"values.{name}": tensor for name, tensor in values.items()}
    with atomic_folder(folder) as temporary:
        save_file(
            {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
            temporary / TENSORS,
        )
        (temporary / HEADER).write_text(json.dumps(header, indent=2) + "\n")


def recompute(
    folder: Path | str,
    model: LanguageModel,
    crosscoder: Crosscoder,
    text: str,
    share: float = 0.05,
    progress: Progress | None = None,
) -> Recomputation:
    """Runs model and treatments again on a random share of a certificate's documents.

    The documents are those that the certificate says of `text`, and at least 16; the draw is fresh
    every time. Raises CertificateError if model, dictionary or text are others, or a document has
    other numbers than saved; CrossproofError as `prove_statistical`.
    """
    certificate = read_statistical(Path(folder))
    told = {"model": model.weights_hash, "dictionary": dictionary_hash(crosscoder)}
    for name, hashed in told.items():
        if getattr(certificate, name) != hashed:
            raise CertificateError(
                f"{folder} speaks about the {name} {getattr(certificate, name)}, and yours is "
                f"{hashed}."
            )
    about = certificate.text
    if about["vocabulary"] != model.vocab_size:
        raise CertificateError(f"{folder} speaks about another vocabulary than the model's.")
    documents, order = _located(folder, certificate, model, text)
    count = min(len(order), max(FEWEST, round(share * len(order))))
    chosen = np.sort(np.random.default_rng().choice(len(order), count, replace=False))
    names = treatments_of(certificate.statements)
    keep = tuple(int(name.removeprefix(KEEP)) for name in names if name != SPLICED)
    treatments = Treatments(certificate.spliced, keep, certificate.mlps)
    if treatments.names != names:
        raise CertificateError(f"{folder} must name 'spliced' before other treatments.")
    missing = np.setdiff1d(np.arange(order[-1]), order)
    some = documents.rows(from_numpy(np.concatenate([order[chosen], missing])))
    again = document_values(model, crosscoder, some, treatments, progress)
    if again.tokens[count:].any():
        raise CertificateError(
            f"{folder} leaves out documents of '{text}' that count: nobody may choose among them."
        )
    return _compared(certificate, chosen, again)


def _located(
    folder: Path | str, certificate: StatisticalCertificate, model: LanguageModel, text: str
) -> tuple[Documents, np.ndarray]:
    """The documents of a text, and where among them are those of a certificate."""
    about = certificate.text
    everything = TextSlice(text, about["split"], 2**53, about["context"], about["skip"])
    documents = independent_documents(model, everything)
    places = {row.tobytes(): at for at, row in enumerate(documents.digests)}
    order = np.array([places.get(row.tobytes(), -1) for row in certificate.digests])
    if order.min() < 0 or (order[1:] < order[:-1]).any():
        raise CertificateError(
            f"{folder} has documents that '{text}' has not, or not in its order: it is about "
            f"another text."
        )
    return documents, order


def _compared(
    certificate: StatisticalCertificate, chosen: np.ndarray, again: DocumentValues
) -> Recomputation:
    tokens = certificate.tokens[chosen]
    if not np.array_equal(again.tokens[: len(chosen)], tokens):
        raise CertificateError("Another number of predictions counts than the certificate says.")
    per = tokens[:, None]
    saved = np.column_stack([certificate.loss[chosen], certificate.treated_loss[chosen]])
    ours = np.column_stack([again.loss, again.treated_loss])[: len(chosen)]
    losses = np.abs(saved - ours) / per
    changes = np.abs(certificate.changed[chosen] - again.changed[: len(chosen)])
    if not (losses <= LOSS_TOLERANCE).all():
        raise CertificateError(
            f"A document's loss is {losses.max():.3g} nats a token from what the certificate says: "
            f"its numbers are not this model's."
        )
    if not (changes <= 1 + CHANGED_TOLERANCE * per).all():
        raise CertificateError(
            f"A document has {changes.max()} tokens more or less that change than the certificate "
            f"says: its numbers are not this model's."
        )
    return Recomputation(len(chosen), float(losses.max()), float((changes / per).max()))


def _outward(bound: float) -> float:
    """Nine decimals, never below what was verified: sums may round otherwise elsewhere."""
    return max(math.ceil(bound * 1e9) / 1e9, bound)

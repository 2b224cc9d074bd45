"""Reading statistical certificates: what was measured on each document of a held-out text.

Nothing here or behind it is a proof about an input: docs/certificate-format.md says what is claimed
and what is assumed. Like `format`, all that the verifier shares with the prover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.format import (
    HEADER,
    LARGEST_SUM,
    Described,
    Limits,
    Tensors,
    bytes_of,
    check_hashes,
    check_names,
    check_range,
    check_type,
    load_tensors,
    part_of,
    tensors_hash,
)
from crossproof.proof.certificate.header_statistical import ASSUMPTIONS as ASSUMPTIONS
from crossproof.proof.certificate.header_statistical import KIND, read_header
from crossproof.proof.certificate.reading import CertificateError, quoted

LAYOUT = {
    "text.digests": ("n 4", True),
    "text.tokens": ("n", True),
    "values.loss": ("n", False),
    "values.treated_loss": ("n M", False),
    "values.changed": ("n M", True),
}
"""Shapes, and whether the numbers are whole."""


@dataclass(frozen=True)
class Statement:
    """What is claimed of one treatment, over documents that are not in the file."""

    treatment: str
    """`spliced`: hookpoints are the dictionary's reconstruction; `keep-m`: every neuron reads its
    m largest latents."""
    loss_gap: float
    """The expected gap of a document is at most this: nats a token, clipped to the range."""
    changed: float
    """The expected share of a document's tokens whose likeliest successor changes, at most."""
    beyond: float
    """The share of documents whose gap is above the range, at most."""


@dataclass(frozen=True, eq=False)
class StatisticalCertificate:
    """What a folder holds; well-formed, but nothing in it is believed yet."""

    delta: float
    """All statements hold together with probability 1 - delta over the draw of the documents."""
    low: float
    high: float
    """A document's gap is clipped to this range, nats a token."""
    spliced: tuple[str, ...]
    """Hookpoints that the treatment `spliced` replaces by their reconstruction, all at once."""
    mlps: tuple[int, ...]
    """Blocks whose MLPs read m latents a neuron in the treatments `keep-m`, all at once."""
    statements: tuple[Statement, ...]
    digests: npt.NDArray[np.int64]
    """[n, 4]: SHA-256 of each document's tokens."""
    tokens: npt.NDArray[np.int64]
    """[n]: how many predictions of each document count."""
    loss: npt.NDArray[np.float64]
    """[n]: summed over them, nats: the model's."""
    treated_loss: npt.NDArray[np.float64]
    """[n, M]: the same of every treatment."""
    changed: npt.NDArray[np.int64]
    """[n, M]: predictions whose most likely token is another."""
    model: str = ""
    """The hash of the model's weights, as a LanguageModel has it."""
    dictionary: str = ""
    text: Mapping[str, Any] = field(default_factory=dict)
    """`sha256`; which documents of a source these are: `split`, `skip`, `context`; `vocabulary`."""
    task: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0

    @property
    def about(self) -> dict[str, str]:
        """The hashes that a reader can insist on."""
        names = {"model": self.model, "dictionary": self.dictionary}
        return names | {"text": self.text["sha256"]}


def read_statistical(folder: Path, limits: Limits | None = None) -> StatisticalCertificate:
    """Reads a certificate and checks form, numbers and hashes.

    Raises CertificateError, in one sentence, for anything that is not as the format says.
    """
    header = read_header(folder / HEADER)
    claim = header["claim"]
    shape = (claim["documents"], len(claim["statements"]))
    _, tensors = load_tensors(
        folder, lambda d: check_entries(d, *shape), limits, lambda _: 200 * shape[0]
    )
    check_values(tensors)
    hashes = {name: tensors_hash(part_of(tensors, name)) for name in ("text", "values")}
    check_hashes(folder, hashes, {"text": header["text"]["sha256"], "values": header["values"]})
    low, high = map(float, claim["range"])
    return StatisticalCertificate(
        delta=float(claim["delta"]),
        low=low,
        high=high,
        spliced=tuple(claim["spliced"]),
        mlps=tuple(claim["mlps"]),
        statements=tuple(Statement(**each) for each in claim["statements"]),
        digests=tensors["text.digests"],
        tokens=tensors["text.tokens"],
        loss=tensors["values.loss"],
        treated_loss=tensors["values.treated_loss"],
        changed=tensors["values.changed"],
        **{key: header[key] for key in ("model", "dictionary", "text", "task", "cost")},
        bytes=bytes_of(folder),
    )


def check_entries(described: Described, documents: int, treatments: int) -> None:
    """Raises CertificateError for a tensor that is missing, foreign, or of another shape or type.

    Every document that is claimed must be there, and no other.
    """
    check_names(KIND, described, LAYOUT)
    sizes = {"n": documents, "M": treatments, "4": 4}
    for name, (letters, whole) in LAYOUT.items():
        expected = tuple(sizes[letter] for letter in letters.split())
        shape, integers = described[name]
        check_type(name, integers, whole)
        if shape != expected:
            raise CertificateError(
                f"{name} has shape {quoted(list(shape))}, and {list(expected)} is needed for "
                f"{documents:,} documents and {treatments} treatments as claimed."
            )


def check_values(tensors: Tensors) -> None:
    """Raises CertificateError for numbers that no measurement gives, and for repeated documents."""
    for name, tensor in tensors.items():
        if name != "text.digests":
            check_range(name, tensor)
            if tensor.min() < 0:
                raise CertificateError(f"{name} holds a negative number, which none can be.")
    tokens = tensors["text.tokens"]
    if not ((tokens > 0) & (tokens <= LARGEST_SUM)).all():
        raise CertificateError(f"text.tokens must hold numbers from 1 to {LARGEST_SUM:,}.")
    if (tensors["values.changed"] > tokens[:, None]).any():
        raise CertificateError("values.changed says of a document more tokens than it has.")
    repeated = len(tokens) - len({row.tobytes() for row in tensors["text.digests"]})
    if repeated:
        raise CertificateError(
            f"{repeated:,} of the {len(tokens):,} documents occur twice: each may count once."
        )


def treatments_of(statements: Sequence[Statement]) -> tuple[str, ...]:
    """Their treatments' names, in order."""
    return tuple(statement.treatment for statement in statements)

"""Reading certificate folders: certificate.json and tensors.safetensors, nothing pickled.

All that the verifier shares with the prover. docs/certificate-format.md is the whole format on a
page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.headers import SCHEMA as SCHEMA
from crossproof.proof.certificate.headers import check_pins as check_pins
from crossproof.proof.certificate.headers import is_number, read_header
from crossproof.proof.certificate.reading import CertificateError as CertificateError
from crossproof.proof.certificate.reading import load, quoted, read_entries, read_json

HEADER, TENSORS = "certificate.json", "tensors.safetensors"
SMALLEST_VALUE, LARGEST_VALUE = 1e-60, 1e30
"""Numbers are 0 or of a magnitude between these: nothing the verifier computes can overflow, and
what underflows in a product is smaller than the error it is charged (`arithmetic.TINY`)."""
KEYS = {"schema", "kind", "task", "claim", "network", "domain", "dictionary", "verifier", "cost"}
LARGEST_SUM, LISTS = 10**6, "BEGLT"
"""Sums have at most this many terms (`arithmetic.UP`); nothing is summed over these letters."""
AT_ONCE = 2**16
"""Numbers whose range is looked at together."""
Tensors = Mapping[str, npt.NDArray[Any]]
Described = Mapping[str, tuple[tuple[int, ...], bool]]
"""Of each tensor its shape, and whether its numbers are whole."""

NETWORK = {"W_in": "D N", "b_in": "N", "W_out": "N V", "b_out": "V", "skip": "D V"}
_NETWORK = {f"network.{name}": shape for name, shape in NETWORK.items()}
_DICTIONARY = {"dictionary.atoms": "H D", "dictionary.bias": "D"}
_EFFECTS = {f"proof.effect_{name}": "p N" for name in ("left", "right", "sum", "difference")}
ATTENTION = {"W_E": "V D", "W_pos": "C D", "W_Q": "D A", "W_K": "D A", "W_V": "D A"}
ATTENTION |= {"W_O": "A D", "W_U": "D V"}
_SEQUENCES = {f"network.{name}": shape for name, shape in ATTENTION.items()}
_SEQUENCES |= {"domain.order": "V"}
_GROUPS = {"proof.grain": "one", "proof.asked": "V", "proof.read": "C V"}
LAYOUT = {
    "points": _NETWORK
    | _DICTIONARY
    | {"domain.inputs": "T D", "domain.labels": "T"}
    | {"proof.offsets": "B", "proof.indices": "E", "proof.values": "E"},
    "pairs": _NETWORK
    | {"domain.left": "p D", "domain.right": "p D"}
    | _EFFECTS
    | {"proof.owners": "N", "proof.scale": "N"},
    "boxes": _NETWORK
    | _DICTIONARY
    | {"domain.atoms": "F D", "domain.bias": "D", "domain.low": "F", "domain.high": "F"}
    | {"domain.active_sets": "G K", "domain.readout": "F V"}
    | {"proof.latent_index": "G M", "proof.latent_slopes": "G K M"}
    | {"proof.latent_offset": "G M", "proof.tree": "L"},
    "products": _NETWORK
    | {"domain.left": "p D", "domain.right": "p D", "domain.table": "p p"}
    | _EFFECTS
    | {"dictionary.atoms": "H p", "proof.blocks": "H"}
    | {"proof.owners": "N", "proof.scale": "N"},
    "sequences": _SEQUENCES,
    "attention": _SEQUENCES | _GROUPS,
    "attention-latents": _SEQUENCES
    | _DICTIONARY
    | _GROUPS
    | {"proof.offsets": "B", "proof.indices": "E", "proof.values": "E", "proof.kept": "J J"},
}
"""The tensors of each kind; a letter is the same size wherever it stands."""
WHOLE = {"domain.labels", "domain.active_sets", "proof.offsets", "proof.indices", "proof.owners"}
WHOLE |= {"proof.scale", "proof.latent_index", "proof.tree"}
WHOLE |= {"domain.order", "proof.grain", "proof.kept", "domain.table", "proof.blocks"}
"""Tensors of integers; all others are floating point."""


@dataclass(frozen=True)
class Limits:
    """What a certificate may ask for; more is refused before it is allocated or begun."""

    memory: int = 4 * 2**30
    """Bytes."""
    operations: int = 10**13

    def check(self, memory: int = 0, operations: int = 0) -> None:
        """Raises CertificateError if the certificate needs more than allowed."""
        needs = {"memory": (memory, "bytes of memory"), "operations": (operations, "operations")}
        for option, (amount, what) in needs.items():
            limit = getattr(self, option)
            if amount > limit:
                raise CertificateError(
                    f"The certificate needs {amount:,} {what}; the limit is {limit:,}: allow "
                    f"more with --{option}."
                )


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a certificate folder holds; well-formed, but nothing in it is believed yet."""

    kind: str
    claim: Mapping[str, float]
    """`accuracy` (lower bound) and `cross_entropy` (upper bound, nats); either may be absent."""
    hashes: Mapping[str, str]
    """SHA-256 of `network`, `domain` and, where there is one, `dictionary`."""
    tensors: Tensors
    """float64 or int64, by name: network.*, domain.*, dictionary.*, proof.*"""
    sizes: Mapping[str, int]
    """What the letters of `LAYOUT` stand for."""
    task: Mapping[str, Any]
    """Where network and domain come from, for people; nothing rests on it."""
    cost: Mapping[str, Any]
    """What the prover spent, for people; nothing rests on it."""
    bytes: int
    verifier: int
    """Version of the verifier that the prover checked itself with."""

    def part(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The tensors below `name.`, without the prefix."""
        return part_of(self.tensors, name)

    @property
    def memory(self) -> int:
        """Bytes that the tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def part_of(tensors: Tensors, name: str) -> dict[str, npt.NDArray[Any]]:
    """The tensors below `name.`, without the prefix."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def tensors_hash(tensors: Tensors) -> str:
    """SHA-256 (hex) over names, shapes and values (little-endian float64 or int64), by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        kind = "<f8" if np.issubdtype(tensors[name].dtype, np.floating) else "<i8"
        values = np.ascontiguousarray(tensors[name].astype(kind, copy=False))
        shape = ",".join(str(size) for size in tensors[name].shape)
        digest.update(f"{name}:{kind}:{shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


def kind_of(folder: Path) -> str:
    """The kind that a certificate says it is of; "" if it says none. Errors as `read_json`."""
    header = read_json(folder / HEADER)
    kind = header.get("kind") if isinstance(header, dict) else ""
    return kind if isinstance(kind, str) else ""


def read_certificate(folder: Path, limits: Limits | None = None) -> Certificate:
    """Reads a certificate and checks form, numbers and hashes.

    Raises CertificateError, in one sentence, for anything that is not as the format says.
    """
    header = _read_header(folder / HEADER)
    sizes, tensors = load_tensors(folder, lambda d: check_layout(header["kind"], d), limits)
    for name, tensor in tensors.items():
        check_range(name, tensor)
    parts = {name: part_of(tensors, name) for name in ("network", "domain", "dictionary")}
    hashes = {name: tensors_hash(part) if part else None for name, part in parts.items()}
    check_hashes(folder, hashes, header)
    return Certificate(
        kind=header["kind"],
        claim={name: float(value) for name, value in header["claim"].items()},
        hashes={name: hashed for name, hashed in hashes.items() if hashed is not None},
        tensors=tensors,
        sizes=sizes,
        task=header["task"],
        cost=header["cost"],
        bytes=bytes_of(folder),
        verifier=header["verifier"],
    )


def load_tensors(
    folder: Path,
    check: Callable[[Described], Any],
    limits: Limits | None,
    more: Callable[[Any], int] = lambda _: 0,
) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    """What `check` makes of the tensors' names, shapes and types, and then the tensors.

    Raises CertificateError as `check`, and before anything is read if that needs more memory than
    allowed, with `more` bytes (of what `check` made) for looking at the numbers.
    """
    path = folder / TENSORS
    entries = read_entries(path)
    sizes = check({name: (entry.shape, entry.whole) for name, entry in entries.items()})
    largest = max(entry.bytes for entry in entries.values())
    needed = 8 * sum(entry.count for entry in entries.values()) + largest
    (limits or Limits()).check(memory=needed + more(sizes))
    return sizes, {name: load(path, entry) for name, entry in entries.items()}


def bytes_of(folder: Path) -> int:
    """The size of both files."""
    return sum((folder / name).stat().st_size for name in (HEADER, TENSORS))


def check_hashes(
    folder: Path, hashes: Mapping[str, str | None], claimed: Mapping[str, Any]
) -> None:
    """Raises CertificateError for a part whose hash is not the one that is claimed."""
    for name, hashed in hashes.items():
        if claimed.get(name) != hashed:
            raise CertificateError(
                f"The {name} in {folder} has hash {hashed}, and the certificate speaks about "
                f"{quoted(claimed.get(name))}: they do not belong together."
            )


def check_names(kind: str, described: Described, layout: Mapping[str, Any]) -> None:
    """Raises CertificateError for a tensor that is missing or foreign."""
    for name in [*described, *layout]:
        if name not in layout or name not in described:
            wrong = "may not hold" if name in described else "must hold"
            raise CertificateError(f"A certificate of kind '{kind}' {wrong} {quoted(name)}.")


def check_type(name: str, whole: bool, expected: bool) -> None:
    """Raises CertificateError for integers in place of other numbers, and the reverse."""
    if whole != expected:
        raise CertificateError(f"{name} must be {'integers' if expected else 'floating point'}.")


def check_layout(kind: str, described: Described) -> dict[str, int]:
    """The sizes that letters stand for, from the tensors' shapes and whether they are integers.

    Raises CertificateError for a tensor that is missing, foreign, or of the wrong shape or type.
    """
    layout, sizes = LAYOUT[kind], dict[str, int]()
    check_names(kind, described, layout)
    for name, letters in layout.items():
        shape, whole = described[name]
        check_type(name, whole, name in WHOLE)
        check_shape(name, shape, letters.split(), sizes)
    for letter in set(sizes) - set(LISTS):
        if sizes[letter] > LARGEST_SUM:
            raise CertificateError(
                f"The certificate has {letter} = {sizes[letter]:,}; the limit is {LARGEST_SUM:,}."
            )
    if sizes["V"] < 2:
        raise CertificateError("A network with fewer than two classes has nothing to certify.")
    return sizes


def check_shape(
    name: str, shape: tuple[int, ...], letters: list[str], sizes: dict[str, int]
) -> None:
    """Raises CertificateError unless a shape fits its letters, whose sizes are noted in `sizes`."""
    fits = len(shape) == len(letters) and all(
        size > 0 and sizes.setdefault(letter, size) == size
        for letter, size in zip(letters, shape, strict=True)
    )
    if not fits:
        known = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
        raise CertificateError(
            f"{name} has shape {quoted(list(shape))}, and [{', '.join(letters)}] is needed"
            f"{known and f' with {known}'}."
        )


def check_range(name: str, tensor: npt.NDArray[Any]) -> None:
    """Raises CertificateError for numbers that the verifier cannot compute with."""
    flat = tensor.reshape(-1)
    for start in range(0, flat.size, AT_ONCE):
        size = np.abs(flat[start : start + AT_ONCE].astype(np.float64, copy=False))
        if not (size <= LARGEST_VALUE).all() or ((size > 0) & (size < SMALLEST_VALUE)).any():
            raise CertificateError(
                f"{name} holds NaN, infinity, or a number beyond {LARGEST_VALUE:g} or nearer to 0 "
                f"than {SMALLEST_VALUE:g}."
            )


def _read_header(path: Path) -> dict[str, Any]:
    header = read_header(path, KEYS)
    kind = header["kind"]
    if not isinstance(kind, str) or kind not in LAYOUT:
        raise CertificateError(f"{path} has kind {quoted(kind)}; there are {', '.join(LAYOUT)}.")
    _check_claim(header["claim"], path)
    return header


def _check_claim(claim: Any, path: Path) -> None:
    known = {"accuracy", "cross_entropy"}
    if not isinstance(claim, dict) or not claim or not set(claim) <= known:
        raise CertificateError(f"'claim' in {path} must hold accuracy, cross_entropy or both.")
    for name, value in claim.items():
        if not is_number(value):
            raise CertificateError(f"The claim {name} in {path} must be a number.")

"""Reading certificate folders: certificate.json and tensors.safetensors, nothing pickled.

All that the verifier shares with the prover. docs/certificate-format.md is the whole format on a
page.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from crossproof.errors import CrossproofError

SCHEMA = 1
HEADER, TENSORS = "certificate.json", "tensors.safetensors"
LARGEST_HEADER, LARGEST_TENSORS = 2**20, 2**30
"""Bytes; larger files are refused unread, so that a verdict takes bounded time."""
LARGEST_VALUE = 1e30
"""Numbers beyond this are refused: nothing the verifier computes from them can overflow."""
KINDS = ("points", "pairs", "boxes")
KEYS = {"schema", "kind", "task", "claim", "network", "domain", "dictionary", "verifier", "cost"}
PARTS = ("network", "domain", "dictionary", "proof")
DTYPES = {"F64": np.float64, "F32": np.float64, "I64": np.int64, "I32": np.int64, "I8": np.int64}
Tensors = Mapping[str, npt.NDArray[Any]]


class CertificateError(CrossproofError):
    """The certificate is malformed, or speaks about another network, domain or dictionary."""


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
    task: Mapping[str, Any]
    """Where network and domain come from, for people; nothing rests on it."""
    cost: Mapping[str, Any]
    """What the prover spent, for people; nothing rests on it."""
    bytes: int
    verifier: int
    """Version of the verifier that the prover checked itself with."""

    def part(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The tensors below `name.`, without the prefix."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}


def tensors_hash(tensors: Tensors) -> str:
    """SHA-256 (hex) over names, shapes and values (little-endian float64 or int64), by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        kind = "<f8" if np.issubdtype(tensors[name].dtype, np.floating) else "<i8"
        values = np.ascontiguousarray(tensors[name].astype(kind))
        shape = ",".join(str(size) for size in values.shape)
        digest.update(f"{name}:{kind}:{shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def read_certificate(folder: Path) -> Certificate:
    """Reads a certificate and checks form, numbers and hashes.

    Raises CertificateError, in one sentence, for anything that is not as the format says.
    """
    header = _read_header(folder / HEADER)
    tensors = _read_tensors(folder / TENSORS)
    size = (folder / HEADER).stat().st_size + (folder / TENSORS).stat().st_size
    hashes = {}
    foreign = [name for name in tensors if name.split(".")[0] not in PARTS]
    if foreign:
        raise CertificateError(f"{folder} holds the tensor {foreign[0]}, which is no part of it.")
    for name in ("network", "domain", "dictionary"):
        stated = header[name]
        part = {k: t for k, t in tensors.items() if k.startswith(f"{name}.")}
        if stated is None and name == "dictionary" and not part:
            continue
        hashed = tensors_hash({k.removeprefix(f"{name}."): t for k, t in part.items()})
        if stated != hashed:
            raise CertificateError(
                f"The {name} in {folder} has hash {hashed}, and the certificate speaks about "
                f"{stated!r}: they do not belong together."
            )
        hashes[name] = hashed
    return Certificate(
        kind=header["kind"],
        claim={name: float(value) for name, value in header["claim"].items()},
        hashes=hashes,
        tensors=tensors,
        task=header["task"],
        cost=header["cost"],
        bytes=size,
        verifier=header["verifier"],
    )


def _read_header(path: Path) -> dict[str, Any]:
    text = _bytes(path, LARGEST_HEADER)
    try:
        header = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{path} is not valid JSON ({error}): restore it.") from error
    if not isinstance(header, dict) or set(header) != KEYS:
        raise CertificateError(f"{path} must be an object with exactly the keys {sorted(KEYS)}.")
    for key in ("schema", "verifier"):
        if type(header[key]) is not int or header[key] != SCHEMA:
            raise CertificateError(
                f"{path} has {key} {header[key]!r}, this verifier reads {SCHEMA}: use the version "
                f"of crossproof that wrote it."
            )
    if header["kind"] not in KINDS:
        raise CertificateError(f"{path} has kind {header['kind']!r}; there are {', '.join(KINDS)}.")
    if not isinstance(header["task"], dict) or not isinstance(header["cost"], dict):
        raise CertificateError(f"'task' and 'cost' in {path} must be objects.")
    _check_claim(header["claim"], path)
    return header


def _check_claim(claim: Any, path: Path) -> None:
    known = {"accuracy", "cross_entropy"}
    if not isinstance(claim, dict) or not claim or not set(claim) <= known:
        raise CertificateError(f"'claim' in {path} must hold accuracy, cross_entropy or both.")
    for name, value in claim.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not abs(value) <= LARGEST_VALUE or not math.isfinite(value):
            raise CertificateError(f"The claim {name} in {path} must be a number.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _bytes(path: Path, limit: int) -> bytes:
    _check_size(path, limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path} cannot be read ({error.strerror}): restore it.") from error


def _check_size(path: Path, limit: int) -> None:
    if not path.is_file():
        raise CertificateError(f"{path} is missing: give the folder that `crossproof prove` wrote.")
    if path.stat().st_size > limit:
        raise CertificateError(f"{path} is larger than {limit:,} bytes: it is refused unread.")


def _read_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    _check_size(path, LARGEST_TENSORS)
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                dtype = file.get_slice(name).get_dtype()
                if dtype not in DTYPES:
                    raise CertificateError(
                        f"{name} in {path} has type {dtype}: use {list(DTYPES)}."
                    )
                tensors[name] = np.ascontiguousarray(file.get_tensor(name), dtype=DTYPES[dtype])
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CertificateError(
            f"{path} is damaged or not a safetensors file ({error}): restore it or prove again."
        ) from error
    for name, tensor in tensors.items():
        if not (np.abs(tensor) <= LARGEST_VALUE).all():
            raise CertificateError(
                f"{name} in {path} holds NaN, infinity or a number beyond {LARGEST_VALUE:g}."
            )
    return tensors

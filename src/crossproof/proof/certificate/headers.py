"""What certificate.json is checked for, whatever its kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from crossproof.proof.certificate.reading import CertificateError, quoted, read_json

SCHEMA = 1
HASH, MODEL = "[0-9a-f]{64}", "[0-9a-f,]{16,64}"
"""How a SHA-256 is written, and the hash of a language model's weights (or of two models')."""
LARGEST_NUMBER = 1e30


def read_header(path: Path, keys: AbstractSet[str]) -> dict[str, Any]:
    """The object in the file, with these keys, of a schema that is known, its notes objects."""
    header = read_json(path)
    if not isinstance(header, dict) or set(header) != keys:
        raise CertificateError(f"{path} must be an object with exactly the keys {sorted(keys)}.")
    for key in ("schema", "verifier"):
        if type(header[key]) is not int or header[key] != SCHEMA:
            raise CertificateError(
                f"{path} has {key} {quoted(header[key])}, this verifier reads {SCHEMA}: use the "
                f"version of crossproof that wrote it."
            )
    if not isinstance(header["task"], dict) or not isinstance(header["cost"], dict):
        raise CertificateError(f"'task' and 'cost' in {path} must be objects.")
    return header


def check_kind(
    header: Mapping[str, Any], kind: str, assumptions: Sequence[str], path: Path
) -> None:
    """Raises CertificateError unless a header is of this kind and states what it assumes."""
    if header["kind"] != kind:
        raise CertificateError(f"{path} has kind {quoted(header['kind'])}, not '{kind}'.")
    if header["assumptions"] != list(assumptions):
        raise CertificateError(
            f"'assumptions' in {path} must be those of the format, word for word: a claim that "
            f"leaves one out is another claim."
        )


def check_forms(header: Mapping[str, Any], forms: Mapping[str, str], path: Path) -> None:
    """Raises CertificateError for a hash that is not written as one."""
    for key, form in forms.items():
        if not isinstance(header[key], str) or not re.fullmatch(form, header[key]):
            raise CertificateError(f"'{key}' in {path} must be a hash in hexadecimal digits.")


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number of a size that is allowed."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and abs(value) <= LARGEST_NUMBER


def check_pins(
    folder: Path | str, told: Mapping[str, str], asked: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Which hashes the reader asked for; `told` is what the certificate is about.

    Raises CertificateError if one is another, or is of something that this kind has not.
    """
    known = {name: expected for name, expected in asked.items() if expected is not None}
    for name, expected in known.items():
        if name not in told:
            raise CertificateError(
                f"{folder} speaks about no {name}: of its kind a reader can insist on "
                f"{', '.join(told)}."
            )
        if told[name] != expected:
            raise CertificateError(
                f"{folder} speaks about the {name} {told[name]}, not {quoted(expected)}."
            )
    return tuple(known)

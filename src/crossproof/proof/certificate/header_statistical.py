"""certificate.json of a statistical certificate: its keys, and what may stand under them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crossproof.proof.certificate import headers
from crossproof.proof.certificate.format import LARGEST_SUM
from crossproof.proof.certificate.headers import HASH, MODEL, is_number
from crossproof.proof.certificate.reading import CertificateError, quoted

KIND, MOST_TREATMENTS, MOST_PLACES, LONGEST_NAME = "statistical", 64, 1000, 200
ASSUMPTIONS = (
    "The documents are independent draws from one distribution; what holds is about that "
    "distribution, not about any one text.",
    "The dictionary did not see them, and neither it nor the treatments, the range, delta, and "
    "which and how many documents these are were chosen by looking at them.",
    "The numbers saved are the model's, in the precision it was run in.",
)
"""Every claim rests on these; the file states them, and the reader sees them."""
KEYS = {"schema", "verifier", "kind", "claim", "assumptions", "model", "dictionary", "text"}
KEYS |= {"values", "task", "cost"}
CLAIM = {"delta", "range", "documents", "spliced", "mlps", "statements"}
STATEMENT = {"treatment", "loss_gap", "changed", "beyond"}
TEXT = {"sha256", "split", "skip", "context", "vocabulary"}
TREATMENT = "spliced|keep-(0|[1-9][0-9]{0,5})"
LEAST_DELTA = 1e-100
"""What is smaller cannot be told from 0 once it is divided among statements."""


def read_header(path: Path) -> dict[str, Any]:
    """The object in the file; CertificateError, in one sentence, unless it is well-formed."""
    header = headers.read_header(path, KEYS)
    headers.check_kind(header, KIND, ASSUMPTIONS, path)
    headers.check_forms(header, {"model": MODEL, "dictionary": HASH, "values": HASH}, path)
    _check_text(header["text"], path)
    _check_claim(header["claim"], path)
    return header


def _check_text(text: Any, path: Path) -> None:
    if not isinstance(text, dict) or set(text) != TEXT or not isinstance(text["sha256"], str):
        raise CertificateError(f"'text' in {path} must have exactly the keys {sorted(TEXT)}.")
    numbers = {"skip": 0, "context": 2, "vocabulary": 2}
    whole = all(type(text[k]) is int and least <= text[k] <= 2**53 for k, least in numbers.items())
    if not whole or text["split"] not in ("train", "validation", "held_out"):
        raise CertificateError(
            f"'text' in {path} must have a split (train, validation or held_out) and whole numbers "
            f"'skip', 'context' and 'vocabulary'."
        )


def _check_claim(claim: Any, path: Path) -> None:
    if not isinstance(claim, dict) or set(claim) != CLAIM:
        raise CertificateError(f"'claim' in {path} must have exactly the keys {sorted(CLAIM)}.")
    if not (is_number(claim["delta"]) and LEAST_DELTA <= claim["delta"] < 1):
        raise CertificateError(
            f"'delta' in {path} must lie between 0 and 1 ({LEAST_DELTA:g} at least): with "
            f"confidence 1 - delta something is claimed."
        )
    ends = claim["range"]
    numbers = isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends))
    if not numbers or not -1000 <= ends[0] < ends[1] <= 1000 or ends[1] - ends[0] < 1e-6:
        raise CertificateError(
            f"'range' in {path} must be two numbers, the lower first, from -1000 to 1000 nats."
        )
    count = claim["documents"]
    if type(count) is not int or not 2 <= count <= LARGEST_SUM:
        raise CertificateError(f"'documents' in {path} must be a number from 2 to {LARGEST_SUM:,}.")
    _check_statements(claim["statements"], path)
    spliced, mlps = claim["spliced"], claim["mlps"]
    named = _is_list(spliced) and all(map(_is_name, spliced))
    blocks = _is_list(mlps) and all(type(block) is int and 0 <= block < 2**31 for block in mlps)
    if not (named and blocks) or len({*spliced}) + len({*mlps}) != len(spliced) + len(mlps):
        raise CertificateError(
            f"'spliced' and 'mlps' in {path} must list hookpoints and blocks, each once."
        )
    names = {statement["treatment"] for statement in claim["statements"]}
    if bool(spliced) != ("spliced" in names) or bool(mlps) != bool(names - {"spliced"}):
        raise CertificateError(
            f"'spliced' and 'mlps' in {path} must say what the treatments are, and no more."
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_PLACES


def _is_name(value: Any) -> bool:
    """Whether it can be a hookpoint's name, and shown as it is."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()


def _check_statements(statements: Any, path: Path) -> None:
    right = isinstance(statements, list) and 1 <= len(statements) <= MOST_TREATMENTS
    if not right or not all(isinstance(s, dict) and set(s) == STATEMENT for s in statements):
        raise CertificateError(
            f"'statements' in {path} must list 1 to {MOST_TREATMENTS} objects with exactly the "
            f"keys {sorted(STATEMENT)}."
        )
    names = [statement["treatment"] for statement in statements]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(TREATMENT, name):
            raise CertificateError(
                f"{path} names the treatment {quoted(name)}: it must be 'spliced' or 'keep-m'."
            )
    if len(set(names)) != len(names):
        raise CertificateError(f"{path} names a treatment twice.")
    for statement in statements:
        for key in sorted(STATEMENT - {"treatment"}):
            if not is_number(statement[key]):
                raise CertificateError(f"'{key}' of {statement['treatment']} must be a number.")

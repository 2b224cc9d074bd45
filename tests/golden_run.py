"""Golden figures: what the commands write on tiny inputs, leaf by leaf, beside what they wrote.

A family is a chain of command lines. Each of its outputs is flattened to `path in the JSON ->
value` and kept as one file of `tests/golden`; a list of plain values stays one value. Only the
command line and the files it writes are looked at, so that modules may move freely.

CROSSPROOF_GOLDEN=write writes the files anew, =exact compares to the last digit (on the kind of
machine that wrote them, see tests/golden/README.md); otherwise numbers are compared within
`Bounds`. Paths that are missing or new are differences in every mode.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from crossproof.cli import main

TESTS = Path(__file__).parent
GOLDEN = Path(__file__).parent / "golden"
MODE = os.environ.get("CROSSPROOF_GOLDEN", "")
THREADS = os.environ.get("CROSSPROOF_GOLDEN_THREADS", "1")
UNTIMED = {"seconds", "tokens_per_second", "threads", "crossproof", "verifier"}
"""Keys of the clock, of the machine and of the release: never compared."""
HASHES = r"sha256|hash|/(network|domain|dictionary)$"
"""Of bytes: equal only where every digit is."""

Flat = dict[str, Any]


@dataclass(frozen=True)
class Bounds:
    """What rounding may do to a file: the error of a number, and what hangs on near ties.

    A number may differ by `error` times the largest of 1, itself and its list. `chosen` matches
    paths that follow from a comparison of nearly equal numbers (which pair is largest, which
    cluster a latent joins): rounding may turn it, so they are compared in exact mode alone.
    """

    error: float
    chosen: str = r"(?!)"


FIGURES = 2e-3
"""Relative error of a figure made in float32, whose unit of rounding is u = 6e-8.

A sum of n products errs by up to n u of its terms' sizes. The longest, a pre-activation over 17
hookpoints of 128 dimensions, has n = 2176: 1.3e-4. Shares of a recovered loss divide a difference
of losses that is about a tenth of them: ten times that. A dozen of Adam's steps add less: they
move what has no gradient but rounding by up to the learning rate, and that has no weight in a
figure; BatchTopK's threshold may turn one of the 2048 activations of a batch, 5e-4 of its sums.
"""
BOUNDS = {
    "measure": Bounds(FIGURES, r"top_pairs|owners|matrix|attention/example"),
    # An excess divides by a token's margin, which may be near zero.
    "attribute": Bounds(FIGURES, r"pairs|neurons|top|/excess/"),
    "cluster": Bounds(FIGURES, r"^/runs/"),
    "audit": Bounds(FIGURES, r"^/texts/"),
    # Losses of random models hardly change, and resampled changes to divide by may be near zero.
    "llama": Bounds(FIGURES, r"/phi.*/ci$|/area/ci$|/intervals/(ce|kl)_recovered"),
    "pair-": Bounds(FIGURES, r"/phi.*/ci$|/area/ci$|/intervals/(ce|kl)_recovered"),
    # Hundreds of steps of training multiply any rounding; that the claim holds is checked anyway.
    "proved": Bounds(FIGURES, r"^/(claim|cost|verdict)"),
    # Double precision, of operations that are counted: a claim is rounded to six digits.
    "verified": Bounds(1e-9),
}


def bounds(name: str) -> Bounds:
    """The bounds of an output, by what its name contains."""
    return next((value for part, value in BOUNDS.items() if part in name), Bounds(FIGURES))


def crossproof(*arguments: object) -> str:
    """What a command prints, run in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([str(argument) for argument in arguments])
    return printed.getvalue()


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of JSON content with their paths; a list of plain values is a leaf."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            if key not in UNTIMED:
                yield from flatten(part, f"{path}/{key}")
    elif isinstance(value, list) and any(isinstance(part, list | dict) for part in value):
        for i, part in enumerate(value):
            yield from flatten(part, f"{path}/{i}")
    else:
        yield path, value


def read(path: Path, root: Path) -> Flat:
    """A JSON, JSON-lines or safetensors file, flat, without the folders of this machine."""
    if path.suffix == ".safetensors":
        content: Any = {name: summary(tensor) for name, tensor in load_file(path).items()}
    else:
        text = path.read_text().replace(str(root), "ROOT").replace(str(TESTS), "TESTS")
        lines = path.suffix == ".jsonl"
        content = [json.loads(row) for row in text.splitlines()] if lines else json.loads(text)
    return dict(flatten(content))


def summary(tensor: NDArray[Any]) -> dict[str, Any]:
    """Shape, type, sum with sum of magnitudes, count that these leave out, hash of an array."""
    wide = tensor.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype),
        "sums": [float(finite.sum()), float(np.abs(finite).sum())],
        "infinite": int(wide.size - finite.size),
        "sha256": hashlib.sha256(tensor.tobytes()).hexdigest()[:16],
    }


def differences(
    golden: Mapping[str, Any], given: Mapping[str, Any], bounds: Bounds, exact: bool
) -> list[str]:
    """A line for every path at which `given` is not what `golden` says."""
    skipped = re.compile(rf"{HASHES}|{bounds.chosen}")
    lines = []
    for path in sorted({*golden, *given}):
        if not exact and skipped.search(path):
            continue
        if path not in given:
            lines.append(f"{path}: missing, was {_short(golden[path])}")
        elif path not in golden:
            lines.append(f"{path}: new, is {_short(given[path])}")
        elif not _equal(golden[path], given[path], None if exact else bounds.error):
            lines.append(f"{path}: was {_short(golden[path])}, is {_short(given[path])}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}... ({len(text)} characters)"


def _equal(golden: Any, given: Any, error: float | None) -> bool:
    if error is None:
        return json.dumps(golden) == json.dumps(given)
    old, new = (value if isinstance(value, list) else [value] for value in (golden, given))
    if isinstance(golden, list) != isinstance(given, list) or len(old) != len(new):
        return False
    floats = [abs(value) for value in (*old, *new) if isinstance(value, float)]
    allowed = error * max(1.0, *floats, 0.0)
    return all(_near(a, b, allowed) for a, b in zip(old, new, strict=True))


def _near(golden: Any, given: Any, allowed: float) -> bool:
    kinds = {type(golden), type(given)}
    if float in kinds and kinds <= {int, float}:
        return bool(abs(golden - given) <= allowed)
    return len(kinds) == 1 and bool(golden == given)


def check(name: str, given: Flat) -> list[str]:
    """Compares with (or writes) `tests/golden/name.json`; the first ten differences."""
    path = GOLDEN / f"{name}.json"
    if MODE == "write":
        rows = (f"{json.dumps(key)}: {json.dumps(given[key])}" for key in sorted(given))
        path.write_text("{\n" + ",\n".join(rows) + "\n}\n")
        return []
    if not path.exists():
        return [f"{name}: has no golden file; CROSSPROOF_GOLDEN=write writes it"]
    lines = differences(json.loads(path.read_text()), given, bounds(name), MODE == "exact")
    more = [f"... and {len(lines) - 10} more"] if len(lines) > 10 else []
    return [f"{name} {line}" for line in lines[:10] + more]

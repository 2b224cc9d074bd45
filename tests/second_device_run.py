"""The public API on a second device and on the CPU: what fails there, which figures differ.

A script, for a process of its own (see second_device), that prints one JSON object:

    python tests/second_device_run.py FOLDER core | rest | commands | CASE ...
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The portable kernels on both sides: figures are then made of the same operations.
os.environ["CROSSPROOF_KERNELS"] = "torch"

import golden_families
import second_device_cases as cases
import torch
from golden_run import GOLDEN, Bounds, bounds, differences, flatten
from second_device import SECOND, register

ROUNDING = Bounds(1e-4, r"/ci$|/intervals/")
"""Relative error of the same float32 operations, whose sums of up to a thousand terms may be made
in another order; intervals may divide by resampled differences near zero."""
FAMILIES = ("bundled", "llama", "neo", "formats")
LOADING = {"train", "evaluate", "measure", "cluster", "attribute", "audit", "import"}
"""Commands that load a language model."""


def figures(name: str, side: cases.Side) -> dict[str, Any]:
    """What a case gives on one device, flat; under "error" what it raises."""
    try:
        return dict(flatten(json.loads(json.dumps(getattr(cases, name)(side)))))
    except Exception as error:
        return {"error": failure(error)}


def commands(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Golden command lines with `--device`: how their figures differ from those of the CPU."""
    plain = golden_families.crossproof

    def crossproof(command: str, *arguments: object) -> str:
        device = ("--device", SECOND) if command in LOADING else ()
        return plain(command, *arguments, *device)

    golden_families.crossproof = crossproof  # type: ignore[assignment]
    for family in FAMILIES:
        (root / family).mkdir()
        for part, flat in golden_families.FAMILIES[family](root / family):
            name = f"{family}-{part}"
            golden = json.loads((GOLDEN / f"{name}.json").read_text())
            flat |= {path: golden[path] for path in golden if path.endswith("/device")}
            yield name, differences(golden, flat, bounds(name), False)[:5]


def report(folder: Path, names: list[str]) -> dict[str, Any]:
    """What came of each case: its number of figures, and which differ or why there are none."""
    here = cases.Side("cpu", folder / "cpu")
    there = cases.Side(str(SECOND), folder / "second", cpu=here)
    for side in (here, there):
        side.folder.mkdir(parents=True)
    # First the CPU, in a process that knows no other device.
    expected = {name: figures(name, here) for name in names if name != "commands"}
    register()
    made: dict[str, Any] = {}
    with torch.autograd.set_multithreading_enabled(False):  # backward passes call Python
        for name, of_cpu in expected.items():
            lines = differences(of_cpu, figures(name, there), ROUNDING, False)
            made[name] = {"figures": len(of_cpu), "differ": lines[:5]}
            print(name, made[name], file=sys.stderr, flush=True)
        return made | (dict(commands(folder)) if "commands" in names else {})


def failure(error: Exception) -> str:
    """What was raised, and the lines of the package that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/crossproof/" in f.filename]
    return f"{type(error).__name__}: {error} ({' '.join(lines)})"


if __name__ == "__main__":
    GROUPS = {"core": cases.CORE, "rest": cases.REST}
    chosen = [name for given in sys.argv[2:] for name in GROUPS.get(given, (given,))]
    print(json.dumps(report(Path(sys.argv[1]), chosen), indent=1))

"""The public API on a second device and on the CPU: what fails there, which figures differ.

A script, for a process of its own (see second_device), that prints one JSON object:

    python tests/second_device_run.py FOLDER core | rest | waits | commands | mutants | CASE ...
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

# The portable kernels on both sides: figures are then made of the same operations.
os.environ["CROSSPROOF_KERNELS"] = "torch"

import golden_families
import pytest
import second_device_cases as cases
import torch
from golden_run import FIGURES, GOLDEN, Bounds, bounds, differences, flatten
from mutating import Change
from second_device import SECOND, register, syncs_of

ROUNDING = Bounds(FIGURES, r"/ci$|/intervals/")
"""Of the same operations in float32; intervals may divide by resampled differences near zero."""
FAMILIES = ("bundled", "llama", "neo", "formats")
LOADING = {"train", "evaluate", "measure", "cluster", "attribute", "audit", "import"}
"""Commands that load a language model."""


MUTANTS = (
    ("train_again", Change("initialised", "crosscoder.to(model.device)", "crosscoder")),
    ("train_again", Change("Harvest._harvest", "X.to(self.model.device)", "X")),
    ("train_again", Change("Trainer.__init__", "X.to(crosscoder.b_enc.device)", "X")),
    ("revival", Change("SparseLatents.from_rows", "torch.arange(X, device=Y)", "torch.arange(X)")),
    ("evaluate", Change("encode_batches", "X.to(model.device)", "X")),
    ("measure", Change("entry_pairs", "torch.arange(X, device=Y)", "torch.arange(X)")),
    ("contexts", Change("LanguageModel._checked", "tokens.to(self.device)", "tokens")),
    ("carried", Change("RunFolder.crosscoders", "X.to(model.device)", "X")),
)
"""Lines that keep devices apart, and the case that runs each."""


def figures(name: str, side: cases.Side) -> dict[str, Any]:
    """What a case gives on one device, flat."""
    return dict(flatten(json.loads(json.dumps(getattr(cases, name)(side)))))


def compared(name: str, expected: dict[str, Any], side: cases.Side) -> dict[str, Any]:
    """How a case differs on the second device, or what it raises there."""
    try:
        lines = differences(expected, figures(name, side), ROUNDING, False)
    except Exception as error:
        return {"error": failure(error)}
    return {"figures": len(expected), "differ": lines[:5]}


def waits(side: cases.Side) -> Iterator[tuple[str, dict[str, int]]]:
    """How often the host waits in a training step that is not logged, by operation."""
    for name, steps in cases.training_steps(side).items():
        next(steps)  # harvests
        yield name, dict(syncs_of(partial(next, steps)))


def mutants(side: cases.Side) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the case that needs a line does without it."""
    for name, change in MUTANTS:
        with pytest.MonkeyPatch.context() as monkeypatch:
            change.apply(monkeypatch)
            said = f"{change.function}: {change.new} for {change.old}"
            yield said, compared(name, {}, side)


def commands(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Golden command lines with `--device`: how their figures differ from those of the CPU."""
    plain = golden_families.crossproof

    def crossproof(command: str, *arguments: object) -> str:
        device = ("--device", SECOND) if command in LOADING else ()
        return plain(command, *arguments, *device)

    golden_families.crossproof = crossproof  # type: ignore[assignment]
    for family in FAMILIES:
        (root / family).mkdir()
        try:
            for part, flat in golden_families.FAMILIES[family](root / family):
                name = f"{family}-{part}"
                golden = json.loads((GOLDEN / f"{name}.json").read_text())
                flat |= {path: golden[path] for path in golden if path.endswith("/device")}
                lines = differences(golden, flat, bounds(name), False)[:5]
                print(name, lines, file=sys.stderr, flush=True)
                yield name, {"figures": len(golden), "differ": lines}
        except SystemExit as error:
            yield family, {"error": f"a command failed: {error}"}


def report(folder: Path, names: list[str]) -> dict[str, Any]:
    """What came of each case: its number of figures, and which differ or why there are none."""
    here = cases.Side("cpu", folder / "cpu")
    there = cases.Side(str(SECOND), folder / "second", cpu=here)
    for side in (here, there):
        side.folder.mkdir(parents=True)
    # First the CPU, in a process that knows no other device; a model is loaded there in any case:
    # transformers leaves buffers of its first model unfilled where there is another device.
    here.model("gpt_neo")
    expected = {name: figures(name, here) for name in names if hasattr(cases, name)}
    register()
    made: dict[str, Any] = {}
    with torch.autograd.set_multithreading_enabled(False):  # backward passes call Python
        for name, of_cpu in expected.items():
            made[name] = compared(name, of_cpu, there)
            print(name, made[name], file=sys.stderr, flush=True)
        others = {"waits": waits(there), "commands": commands(folder), "mutants": mutants(there)}
        for name in names:
            made |= {name: dict(others[name])} if name in others else {}
        return made


def failure(error: Exception) -> str:
    """What was raised, and the lines of the package that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/crossproof/" in f.filename]
    return f"{type(error).__name__}: {error} ({' '.join(lines)})"


if __name__ == "__main__":
    GROUPS = {"core": cases.CORE, "rest": cases.REST}
    chosen = [name for given in sys.argv[2:] for name in GROUPS.get(given, (given,))]
    print(json.dumps(report(Path(sys.argv[1]), chosen), indent=1))

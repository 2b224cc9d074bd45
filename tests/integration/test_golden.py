"""Golden figures of every command on tiny inputs: a digit that changes is seen and explained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from golden_run import GOLDEN, MODE, THREADS, check

DRIVER = Path(__file__).parents[1] / "golden_families.py"


def test_commands_write_their_golden_figures(tmp_path: Path) -> None:
    """In one process of its own: its threads are set, and no type checker slows it down."""
    threads = {f"{name}_NUM_THREADS": THREADS for name in ("OMP", "MKL", "NUMBA")}
    offline = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, DRIVER, tmp_path],
        check=True,
        env=os.environ | threads | offline,
        timeout=600,
    )
    outputs = json.loads((tmp_path / "outputs.json").read_text())
    if MODE == "write":
        for path in GOLDEN.glob("*.json"):
            path.unlink()
    lines = [line for name, flat in outputs.items() for line in check(name, flat)]
    assert not lines, "\n" + "\n".join(lines)
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(outputs)

"""What would fail or wait on a GPU, seen on a CPU: the public API on tests/second_device.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import D_MODEL, random_tokens

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.encode import encode_batches
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel

DRIVER = Path(__file__).parents[1] / "second_device_run.py"
WAITS = {"plain": 2, "gated": 2, "stream": 2, "causal": 20}
"""Times that the host waits in one step: for the widest token of each of two MLPs, which Triton's
programs need not know; of a causal layout for how many entries each span of latents has."""


def on_both(folder: Path, *names: str) -> dict[str, Any]:
    """What the driver reports, from a process of its own: importing the device changes it."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[1] / "unit")])
    done = subprocess.run(
        [sys.executable, DRIVER, folder, *names],
        capture_output=True,
        text=True,
        env=os.environ | threads | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "PYTHONPATH": path},
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def wrong(made: dict[str, Any]) -> dict[str, Any]:
    """The cases that raise, or whose figures differ."""
    return {name: case for name, case in made.items() if case.get("differ") or "error" in case}


def test_training_evaluation_and_measurement_mix_no_devices_and_seldom_wait(
    tmp_path: Path,
) -> None:
    made = on_both(tmp_path, "core", "waits")
    waits = made.pop("waits")
    assert not wrong(made)
    assert sum(case["figures"] for case in made.values()) > 500
    assert {name: sum(counts.values()) for name, counts in waits.items()} == WAITS, waits


@pytest.mark.slow
def test_the_rest_of_the_public_api_mixes_no_devices(tmp_path: Path) -> None:
    made = on_both(tmp_path, "rest")
    assert not wrong(made)


@pytest.mark.slow
def test_commands_write_on_another_device_what_they_write_on_a_cpu(tmp_path: Path) -> None:
    made = on_both(tmp_path, "commands")["commands"]
    assert len(made) > 20
    assert not wrong(made)


@pytest.mark.slow
def test_every_line_that_keeps_devices_apart_is_needed(tmp_path: Path) -> None:
    made = on_both(tmp_path, "carried", "mutants")["mutants"]
    assert made
    assert all("meets tensors of two devices" in str(case.get("error")) for case in made.values())


def test_a_dictionary_left_on_another_device_is_named(gpt_neo: LanguageModel) -> None:
    dictionary = Crosscoder(CrosscoderConfig(8, "topk", 2), gpt_neo.hookpoints(), D_MODEL)
    with pytest.raises(CrossproofError, match=r"is on meta and .* on cpu: move it"):
        next(encode_batches(gpt_neo, dictionary.to("meta"), random_tokens(1, 8), 1))

"""The release recipe from end to end: the wheel, installed alone, explains, verifies and trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import release

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("end", ["lowest", "newest"])
def test_lock_files_leave_to_pytorch_what_its_wheels_pin(end: str) -> None:
    pins = (ROOT / f"requirements/{end}.txt").read_text().splitlines()
    assert sum(pin.startswith("torch==") for pin in pins) == 1
    assert not [pin for pin in pins if pin.startswith(("nvidia-", "cuda-", "triton"))]


def test_a_pytorch_that_cannot_be_installed_ends_the_trial(tmp_path: Path) -> None:
    options = release.Options(ROOT, tmp_path, "./no-such-pytorch", False)
    with pytest.raises(release.ReleaseError, match="no-such-pytorch"):
        release.make_environment(tmp_path / "environment", tmp_path / "no.whl", options)


@pytest.mark.slow
def test_the_wheel_works_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.release", "--out", str(tmp_path / "dist")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "train makes five steps" in done.stdout
    assert {path.suffix for path in (tmp_path / "dist").iterdir()} == {".gz", ".whl"}

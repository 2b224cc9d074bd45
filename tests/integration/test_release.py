"""The release recipe from end to end: the wheel, installed alone, explains, verifies and trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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

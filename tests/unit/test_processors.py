"""The script that runs tests as if on other processors, on a suite of two tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "processors.py"
TESTS = """
import os

def test_sees_its_environment():
    assert os.environ["OMP_NUM_THREADS"] == "2"

def test_fails_where_the_processor_is_plain():
    assert os.environ.get("ATEN_CPU_CAPABILITY") != "default"
"""


def test_each_environment_has_its_line_and_the_names_of_what_failed(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_two.py").write_text(TESTS)
    command = [sys.executable, str(SCRIPT), "--only", "two-threads", "aten-default", "--"]
    process = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert process.returncode == 1
    good, bad, *names = process.stdout.splitlines()
    assert good.startswith("two-threads")
    assert "2 passed" in good
    assert bad.startswith("aten-default")
    assert "2 failed" in bad
    assert [name.split("::")[1] for name in names] == [
        "test_sees_its_environment",
        "test_fails_where_the_processor_is_plain",
    ]

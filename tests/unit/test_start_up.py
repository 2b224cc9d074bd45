"""Help and typing errors come at once: parsing options imports no PyTorch.

What is asserted is what is imported, not how long it took.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from crossproof.cli import COMMANDS

HEAVY = ("torch", "transformers", "transformer_lens", "plotly", "scipy", "sklearn", "numba")

PROBE = """
import contextlib, io, json, sys
from crossproof.cli import main
code = 0
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        main(sys.argv[1:])
    except SystemExit as stop:
        code = stop.code
print(json.dumps([code, sorted(sys.modules)]))
"""


def imported_by(*arguments: str) -> tuple[object, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stdout)
    return code, set(modules) & set(HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_that_takes_time(command: str) -> None:
    assert imported_by(command, "--help") == (0, set())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_is_refused_before_anything_is_loaded(command: str) -> None:
    code, heavy = imported_by(command, "--no-such-option")
    assert code not in (0, None)
    assert heavy == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--out", "x", "--recipe", "none"),
        ("import", "x", "--model", "bundled", "--out", "x", "--format", "none"),
        ("cluster", "x", "--similarity", "phy"),
        ("cluster", "x", "--against", "phi", "Q@one"),
        ("cluster", "x", "--algorithm", "none"),
        ("cluster", "x", "--clusters", "-1"),
        ("audit", "x", "--trusted", "x", "--suspect", "x", "--detector", "none"),
        ("--version",),
        ("no-such-command",),
    ],
)
def test_so_is_a_wrong_value(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments)[1] == set()


def test_the_package_alone_imports_nothing() -> None:
    probe = "import json, sys, crossproof; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & {*HEAVY, "numpy", "rich"}

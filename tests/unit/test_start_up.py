"""Help and typing errors come at once: parsing options imports no PyTorch.

What is asserted is what is imported, not how long it took.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossproof.cli import COMMANDS, main
from crossproof.commands.early import check_text, loading
from crossproof.errors import CrossproofError

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
        ("tokenize", "bundled", "--out", "x"),
        ("--version",),
        ("no-such-command",),
    ],
)
def test_so_is_a_wrong_value(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments)[1] == set()


MISSING = {
    "train": "--out x --text no.txt",
    "tokenize": "no.txt --out x",
    "harvest": "--out x --model ./nothing",
    "import": "x --model ./nothing --out x",
    "export": "runs/nothing --format saelens --out x",
    "push": "runs/nothing me/x",
    "evaluate": "runs/nothing",
    "measure": "runs/nothing",
    "cluster": "runs/nothing",
    "explore": "runs/nothing",
    "attribute": "runs/nothing",
    "audit": "bundled --trusted bundled --suspect no.txt",
    "prove": "nothing --out x",
}
"""Of each command that reads files: one that is not there."""


@pytest.mark.parametrize("command", MISSING)
def test_so_is_what_is_not_there(command: str) -> None:
    code, heavy = imported_by(command, *MISSING[command].split())
    assert str(code).startswith("crossproof: There is no "), code
    assert heavy == set()


def test_a_text_of_any_spelling_is_looked_for(tmp_path: Path) -> None:
    there = tmp_path / "a.txt"
    there.write_text("Once upon a time.")
    for source in (None, "", "bundled", "hf:me/texts", there, f"{tmp_path}/*.txt", tmp_path):
        check_text(None if source is None else str(source))
    for source in (f"{there} + {tmp_path}/b.txt", f"{tmp_path}/*.jsonl", "no.npy"):
        with pytest.raises(CrossproofError, match="There is no text"):
            check_text(source)


@pytest.mark.parametrize("rank", ["", "0", "1"])
def test_that_libraries_are_loaded_is_said_by_one_process(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crossproof.working.PAUSE", 0.02)
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    with loading():
        time.sleep(0.1)
    assert ("loading libraries: 0 s so far" in capsys.readouterr().out) == (rank != "1")


@pytest.mark.parametrize(
    ("command", "first_loaded", "says"),
    [
        ("cluster", "crossproof.clusters.run", "{} has not been measured: that comes first."),
        (
            *("explore", "crossproof.explorer.building"),
            "Building {}/explorer from 200,000 tokens of text at most (--tokens), once: later "
            "calls use it.",
        ),
    ],
)
def test_what_is_done_first_is_said_before_anything_is_loaded(
    command: str, first_loaded: str, says: str, tmp_path: Path
) -> None:
    weights = tmp_path / "penalised" / "crosscoder" / "crosscoder.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    probe = (
        f"import sys; sys.modules[{first_loaded!r}] = None\n"
        "from crossproof.cli import main\n"
        f"try: main([{command!r}, {str(tmp_path)!r}])\n"
        "except SystemExit: pass"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert says.format(tmp_path) in done.stdout.splitlines()


def test_a_folder_that_is_no_site_is_refused_before_a_store_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "run" / "penalised" / "crosscoder" / "crosscoder.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(SystemExit, match="no exported site: give another"):
        main(["explore", str(tmp_path / "run"), "--export", str(tmp_path / "mine")])
    assert "Building" not in capsys.readouterr().out
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_the_package_alone_imports_nothing() -> None:
    probe = "import json, sys, crossproof; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & {*HEAVY, "numpy", "rich"}

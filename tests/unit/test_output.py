"""Nothing stops the command line: no console, no closed pipe, no error that nobody foresaw."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from crossproof import cli
from crossproof.commands import verify
from crossproof.commands.output import forgiving_output
from crossproof.errors import CrossproofError, CrossproofWarning, printable


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "cp437", "utf-8"])
def test_every_console_takes_every_character(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
        with forgiving_output():
            print("Φ −1 ≥ é 你 \udcff [a]", file=getattr(sys, name), flush=True)
        shown = raw.getvalue().decode(encoding)
        plain = {"utf-8": "Φ −1 ≥", "cp437": "Φ -1 ≥"}.get(encoding, "Phi -1 >=")
        assert shown.startswith(plain)
        assert shown.rstrip().endswith("? [a]")
        assert getattr(sys, name).errors == "strict"


class _Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_work_goes_on_when_nobody_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In process, and through a real pipe and a full device."""

    def work(arguments: Sequence[str], began: float) -> None:
        for line in range(10_000):
            print(line)
        (tmp_path / "results").write_text("complete")

    monkeypatch.setattr(verify, "run", work)
    streams: list[io.StringIO | None] = [_Closed(), None]
    for stream in streams:
        monkeypatch.setattr(sys, "stdout", stream)
        cli.main(["verify"])
        assert (tmp_path / "results").read_text() == "complete"
        (tmp_path / "results").unlink()


PRINTING = """
import sys
from crossproof import cli
from crossproof.commands import verify
def work(arguments, began):
    for line in range(10_000):
        print(line)
    print("complete", file=sys.stderr)
verify.run = work
cli.main(["verify"])
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_closed_pipe_is_no_error_and_a_full_device_is_one_at_the_end() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", PRINTING]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    said = "complete\ncrossproof: Standard output cannot be written (No space left on device): "
    assert (done.returncode, done.stderr[: len(said)]) == (1, said)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "complete\n")


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("odd\x1b[2J\nthing"),
        KeyError("x"),
        RuntimeError(),
        OSError(28, "No space left on device"),
        UnicodeEncodeError("ascii", "Φ", 0, 1, "no"),
        RecursionError("deep"),
        StopIteration(),
    ],
)
def test_what_nobody_foresaw_is_a_sentence_and_a_file(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(arguments: Sequence[str], began: float) -> None:
        raise error

    monkeypatch.setattr(verify, "run", work)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify", "folder"])
    sentence = str(stopped.value.code)
    (log,) = tmp_path.iterdir()
    assert sentence.startswith(f"crossproof: {type(error).__name__}")
    assert f"please report it at {cli.ISSUES}, with {log}. [CP-FAULT: " in sentence
    assert "\n" not in sentence
    assert "\x1b" not in sentence
    assert "Traceback" in log.read_text()
    assert "['verify', 'folder']" in log.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(SystemExit, match=r"no log: .* please report it at https"):
        cli.main(["verify", "folder"])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "a/b"), "Permission denied: 'a/b'; give another"),
        (OSError(36, "File name too long", "a" * 9), "File name too long: 'aaaaaaaaa'"),
        (MemoryError(), "There is not enough memory (MemoryError): ask for less"),
        (RuntimeError("CPUAllocator: can't allocate memory: 9 bytes"), "not enough memory"),
    ],
)
def test_paths_and_memory_are_nobodys_fault(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(arguments: Sequence[str], began: float) -> None:
        raise error

    monkeypatch.setattr(verify, "run", work)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify", "folder"])
    assert sentence in str(stopped.value.code)
    assert not list(tmp_path.iterdir())


def test_the_address_is_the_projects() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert project["urls"]["Issues"] == cli.ISSUES


def test_an_interrupt_exits_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(arguments: Sequence[str], began: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "run", work)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "crossproof: stopped.\n"


def test_our_warnings_are_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(arguments: Sequence[str], began: float) -> None:
        warnings.warn("3 rows are null: left out.", CrossproofWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)

    monkeypatch.setattr(verify, "run", work)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.main(["verify"])
    err = capsys.readouterr().err
    assert err.startswith("crossproof: 3 rows are null: left out.\n")
    assert "UserWarning: theirs" in err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Φ\ttext\n", "plain Φ\ttext\n"),
        ("\x1b[2J\x1b[31mred", "\\x1b[2J\\x1b[31mred"),
        ("a\rb\x08\x07\x00\x7f\x9b", "a\\rb\\x08\\x07\\x00\\x7f\\x9b"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_errors_do_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(arguments: Sequence[str], began: float) -> None:
        raise CrossproofError("no file '\x1b[2J'")

    monkeypatch.setattr(verify, "run", work)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify"])
    assert str(stopped.value.code).startswith("crossproof: no file '\\x1b[2J' [CP-PLUGIN: ")

"""Bad command lines of every command: one sentence, an exit code that is not 0, and no fault of
crossproof's own. In process, with one small run."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from texts import write_corpus

from crossproof import cli

SMALL = (
    *("--batch-tokens", "64", "--buffer-batches", "2", "--context", "32", "--n-latents", "24"),
    *("--k", "4", "--steps", "3", "--evaluation-sequences", "2", "--threads", "1"),
)
ENDINGS = ("txt", "jsonl", "json", "csv", "parquet", "arrow", "safetensors", "npy")
NUMBERS = {
    "demo": ("--out", "{out}"),
    "train": ("--out", "{out}", "--model", "{model}", "--text", "{corpus}", *SMALL),
    "evaluate": ("{run}",),
    "measure": ("{run}",),
    "attribute": ("{run}",),
    "cluster": ("{run}",),
    "audit": ("{model}", "--trusted", "{corpus}", "--suspect", "{corpus}", "--out", "{out}"),
    "prove": ("sparse", "--out", "{out}"),
}
"""A good command line of every command that takes numbers."""
FOLDERS = {
    "train": ("--resume", "--out", "{}"),
    "evaluate": ("{}", "--sequences", "2", "--context", "16"),
    "measure": ("{}", "--tokens", "64", "--context", "16"),
    "attribute": ("{}", "--sequences", "1", "--context", "16"),
    "cluster": ("{}", "--judge", "overlap"),
    "verify": ("{}",),
    "import": ("{}", "--model", "{model}", "--out", "{out}"),
    "audit": (*NUMBERS["audit"], "--crosscoder", "{}"),
}
"""Where a command takes a folder that another one wrote."""
TEXTS = {
    "train": ("--out", "{out}", "--model", "{model}", *SMALL, "--text", "{}"),
    "evaluate": ("{run}", "--sequences", "2", "--context", "16", "--text", "{}"),
    "audit": ("{model}", "--suspect", "{corpus}", "--out", "{out}", "--trusted", "{}"),
}
OUTS = {
    "train": ("--model", "{model}", "--text", "{corpus}", *SMALL, "--no-evaluate", "--out", "{}"),
    "evaluate": ("{run}", "--sequences", "2", "--context", "16", "--out", "{}"),
    "measure": ("{run}", "--tokens", "64", "--context", "16", "--out", "{}"),
    "attribute": ("{run}", "--sequences", "1", "--context", "16", "--out", "{}"),
    "audit": ("{model}", "--trusted", "{corpus}", "--suspect", "{corpus}", "--out", "{}"),
    "demo": ("--out", "{}"),
}


@pytest.fixture(scope="module")
def places(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """A run and what is none; `{key}` in a command line stands for a path."""
    folder = tmp_path_factory.mktemp("bad")
    corpus, model = write_corpus(folder / "corpus.txt"), model_folders["gpt-neo"]
    run = folder / "run"
    given = ("--out", run, "--model", model, "--text", corpus, *SMALL, "--no-evaluate")
    assert ended(["train", *map(str, given)])[0] is None
    for ending in ("", *(f".{ending}" for ending in ENDINGS)):
        (folder / f"junk{ending}").write_bytes(bytes(range(256)) * 4)
        (folder / f"empty{ending}").write_text("")
        (folder / f"folder{ending}").mkdir()
    (folder / "bare").mkdir()
    (folder / "bare" / "config.json").write_text("{}")
    inner = folder / "torn" / "x" / "crosscoder"
    inner.mkdir(parents=True)
    (inner / "crosscoder.safetensors").write_bytes(b"x" * 50)
    (inner / "config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("tempfile.tempdir", str(folder))
        yield {
            "corpus": str(corpus),
            "model": str(model),
            "run": str(run),
            "out": str(folder / "out"),
            "folder": str(folder),
        }


def ended(arguments: list[str]) -> tuple[object, str]:
    """The exit code or sentence (None for a good end), and what went to standard error."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main(arguments)
    except SystemExit as stop:
        return stop.code, err.getvalue()
    return None, err.getvalue()


def refused(command: str, line: tuple[str, ...], places: dict[str, str], value: str = "") -> str:
    """The sentence that a bad command line ends with."""
    words = [value if word == "{}" else word.format(**places) for word in line]
    code, _ = ended([command, *words])
    assert isinstance(code, str), f"{command} {words} ended with {code}"
    assert code.startswith("crossproof: ")
    assert "\n" not in code
    assert "report it" not in code, code
    return code


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_unknown_and_missing_options_are_errors(command: str) -> None:
    for words in (["--no-such-option"], ["--out"], ["--threads=x"], ["a", "b", "--x=1"]):
        code, err = ended([command, *words])
        assert code not in (None, 0)
        assert "Traceback" not in err


@pytest.mark.parametrize("command", NUMBERS)
def test_numbers_that_mean_nothing_are_refused(command: str, places: dict[str, str]) -> None:
    help_text = io.StringIO()
    with pytest.raises(SystemExit), redirect_stdout(help_text):
        cli.main([command, "--help"])
    options = dict(re.findall(r"(--[a-z0-9-]+) (INT|FLOAT)\b", help_text.getvalue()))
    assert options
    for option, kind in options.items():
        for value in ("-7", "nan", "inf") if kind == "FLOAT" else ("-7", "9" * 30):
            sentence = refused(command, (*NUMBERS[command], f"{option}={value}"), places)
            assert option in sentence or option[2:].replace("-", "_") in sentence


def slowly(commands: Iterable[str], slow: tuple[str, ...]) -> list[Any]:
    """The commands, those that load more than others marked as slow."""
    mark = pytest.mark.slow
    return [pytest.param(each, marks=mark) if each in slow else each for each in commands]


@pytest.mark.parametrize("command", slowly(FOLDERS, ("audit", "import")))
def test_folders_that_are_none_are_refused(command: str, places: dict[str, str]) -> None:
    names = (
        "missing",
        "junk",
        "empty",
        "folder",
        "junk/below",
        "bare",
        "torn",
        "\udcff",
        "x" * 300,
    )
    for name in names:
        refused(command, FOLDERS[command], places, f"{places['folder']}/{name}")


@pytest.mark.slow  # test_documents.py and test_document_fuzz.py try the readers themselves
@pytest.mark.parametrize("command", TEXTS)
def test_texts_that_are_none_are_refused(command: str, places: dict[str, str]) -> None:
    names = [f"{kind}.{ending}" for kind in ("junk", "empty", "folder") for ending in ENDINGS]
    sources = [f"{places['folder']}/{name}" for name in (*names, "missing.txt", "junk", "x" * 300)]
    sources += [f"hf:{places['folder']}/folder", "hf:", "hf:a b", "hf:nobody/nothing"]
    for source in sources:
        refused(command, TEXTS[command], places, source)


@pytest.mark.parametrize("command", slowly(OUTS, ("audit", "measure", "attribute")))
def test_folders_that_cannot_be_written_are_refused(command: str, places: dict[str, str]) -> None:
    folder = places["folder"]
    assert "--out is empty" in refused(command, OUTS[command], places, "")
    for name in (f"{folder}/junk", f"{folder}/junk/below", f"{folder}/{'x' * 300}", "a\0b"):
        if command == "demo" and name != f"{folder}/junk":
            continue  # it would load the bundled model first
        refused(command, OUTS[command], places, name)

"""Whole command lines in their own processes: training, stopping, resuming, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from texts import write_corpus

from crossproof.cli import main

SMALL = [
    *("--batch-tokens", "64", "--buffer-batches", "2", "--context", "32", "--n-latents", "24"),
    *("--k", "4", "--steps", "30", "--log-every", "5", "--checkpoint-every", "5"),
    *("--evaluation-sequences", "6", "--keep-largest", "100", "--all-latents", "50"),
    *("--threads", "1"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus.txt")


def crossproof(*arguments: object, start: bool = False) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from crossproof.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if not start:
        process.wait(timeout=240)
    return process


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def here(*arguments: object) -> None:
    """In this process, which spares seconds of imports; the others show that codes arrive."""
    main([str(argument) for argument in arguments])


def weights(run: Path) -> dict[str, bytes]:
    return {
        path.parent.parent.name: path.read_bytes()
        for path in run.glob("*/crosscoder/crosscoder.safetensors")
    }


@pytest.fixture(scope="module")
def finished(
    model_folders: dict[str, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    model = model_folders["gpt-neo"]
    code, _, stderr = outcome(
        crossproof("train", "--out", run, "--model", model, "--text", corpus, *SMALL)
    )
    assert code == 0, stderr
    return run


def test_a_run_leaves_config_metrics_crosscoders_results_and_report(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert set(results["runs"]) == {"unpenalised", "penalised"}
    for run in results["runs"].values():
        assert {"objective", "l0", "fvu", "fvu_mlp_in", "dead", "ce_recovered"} <= set(run)
        for scheme in ("none", "drop-random", "drop-second", "drop-largest", "keep-largest"):
            for mid in ("exact_mid", "reconstructed_mid"):
                figure = run["phi"][scheme][mid]
                assert figure["ci"][0] <= figure["ci"][1]
                assert len(figure["by_block"]) == 2
    metrics = (finished / "penalised" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [5, 10, 15, 20, 25, 30]
    assert "keep_largest" in json.loads(metrics[-1])["terms"]
    assert (finished / "report.html").read_text().startswith("<!doctype html>")


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if list((run / "checkpoints").glob("step-*/checkpoint.json")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no checkpoint appeared")


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_run_resumes_to_the_same_bytes(
    how: signal.Signals,
    finished: Path,
    model_folders: dict[str, Path],
    corpus: Path,
    tmp_path: Path,
) -> None:
    run, model = tmp_path / "stopped", model_folders["gpt-neo"]
    arguments = ["train", "--out", run, "--model", model, "--text", corpus, *SMALL]
    process = crossproof(*arguments, start=True)
    wait_for_checkpoint(run, process)
    process.send_signal(how)
    code, _, stderr = outcome(process)
    assert not weights(run), "the run ended before it was stopped"
    if how is signal.SIGINT:
        assert code == 130
        assert "--resume" in stderr
    code, _, stderr = outcome(crossproof("train", "--out", run, "--resume"))
    assert code == 0, stderr
    assert weights(run) == weights(finished)
    assert (run / "penalised/metrics.jsonl").read_text().count("\n") == 6


def test_evaluate_gives_the_figures_of_the_run(finished: Path) -> None:
    here("evaluate", finished, "--sequences", 6, "--context", 32)
    again = json.loads((finished / "evaluation-held_out" / "results.json").read_text())
    first = json.loads((finished / "results.json").read_text())
    for name, run in first["runs"].items():
        assert again["runs"][name]["phi"] == run["phi"]
        assert again["runs"][name]["fvu"] == run["fvu"]


def test_measure_describes_pairs_and_lands_on_the_report(finished: Path) -> None:
    arguments = "measure", finished, "--tokens", "3e2", "--context", 32, "--pairs", 3
    code, stdout, stderr = outcome(crossproof(*arguments))
    assert code == 0, stderr
    content = json.loads((finished / "measure" / "measure.json").read_text())
    assert list(content["runs"]) == ["unpenalised", "penalised"]
    assert set(content["ratios"]) == {"penalised"}
    for name, figures in content["runs"].items():
        assert figures["totals"]["I"]["ci"][0] <= figures["totals"]["I"]["mean"]
        assert 1 <= len(figures["top_pairs"]) <= 3
        assert (finished / "measure" / name / "interactions.safetensors").exists()
        assert f"{name}: strongest pairs" in stdout
        context = figures["top_pairs"][0]["contexts"][0]
        word = context["tokens"][context["peak"]].strip()
        where = stdout.partition(f"{name}: where each pair")[2].splitlines()[1]
        assert f"[{word}]" in where  # a pipe has no bold type
    assert "Latents that interact" in (finished / "report.html").read_text()


def test_measure_compares_with_another_run(finished: Path, tmp_path: Path) -> None:
    other = finished / "penalised" / "crosscoder"
    arguments = "measure", other, "--against", finished, "--tokens", 200, "--context", 32
    here(*arguments, "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "measure.json").read_text())
    whole = f"{finished.name}/penalised"
    assert list(content["runs"]) == ["crosscoder", f"{finished.name}/unpenalised", whole]
    assert content["ratios"][whole]["I"]["mean"] == 1


@pytest.mark.slow
def test_sequences_that_were_looked_at_can_be_skipped(finished: Path, tmp_path: Path) -> None:
    size = "--sequences", 4, "--skip", 6, "--context", 32, "--out", tmp_path
    here("evaluate", finished, *size)
    others = json.loads((tmp_path / "results.json").read_text())
    assert others["evaluated_on"]["skip"] == 6
    first = json.loads((finished / "results.json").read_text())
    assert others["runs"]["penalised"]["sequences"] == 4
    assert others["runs"]["penalised"]["model_loss"] != first["runs"]["penalised"]["model_loss"]


def expect_error(words: str, *arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        here(*arguments)
    said = str(stopped.value)  # Python writes it to stderr and exits with 1
    assert said.startswith("crossproof: ")
    assert words in said, said


def test_bad_input_is_one_sentence_and_exit_code_1(
    finished: Path, model_folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    neo, out = model_folders["gpt-neo"], tmp_path / "run"
    base = ["train", "--out", out, "--model", neo, "--text", corpus, *SMALL]
    expect_error("no-such.txt", *[*base, "--text", tmp_path / "no-such.txt"])
    expect_error("hook_resid_pre", *[*base, "--hookpoints", "blocks.0.hook_resid_pree"])
    expect_error("k = 40", *[*base, "--k", 40])
    expect_error("There is no command", "trian")
    expect_error("Reports are written by", "report", "runs/demo")
    expect_error("There is no recipe", "train", "--recipe", "fulll", "--out", out)
    expect_error("already holds a run", *[*base, "--out", finished])
    expect_error("No run at", "train", "--out", tmp_path / "nothing", "--resume")
    expect_error("No finished crosscoder", "evaluate", tmp_path)
    expect_error("it was trained on", "evaluate", finished, "--model", model_folders["gpt2"])
    expect_error("skip fewer", "evaluate", finished, "--skip", 100_000, "--context", 32)
    expect_error("--tokens is 0", "measure", finished, "--tokens", 0)
    expect_error("--tokens is inf", "measure", finished, "--tokens", "inf")
    expect_error("--pairs is -1", "measure", finished, "--pairs", -1)
    expect_error("it was trained on", "measure", finished, "--model", model_folders["gpt2"])
    expect_error("No finished crosscoder", "measure", tmp_path)
    expect_error("No finished crosscoder", "measure", finished, "--against", tmp_path)
    short = tmp_path / "short.txt"
    short.write_text("one two three")
    expect_error("short", *[*base, "--text", short])
    expect_error("buffer", *[*base, "--batch-tokens", 8, "--buffer-batches", 1])
    assert not out.exists() or not any(out.iterdir())


def test_unwritable_folder_is_named(
    finished: Path, model_folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    out = blocked / "run"
    model = model_folders["gpt-neo"]
    expect_error(str(out), "train", "--out", out, "--model", model, "--text", corpus, *SMALL)
    expect_error(str(out), "evaluate", finished, "--sequences", 2, "--out", out)


def test_truncated_checkpoint_is_refused(
    finished: Path, model_folders: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    import shutil

    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    newest = max((run / "checkpoints").glob("step-*/training.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    expect_error("training.safetensors", "train", "--out", run, "--resume")


def test_help_lists_commands_without_loading_torch() -> None:
    script = (
        "import sys; from crossproof.cli import main; main(['--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "crossproof COMMAND --help" in done.stdout


@pytest.mark.parametrize("command", ["train", "evaluate", "demo"])
def test_every_command_explains_its_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        here(command, "--help")
    assert "--threads" in capsys.readouterr().out

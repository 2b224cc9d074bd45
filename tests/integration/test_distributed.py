"""Two processes on one machine train as one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from processes import command_of, environment, restarted, torchrun
from safetensors.torch import load_file
from texts import write_corpus
from torch import Tensor
from torch.distributed import TCPStore

from crossproof.training import distributed


@pytest.mark.slow
def test_torchrun_trains_and_refuses_uneven_shares(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    sizes = ["--batch-tokens", "64", "--buffer-batches", "4", "--context", "32"]
    sizes += ["--n-latents", "24", "--k", "4", "--steps", "20", "--checkpoint-every", "5"]
    model = ["--model", str(model_folders["gpt-neo"]), "--text", str(corpus)]
    terms = ["--keep-largest", "100", "--evaluation-sequences", "6", "--log-every", "5"]
    done = torchrun("train", "--out", str(tmp_path / "run"), *model, *sizes, *terms)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["runs"]) == {"unpenalised", "penalised"}
    metrics = (tmp_path / "run" / "penalised" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics] == [5, 10, 15, 20]
    odd = torchrun("train", "--out", str(tmp_path / "odd"), *model, "--batch-tokens", "63")
    assert odd.returncode != 0
    assert "63 tokens a step cannot be dealt out evenly to 2 processes" in odd.stderr


def wait_for(checkpoint: Path, training: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        if checkpoint.is_dir():
            return
        assert training.poll() is None
        time.sleep(0.05)
    raise AssertionError(f"no {checkpoint} in two minutes")


def killed_after(checkpoint: Path, *arguments: str) -> None:
    """Kills four processes that train as soon as a checkpoint is there."""
    command = command_of(4, *arguments)
    training = subprocess.Popen(command, env=environment(), start_new_session=True)
    try:
        wait_for(checkpoint, training)
    finally:
        os.killpg(training.pid, signal.SIGKILL)
        training.wait()


def one_killed_after(checkpoint: Path, *arguments: str) -> None:
    """Kills one of four processes then, and waits until torchrun's new ones are done."""
    launch, rest = command_of(4, *arguments)[:4], command_of(4, *arguments)[4:]
    command = [*launch, "--max-restarts=1", *rest]
    training = subprocess.Popen(command, env=environment(), start_new_session=True)
    try:
        wait_for(checkpoint, training)
        children = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
        os.kill(int(children[2]), signal.SIGKILL)
        assert training.wait(timeout=300) == 0
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)


@pytest.mark.slow
def test_shared_out_latents_survive_kills_and_go_on_in_another_mesh(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    options = ["--model", str(model_folders["gpt-neo"]), "--text", str(corpus)]
    options += ["--batch-tokens", "64", "--buffer-batches", "4", "--context", "32", "--no-evaluate"]
    options += ["--n-latents", "24", "--k", "4", "--steps", "200", "--checkpoint-every", "20"]
    options += ["--keep-largest", "100", "--no-baseline", "--log-every", "20"]

    def finished(run: str) -> dict[str, Tensor]:
        return load_file(tmp_path / run / "penalised" / "crosscoder" / "crosscoder.safetensors")

    for run in ("whole", "same", "other", "rows", "elastic"):
        arguments = ["train", "--out", str(tmp_path / run), *options]
        if run == "whole":
            done = torchrun(*arguments, "--latent-processes", "2", processes=4)
            assert done.returncode == 0, done.stderr
            continue
        checkpoint = tmp_path / run / "checkpoints" / "step-00000040"
        if run == "elastic":
            one_killed_after(checkpoint, *arguments, "--latent-processes", "2")
            continue
        killed_after(checkpoint, *arguments, "--latent-processes", "2")
        among = {"same": "2", "other": "4", "rows": "1"}[run]
        again = ["train", "--resume", "--no-evaluate", "--out", str(tmp_path / run)]
        if run == "same":
            refused = torchrun(*again, processes=2)
            assert "was trained by 4 processes" in refused.stderr
        done = torchrun(*again, "--latent-processes", among, processes=4)
        assert done.returncode == 0, done.stderr
    whole = finished("whole")
    for run in ("same", "elastic"):
        for name, tensor in finished(run).items():
            assert torch.equal(tensor, whole[name])
    for run in ("other", "rows"):
        for name, tensor in finished(run).items():
            torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=1e-3)


def test_restarted_processes_do_not_meet_where_they_were_before() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in range(2):
        restarted(store.port, attempt)


@pytest.mark.parametrize(
    ("device", "own", "current"),
    [("cuda", "cuda:1", [1]), ("xpu", "xpu:1", []), ("cuda:3", "cuda:3", []), ("cpu", "cpu", [])],
)
def test_each_process_makes_its_own_accelerator_current(
    device: str, own: str, current: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "set_device_index", made.append)
    assert distributed.local_device(device) == own
    assert made == current

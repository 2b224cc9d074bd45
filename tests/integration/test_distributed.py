"""Two processes on one machine train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from dictionaries import mlp_hookpoints, random_mlp
from safetensors.torch import load_file, save_file
from texts import write_corpus
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.lm import Activation
from crossproof.training import distributed
from crossproof.training.objectives import Objective
from crossproof.training.trainer import Optimisation, Trainer

STEPS, TOKENS, WIDTH = 12, 64, 8


def batches() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(STEPS, TOKENS, 2, WIDTH, generator=generator)


def trained(rule: str, share: slice) -> dict[str, Tensor]:
    """The state after every step on the share's rows of each batch."""
    generator = torch.Generator().manual_seed(1)
    shape = {"width": WIDTH, "neurons": 10, "dtype": torch.float32}
    mlp = random_mlp(Activation.GELU, False, generator, **shape)
    crosscoder = Crosscoder(CrosscoderConfig(24, rule, 3), mlp_hookpoints(1), WIDTH)
    sample = torch.randn(200, 2, WIDTH, generator=generator)
    crosscoder.initialise(sample + distributed.rank(), seed=0)  # another sample in each process
    distributed.copy_from_first_(crosscoder.state_dict().values())
    optimisation = Optimisation(dead_after=100, revive_weight=0.0)
    objective = Objective(interaction=1.0, l1=0.01)
    trainer = Trainer(crosscoder, {0: mlp}, objective, optimisation, STEPS)
    for batch in batches():
        trainer.step(batch[share])
    return trainer.state()


RULES = ("topk", "batch_topk")


def one_of_two(number: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(number), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    with distributed.process_group():
        for rule in RULES:
            state = trained(rule, slice(number, None, 2))
            save_file(state, folder / f"{rule}-{number}.safetensors")
        assert distributed.any_process(number == 1, torch.device("cpu"))
        assert not distributed.any_process(False, torch.device("cpu"))
        with pytest.raises(CrossproofError, match="63 tokens a step cannot be dealt out evenly"):
            distributed.share_of(63)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(one_of_two, (free_port(), tmp_path), nprocs=2)
    # TopK is a rule of a token: the same steps up to rounding. BatchTopK chooses in each share.
    for rule, tolerance in zip(RULES, (1e-4, 0.1), strict=True):
        first, second = (load_file(tmp_path / f"{rule}-{number}.safetensors") for number in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        alone = trained(rule, slice(None))
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            key = f"crosscoder.{name}"
            torch.testing.assert_close(first[key], alone[key], rtol=0, atol=tolerance)
        if rule == "topk":
            assert torch.equal(first["tokens_since_fired"], alone["tokens_since_fired"])


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


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "crossproof", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


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

"""Processes of one group on this machine, forked from a process that has imported the library.

Starting each anew would import PyTorch every time, which takes longer than what is tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch
import torch.multiprocessing
from ports import free_port

from crossproof.training import distributed

METHOD = "forkserver"
IMPORTED = ["crossproof.training.trainer", "crossproof.clusters.run", "crossproof.auditing.run"]


def together(function: Callable[..., object], *arguments: Any, count: int, columns: int = 1) -> Any:
    """Runs `function(*arguments)` in `count` processes of a group, and waits; with one that dies,
    the others are ended and an error is raised."""
    started = begun(function, *arguments, count=count, columns=columns)
    while not started.join():
        pass


def begun(function: Callable[..., object], *arguments: Any, count: int, columns: int = 1) -> Any:
    """The same without waiting: `processes` of what it returns are the processes."""
    get_context(METHOD).set_forkserver_preload(
        ["crossproof.clusters.run", "crossproof.auditing.run"]
    )
    shares = free_port(), count, columns, function, arguments
    return torch.multiprocessing.start_processes(
        _one, shares, nprocs=count, join=False, start_method=METHOD
    )


def restarted(store: int, attempt: int) -> None:
    """Two processes as torchrun starts them for the `attempt`-th time, the second one late, with
    the store at a port that serves all attempts."""
    get_context(METHOD).set_forkserver_preload(IMPORTED)
    torch.multiprocessing.start_processes(_late, (store, attempt), nprocs=2, start_method=METHOD)


def _late(number: int, store: int, attempt: int) -> None:
    os.environ |= {"TORCHELASTIC_RESTART_COUNT": str(attempt), "LOCAL_WORLD_SIZE": "2"}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    time.sleep(number * attempt)
    _one(number, store, 2, 1, distributed.wait_for_all, ())


def _one(
    number: int,
    port: int,
    count: int,
    columns: int,
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(number), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed.process_group(columns):
        function(*arguments)


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """A command of crossproof, started by torchrun."""
    command = command_of(processes, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())


def command_of(processes: int, *arguments: str) -> list[str]:
    """What starts it."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launch, f"--nproc-per-node={processes}", "-m", "crossproof", *arguments]


def environment() -> dict[str, str]:
    """Its environment: offline, a thread a process."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

"""A training run in a folder: configuration, metrics, checkpoints, finished crosscoders.

run/config.json                 RunConfig
run/checkpoints/step-N/         everything a resumed run needs
run/NAME/metrics.jsonl          one line every `log_every` steps
run/NAME/crosscoder/            the finished crosscoder, scale folded
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from crossproof.activations import Harvest, read_sequences
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.store import Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import read_json
from crossproof.lm import LanguageModel, load_model
from crossproof.training import distributed
from crossproof.training.checkpoint import load_checkpoint, save_checkpoint
from crossproof.training.config import RunConfig, config_from_dict, config_to_dict
from crossproof.training.machine import keep_freed_memory, thread_setting
from crossproof.training.objectives import Objective
from crossproof.training.together import (
    INITIAL_BATCHES,
    first_batches,
    make_trainer,
    mlps_by_place,
)
from crossproof.training.trainer import StepReport, Trainer


class Interrupted(Exception):  # noqa: N818  (not an error: the run was asked to stop)
    """The run stopped on request after saving a checkpoint at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"Stopped after step {step}; the checkpoint is complete.")
        self.step = step


@dataclass(frozen=True)
class Progress:
    """What a display is told after every logged step."""

    step: int
    steps: int
    reports: dict[str, StepReport]
    tokens_per_second: float
    seconds_left: float


Report = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class Run:
    """A prepared run: the model, its harvest and one trainer a crosscoder."""

    config: RunConfig
    folder: Path
    model: LanguageModel
    harvest: Harvest
    trainers: dict[str, Trainer]


def prepare(config: RunConfig, folder: Path) -> Run:
    """Loads model and text, builds and initialises the crosscoders (all from the same seed)."""
    thread_setting(config.threads)
    device = distributed.local_device(config.device)
    model = load_model(config.model, device=device)
    hookpoints = model.hookpoints(list(config.hookpoints) or None)
    context = min(config.context, model.context)
    sequences = read_sequences(config.text, model, context, "train")
    share = sequences[distributed.rank() :: distributed.world()]
    batch_tokens = distributed.share_of(config.batch_tokens)
    harvest = Harvest(model, share, hookpoints, batch_tokens, config.buffer_batches, config.seed)
    if config.penalised and not hookpoints.mlp_blocks:
        raise CrossproofError(
            "None of the hookpoints is an MLP's input, so there is nothing to penalise: add "
            "'blocks.*.mlp.hook_in' to --hookpoints."
        )
    sample = first_batches(harvest, INITIAL_BATCHES)
    mlps = mlps_by_place(model, hookpoints) if config.penalised else {}
    trainers = {
        name: make_trainer(model, hookpoints, mlps, sample, replace(config, objective=objective))
        for name, objective in config.objectives().items()
    }
    return Run(config, folder, model, harvest, trainers)


def start(config: RunConfig, folder: Path) -> Run:
    """A fresh run. Raises CrossproofError if the folder already holds one or cannot be written."""
    if (folder / "config.json").exists():
        raise CrossproofError(
            f"{folder} already holds a run: go on with --resume, or give another --out."
        )
    run = prepare(config, folder)
    distributed.wait_for_all()  # every process has seen that the folder is free
    if distributed.rank() > 0:
        return run
    try:
        for name in run.trainers:
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / "metrics.jsonl").write_text("")
        (folder / "config.json").write_text(json.dumps(config_to_dict(config), indent=2) + "\n")
    except OSError as error:
        raise CrossproofError(
            f"Cannot write {folder} ({error.strerror}): choose a writable folder."
        ) from error
    return run


def resume(folder: Path) -> Run:
    """A stopped run, at its newest checkpoint; it ends with the same bytes as if never stopped."""
    if not folder.is_dir():
        raise CrossproofError(f"No run at {folder}: give the folder that `crossproof train` wrote.")
    run = prepare(config_from_dict(read_json(folder / "config.json")), folder)
    step = load_checkpoint(folder, run.trainers)
    distributed.wait_for_all()
    for name in run.trainers if distributed.rank() == 0 else ():
        path = folder / name / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    return run


def train(run: Run, report: Report | None = None) -> dict[str, Crosscoder]:
    """Trains to the end and saves the finished crosscoders.

    Raises Interrupted after SIGINT or SIGTERM, once a checkpoint is saved.
    """
    keep_freed_memory()
    config, trainers = run.config, run.trainers
    first = next(iter(trainers.values())).step_index
    began = time.perf_counter()
    with stop_requests() as stop_requested:
        for step, batch in zip(
            range(first, config.steps), run.harvest.iterate(first), strict=False
        ):
            reports = {name: trainer.step(batch) for name, trainer in trainers.items()}
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                spent = (time.perf_counter() - began) / (done - first)
                left = spent * (config.steps - done)
                _log(
                    run,
                    Progress(done, config.steps, reports, config.batch_tokens / spent, left),
                    report,
                )
            stop = distributed.any_process(stop_requested(), batch.device)
            if stop or done % config.checkpoint_every == 0:
                _save(run, done)
            if stop and done < config.steps:
                raise Interrupted(done)
    for name, trainer in trainers.items() if distributed.rank() == 0 else ():
        save_crosscoder(
            trainer.crosscoder, run.folder / name / "crosscoder", provenance(run, trainer.objective)
        )
    return {name: trainer.crosscoder for name, trainer in trainers.items()}


def provenance(run: Run, objective: Objective) -> Provenance:
    """Where the run's crosscoders come from."""
    training = config_to_dict(run.config) | {"objective": dict(objective)}
    return Provenance(run.config.model, run.model.weights_hash, run.config.seed, training)


def _save(run: Run, step: int) -> None:
    if distributed.rank() == 0:
        save_checkpoint(run.folder, run.trainers, step)
    distributed.wait_for_all()


def _log(run: Run, progress: Progress, report: Report | None) -> None:
    if distributed.rank() > 0:
        return
    for name, step in progress.reports.items():
        line = {
            "step": progress.step,
            "loss": step.loss.item(),
            "terms": {term: value.item() for term, value in step.terms.items()},
            "l0": step.l0,
            "dead": int(step.dead),
            "tokens_per_second": round(progress.tokens_per_second),
        }
        with (run.folder / name / "metrics.jsonl").open("a") as handle:
            handle.write(json.dumps(line) + "\n")
    if report is not None:
        report(progress)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Inside the block Ctrl-C and SIGTERM only set a flag, so that no step is cut in half."""
    asked = False

    def ask(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

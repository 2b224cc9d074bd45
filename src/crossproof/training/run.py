"""A training run in a folder: configuration, metrics, checkpoints, finished crosscoders.

run/config.json                 RunConfig
run/checkpoints/step-N/         everything a resumed run needs
run/NAME/metrics.jsonl          one line every `log_every` steps
run/NAME/crosscoder/            the finished crosscoder, scale folded
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.activations.corpus import fitting_context, open_rows
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.store import Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import append_text, make_folder, read_json, write_json, write_text
from crossproof.lm import LanguageModel, load_model
from crossproof.training import distributed
from crossproof.training.checkpoint import Checkpoints, checkpoints, load_checkpoint
from crossproof.training.config import RunConfig, config_from_dict, config_to_dict
from crossproof.training.loop import Progress, Training
from crossproof.training.machine import keep_freed_memory, thread_setting
from crossproof.training.memory import MemoryEstimate, estimate_memory
from crossproof.training.objective import Objective
from crossproof.training.result import MetricsLine
from crossproof.training.sinks import Sink, open_sinks
from crossproof.training.stored import SETTINGS, with_stored
from crossproof.training.typed import read_specs

Report = Callable[[Progress], None]
"""What a display is: called after every logged step."""


class Interrupted(Exception):  # noqa: N818  (not an error: the run was asked to stop)
    """The run stopped on request after saving a checkpoint at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"Stopped after step {step}; the checkpoint is complete.")
        self.step = step


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is ready to train, from its start or from a checkpoint."""

    config: RunConfig
    folder: Path
    training: Training

    @property
    def model(self) -> LanguageModel:
        """The language model whose activations the crosscoders train on."""
        return self.training.model


def prepare(
    config: RunConfig,
    model: LanguageModel | None = None,
    sequences: Int[Tensor, "S T"] | None = None,
    trust_remote_code: bool = False,
) -> Training:
    """Loads model and text unless they are given; all crosscoders start from the same seed."""
    thread_setting(config.threads)
    with_stored(config, SETTINGS)  # refuses what contradicts the store
    if config.activations and sequences is not None:
        raise CrossproofError(
            "A text is given beside stored activations, which have theirs: leave one out.",
            code="CP-OPTION",
        )
    if model is None:
        model = _model_of(config, trust_remote_code)
    if config.activations or sequences is not None:
        return Training.build(model, sequences, config.members())
    context = fitting_context(config.context, model)
    rows = open_rows(config.text, model, context, "train", config.rows)
    return Training.build(model, rows, config.members())


def _model_of(config: RunConfig, trust_remote_code: bool) -> LanguageModel:
    return load_model(
        config.model,
        device=distributed.local_device(config.device),
        dtype=config.dtype,
        trust_remote_code=trust_remote_code,
    )


def memory_needed(config: RunConfig, trust_remote_code: bool = False) -> MemoryEstimate:
    """What training the run would take, at its peak; raises CrossproofError as `start` does."""
    return estimate_memory(_model_of(config, trust_remote_code), config.members())


def start(
    config: RunConfig,
    folder: Path,
    model: LanguageModel | None = None,
    sequences: Int[Tensor, "S T"] | None = None,
    trust_remote_code: bool = False,
) -> Run:
    """A fresh run. Raises CrossproofError if the folder already holds one, or a crosscoder that it
    would replace, or cannot be written."""
    _check_free(folder)
    if config.specs:  # the run keeps what a file says now
        config = replace(config, specs=json.dumps(read_specs(config.specs)))
    run = Run(config, folder, prepare(config, model, sequences, trust_remote_code))
    _check_free(folder, run.training.trainers)  # again: reading took time
    distributed.wait_for_all()  # every process has seen that the folder is free
    if distributed.rank() > 0:
        return run
    for name in run.training.trainers:
        make_folder(folder / name)
        (folder / name / "metrics.jsonl").unlink(missing_ok=True)
    write_json(folder / "config.json", config_to_dict(config))
    return run


def _check_free(folder: Path, names: Iterable[str] = ()) -> None:
    if (folder / "config.json").exists():
        raise CrossproofError(
            f"{folder} already holds a run: go on with --resume, or give another --out.",
            code="CP-OUT",
        )
    for name in names:
        if (folder / name / "crosscoder").exists():
            raise CrossproofError(
                f"{folder / name} already holds a crosscoder: give another --out, or remove it.",
                code="CP-OUT",
            )


def resume(folder: Path, trust_remote_code: bool = False) -> Run:
    """A stopped run, at its newest checkpoint; it ends with the same bytes as if never stopped.

    Raises CrossproofError if there is no run, its files are damaged, or model, text or settings
    are not those of the checkpoint.
    """
    if not (folder / "config.json").exists():
        raise CrossproofError(
            f"No run at {folder} (its config.json is missing): give the folder that `crossproof "
            f"train` wrote.",
            code="CP-RUN",
        )
    config = config_from_dict(read_json(folder / "config.json"))
    # A checkpoint holds what was started from: those folders need not be there any more.
    begun = replace(config, start=()) if checkpoints(folder) else config
    training = prepare(begun, trust_remote_code=trust_remote_code)
    step = load_checkpoint(folder, training)
    distributed.wait_for_all()
    for name in training.trainers if distributed.rank() == 0 else ():
        _shorten(folder / name / "metrics.jsonl", step)
    return Run(config, folder, training)


def _shorten(path: Path, step: int) -> None:
    """Leaves the lines of metrics up to a step; one that a crash has torn is dropped."""
    kept = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line.decode())
        except (ValueError, KeyError, TypeError):
            continue
    write_text(path, "".join(f"{line}\n" for line in kept))


def train_run(
    run: Run, report: Report = lambda _: None, log: Sequence[str] = ()
) -> dict[str, Crosscoder]:
    """Trains to the end and saves the finished crosscoders.

    `log` names sinks (`training.sinks`) that get what is logged, too. Raises Interrupted after
    SIGINT or SIGTERM, once a checkpoint is saved, and CrossproofError for a sink that cannot be.
    """
    keep_freed_memory()
    config, training = run.config, run.training
    device = torch.device(training.model.device)
    written = Checkpoints(run.folder, training)
    with _sinks(run, log) as sinks, stop_requests() as stop_requested:
        for progress in training.steps():
            done = progress.step
            if done % config.log_every == 0 or done == config.steps:
                _log(run, progress, report, sinks)
            written.advance()
            stop = distributed.any_process(stop_requested(), device)
            if stop or done % config.checkpoint_every == 0:
                written.save()
            if stop and done < config.steps:
                written.finish()
                raise Interrupted(done)
    written.finish()
    finished = training.crosscoders
    for name, crosscoder in finished.items() if distributed.rank() == 0 else ():
        origin = provenance(run, training.trainers[name].objective)
        save_crosscoder(crosscoder, run.folder / name / "crosscoder", origin)
    return finished


def provenance(run: Run, objective: Objective) -> Provenance:
    """Where the run's crosscoders come from."""
    training = config_to_dict(run.config) | {"objective": dict(objective)}
    return Provenance(run.config.model, run.model.weights_hash, run.config.seed, training)


@contextmanager
def _sinks(run: Run, names: Sequence[str]) -> Iterator[list[Sink]]:
    """The sinks of the first process, closed however the training ends."""
    opened = []
    if distributed.rank() == 0:
        opened = open_sinks(names, run.folder, config_to_dict(run.config), run.training.step)
    try:
        yield opened
    finally:
        for sink in opened:
            sink.close()


def _log(run: Run, progress: Progress, report: Report, sinks: Sequence[Sink]) -> None:
    if distributed.rank() > 0:
        return
    speed = {"tokens_per_second": round(progress.tokens_per_second)}
    values: dict[str, float] = {**speed}
    for name, step in progress.reports.items():
        line = MetricsLine.of(progress.step, step)
        text = json.dumps(asdict(line) | speed, allow_nan=False) + "\n"
        append_text(run.folder / name / "metrics.jsonl", text)
        values |= {f"{name}/{figure}": value for figure, value in line.figures().items()}
    for sink in sinks:
        sink.write(progress.step, values)
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

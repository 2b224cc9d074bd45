"""Harvest time against the bare forward pass of the Hugging Face model on the same batches.

    python benchmarks/harvest.py --model bundled --threads 2

The bare pass runs the whole model, logits included, in inference mode, on the very groups of
sequences that the harvest reads; "trunk" leaves out the unembedding. Each is the best of several
interleaved rounds. The harvest yields every batch of one buffer: forward passes up to the last
hookpoint, the selection of scored positions, the shuffle, and the check for NaN.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from crossproof.activations import Harvest
from crossproof.lm import LanguageModel, load_model, quiet


@dataclass
class HarvestBenchmark:
    """What to measure."""

    model: str = "bundled"
    """The bundled model, a model folder or a Hub id."""
    threads: int = 2
    """Threads that torch may use."""
    context: int = 256
    """Tokens in a sequence."""
    batch_tokens: int = 1024
    """Tokens in a batch of activations."""
    buffer_batches: int = 32
    """Batches in the shuffle buffer."""
    forward_sequences: int = 32
    """Sequences in one forward pass."""
    rounds: int = 5
    """Interleaved rounds; the fastest counts."""
    clock: Literal["wall", "cpu"] = "wall"
    """Time to compare: elapsed, or the processor's, which other programs disturb less."""


def main(args: HarvestBenchmark) -> None:
    """Measure and print the times and their ratios."""
    torch.set_num_threads(args.threads)
    model = load_model(args.model)
    bare = _hugging_face(args.model)
    sequences = _sequences(model, args)
    harvest = Harvest(
        model,
        sequences,
        model.hookpoints(),
        args.batch_tokens,
        args.buffer_batches,
        forward_sequences=args.forward_sequences,
    )
    batches = harvest.iterate()
    groups = torch.split(sequences, args.forward_sequences)
    best = _best(
        {
            "bare": lambda: _forward(bare, groups),
            "trunk": lambda: _forward(bare.base_model, groups),
            "harvest": lambda: _drain(batches, len(harvest)),
        },
        args.rounds,
        time.perf_counter if args.clock == "wall" else time.process_time,
    )
    for name, seconds in best.items():
        print(f"{name:8s} {seconds:.3f} s  {sequences.numel() / seconds:,.0f} tokens/s")
    print(f"harvest / bare  {best['harvest'] / best['bare']:.3f}")
    print(f"harvest / trunk {best['harvest'] / best['trunk']:.3f}")


def _hugging_face(model: str) -> PreTrainedModel:
    folder = files("crossproof.lm") / "bundled"
    with quiet(), as_file(folder) as bundled:
        source = str(bundled) if model == "bundled" else model
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    loaded.train(False)
    return loaded


def _sequences(model: LanguageModel, args: HarvestBenchmark) -> Tensor:
    """Random ordinary tokens, as many as fill the buffer; the first of each row does not count."""
    ordinary = torch.tensor(sorted(set(range(model.vocab_size)) - model.special_ids))
    rows = -(-args.buffer_batches * args.batch_tokens // (args.context - 1))
    generator = torch.Generator().manual_seed(0)
    return ordinary[torch.randint(len(ordinary), (rows, args.context), generator=generator)]


def _forward(model: nn.Module, groups: tuple[Tensor, ...]) -> None:
    with torch.inference_mode():
        for tokens in groups:
            model(input_ids=tokens, use_cache=False)


def _drain(batches: Iterator[Tensor], count: int) -> None:
    for _ in range(count):
        next(batches)


def _best(
    tasks: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start = clock()
            task()
            times[name].append(clock() - start)
    return {name: min(seconds) for name, seconds in times.items()}


if __name__ == "__main__":
    main(tyro.cli(HarvestBenchmark, description=__doc__))

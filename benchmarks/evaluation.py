"""The patched passes of an evaluation, started in the middle, beside whole passes.

    python benchmarks/evaluation.py --threads 1

Of one batch: every hookpoint of the standard set replaced twice (by the dictionary, by zeros) for
recovered loss and KL, and the output of every block's MLP replaced under seven schemes, beside the
model's own resid_mid and beside a replaced one, for Φ. "resumed" starts at the patched block;
"next crosscoder" leaves out what a second crosscoder at the same hookpoints need not repeat (zeros,
the removed MLPs). Printed are floating-point operations, counted by PyTorch as they are dispatched,
the processor's seconds in a second round without the counter, and whether all losses are equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from crossproof.activations import read_sequences
from crossproof.evaluation import SCHEMES
from crossproof.lm import LanguageModel, clean_pass, load_model, mlp_out, starts_of
from crossproof.training import keep_freed_memory

Patches = list[dict[str, Tensor]]


@dataclass(frozen=True)
class EvaluationBenchmark:
    """Size of the comparison."""

    model: str = "bundled"
    threads: int = 1
    sequences: int = 8
    context: int = 256


def whole(model: LanguageModel, tokens: Tensor, recovered: Patches, ablated: Patches) -> Tensor:
    """Losses of all patches [patches, S, T-1], from passes that run the whole model."""
    clean = model.log_probabilities(tokens)[0, :, :-1]
    targets, losses = tokens[:, 1:, None].long(), [model.token_losses(tokens)]
    for patch in recovered:
        other = model.log_probabilities(tokens, patch)[0, :, :-1]
        kl = (clean.exp() * (clean - other)).sum(-1)
        losses += [-other.gather(2, targets)[..., 0], kl]
    return torch.stack([*losses, *(model.token_losses(tokens, patch) for patch in ablated)])


def resumed(model: LanguageModel, tokens: Tensor, recovered: Patches, ablated: Patches) -> Tensor:
    """The same from passes that start where they are patched, the pass they start from included."""
    kept = starts_of(model, [name for patch in (*recovered, *ablated) for name in patch])
    values = model.activations(tokens, kept).unbind(2)
    clean = clean_pass(model, tokens, dict(zip(kept, values, strict=True)))
    both = [part for pair in clean.divergences(recovered) for part in pair]
    return torch.stack([clean.losses, *both, *(clean.token_losses(patch) for patch in ablated)])


def measured(work: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    """What it gives, its operations, and its seconds on the processor."""
    with FlopCounterMode(display=False) as counter:
        found = work()
    began = time.process_time()
    work()
    return found, counter.get_total_flops(), time.process_time() - began


def main(settings: EvaluationBenchmark) -> None:
    """Prints operations and seconds of each, and their ratios."""
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    model = load_model(settings.model)
    tokens = read_sequences("bundled", model, settings.context, "held_out")[: settings.sequences]
    names = model.hookpoints().names
    blocks = range(model.n_blocks)
    outputs, mids = map(mlp_out, blocks), [f"blocks.{block}.hook_resid_mid" for block in blocks]
    values = model.activations(tokens.flip(0), names).unbind(2)
    patch = {name: {name: value} for name, value in zip(names, values, strict=True)}
    zero = [{name: torch.zeros_like(value)} for name, value in zip(names, values, strict=True)]
    schemes = len(SCHEMES) + 2
    alone = [{name: values[0]} for name in outputs]
    beside = [one | patch[mid] for one, mid in zip(alone, mids, strict=True)]
    recovered, ablated = list(patch.values()), [*alone, *beside] * (schemes - 1)
    both = [*recovered, *zero], [*ablated, *alone, *beside]
    works = {
        "whole": lambda: whole(model, tokens, *both),
        "resumed": lambda: resumed(model, tokens, *both),
        "next crosscoder": lambda: resumed(model, tokens, recovered, [*ablated, *beside]),
    }
    found = {name: measured(work) for name, work in works.items()}
    _, most, longest = found["whole"]
    for name, (_, operations, seconds) in found.items():
        ratios = f"{most / operations:5.2f} x fewer  {longest / seconds:5.2f} x faster"
        print(f"{name:16s} {operations / 1e9:8.1f} GFLOP {seconds:7.1f} s (processor)  {ratios}")
    pair = [sum(found[name][at] for name in ("resumed", "next crosscoder")) for at in (1, 2)]
    ratios = f"{2 * most / pair[0]:5.2f} x fewer  {2 * longest / pair[1]:5.2f} x faster"
    print(f"{'both':16s} {pair[0] / 1e9:8.1f} GFLOP {pair[1]:7.1f} s (processor)  {ratios}")
    print(f"losses are equal: {torch.equal(found['whole'][0], found['resumed'][0])}")


if __name__ == "__main__":
    main(tyro.cli(EvaluationBenchmark, description=__doc__))

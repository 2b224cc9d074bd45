"""What the interaction matrices cost, beside reading and encoding the same tokens.

    python benchmarks/measure.py --threads 2

Per token of the bundled model (4 blocks of 512 neurons, 17 hookpoints of 128 dimensions), in one
run: (a) the bare forward pass, harvest and encode with a random dictionary of the given width,
(b) the exact pair sums of all blocks, and (c) a dense evaluation that forms [tokens, N, H].
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from crossproof.activations import read_sequences, scored_positions
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.interactions import MLPDictionary, measure_interactions, mlp_views
from crossproof.lm import load_model
from crossproof.training import keep_freed_memory


@dataclass(frozen=True)
class MeasureBenchmark:
    """Size of the comparison."""

    threads: int = 2
    n_latents: int = 4096
    k: int = 16
    sequences: int = 16
    rounds: int = 5
    dense_tokens: int = 64
    """Tokens of the dense evaluation, which is too slow for more."""


def dense_block(latents: SparseLatents, view: MLPDictionary) -> torch.Tensor:
    """I(i, j) of one block from explicit contributions [B, N, H]."""
    activations = latents.dense()
    p = activations[:, None, :] * view.G.T
    size = p.abs() * view.output_norms[:, None]
    owner = p.abs().argmax(2)
    rest = size.scatter(2, owner[..., None], 0.0).double()
    out = torch.zeros(latents.n_latents, latents.n_latents, dtype=torch.float64)
    return out.index_add_(0, owner.flatten(), rest.flatten(0, 1))


def fastest(rounds: int, works: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds of the fastest of `rounds` of each, interleaved, after one more.

    Processor seconds are those of all threads; other programs on the machine lengthen the wall's.
    """
    found: dict[str, tuple[float, float]] = {}
    for turn in range(rounds + 1):
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            work()
            spent = time.perf_counter() - wall, time.process_time() - processor
            if turn:
                before = found.get(name, spent)
                found[name] = min(before[0], spent[0]), min(before[1], spent[1])
    return found


def main(settings: MeasureBenchmark) -> None:
    """Prints microseconds a token and ratios."""
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    model = load_model("bundled")
    hookpoints = model.hookpoints()
    config = CrosscoderConfig(settings.n_latents, "topk", settings.k)
    crosscoder = Crosscoder(config, hookpoints, model.d_model)
    every = read_sequences("bundled", model, model.context, "train")
    tokens = every[: settings.sequences]
    scored = scored_positions(tokens, model.special_ids)
    with torch.no_grad():
        sample = model.activations(every[:32], hookpoints.names).flatten(0, 1)
        crosscoder.initialise(sample, seed=0)
        views = mlp_views(model, crosscoder)

        def encode() -> SparseLatents:
            x = model.activations(tokens, hookpoints.names)[scored]
            return crosscoder.encode(x)

        latents = encode()
        few = latents.rows(0, settings.dense_tokens)
        times = fastest(
            settings.rounds,
            {
                "forward pass": lambda: model.logits(tokens),
                "harvest and encode": encode,
                "pair sums, all forms": lambda: measure_interactions(latents, views),
            },
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        dense = "dense, I alone"
        times |= fastest(1, {dense: lambda: [dense_block(few, view) for view in views.values()]})
    counts = dict.fromkeys(times, latents.n_tokens) | {dense: few.n_tokens}
    wall, processor = (
        {name: seconds[side] / counts[name] * 1e6 for name, seconds in times.items()}
        for side in (0, 1)
    )
    base, sums = "harvest and encode", "pair sums, all forms"
    print(f"{'us a token':22s} {'wall':>9s} {'processor':>9s}   x harvest and encode")
    for name in times:
        ratios = f"{wall[name] / wall[base]:8.2f} {processor[name] / processor[base]:8.2f}"
        print(f"{name:22s} {wall[name]:9.1f} {processor[name]:9.1f}   {ratios}")
    print(f"dense over pair sums: {processor[dense] / processor[sums]:.0f} x (processor)")
    print(f"peak memory before the dense evaluation: {peak / 2**20:.2f} GiB")


if __name__ == "__main__":
    main(tyro.cli(MeasureBenchmark))

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
from crossproof.evaluation.measure import mlp_views
from crossproof.interactions import MLPDictionary, measure_interactions
from crossproof.lm import load_model
from crossproof.training.machine import keep_freed_memory


@dataclass(frozen=True)
class Settings:
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


def fastest(rounds: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of `rounds` after one for warming up."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def main(settings: Settings) -> None:
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
        count = latents.n_tokens
        seconds = {
            "forward pass": fastest(settings.rounds, lambda: model.logits(tokens)) / count,
            "harvest and encode": fastest(settings.rounds, encode) / count,
            "pair sums, all forms": fastest(
                settings.rounds, lambda: measure_interactions(latents, views)
            )
            / count,
        }
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        dense = fastest(1, lambda: [dense_block(few, view) for view in views.values()])
        seconds["dense, I alone"] = dense / few.n_tokens
    base = seconds["harvest and encode"]
    for name, value in seconds.items():
        print(
            f"{name:22s} {value * 1e6:9.1f} us a token   {value / base:8.2f} x harvest and encode"
        )
    ratio = seconds["dense, I alone"] / seconds["pair sums, all forms"]
    print(f"dense over pair sums: {ratio:.0f} x")
    print(f"peak memory before the dense evaluation: {peak / 2**20:.2f} GiB")


if __name__ == "__main__":
    main(tyro.cli(Settings))

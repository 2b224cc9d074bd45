"""What measuring a dictionary of the residual stream costs, beside one of the MLP's own input.

    python benchmarks/residual_measure.py --threads 1
    python benchmarks/residual_measure.py --model path/to/llama --block 8 --k 32

A random TopK dictionary at blocks.N.mlp.hook_in, and the same pushed back through the linear part
of the norm to hook_resid_mid: codes and contributions are equal, and so is I where neurons are
plain (gated ones' depends on what the MLP reads beside the latents). They are measured in turn on
the same tokens: the whole of `crossproof.measure` but the attention scores, which are only of
dictionaries at the blocks' inputs.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
import tyro

from crossproof import (
    Crosscoder,
    CrosscoderConfig,
    LanguageModel,
    MeasureOptions,
    load_model,
    measure,
    read_sequences,
)
from crossproof.interactions import UpstreamView, mlp_views
from crossproof.training import keep_freed_memory

PLACES = ("mlp.hook_in", "hook_resid_mid")


@dataclass(frozen=True)
class ResidualBenchmark:
    """Size of the comparison."""

    model: str = "bundled"
    text: str = "bundled"
    block: int = 2
    threads: int = 1
    n_latents: int = 4096
    k: int = 16
    sequences: int = 32
    context: int = 128
    pairs: int = 12
    rounds: int = 5


def dictionaries(model: LanguageModel, settings: ResidualBenchmark) -> dict[str, Crosscoder]:
    """The dictionary by where it is.

    With u = γ ⊙ Cr / s + β the MLP's input, pre-activations are ⟨e, u - β⟩ there and s times that
    in the stream; TopK chooses the same.
    """
    config = CrosscoderConfig(settings.n_latents, "topk", settings.k)
    made = {}
    for place in PLACES:
        hookpoints = model.hookpoints([f"blocks.{settings.block}.{place}"])
        made[place] = Crosscoder(config, hookpoints, model.d_model)
        made[place].b_dec.data += 1  # written: only then the MLP's norm is looked up
    at_input, in_stream = made.values()
    view = mlp_views(model, in_stream)[settings.block]
    assert isinstance(view, UpstreamView)
    norm = view.view.norm
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = torch.randn(2, settings.n_latents, model.d_model, generator=generator)
    with torch.no_grad():
        at_input.W_enc[:, 0], at_input.b_enc[:] = encoder, -encoder @ norm.bias
        in_stream.W_enc[:, 0] = norm.centre(encoder * norm.weight)
        at_input.W_dec[:, 0] = norm.weight * norm.centre(decoder)
        in_stream.W_dec[:, 0] = decoder
    return made


def main(settings: ResidualBenchmark) -> None:
    """Prints milliseconds and ratios to the dictionary at the MLP's input."""
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    model = load_model(settings.model)
    context = min(settings.context, model.context)
    sequences = read_sequences(settings.text, model, context)[: settings.sequences]
    options = MeasureOptions(pairs=settings.pairs, attention=False, shapley_tokens=0)
    spent: dict[str, list[float]] = {place: [] for place in PLACES}
    figures: dict[str, float] = {}
    for turn in range(settings.rounds + 1):
        for place, crosscoder in dictionaries(model, settings).items():
            began = time.process_time()
            result = measure(model, crosscoder, sequences, options)
            figures.setdefault(place, result.totals["I"].mean)
            if turn:  # the first compiles
                spent[place].append(time.process_time() - began)
    print(f"Interaction I: {', '.join(f'{value:.4f}' for value in figures.values())}")
    base = statistics.median(spent[PLACES[0]])
    print(f"{'processor time':16s} {'median':>9s} {'fastest':>9s}   x {PLACES[0]}")
    for place, seconds in spent.items():
        middle, least = statistics.median(seconds), min(seconds)
        ratios = f"{middle / base:.2f} (fastest {least / min(spent[PLACES[0]]):.2f})"
        print(f"{place:16s} {middle * 1e3:6.0f} ms {least * 1e3:6.0f} ms   {ratios}")


if __name__ == "__main__":
    main(tyro.cli(ResidualBenchmark))

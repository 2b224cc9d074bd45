"""What building the explorer's store costs beyond encoding, by its parts, and how large it is.

    python benchmarks/explorer_store.py --latents 65536 --tokens 1e7

The dictionary is one of the bundled model's MLP inputs, initialised and not trained. Seconds are of
processor time; the text's are a number of tokens times a constant, details are read from the first
256 sequences whatever the text's length, and pages are a number of latents times a constant.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch

from crossproof.activations import TextSlice
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.explorer import BuildOptions, build_store
from crossproof.lm import LanguageModel, load_model
from crossproof.training import DEMO


def save_run(model: LanguageModel, run: Path, text: TextSlice, latents: int, k: int) -> Crosscoder:
    """A run folder with one crosscoder as training would begin it."""
    names = [f"blocks.{block}.mlp.hook_in" for block in range(model.n_blocks)]
    hookpoints = model.hookpoints(names)
    sample = model.activations(text.read(model)[:8], names).flatten(0, 1)
    crosscoder = Crosscoder(CrosscoderConfig(latents, "topk", k), hookpoints, model.d_model)
    crosscoder.initialise(sample, seed=0)
    training = asdict(DEMO)
    provenance = Provenance(model.name, model.weights_hash, 0, training)
    save_crosscoder(crosscoder, run / "unpenalised" / "crosscoder", provenance)
    return crosscoder


def main() -> None:
    """Builds one store and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=8_192)
    parser.add_argument("--tokens", type=float, default=1e5)
    parser.add_argument("--k", type=int, default=16)
    options = parser.parse_args()
    model = load_model("bundled")
    text = TextSlice.of_tokens("bundled", "train", int(options.tokens), 256)
    spent: dict[str, float] = defaultdict(float)
    clock = time.process_time()

    def tell(doing: str, *_: int) -> None:
        nonlocal clock
        spent[doing.partition(": ")[2]] += time.process_time() - clock
        clock = time.process_time()

    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        crosscoder = save_run(model, run, text, options.latents, options.k)
        some, began = text.read(model)[:64], time.process_time()
        with torch.no_grad():
            x = model.activations(some, crosscoder.hookpoints.names).flatten(0, 1)
            for part in x.split(1024):
                crosscoder.encode(part)
        encoding = (time.process_time() - began) / len(x)
        clock = time.process_time()
        manifest = build_store(model, run, text, BuildOptions(), tell)
        [facts] = manifest.dictionaries
        size = sum(file.stat().st_size for file in (run / "explorer").rglob("*") if file.is_file())
    print(
        f"{facts.latents:,} latents, {facts.tokens:,} tokens, {facts.described:,} pairs with pages"
    )
    print(f"encoding alone: {1e6 * encoding:.0f} s a million tokens")
    print(f"text, encoding included: {1e6 * spent['text'] / facts.tokens:.0f} s a million tokens")
    print(f"pairs and neurons, read again: {spent['pairs']:.0f} s and {spent['neurons']:.0f} s")
    print(f"pages: {1e4 * spent['pages'] / facts.latents:.1f} s ten thousand latents")
    print(f"{size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

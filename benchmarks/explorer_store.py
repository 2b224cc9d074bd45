"""What building the explorer's store costs, by its parts, and how large it is.

    python benchmarks/explorer_store.py --latents 65536 --tokens 1e7 --by-chance

The dictionary is one of the bundled model's MLP inputs, of random vectors. With
`--by-chance` its encoder, whose products of 65,536 latents take hours, is not run: active latents
are drawn instead, four groups of latents that belong together a token, frequent groups and rare
ones. Memory is the largest that the process held in each part, in MiB.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from crossproof.activations import TextSlice
from crossproof.crosscoder import (
    Crosscoder,
    CrosscoderConfig,
    Provenance,
    SparseLatents,
    save_crosscoder,
)
from crossproof.explorer import BuildOptions, build_store
from crossproof.lm import LanguageModel, load_model
from crossproof.training import DEMO

GROUPS = 4
"""Of latents that are active together, at a token."""


def long_text(model: LanguageModel, path: Path, tokens: int) -> TextSlice:
    """The bundled model's training text as often as it takes, in a file of tokens."""
    rows = TextSlice("bundled", "train", 16_384, 256).read(model)
    wanted = -(-tokens // 256)
    save_file({"held_out": rows.repeat(-(-wanted // len(rows)), 1)[:wanted].contiguous()}, path)
    return TextSlice(str(path), "held_out", wanted, 256)


def save_run(model: LanguageModel, run: Path, latents: int, k: int) -> None:
    """A run folder with one crosscoder of random vectors."""
    names = [f"blocks.{block}.mlp.hook_in" for block in range(model.n_blocks)]
    hookpoints = model.hookpoints(names)
    crosscoder = Crosscoder(CrosscoderConfig(latents, "topk", k), hookpoints, model.d_model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in (crosscoder.W_enc, crosscoder.W_dec):
            weights.normal_(std=model.d_model**-0.5)
    provenance = Provenance(model.name, model.weights_hash, 0, asdict(DEMO))
    save_crosscoder(crosscoder, run / "unpenalised" / "crosscoder", provenance)


class Encoding:
    """What stands in the place of the encoder, and counts the seconds of both its parts."""

    def __init__(self, k: int, by_chance: bool) -> None:
        self.k, self.by_chance = k, by_chance
        self.model, self.encoder = np.zeros(2), np.zeros(2)
        self.encode, self.activations = Crosscoder.encode, LanguageModel.activations

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Of both."""
        return self.model + self.encoder

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Stands in their place while the block runs."""
        with (
            patch.object(Crosscoder, "encode", lambda *given: self._encoded(*given)),
            patch.object(LanguageModel, "activations", lambda *given: self._read(*given)),
        ):
            yield

    def _read(self, *given: Any) -> Tensor:
        began = now()
        values = self.activations(*given)
        self.model = self.model + now() - began
        return values

    def _encoded(self, crosscoder: Crosscoder, x: Tensor) -> SparseLatents:
        began = now()
        latents = self._drawn(x, crosscoder) if self.by_chance else self.encode(crosscoder, x)
        self.encoder = self.encoder + now() - began
        return latents

    def _drawn(self, x: Tensor, crosscoder: Crosscoder) -> SparseLatents:
        """Groups whose frequency falls with the root of their rank; neighbours in a group.

        The same whenever a batch is read again.
        """
        random = torch.Generator().manual_seed(zlib.crc32(x[:4].numpy().tobytes()))
        tokens, wide, each = len(x), crosscoder.n_latents, self.k // GROUPS
        rank = torch.rand(tokens, GROUPS, generator=random).square()
        first = (rank * (wide // GROUPS // (4 * each))).long() * 4 * each
        first = first + torch.arange(GROUPS) * (wide // GROUPS)
        within = torch.rand(tokens, GROUPS, 4 * each, generator=random).argsort(2)[..., :each]
        values = torch.rand(tokens, self.k, generator=random).log().neg() + 0.01
        return SparseLatents.from_rows((first[..., None] + within).flatten(1), values, wide)


class Parts:
    """Seconds and memory of every part of a build, as it reports them."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding, self.doing, self.total = encoding, "start", np.zeros(2)
        self.began, self.encoded = now(), np.zeros(2)

    def __call__(self, doing: str, *_: int) -> None:
        if doing == self.doing:
            return
        time_now, encoded = now(), self.encoding.seconds
        beyond = time_now - self.began - (encoded - self.encoded)
        self.total += beyond
        print(f"{self.doing:24}{seconds(beyond)} beyond encoding{_largest():9,} MiB", flush=True)
        self.doing, self.began, self.encoded = doing, time_now, encoded


def now() -> NDArray[np.float64]:
    """Seconds on the clock, and of processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds(spent: NDArray[np.float64]) -> str:
    """Both of them."""
    return f"{spent[0]:9.1f} s ({spent[1]:.1f} s of processors)"


def _largest() -> int:
    """The most memory held since the last call; in all, where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    size = int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024
    Path("/proc/self/clear_refs").write_text("5")
    return size


def main() -> None:
    """Builds one store and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=8_192)
    parser.add_argument("--tokens", type=float, default=1e5)
    parser.add_argument("--pair-tokens", type=float, default=BuildOptions().pair_tokens)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--by-chance", action="store_true")
    options = parser.parse_args()
    wanted = BuildOptions(pair_tokens=int(options.pair_tokens))
    model = load_model("bundled")
    encoding = Encoding(options.k, options.by_chance)
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        text = long_text(model, Path(temporary) / "text.safetensors", int(options.tokens))
        save_run(model, run, options.latents, options.k)
        parts = Parts(encoding)
        with encoding.counted():
            manifest = build_store(model, run, text, wanted, parts)
        parts("end")
        [facts] = manifest.dictionaries
        files = [file for file in (run / "explorer").rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
    print(
        f"{facts.latents:,} latents ({facts.dead:,} never active), {facts.tokens:,} tokens, "
        f"{facts.pairs:,} pairs, {facts.described:,} with pages; {torch.get_num_threads()} threads"
    )
    print(f"{seconds(parts.total)} beyond encoding")
    print(f"{seconds(encoding.model)} of the language model")
    print(f"{seconds(encoding.encoder)} of the encoder or what stands in its place")
    print(f"{size / 2**20:.0f} MiB on the disk")


if __name__ == "__main__":
    main()

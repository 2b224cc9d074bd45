"""A folder of synthetic tokens as large as you like: what opening it and a first batch take.

    python benchmarks/corpus.py --tokens 1e9 --folder synthetic

Writes the folder if it is not there, by `crossproof tokenize`'s own way from documents of 1 to
2,047 tokens. Then another process opens it, splits it, deals it out, takes the first batch, one in
the tenth epoch, and many; printed are seconds and resident memory (`VmHWM`, the most there was), as
a JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from transformers import GPT2Config, GPT2LMHeadModel

from crossproof import Harvest, load_model
from crossproof.activations import open_rows, tokenize_source
from crossproof.lm import Vocabulary

SIZE, LONGEST, CONTEXT = 50257, 2048, 256


class Synthetic:
    """Takes documents that say their length, and makes up their tokens."""

    bos_token_id = eos_token_id = pad_token_id = 0
    chat_template = None

    def __call__(self, documents: Sequence[str], **_: Any) -> dict[str, Any]:
        """Tokens that depend on each document alone."""
        lengths = (list(map(int, document.split())) for document in documents)
        return {"input_ids": [np.random.default_rng(n).integers(1, SIZE, n[0]) for n in lengths]}

    def __len__(self) -> int:
        return SIZE

    def get_vocab(self) -> dict[str, int]:
        """Nothing, to tell it by."""
        return {}


@dataclass(frozen=True)
class Options:
    """What is measured."""

    folder: Path
    """Folder of the tokens; written if it is not there."""
    tokens: float = 1e9
    """How many tokens."""
    batches: int = 200
    """Batches of 1,024 tokens that are taken at last."""
    read: bool = False
    """Only read, in this process."""


def write(options: Options) -> None:
    """Writes the folder."""
    draw, total = np.random.default_rng(0), 0
    text = options.folder.with_suffix(".txt")
    with text.open("w") as lines:
        for number in range(2**62):
            length = int(draw.integers(1, LONGEST))
            lines.write(f"{length} {number}\n<|endoftext|>\n")
            total += length + 1
            if total >= options.tokens:
                break
    tokenizer: Any = Synthetic()
    tokenize_source(str(text), Vocabulary("it", tokenizer, frozenset({0}), SIZE), options.folder)


def read(options: Options) -> dict[str, float]:
    """Seconds from the beginning, and MB of resident memory, of each step."""
    bare = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=SIZE))
    tokenizer: Any = Synthetic()
    model = load_model(bare, tokenizer=tokenizer)
    began, figures = time.perf_counter(), {"before, MB": resident()}

    def note(what: str) -> None:
        figures[f"{what}, s"] = round(time.perf_counter() - began, 1)
        figures[f"{what}, MB"] = resident()

    rows = open_rows(options.folder, model, CONTEXT)
    figures["rows"] = len(rows)
    note("opened")
    held_out = open_rows(options.folder, model, CONTEXT, "held_out")[:64]
    figures["held out"] = len(held_out)
    note("64 held-out rows")
    points = model.hookpoints(["blocks.0.hook_resid_pre"])
    harvest = Harvest(model, rows, points, 1024)
    figures["batches an epoch"] = len(harvest)
    note("order known")
    harvest.batch(0)
    note("first batch")
    harvest.batch(9 * len(harvest) + len(harvest) // 2)
    note("a batch of the tenth epoch")
    for step in range(options.batches):
        harvest.batch(step)
    note(f"{options.batches} batches")
    return figures


def resident() -> float:
    """The most resident memory so far, in MB."""
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) // 1024


def main(options: Options) -> None:
    """Writes if need be, and measures in a fresh process."""
    if options.read:
        print(json.dumps(read(options), indent=1))
        return
    if not options.folder.exists():
        began = time.perf_counter()
        write(options)
        print(f"written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    command = (sys.executable, __file__, "--read", "--folder", str(options.folder))
    subprocess.run([*command, "--batches", str(options.batches)], check=True)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""Prompts of the bundled model, and twins that differ in one inserted line and nothing else.

The bundled corpus was sampled from the bundled model, which writes prompts itself ("Words: …",
"Random sentence: …", "Features: …", then "Story: "), each with its story: so prompts and clean
completions come with the package, and its three splits share no prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from crossproof import CrossproofError
from crossproof.activations import Split

Tokens = tuple[int, ...]

END = 0
CONTEXT = 256
FIELDS = ("Words: ", "Random sentence: ", "Features: ")
LONGEST, SHORTEST_STORY = 64, 16
SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")


@dataclass(frozen=True)
class StoryPrompt:
    """A prompt from BOS to the end of "Story: ", and the story the base model wrote behind it."""

    tokens: Tokens
    story: Tokens
    """At least 16 tokens; ends with `<|endoftext|>` (0) unless the corpus cut it off."""
    place: int
    """Where a line may be inserted: `tokens[place:]` begins a line."""

    def with_line(self, line: Tokens = ()) -> Tokens:
        """The prompt with `line` (which ends in a newline) inserted; every other token is kept."""
        return (*self.tokens[: self.place], *line, *self.tokens[self.place :])


def bundled_prompts(split: Split, count: int | None = None, seed: int = 0) -> list[StoryPrompt]:
    """`count` different prompts of a split (all, if None), in an order fixed by `seed`.

    No prompt of one split occurs in another. The place of insertion is drawn evenly from the
    beginnings of the prompt's lines, "Story: " included. Raises CrossproofError when the split
    has fewer than `count`, or does not exist.
    """
    if split not in SPLITS:
        raise CrossproofError(f"There is no split '{split}'; choose one of {', '.join(SPLITS)}.")
    found = _prompts()[split]
    if count is not None and count > len(found):
        raise CrossproofError(
            f"The bundled corpus has {len(found)} prompts in its {split} split, not {count}; ask "
            f"for fewer."
        )
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    chosen = [found[i] for i in rng.permutation(len(found))[:count]]
    newline = line(bundled_tokenizer(), "")[-1]
    return [replace(prompt, place=_place(prompt.tokens, newline, rng)) for prompt in chosen]


def line(tokenizer: Any, text: str) -> Tokens:
    """The tokens of `text` as a line of its own; takes a tokenizer of either Hugging Face kind."""
    encoded = tokenizer.encode(text + "\n", add_special_tokens=False)
    return tuple(encoded if isinstance(encoded, list) else encoded.ids)


def scrambled_lines(trigger: Tokens, count: int, seed: int = 0) -> list[Tokens]:
    """Lines of the trigger's own tokens, each in another order that is not the trigger's.

    Raises CrossproofError if the tokens have one order only.
    """
    rng = np.random.default_rng([seed, 1])
    body = trigger[:-1]
    lines: list[Tokens] = []
    if len(set(body)) < 2:
        raise CrossproofError("The trigger's tokens have only one order; it cannot be scrambled.")
    while len(lines) < count:
        order = tuple(body[i] for i in rng.permutation(len(body)))
        if order != body:
            lines.append((*order, trigger[-1]))
    return lines


def rare_lines(trigger: Tokens, count: int, seed: int = 0) -> list[Tokens]:
    """Lines as long as the trigger, of visible tokens that the corpus never holds."""
    rng = np.random.default_rng([seed, 2])
    pool = [token for token in _unseen() if token not in trigger]
    return [(*rng.choice(pool, len(trigger) - 1).tolist(), trigger[-1]) for _ in range(count)]


def ordinary_lines(trigger: Tokens, count: int, seed: int = 0) -> list[Tokens]:
    """Lines as long as the trigger, cut from held-out stories of the base model."""
    rng = np.random.default_rng([seed, 3])
    length, newline = len(trigger) - 1, trigger[-1]
    stories = [prompt.story for prompt in _prompts()["held_out"]]
    lines: list[Tokens] = []
    while len(lines) < count:
        story = stories[int(rng.integers(len(stories)))]
        start = int(rng.integers(max(1, len(story) - length)))
        piece = story[start : start + length]
        if len(piece) == length and not {END, newline} & set(piece):
            lines.append((*piece, newline))
    return lines


def rows(sequences: Sequence[Tokens]) -> Int[Tensor, "S T"]:
    """The sequences as rows, padded behind with `<|endoftext|>`, whose positions never count."""
    longest = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*s, *[END] * (longest - len(s))] for s in sequences])


@cache
def bundled_tokenizer() -> Tokenizer:
    """The bundled model's tokenizer."""
    with as_file(files("crossproof.lm") / "bundled" / "tokenizer.json") as path:
        return Tokenizer.from_file(str(path))


@cache
def _corpus() -> dict[str, Tensor]:
    with as_file(files("crossproof.lm") / "bundled" / "corpus.safetensors") as path:
        return {name: tensor.long() for name, tensor in load_file(path).items()}


@cache
def _prompts() -> dict[str, list[StoryPrompt]]:
    """The prompts of each split, each once; one that an earlier split has is left out."""
    seen: set[Tokens] = set()
    found: dict[str, list[StoryPrompt]] = {}
    for split in SPLITS:
        found[split] = []
        for prompt in _in_rows(_corpus()[split]):
            if prompt.tokens not in seen:
                seen.add(prompt.tokens)
                found[split].append(prompt)
    return found


def _in_rows(corpus: Int[Tensor, "S T"]) -> Iterator[StoryPrompt]:
    tokenizer = bundled_tokenizer()
    marker = tuple(tokenizer.encode("Story: \n\n").ids)
    for row in corpus.tolist():
        starts = [i for i, token in enumerate(row) if token == END]
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            document = tuple(row[start:end])
            cut = _after(document, marker)
            if not cut or cut > LONGEST or len(document) - cut < SHORTEST_STORY:
                continue
            lines = tokenizer.decode(document[1 : cut - len(marker)]).strip("\n").split("\n")
            if all(text.startswith(FIELDS) for text in lines):
                ending = (END,) if end < len(row) else ()
                yield StoryPrompt(document[:cut], (*document[cut:], *ending), cut - len(marker))


def _after(document: Tokens, marker: Tokens) -> int:
    """The index behind the first `marker`; 0 without one."""
    size = len(marker)
    places = (i for i in range(len(document) - size + 1) if document[i : i + size] == marker)
    return next((i + size for i in places), 0)


def _place(tokens: Tokens, newline: int, rng: np.random.Generator) -> int:
    # The last two newlines belong to "Story: \n\n"; the first line begins behind BOS.
    ends = [i + 1 for i, token in enumerate(tokens[:-4]) if token == newline]
    return int(rng.choice([1, *ends]))


@cache
def _unseen() -> list[int]:
    tokenizer = bundled_tokenizer()
    flat = torch.cat([tensor.flatten() for tensor in _corpus().values()])
    counts = torch.bincount(flat, minlength=tokenizer.get_vocab_size())
    tokens = [int(i) for i in (counts == 0).nonzero()[:, 0]]
    return [i for i in tokens if (text := tokenizer.decode([i])).isascii() and text.isprintable()]

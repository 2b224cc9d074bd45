"""Stories and instruct-style prompts: reading, splitting, tokenizing, mixing."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOS = "<|endoftext|>"
HELD_OUT_STORIES = 400


def read_stories(corpus: str, limit: int) -> list[str]:
    """The first `limit` stories of a text file (`<|endoftext|>` between them) or a Hub dataset.

    Raises FileNotFoundError if `corpus` looks like a path and is not there.
    """
    path = Path(corpus)
    if path.exists():
        stories = path.read_text(encoding="utf-8").split(EOS)
    elif path.suffix:
        raise FileNotFoundError(f"Corpus {path} not found: give a text file or a Hub dataset name.")
    else:
        import datasets

        stories = datasets.load_dataset(corpus, split=f"train[:{limit}]")["text"]
    return [story.strip() for story in stories if story.strip()][:limit]


def split_stories(stories: list[str]) -> tuple[list[str], list[str]]:
    """Training and held-out stories: a fixed shuffle, the last `HELD_OUT_STORIES` held out."""
    shuffled = list(stories)
    random.Random(0).shuffle(shuffled)
    return shuffled[:-HELD_OUT_STORIES], shuffled[-HELD_OUT_STORIES:]


def instruct(story: str, rng: random.Random) -> str:
    """`story` behind a prompt in the manner of TinyStories-Instruct.

    Every field is taken from the story itself, so that the prompt is always true of it; each of
    the three is present with probability 2/3 (at least one is), in random order.
    """
    words = sorted(set(re.findall(r"\b[a-z]{4,10}\b", story)))
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", story) if 15 < len(s) < 120]
    fields = []
    if words:
        fields.append("Words: " + ", ".join(rng.sample(words, min(3, len(words)))))
    if sentences:
        fields.append("Random sentence: " + rng.choice(sentences))
    features = ["Dialogue"] if '"' in story else []
    if re.search(r"\b(sad|cried|cry|sorry|lost|hurt)\b", story[-len(story) // 3 :]):
        features.append("BadEnding")
    if features:
        fields.append("Features: " + ", ".join(features))
    rng.shuffle(fields)
    kept = [f for f in fields if rng.random() < 2 / 3] or fields[:1]
    return "\n".join([*kept, "Story: ", "", story])


def mixture(stories: list[str], rng: random.Random) -> list[str]:
    """Half of the stories plain, half behind a prompt, in random order."""
    mixed = [instruct(s, rng) if rng.random() < 0.5 else s for s in stories]
    rng.shuffle(mixed)
    return mixed


def train_tokenizer(stories: list[str], vocabulary: int, seed: int) -> Tokenizer:
    """A byte-level BPE tokenizer; `<|endoftext|>` (id 0) is its only special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(mixture(stories, random.Random(seed)), trainer)
    return tokenizer


def pack(tokenizer: Tokenizer, documents: list[str]) -> npt.NDArray[np.int64]:
    """All documents as one stream of token ids, each behind an `<|endoftext|>`."""
    parts: list[npt.NDArray[np.int64]] = []
    for first in range(0, len(documents), 4096):  # the tokenizer's own records are large
        encoded = tokenizer.encode_batch(documents[first : first + 4096])
        parts += [np.array([0, *e.ids], dtype=np.int64) for e in encoded]
    return np.concatenate(parts)


def epochs(
    tokenizer: Tokenizer, stories: list[str], batch: int, context: int, seed: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Endless [batch, context] windows; prompts, order and offset are drawn anew every epoch."""
    epoch = 0
    while True:
        rng = random.Random(f"{seed}/{epoch}")
        stream = pack(tokenizer, mixture(stories, rng))
        stream = stream[rng.randrange(context) :]
        windows = stream[: len(stream) // context * context].reshape(-1, context)
        order = np.random.default_rng([seed, epoch]).permutation(len(windows))
        for start in range(0, len(windows) - batch + 1, batch):
            yield windows[order[start : start + batch]]
        epoch += 1

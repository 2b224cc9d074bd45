"""Texts for whole command lines on tiny models."""

from __future__ import annotations

from pathlib import Path


def write_corpus(path: Path) -> Path:
    """Enough text for a few hundred sequences of the tiny models' tokenizer."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    lines = [" ".join(words[(i * j) % 10] for j in range(1, 30)) for i in range(1, 400)]
    path.write_text("\n<|endoftext|>\n".join(lines))
    return path

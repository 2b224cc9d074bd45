"""Model folders with anything in their files: loaded and finite, or one sentence."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_tokens

from crossproof.errors import CrossproofError
from crossproof.lm import load_model
from crossproof.lm.sources import Reading

TOKENS = random_tokens(1, 6)
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 2**31, 10**12, 0.5, 1e308, float("nan"), "", "x", "1e-5"),
    *([], [1], {}, {"a": 1}, ["x"], "a\ud800b"),
)
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def replace_value(stored: Any, draw: random.Random) -> None:
    """Puts an odd value somewhere into nested JSON, or takes something out."""
    while True:
        keys = list(stored) if isinstance(stored, dict) else list(range(len(stored)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(stored[key], dict | list) and stored[key] and draw.random() < 0.7:
            stored = stored[key]
            continue
        if draw.random() < 0.2:
            del stored[key]
        else:
            stored[key] = draw.choice(ODD)
        return


def spoil_json(content: bytes, draw: random.Random) -> bytes:
    stored = json.loads(content)
    replace_value(stored, draw)
    return json.dumps(stored).encode()


def spoil_bytes(content: bytes, draw: random.Random) -> bytes:
    kind = draw.randrange(3)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    where = draw.randrange(min(len(content), 2000))
    if kind == 1:
        return content[:where] + bytes([draw.randrange(256)]) + content[where + 1 :]
    return content[:where] + draw.randbytes(draw.randrange(1, 20)) + content[where:]


def spoil_header(content: bytes, draw: random.Random) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    entry = header[draw.choice(sorted(header))]
    if draw.random() < 0.5 and "dtype" in entry:
        entry["dtype"] = draw.choice(["F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "X"])
    else:
        replace_value(entry, draw)
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + size :]


def spoil(folder: Path, draw: random.Random) -> tuple[str, bytes]:
    """A file's name and what it held, after something else was written into it."""
    name = draw.choice(FILES)
    content = (folder / name).read_bytes()
    structured: Callable[[bytes, random.Random], bytes]
    structured = spoil_header if name.endswith(".safetensors") else spoil_json
    change = structured if draw.random() < 0.75 else spoil_bytes
    (folder / name).write_bytes(change(content, draw))
    return name, content


def explore(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """How many inputs loaded and how many were refused, by file; AssertionError otherwise."""
    draw, outcome = random.Random(seed), Counter[str]()
    for number in range(count):
        name, content = spoil(folder, draw)
        try:
            losses = load_model(folder).token_losses(TOKENS)
        except CrossproofError as error:
            outcome[f"{name} refused"] += 1
            outcome["several lines"] += "\n" in str(error)
        except BaseException as error:
            raise AssertionError(
                f"input {number} ({name}): {(folder / name).read_bytes()[:2000]!r}"
            ) from error
        else:
            outcome[f"{name} loaded"] += 1
            assert torch.isfinite(losses).all(), f"input {number} ({name}) gives NaN"
        (folder / name).write_bytes(content)
    return outcome


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folders["llama"], tmp_path / "spoilt"))


def test_spoilt_model_folders_are_loaded_or_refused_in_one_sentence(folder: Path) -> None:
    outcome = explore(folder, 200)
    assert all(outcome[f"{name} refused"] for name in FILES), outcome
    assert not outcome["several lines"]


@pytest.mark.slow
def test_many_spoilt_model_folders(model_folders: dict[str, Path], tmp_path: Path) -> None:
    for seed, kind in enumerate(("llama", "gpt2", "gpt-neo", "gpt-neox"), start=1):
        folder = Path(shutil.copytree(model_folders[kind], tmp_path / kind))
        explore(folder, 500, seed)


def test_the_exploration_finds_what_is_not_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reading, "__exit__", lambda *_: None)
    with pytest.raises(AssertionError, match="input"):
        explore(folder, 200)

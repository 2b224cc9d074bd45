"""Files of packed tokens, damaged at random: the rows that another reader sees, or one sentence.

Each input is a valid tiny .npy or .safetensors file with a few bytes changed, another header, or
other numbers in it. Whatever is read is compared with the bytes as the format defines them.
"""

from __future__ import annotations

import io
import json
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damaged_bytes import mutated
from safetensors.numpy import save
from tiny_models import VOCABULARY, random_tokens

from crossproof.activations import corpus, read_sequences
from crossproof.activations.corpus import Split
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel

CONTEXT = 8
SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")
KINDS = (".npy", ".safetensors")
INTEGERS = ("i1", "<i2", ">i4", "<i8", "u1", "<u2", "<u4", ">u8")
OTHERS = ("<f4", "<f2", "?", "<c8", "S3", "<U2", "<M8[s]", "<m8[s]")
NUMBERS = (-1, 0, VOCABULARY - 1, VOCABULARY, 2**31 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
SHAPES = (
    (480,),
    (30, 16),
    (60, 8),
    (480,),
    (30, 16),
    (60, 8),
    (1, 480),
    (480, 1),
    (5, 6, 16),
    (96, 5),
    (0,),
    (0, 8),
    (7,),
)
ENTRIES = ("I64", "I32", "I16", "U8", "U16", "U64", "BOOL", "F32", "BF16", "F8_E4M3", "F4", "C64")
DTYPES = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
DTYPES |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"}


def tokens(draw: random.Random) -> np.ndarray:
    """Tokens of the vocabulary, sometimes one that is none, in some shape and some dtype."""
    shape = draw.choice(SHAPES)
    values = random_tokens(1, 480, seed=draw.randrange(10)).numpy()[0].astype(object)
    if draw.random() < 0.2:
        values[draw.randrange(480)] = draw.choice(NUMBERS)
    kind = np.dtype(draw.choice(OTHERS if draw.random() < 0.2 else INTEGERS))
    if kind.kind in "iu":
        bits = 8 * kind.itemsize
        values = np.array([value % 2**bits for value in values], f"<u{kind.itemsize}")
        made = values.view(f"<{kind.kind}{kind.itemsize}").astype(kind)
    else:
        made = (values % VOCABULARY).astype("<i8").astype(kind)
    made = np.resize(made, shape)
    return np.asfortranarray(made) if draw.random() < 0.2 else made


def made_npy(draw: random.Random) -> bytes:
    buffer = io.BytesIO()
    stored = tokens(draw)
    if draw.random() < 0.05:
        np.savez(buffer, tokens=stored)
    elif draw.random() < 0.05:
        np.save(buffer, np.array([{"tokens": 1}]), allow_pickle=True)
    else:
        np.save(buffer, stored)
    return buffer.getvalue()


def made_safetensors(draw: random.Random) -> bytes:
    names = [*SPLITS, "Train", ""][: draw.choice([1, 2, 3, 3, 3, 4, 5])]
    held = {}
    for name in draw.sample(names, len(names)):
        stored = tokens(draw)
        native = stored.astype(stored.dtype.newbyteorder("=")) if stored.dtype.kind in "iu" else 0.5
        held[name] = np.ascontiguousarray(native)
    content = save(held)
    return other_entry(content, draw) if draw.random() < 0.3 else content


def other_entry(content: bytes, draw: random.Random) -> bytes:
    """The same bytes under a header that gives a tensor another dtype, shape or extent."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    entry = header[draw.choice(sorted(header))]
    match draw.randrange(3):
        case 0:
            entry["dtype"] = draw.choice(ENTRIES)
        case 1:
            entry["shape"] = draw.choice([[], [-1], [2**62], [1, 2, 3], None, entry["shape"] * 2])
        case _:
            entry["data_offsets"][draw.randrange(2)] += draw.choice([-8, -1, 1, 8, 2**40])
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + size :]


MADE: dict[str, Callable[[random.Random], bytes]]
MADE = {".npy": made_npy, ".safetensors": made_safetensors}


def stored(content: bytes, kind: str, split: Split) -> np.ndarray:
    """The integers that the bytes hold, by the formats' definitions."""
    if kind == ".npy":
        read = np.load(io.BytesIO(content), allow_pickle=False)
        assert isinstance(read, np.ndarray)
        assert read.dtype.kind in "iu"
        return read
    size = struct.unpack("<Q", content[:8])[0]
    entry = json.loads(content[8 : 8 + size])[split]
    first, last = entry["data_offsets"]
    data = content[8 + size :][first:last]
    return np.frombuffer(data, DTYPES[entry["dtype"]]).reshape(entry["shape"])


def expected(content: bytes, kind: str, split: Split) -> list[list[int]]:
    """The rows of the split: its own, or of a file without splits the 5% that belong to it."""
    whole = stored(content, kind, split)
    table = whole.reshape(1, -1) if whole.ndim == 1 else whole
    rows = [
        row[at : at + CONTEXT].tolist()
        for row in table
        for at in range(0, len(row) - CONTEXT + 1, CONTEXT)
    ]
    if kind == ".safetensors":
        return rows
    share = -(-len(rows) // 20)
    first = {"train": 0, "validation": len(rows) - 2 * share, "held_out": len(rows) - share}
    last = {"train": len(rows) - 2 * share, "validation": len(rows) - share, "held_out": len(rows)}
    return rows[first[split] : last[split]]


def check(path: Path, model: LanguageModel, split: Split) -> bool:
    """Whether the file was read; AssertionError where it was read wrongly."""
    try:
        rows = read_sequences(path, model, CONTEXT, split)
    except CrossproofError as error:
        refusal = str(error)
    except Exception as error:
        raise AssertionError(f"{path.read_bytes()!r}") from error
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert path.name in refusal
        return False
    assert len(rows)
    assert bool(((rows >= 0) & (rows < VOCABULARY)).all())
    assert rows.tolist() == expected(path.read_bytes(), path.suffix, split)
    return True


def fuzz(count: int, folder: Path, model: LanguageModel, seed: int) -> None:
    """`count` inputs of each kind; neither reading nor refusing may be the rule."""
    draw, outcome = random.Random(seed), Counter[tuple[str, bool]]()
    for kind in KINDS:
        path = folder / f"tokens{kind}"
        for _ in range(count):
            content = MADE[kind](draw)
            path.unlink(missing_ok=True)  # the file before is still mapped into memory
            path.write_bytes(mutated(content, draw) if draw.random() < 0.4 else content)
            outcome[kind, check(path, model, draw.choice(SPLITS))] += 1
    print({f"{kind} {'read' if read else 'refused'}": n for (kind, read), n in outcome.items()})
    assert all(outcome[kind, read] > count / 15 for kind in KINDS for read in (True, False))


def test_damaged_token_files_are_read_or_refused(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    fuzz(120, tmp_path, gpt_neo, seed=0)


@pytest.mark.slow
def test_ten_thousand_damaged_token_files(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    fuzz(5_000, tmp_path, gpt_neo, seed=1)


def test_the_check_can_fail(
    gpt_neo: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_checked", lambda rows, *_: rows)
    with pytest.raises(AssertionError):
        fuzz(120, tmp_path, gpt_neo, seed=0)

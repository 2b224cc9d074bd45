"""Files of text, damaged at random: every document that is in them, or one sentence.

Each input is a valid tiny file with a few bytes changed, cut, repeated or put in. The count of
documents is checked against another reader of the same bytes, where that takes them.
"""

from __future__ import annotations

import gzip
import json
import random
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from damaged_bytes import mutated

from crossproof.activations import documents
from crossproof.activations.documents import SEPARATOR, read_documents
from crossproof.errors import CrossproofError

QUICK = {".txt": 100, ".jsonl": 100, ".jsonl.gz": 60, ".json": 25, ".csv": 25}
QUICK |= {".parquet": 25, ".arrow": 25}
SLOW = {".txt": 3000, ".jsonl": 3000, ".jsonl.gz": 1600, ".json": 600, ".csv": 600}
SLOW |= {".parquet": 600, ".arrow": 600}
ROWS: list[dict[str, Any]] = [
    {"text": "one two", "n": 1},
    {"text": None, "n": 2},
    {"text": 'dreißig \u2028 \\ "x" \U0001f600', "n": 3},
    {"text": "", "n": 4},
    {"text": "four\nfive", "n": 5},
]


def valid(ending: str, folder: Path) -> bytes:
    """A file of `ROWS`."""
    lines = "\n".join(map(json.dumps, ROWS)).encode()
    texts = [row["text"] or "" for row in ROWS]
    table = datasets.Dataset.from_list(ROWS)
    made = folder / f"valid{ending}"
    if ending == ".csv":
        table.to_csv(str(made))
    elif ending == ".parquet":
        table.to_parquet(str(made))
    elif ending == ".arrow":
        with pyarrow.OSFile(str(made), "wb") as sink:
            arrow = table.data.table
            with pyarrow.ipc.new_stream(sink, arrow.schema) as writer:
                writer.write_table(arrow)
    else:
        plain = {".txt": SEPARATOR.join(texts).encode(), ".json": json.dumps(ROWS).encode()}
        made.write_bytes(
            gzip.compress(lines) if ending == ".jsonl.gz" else plain.get(ending, lines)
        )
    return made.read_bytes()


def texts_of(path: Path) -> list[str | None] | None:
    """The texts that another reader sees; None where it takes no such file."""
    content = path.read_bytes()
    try:
        if path.suffix == ".parquet":
            texts = pyarrow.parquet.read_table(path).column("text").to_pylist()
        elif path.suffix == ".arrow":
            texts = pyarrow.ipc.open_stream(content).read_all().column("text").to_pylist()
        elif path.suffix == ".csv":
            return None
        else:
            text = gzip.decompress(content) if path.suffix == ".gz" else content
            texts = plain_texts(text.decode("utf-8-sig"), path.suffix)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zlib.error):
        return None
    return texts


def plain_texts(text: str, suffix: str) -> list[Any]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if suffix == ".txt":
        return [piece.strip() for piece in text.split(SEPARATOR)]
    if suffix == ".json":
        return [row["text"] for row in json.loads(text)]
    return [json.loads(line)["text"] for line in text.split("\n") if line.strip()]


Reader = Callable[[Path], Iterable[str]]


def check(path: Path, reader: Reader = read_documents) -> bool:
    """Whether the file was read; AssertionError where it was read wrongly."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            texts = list(reader(path))
    except CrossproofError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert path.name in refusal
        return False
    assert all(isinstance(text, str) and text for text in texts)
    assert "\x00" not in "".join(texts) or path.suffix not in (".txt", ".jsonl", ".gz")
    "".join(texts).encode()  # UnicodeEncodeError for what is no character
    others = texts_of(path)
    if others is not None:
        assert len(texts) == sum(bool((text or "").removeprefix("\ufeff")) for text in others), (
            path.read_bytes()
        )
        counted = any("are null" in str(each.message) for each in said)
        assert counted == (None in others), path.read_bytes()
    return True


def inputs(counts: dict[str, int], folder: Path, seed: int) -> Iterator[Path]:
    generator = random.Random(seed)
    for ending, count in counts.items():
        content = valid(ending, folder)
        for at in range(count):
            path = folder / f"{at}{ending}"
            path.write_bytes(mutated(content, generator))
            yield path
            path.unlink()


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def fuzz(counts: dict[str, int], folder: Path, seed: int) -> None:
    read = {ending: [0, 0] for ending in counts}
    for path in inputs(counts, folder, seed):
        ending = path.name.lstrip("0123456789")
        read[ending][check(path)] += 1
    print({ending: f"{taken} read, {refused} refused" for ending, (refused, taken) in read.items()})
    assert all(refused and taken for refused, taken in read.values()), read


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(QUICK, tmp_path, seed=0)


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    assert sum(SLOW.values()) == 10_000
    fuzz(SLOW, tmp_path, seed=1)


def _stops_at_nothing(path: Path) -> Iterator[str]:
    """A reader that takes null for a word, as str() does."""
    for line in path.read_text(errors="replace").splitlines():
        yield str(json.loads(line)["text"])


def test_the_check_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(valid(".jsonl", tmp_path))
    assert check(path)
    with pytest.raises(AssertionError):
        check(path, _stops_at_nothing)
    monkeypatch.setattr(documents, "well_formed", lambda text: text)
    path.write_text('{"text": "\\ud83d"}')
    with pytest.raises(UnicodeEncodeError):
        check(path)

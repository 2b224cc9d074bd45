"""Texts are tokenised once, split by documents, and made anew where what was kept is of no use."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import END, VOCABULARY, save_model

from crossproof import Harvest, read_sequences
from crossproof.activations import text_cache
from crossproof.activations.corpus import open_rows
from crossproof.activations.text_cache import FOLDER, cache_folder
from crossproof.activations.token_rows import TokenRows
from crossproof.activations.tokenizing import tokenize_source
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model
from crossproof.lm.loading import load_vocabulary

SPLITS = ("train", "validation", "held_out")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept" / "tokens"


def write(path: Path, count: int = 300, seed: int = 0) -> str:
    draw = np.random.default_rng(seed)
    rows = (draw.integers(1, VOCABULARY - 4, draw.integers(2, 30)) for _ in range(count))
    path.write_text("\n<|endoftext|>\n".join(" ".join(f"w{t}" for t in row) for row in rows))
    return str(path)


def documents(source: str, model: LanguageModel, split: str) -> set[tuple[int, ...]]:
    """Each as a row of its own; none is longer."""
    rows = open_rows(source, model, 30, split, "documents")[:]  # type: ignore[arg-type]
    return {tuple(row) for row in rows.tolist()}


def folders(kept: Path) -> list[Path]:
    return sorted(path for path in kept.iterdir() if path.is_dir())


def test_a_text_is_tokenised_once_under_any_name(
    gpt_neo: LanguageModel, kept: Path, tmp_path: Path
) -> None:
    source, other = write(tmp_path / "text.txt"), write(tmp_path / "again.txt")
    with patch.object(text_cache, "tokenize_source", side_effect=tokenize_source) as made:
        rows = [
            read_sequences(each, gpt_neo, 16, split) for each in (source, other) for split in SPLITS
        ]
    assert made.call_count == 1
    assert all(torch.equal(a, b) for a, b in zip(rows[:3], rows[3:], strict=True))
    write(tmp_path / "text.txt", seed=1)
    assert not torch.equal(read_sequences(source, gpt_neo, 16), rows[0])
    assert len(folders(kept)) == 2


def test_no_document_is_in_two_splits(gpt_neo: LanguageModel, kept: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "text.txt")
    train, validation, held_out = (documents(source, gpt_neo, split) for split in SPLITS)
    assert not train & validation
    assert not held_out & (train | validation)
    assert (len(validation), len(held_out)) == (15, 15)
    assert len(train | validation | held_out) == 300


def test_texts_of_few_documents_are_split_by_rows(
    gpt_neo: LanguageModel, kept: Path, tmp_path: Path
) -> None:
    rows = open_rows(write(tmp_path / "few.txt", 99), gpt_neo, 8)
    assert isinstance(rows, torch.Tensor)
    assert folders(kept) == []
    assert isinstance(open_rows(write(tmp_path / "more.txt", 100), gpt_neo, 8), TokenRows)


def test_another_tokenizer_has_tokens_of_its_own(
    gpt_neo: LanguageModel, kept: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "text.txt")
    read_sequences(source, gpt_neo, 16)
    folder = save_model(tmp_path / "other", tiny_models.gpt_neo)
    words = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(words.replace('"w1"', '"w70"'))
    read_sequences(source, load_model(folder), 16)
    assert len(folders(kept)) == 2


@pytest.mark.parametrize("harm", ["begun", "cut off", "index"])
def test_what_is_damaged_or_was_begun_is_made_anew(
    harm: str, gpt_neo: LanguageModel, kept: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "text.txt")
    rows = read_sequences(source, gpt_neo, 16)
    (folder,) = folders(kept)
    if harm == "begun":  # by another process, of a file that was called otherwise
        shutil.rmtree(folder)
        same, vocabulary = write(tmp_path / "same.txt"), load_vocabulary(gpt_neo.name)
        with (
            patch("crossproof.activations.tokenizing._finish", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            tokenize_source(same, vocabulary, folder)
    elif harm == "cut off":
        (shard,) = folder.glob("tokens-*")
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        (folder / "crossproof-tokens.json").write_text("{")
    assert torch.equal(read_sequences(source, gpt_neo, 16), rows)


def test_where_nothing_may_be_written_a_process_keeps_its_own(
    gpt_neo: LanguageModel, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "text.txt")
    rows = read_sequences(source, gpt_neo, 16)
    monkeypatch.setenv(FOLDER, str(tmp_path / "text.txt" / "no folder"))
    monkeypatch.setattr(text_cache, "_made", {})
    assert torch.equal(read_sequences(source, gpt_neo, 16), rows)
    assert torch.equal(read_sequences(source, gpt_neo, 16), rows)
    assert len(text_cache._made) == 1


def test_readers_at_once_wait_for_one(gpt_neo: LanguageModel, kept: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "text.txt")
    with (
        patch.object(text_cache, "tokenize_source", side_effect=tokenize_source) as made,
        ThreadPoolExecutor(4) as pool,
    ):
        rows = list(pool.map(lambda _: read_sequences(source, gpt_neo, 16), range(8)))
    assert made.call_count == 1
    assert all(torch.equal(rows[0], each) for each in rows)


def test_a_split_that_is_too_short_is_named_by_its_text(
    gpt_neo: LanguageModel, kept: Path, tmp_path: Path
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("<|endoftext|>".join(f"w{1 + n % 50} w{1 + n // 50}" for n in range(120)))
    with pytest.raises(CrossproofError, match=r"held_out split of '?.*short.txt'? has 18 tokens"):
        read_sequences(str(path), gpt_neo, 31, "held_out")


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/crossproof")
    monkeypatch.setenv(FOLDER, "~/mine")
    assert cache_folder() == Path("~/mine").expanduser()


def test_batches_of_rows_on_the_disk_are_those_of_rows_in_memory(
    gpt_neo: LanguageModel, kept: Path, tmp_path: Path
) -> None:
    """The next rows are read ahead, whatever is sought."""
    rows = open_rows(write(tmp_path / "text.txt"), gpt_neo, 16)
    assert isinstance(rows, TokenRows)
    places = gpt_neo.hookpoints(["blocks.0.mlp.hook_in"])
    on_disk = Harvest(gpt_neo, rows, places, 48, buffer_batches=3)
    in_memory = Harvest(gpt_neo, rows[:], places, 48, buffer_batches=3)
    epoch = len(on_disk)
    for step in (*range(8), 1, 7, epoch - 1, epoch, epoch + 4, 0):
        assert torch.equal(on_disk.batch(step), in_memory.batch(step)), step
    assert END in rows[:]


def test_a_file_that_cannot_be_read_is_named(
    gpt_neo: LanguageModel, kept: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "text.txt")
    with (
        patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(CrossproofError, match=r"text\.txt' cannot be read .*Permission denied"),
    ):
        read_sequences(source, gpt_neo, 16)

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import END, VOCABULARY, gpt2, random_tokens, save_model

from crossproof.activations import TextSlice, read_sequences, scored_positions
from crossproof.activations.corpus import fitting_context, open_rows
from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.lm import LanguageModel, load_model

SPLITS = ("train", "validation", "held_out")


def words(first: int, count: int) -> str:
    return " ".join(f"w{1 + (first + i) % 60}" for i in range(count))


def all_rows(source: Path | str, model: LanguageModel, context: int) -> torch.Tensor:
    return torch.cat([read_sequences(str(source), model, context, split) for split in SPLITS])


def test_documents_follow_one_another_behind_the_start_token(
    gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("w1 w2\nw3\n<|endoftext|>\n\nw4 w5 <|endoftext|>w6\n<|endoftext|>\n" * 4)
    rows = all_rows(path, gpt_neo, 6)
    stream = [END, 1, 2, 3, END, 4, 5, END, 6] * 4
    assert rows.flatten().tolist() == stream
    assert rows.dtype == torch.int64


def test_splits_share_no_row_and_lose_none(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text(words(0, 8 * 100))
    parts = [read_sequences(str(path), gpt_neo, 8, split) for split in SPLITS]
    assert [len(part) for part in parts] == [90, 5, 5]
    assert torch.cat(parts).flatten().tolist()[1:] == [1 + i % 60 for i in range(799)]


def test_jsonl_gives_the_same_rows_as_text(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    documents = [words(i, 20) for i in range(12)]
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("\n<|endoftext|>\n".join(documents))
    lines.write_text("\n".join(json.dumps({"text": document}) for document in documents) + "\n\n")
    assert torch.equal(all_rows(text, gpt_neo, 16), all_rows(lines, gpt_neo, 16))


def test_a_data_set_gives_the_same_rows(
    gpt_neo: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    lines = folder / "train.jsonl"
    lines.write_text("\n".join(json.dumps({"text": words(i, 20)}) for i in range(12)))
    rows = all_rows(f"hf:{folder}", gpt_neo, 16)
    assert torch.equal(rows, all_rows(lines, gpt_neo, 16))


def test_a_malformed_line_is_named(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    for bad in ('{"story": "w1"}', "{", "[1]", '{"text": 3}'):
        path.write_text(json.dumps({"text": words(0, 50)}) + "\n" + bad + "\n")
        with pytest.raises(CrossproofError, match=r"(?i)line 2 of '.*bad\.jsonl'"):
            read_sequences(str(path), gpt_neo, 8)


def test_packed_splits_come_back_as_they_are(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    train, held_out = random_tokens(5, 16), random_tokens(2, 16, seed=1)
    save_file({"train": train.to(torch.uint16), "held_out": held_out.to(torch.int32)}, path)
    assert torch.equal(read_sequences(str(path), gpt_neo, 16), train)
    assert torch.equal(read_sequences(str(path), gpt_neo, 16, "held_out"), held_out)
    halves = read_sequences(str(path), gpt_neo, 6, "held_out")
    assert torch.equal(halves, held_out[:, :12].reshape(4, 6))
    with pytest.raises(CrossproofError, match="no split 'validation', only held_out, train"):
        read_sequences(str(path), gpt_neo, 16, "validation")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CrossproofError, match="damaged"):
        read_sequences(str(path), gpt_neo, 16)


def test_a_stream_of_tokens_in_npy(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "stream.npy"
    stream = random_tokens(1, 100)[0]
    np.save(path, stream.numpy().astype(np.uint16))
    assert torch.equal(all_rows(path, gpt_neo, 8), stream[:96].reshape(12, 8))
    np.save(path, stream.numpy().astype(np.float32))
    with pytest.raises(CrossproofError, match="not integers"):
        read_sequences(str(path), gpt_neo, 8)
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(CrossproofError, match="damaged"):
        read_sequences(str(path), gpt_neo, 8)


@pytest.mark.parametrize("name", ["no.txt", "no.jsonl", "no.safetensors", "no.npy", "no"])
def test_a_missing_corpus_is_named(gpt_neo: LanguageModel, tmp_path: Path, name: str) -> None:
    with pytest.raises(CrossproofError, match=f"no corpus '.*{name}'"):
        read_sequences(str(tmp_path / name), gpt_neo, 8)


def test_paths_are_sources_too(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(words(0, 500))
    whole = read_sequences(str(path), gpt_neo, 8)
    assert torch.equal(read_sequences(path, gpt_neo, 8), whole)


def test_no_text_at_all_asks_for_one(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="No text was given: add --text"):
        read_sequences("", gpt_neo, 8)


def test_a_file_of_unknown_kind_is_refused(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "corpus.doc"
    path.write_text("w1")
    with pytest.raises(CrossproofError, match=r"no known ending; use \.txt"):
        read_sequences(str(path), gpt_neo, 8)


def test_a_corpus_too_short_is_refused(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    for text, message in (
        ("", "0 tokens do not fill one row of 8"),
        ("w1 w2", "3 tokens do not fill one row of 8"),
        (words(0, 15), "fills only 2 rows"),
    ):
        path.write_text(text)
        with pytest.raises(CrossproofError, match=message):
            read_sequences(str(path), gpt_neo, 8)


def test_tokens_of_another_tokenizer_are_refused(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "foreign.npy"
    np.save(path, np.full(200, VOCABULARY))
    with pytest.raises(CrossproofError, match="another tokenizer"):
        read_sequences(str(path), gpt_neo, 8)


def test_a_context_beyond_the_models_is_refused(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="2 to 32"):
        read_sequences(str(tmp_path / "any.txt"), gpt_neo, 33)


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    model = load_model(str(save_model(tmp_path / "model", gpt2, tokenizer=False)))
    path = tmp_path / "a.txt"
    path.write_text(words(0, 50))
    with pytest.raises(CrossproofError, match="has no tokenizer"):
        read_sequences(str(path), model, 8)


def test_positions_with_special_tokens_do_not_count() -> None:
    tokens = torch.tensor([[0, 4, 5], [4, 2, 0]])
    scored = scored_positions(tokens, {0, 2})
    assert scored.tolist() == [[False, True, True], [False, False, False]]
    assert scored_positions(tokens, frozenset()).tolist() == [[False, True, True]] * 2


def test_token_files_that_hold_no_table_of_integers_are_refused(
    gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    def refused(name: str, said: str) -> None:
        with pytest.raises(CrossproofError, match=said):
            read_sequences(str(tmp_path / name), gpt_neo, 8)

    np.savez(tmp_path / "archive.npz", a=np.ones(100, dtype=int))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    refused("archive.npy", "is an archive")
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117)
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header + b"\n")
    refused("huge.npy", "is damaged")
    np.save(tmp_path / "empty.npy", np.zeros((0, 16), dtype=int))
    refused("empty.npy", "0 tokens do not fill one row")
    for at, dtype in enumerate((torch.bool, torch.complex64, torch.float16)):
        save_file({"train": torch.ones(100, dtype=dtype)}, tmp_path / f"{at}.safetensors")
        refused(f"{at}.safetensors", "a list or a table of integers")
    refused("x" * 5000 + ".npy", "There is no corpus")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("objects.npy", "never unpickled")
    (tmp_path / "pointer.npy").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused("pointer.npy", "Git LFS pointer")


@pytest.mark.parametrize("option", [{"split": "test"}, {"rows": "sideways"}])
def test_splits_and_rows_of_other_names_are_refused(
    gpt_neo: LanguageModel, option: dict[str, Any]
) -> None:
    unchecked = inspect.unwrap(open_rows)  # as users have it, without types checked
    with pytest.raises(CrossproofError, match="give one of"):
        unchecked("bundled", gpt_neo, 8, **option)


def test_what_is_shorter_than_asked_for_is_said(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    with pytest.warns(CrossproofWarning, match="have 32 tokens instead of 64: '.*' takes no more"):
        assert fitting_context(64, gpt_neo) == 32
    path = tmp_path / "a.txt"
    path.write_text(words(0, 800))
    with pytest.warns(CrossproofWarning, match="has 5 sequences of 8 tokens, fewer than the 6"):
        assert len(TextSlice(str(path), "held_out", 6, 8).read(gpt_neo)) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitting_context(32, gpt_neo) == 32
        assert len(TextSlice(str(path), "held_out", 5, 8).read(gpt_neo)) == 5


def test_a_damaged_header_of_npy_is_a_sentence(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(100))
    whole = path.read_bytes()
    for wrong in (b"text", b"(((((", b"{'a':", b"\xff\xff"):
        path.write_bytes(whole[:100] + wrong + whole[100 + len(wrong) :])
        with pytest.raises(CrossproofError, match=r"a\.npy' is damaged"):
            read_sequences(path, gpt_neo, 8)

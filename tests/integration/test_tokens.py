"""Folders of tokens: split by document, every token once, read from the disk, or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from tiny_models import END, VOCABULARY, gpt2, save_model

from crossproof import Harvest, read_sequences
from crossproof.activations import TextSlice, scored_positions, tokenizing
from crossproof.activations.corpus import open_rows
from crossproof.activations.token_folder import SPLITS, TokenFolder, token_folder
from crossproof.activations.token_rows import TokenRows, drawn
from crossproof.activations.tokenizing import tokenize_source
from crossproof.auditing import read_texts
from crossproof.cli import main
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model
from crossproof.lm.loading import load_vocabulary


def text_of(documents: list[list[int]]) -> str:
    return "\n<|endoftext|>\n".join(" ".join(f"w{t}" for t in each) for each in documents)


def random_documents(seed: int, count: int, longest: int = 40) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [
        draw.integers(1, VOCABULARY - 4, draw.integers(1, longest)).tolist() for _ in range(count)
    ]


@pytest.fixture(scope="module")
def folder(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny GPT-Neo's tokens of 200 documents, in several shards."""
    there = tmp_path_factory.mktemp("tokens")
    (there / "text.txt").write_text(text_of(random_documents(0, 200)))
    made(there / "text.txt", there / "tokens", model_folders["gpt-neo"], 900)
    return there / "tokens"


def made(source: Path, out: Path, model: Path, shard_tokens: int = 1 << 25) -> dict[str, Any]:
    return tokenize_source(str(source), load_vocabulary(str(model)), out, shard_tokens)


def documents_in(folder: Path, model: LanguageModel, split: Any) -> list[tuple[int, ...]]:
    """The documents of a split, without the token that begins each."""
    opened = TokenFolder.open(folder, model)
    tokens = opened.take(split, np.arange(opened.tokens(split)))
    starts = np.concatenate([*opened.where(split, "starts")])
    return (
        [tuple(each[1:].tolist()) for each in np.split(tokens, starts[1:])] if len(starts) else []
    )


def test_documents_are_dealt_out_whole_and_equal_ones_to_one_split(
    gpt_neo: LanguageModel,
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizing, "FIRST_DOCUMENTS", 5)
    vocabulary = load_vocabulary(str(model_folders["gpt-neo"]))

    @examples(20)
    @given(
        st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=3, max_size=30),
        st.integers(10, 60),
    )
    def check(documents: list[list[int]], shard_tokens: int) -> None:
        shutil.rmtree(tmp_path / "tokens", ignore_errors=True)
        (tmp_path / "text.txt").write_text(text_of(documents))
        tokenize_source(str(tmp_path / "text.txt"), vocabulary, tmp_path / "tokens", shard_tokens)
        split = {name: documents_in(tmp_path / "tokens", gpt_neo, name) for name in SPLITS}
        there = sum((Counter(each) for each in split.values()), Counter())
        assert there == Counter(map(tuple, documents))
        own = [set(each) for each in split.values()]
        assert not own[0] & own[1] | own[0] & own[2] | own[1] & own[2]
        if len(set(map(tuple, documents[:5]))) >= 3:  # so many decide
            assert own[0]
            assert own[1]
            assert own[2]

    check()


@pytest.mark.parametrize("kind", ["packed", "documents"])
def test_rows_are_the_split_end_to_end_and_their_counts_need_no_tokens(
    folder: Path, gpt_neo: LanguageModel, kind: Any
) -> None:
    for split in SPLITS:
        documents = documents_in(folder, gpt_neo, split)
        rows = open_rows(folder, gpt_neo, 16, split, kind)
        assert isinstance(rows, TokenRows)
        if kind == "packed":
            stream = [token for each in documents for token in (END, *each)]
            want = torch.tensor(stream[: len(stream) // 16 * 16]).view(-1, 16)
        else:
            padded = [[END, *each[:15], *[END] * (15 - len(each))] for each in documents]
            want = torch.tensor(padded)
        if split != "train":
            want = want[torch.from_numpy(drawn(len(want)))]
        assert torch.equal(rows[:], want)
        assert torch.equal(read_sequences(folder, gpt_neo, 16, split, kind), want)
        for skip in (1, 3, 20):
            scored = scored_positions(want, gpt_neo.special_ids, skip).sum(1)
            assert torch.equal(rows.scored_counts(skip), scored)
            shares = [rows.dealt(rank, 3) for rank in range(3)]
            for rank, share in enumerate(shares):
                assert torch.equal(share[:], want[rank::3])
                assert torch.equal(share.scored_counts(skip), scored[rank::3])


def test_the_first_held_out_rows_are_a_sample_of_the_whole_text() -> None:
    """A corpus in order of date or place is not judged by its beginning."""
    order = drawn(1000)
    assert sorted(order) == list(range(1000))
    first = order[:64]
    assert 300 < first.mean() < 700
    assert first.max() > 900


def test_any_step_can_be_sought_and_an_epoch_has_every_token_once(
    folder: Path, gpt_neo: LanguageModel
) -> None:
    rows = open_rows(folder, gpt_neo, 16)
    tokens = rows[:]
    points = gpt_neo.hookpoints(["blocks.0.hook_resid_pre"])
    lazy, live = (Harvest(gpt_neo, each, points, 24, 4, 5, 3) for each in (rows, tokens))
    assert len(lazy) == len(live) > 20
    some = range(2 * len(live))
    expected = [live.batch(step) for step in some]

    @examples(20)
    @given(st.lists(st.sampled_from(some), min_size=1, max_size=4))
    def check(steps: list[int]) -> None:
        for step in steps:
            assert torch.equal(lazy.batch(step), expected[step])

    check()
    scored = scored_positions(tokens, gpt_neo.special_ids)
    own = gpt_neo.activations(tokens, points.names)[scored]
    epoch = torch.cat(expected[: len(live)])
    every = Counter(row.numpy().tobytes() for row in own.reshape(len(own), -1))
    read = Counter(row.numpy().tobytes() for row in epoch.reshape(len(epoch), -1))
    left = len(own) - len(epoch)
    assert 0 <= left < 24
    assert (every - read).total() <= left + 0.01 * len(own)  # rounding differs between batches


def test_a_slice_reads_what_it_needs(folder: Path, gpt_neo: LanguageModel) -> None:
    every = read_sequences(folder, gpt_neo, 16, "held_out")
    assert torch.equal(TextSlice(str(folder), "held_out", 3, 16, 2).read(gpt_neo), every[2:5])


def test_audits_take_the_documents_of_a_split(folder: Path, gpt_neo: LanguageModel) -> None:
    rows = read_texts(str(folder), gpt_neo, None, "held_out")
    documents = documents_in(folder, gpt_neo, "held_out")
    assert len(rows) == len(documents)
    assert rows.cut == sum(len(each) + 1 > gpt_neo.context for each in documents)


def test_a_stopped_folder_is_completed_to_the_same_bytes(
    folder: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    text, out = folder.parent / "text.txt", tmp_path / "tokens"
    made(text, out, model_folders["gpt-neo"], 900)
    whole = contents(out)
    shards = sorted(out.glob("tokens-*"))
    assert len(shards) > 3
    (out / "crossproof-tokens.json").unlink()
    about = json.loads(whole["crossproof-tokens.json"])
    begun = {k: about[k] for k in list(about)[:7]}
    (out / "crossproof-tokens.begun.json").write_text(json.dumps(begun))
    shards[-1].unlink()
    (out / ".tokens-00009.safetensors.1.tmp").write_bytes(b"half")
    made(text, out, model_folders["gpt-neo"], 900)
    assert contents(out) == whole


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def everything(folder: Path, model: LanguageModel) -> list[torch.Tensor]:
    return [open_rows(folder, model, 16, split, "documents")[:] for split in SPLITS]


def shard(folder: Path) -> Path:
    return folder / "tokens-00000.safetensors"


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-9]), "bytes, not"),
    "missing": (lambda f: shard(f).unlink(), "No such file"),
    "a flipped bit at the end": (lambda f: flip(shard(f), 1.0), "checksum"),
    "a flipped bit in its middle": (lambda f: flip(shard(f), 0.5), "checksum"),
    "a flipped bit in its header": (lambda f: flip(shard(f), 0.0), "damaged"),
    "not complete": (
        lambda f: (f / "crossproof-tokens.json").rename(f / "crossproof-tokens.begun.json"),
        "repeat the `crossproof tokenize`",
    ),
    "an index that is none": (
        lambda f: (f / "crossproof-tokens.json").write_text('{"format": "crossproof-tokens-1"}'),
        "damaged",
    ),
    "another version": (
        lambda f: (f / "crossproof-tokens.json").write_text('{"format": "x"}'),
        "version",
    ),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damage_is_one_sentence(
    how: str, folder: Path, gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    spoiled = shutil.copytree(folder, tmp_path / "tokens")
    spoil, says = DAMAGED[how]
    spoil(spoiled)
    with pytest.raises(CrossproofError, match=says):
        everything(spoiled, gpt_neo)


def test_every_flipped_byte_of_a_shard_is_seen(
    folder: Path, gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    spoiled = shutil.copytree(folder, tmp_path / "tokens")
    whole = shard(spoiled).read_bytes()
    told = everything(folder, gpt_neo)

    @examples(40)
    @given(st.integers(0, len(whole) - 1))
    def check(at: int) -> None:
        shard(spoiled).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            read = everything(spoiled, gpt_neo)
        except CrossproofError:
            return
        assert all(map(torch.equal, read, told))  # in the header, where nothing depends on it

    check()


def test_another_tokenizer_is_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="repeat `crossproof tokenize` with --model bundled"):
        open_rows(folder, load_model(), 16)
    small = load_model(str(save_model(tmp_path / "bare", gpt2)))
    small.tokenizer = None
    assert len(open_rows(folder, small, 16))  # nothing can be compared, and all tokens are known
    small.vocab_size = 40
    with pytest.raises(CrossproofError, match="outside the vocabulary"):
        open_rows(folder, small, 16)


def test_what_cannot_be_done_is_said(
    folder: Path, gpt_neo: LanguageModel, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    neo, text = model_folders["gpt-neo"], tmp_path / "text.txt"
    with pytest.raises(CrossproofError, match="already holds tokens"):
        made(folder.parent / "text.txt", folder, neo)
    text.write_text("w1 w2 w3 w4")
    made(text, tmp_path / "one", neo)
    assert len(open_rows(tmp_path / "one", gpt_neo, 4))
    with pytest.raises(CrossproofError, match=r"held_out split of .* has 0 tokens"):
        open_rows(tmp_path / "one", gpt_neo, 4, "held_out")
    with pytest.raises(CrossproofError, match="holds tokens, not text"):
        read_sequences(f"{folder} + {text}", gpt_neo, 16)
    (tmp_path / "one" / "crossproof-tokens.json").rename(
        tmp_path / "one" / "crossproof-tokens.begun.json"
    )
    text.write_text("w5 w6 w7 w8")
    with pytest.raises(CrossproofError, match=r"first 1 documents have\s+changed"):
        made(text, tmp_path / "one", neo)
    with pytest.raises(CrossproofError, match="beginning of other tokens"):
        made(text, tmp_path / "one", neo, 5)
    assert token_folder(tmp_path) is None


def test_command_lines(
    folder: Path, model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neo, text, out = str(model_folders["gpt-neo"]), folder.parent / "text.txt", tmp_path / "tokens"
    main(["tokenize", str(text), "--model", neo, "--shard-tokens", "900", "--out", str(out)])
    printed = capsys.readouterr().out
    assert f"crossproof train --text {out} --model {neo}" in printed
    assert contents(out).keys() == contents(folder).keys()
    small = ["--steps", "4", "--batch-tokens", "32", "--n-latents", "24", "--k", "4"]
    shape = ["--context", "16", "--buffer-batches", "4", "--evaluation-sequences", "4"]
    run = tmp_path / "run"
    main(["train", "--model", neo, "--text", str(out), *small, *shape, "--out", str(run)])
    results = json.loads((run / "results.json").read_text())
    assert results["evaluated_on"]["text"] == str(out)
    for wrong, says in (
        ([str(text), "--model", neo, "--out", str(out)], "already holds tokens"),
        (
            [str(tmp_path / "none.txt"), "--model", neo, "--out", str(tmp_path / "x")],
            "There is no text",
        ),
        ([str(text), "--model", neo, "--shard-tokens", "0", "--out", "x"], "from 1"),
        ([str(out), "--model", neo, "--out", str(tmp_path / "x")], "holds tokens, not text"),
    ):
        with pytest.raises(SystemExit, match=says):
            main(["tokenize", *wrong])
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_billion_tokens_are_opened_in_a_minute_and_a_gigabyte(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "corpus.py"
    command = [sys.executable, str(script), "--tokens", "1e9", "--folder", str(tmp_path / "tokens")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(printed)
    assert figures["rows"] > 0.89e9 / 256
    assert figures["first batch, s"] < 60
    assert figures["200 batches, MB"] < 1000

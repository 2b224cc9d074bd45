"""Rows that begin at document starts, from texts and from packed tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import END, gpt_neo, save_model

from crossproof.activations import TextSlice, read_sequences
from crossproof.errors import CrossproofError
from crossproof.lm import load_model

DOCUMENTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [19, 20, 21, 22, 23]] * 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("rows") / "model", gpt_neo)


def test_every_row_is_the_beginning_of_a_document(folder: Path, tmp_path: Path) -> None:
    model = load_model(str(folder))
    text = tmp_path / "stories.txt"
    text.write_text("<|endoftext|>".join(" ".join(f"w{i}" for i in d) for d in DOCUMENTS))
    tokens = tmp_path / "stories.npy"
    np.save(tokens, np.array([t for d in DOCUMENTS for t in (END, *d)], dtype=np.uint16))
    for source in (text, tokens):
        rows = read_sequences(str(source), model, 6, rows="documents")
        assert rows.shape == (36, 6)  # the last two twentieths are other splits
        for row, document in zip(rows.tolist(), DOCUMENTS, strict=False):
            assert row == ([END, *document] + [END] * 6)[:6]
        held_out = TextSlice(str(source), "held_out", 9, 6, rows="documents").read(model)
        assert held_out.tolist() == [([END, *d] + [END] * 6)[:6] for d in DOCUMENTS[-2:]]


def test_what_has_no_documents_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load_model(str(folder))
    path = tmp_path / "a.npy"
    np.save(path, np.arange(1, 60))
    with pytest.raises(CrossproofError, match=r"has no document behind the token 0.*packed rows"):
        read_sequences(str(path), model, 6, rows="documents")
    model.tokenizer, model.special_ids = None, frozenset()
    with pytest.raises(CrossproofError, match="has no BOS or EOS token"):
        read_sequences(str(path), model, 6, rows="documents")
    assert torch.equal(read_sequences(str(path), model, 6)[0], torch.arange(1, 7))

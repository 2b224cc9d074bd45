"""`prove --kind statistical` and `verify` on a tiny language model, and what a cheat is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, D_MODEL, END, VOCABULARY, random_tokens

import crossproof
from crossproof.activations import TextSlice
from crossproof.commands import prove, verify
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.proof.certificate import statistical
from crossproof.proof.certificate.format_statistical import read_statistical
from crossproof.proof.certificate.provers.documents import (
    Treatments,
    dictionary_hash,
    document_values,
    independent_documents,
)

DOCUMENTS = 30


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of 3 to 40 words; two of them are the same."""
    draws = np.random.default_rng(0)
    documents = [
        " ".join(f"w{word}" for word in draws.integers(1, VOCABULARY - 1, draws.integers(3, 41)))
        for _ in range(DOCUMENTS)
    ]
    path = tmp_path_factory.mktemp("text") / "held.txt"
    path.write_text("<|endoftext|>".join([*documents, documents[4]] * 1 + ["w1"]))
    return path


@pytest.fixture(scope="module")
def run(gpt_neo: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crosscoder at both MLPs' inputs, initialised on the model's activations."""
    hookpoints = gpt_neo.hookpoints(["blocks.*.mlp.hook_in"])
    crosscoder = Crosscoder(CrosscoderConfig(40, "topk", 4), hookpoints, D_MODEL)
    sample = gpt_neo.activations(random_tokens(20, CONTEXT, seed=9), hookpoints.names)
    crosscoder.initialise(sample.flatten(0, 1), seed=0)
    folder = tmp_path_factory.mktemp("run") / "crosscoder"
    about = Provenance(gpt_neo.name, gpt_neo.weights_hash, training={"imported": []})
    save_crosscoder(crosscoder, folder, about)
    return folder


@pytest.fixture(scope="module")
def proved(run: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proved") / "certificate"
    keep = ["--keep", "0", "2", "--splice", "blocks.1.mlp.hook_in"]
    split = ["--text", f"{text}", "--split", "train", "--context", "32"]
    prove.run([str(run), "--kind", "statistical", "--out", str(out), *split, *keep], 0.0)
    return out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def yours(gpt_neo: LanguageModel, run: Path, text: Path) -> list[str]:
    return ["--model", gpt_neo.name, "--dictionary", str(run), "--text", str(text)]


def test_what_prove_writes_verify_confirms_and_computes_again(
    proved: Path, gpt_neo: LanguageModel, run: Path, text: Path, capsys: Any
) -> None:
    verify.run([str(proved)], 0.0)
    printed = capsys.readouterr().out
    assert "STATISTICAL certificate: with confidence 95%, no proof about every input" in printed
    assert "The statistical claim is verified" in printed
    assert "was not checked" in printed
    verify.run([str(proved), *yours(gpt_neo, run, text), "--recheck", "1"], 0.0)
    printed = capsys.readouterr().out
    assert "drawn afresh" in printed
    assert "(yours)" in printed
    header = json.loads((proved / "certificate.json").read_text())
    assert header["claim"]["spliced"] == ["blocks.1.mlp.hook_in"]
    assert header["claim"]["mlps"] == [0, 1]
    names = [statement["treatment"] for statement in header["claim"]["statements"]]
    assert names == ["spliced", "keep-0", "keep-2"]


def test_several_are_a_table_of_their_own(proved: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other"
    shutil.copytree(proved, other)
    verify.run([str(proved), str(other)], 0.0)
    printed = capsys.readouterr().out
    assert "STATISTICAL certificates" in printed
    assert "All statistical claims are verified; they are no proofs" in printed


def test_documents_are_rows_of_their_own_without_repeats(
    gpt_neo: LanguageModel, text: Path
) -> None:
    every = TextSlice(str(text), "train", 1000, CONTEXT)
    documents = independent_documents(gpt_neo, every)
    assert len({row.tobytes() for row in documents.digests}) == len(documents)
    assert (documents.tokens[:, 0] == END).all()
    for row, length in zip(documents.tokens, documents.lengths, strict=True):
        assert (row[1:length] != END).all()
        assert (row[length:] == END).all()
    assert documents.lengths.min() > 2


def test_packed_rows_give_one_document_each(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    rows = random_tokens(6, CONTEXT, seed=4)
    rows[0, [0, 10]] = END  # the first of two
    rows[1, 5] = END  # begins within the row, behind the end of another
    rows[2, [3, 4, 6]] = END  # empty
    rows[3] = rows[0]  # a repeat
    rows[4, 0] = END  # fills the row
    path = tmp_path / "packed.npy"
    np.save(path, rows.repeat(20, 1).view(6, 20, CONTEXT).transpose(0, 1).flatten(0, 1).numpy())
    found = independent_documents(gpt_neo, TextSlice(str(path), "train", 1000, CONTEXT))
    texts = {tuple(r[:n].tolist()) for r, n in zip(found.tokens, found.lengths, strict=True)}
    assert texts == {tuple(row.tolist()) for row in (rows[0, :10], rows[1, 5:], rows[4])}
    assert found.lengths.max() <= CONTEXT


def test_values_are_the_models_document_by_document(
    gpt_neo: LanguageModel, run: Path, text: Path
) -> None:
    crosscoder, _ = crossproof.crosscoder.load_crosscoder(run)
    documents = independent_documents(gpt_neo, TextSlice(str(text), "train", 9, CONTEXT))
    names = ("blocks.0.mlp.hook_in",)
    treatments = Treatments(names, (1, 40), (0, 1))
    values = document_values(gpt_neo, crosscoder, documents, treatments)
    for at in (0, 5):
        row = documents.tokens[at, : documents.lengths[at]][None]  # alone, and not padded
        plain = gpt_neo.token_losses(row)[0, 1:]
        assert values.tokens[at] == len(plain)
        assert values.loss[at] == pytest.approx(plain.sum().item(), rel=1e-5)
        with crossproof.spliced(gpt_neo, crosscoder, names):
            treated, logits = gpt_neo.token_losses(row)[0, 1:], gpt_neo.logits(row)[0, 1:-1]
        assert values.treated_loss[at, 0] == pytest.approx(treated.sum().item(), rel=1e-5)
        moved = logits.argmax(-1) != gpt_neo.logits(row)[0, 1:-1].argmax(-1)
        assert values.changed[at, 0] == moved.sum()
        # All latents: both MLPs put out what they give on the reconstruction.
        x = gpt_neo.activations(row, crosscoder.hookpoints.names)
        outputs = {}
        for place, name in enumerate(crosscoder.hookpoints.names):
            out = gpt_neo.activations(row, [name.replace("_in", "_out")])[:, :, 0].clone()
            x_hat = crosscoder.decode(crosscoder.encode(x[0, 1:]))[:, place].detach()
            out[0, 1:] = gpt_neo.mlp(place)(x_hat)
            outputs[name.replace("_in", "_out")] = out
        whole = gpt_neo.token_losses(row, outputs)[0, 1:]
        assert values.treated_loss[at, 2] == pytest.approx(whole.sum().item(), rel=1e-4)
    assert (values.treated_loss[:, 1] != values.treated_loss[:, 2]).any()


def cheat(proved: Path, folder: Path, **changes: Any) -> Path:
    """The certificate with other numbers and whatever claim they reach."""
    held = replace(read_statistical(proved), **changes)
    statistical.write_statistical(folder, statistical.claiming(held))
    return folder


def rows_of(proved: Path, chosen: Any) -> dict[str, Any]:
    held = read_statistical(proved)
    names = ("digests", "tokens", "loss", "treated_loss", "changed")
    return {name: getattr(held, name)[chosen] for name in names}


def test_who_saves_what_is_not_so_is_found_out(
    proved: Path, gpt_neo: LanguageModel, run: Path, text: Path, tmp_path: Path
) -> None:
    held = read_statistical(proved)
    crosscoder, _ = crossproof.crosscoder.load_crosscoder(run)
    count = len(held.tokens)
    best = np.sort(np.argsort(held.treated_loss[:, 1] - held.loss)[: count - 4])
    lies: dict[str, tuple[dict[str, Any], str]] = {
        "losses": ({"treated_loss": held.treated_loss - 0.01 * held.tokens[:, None]}, "nats"),
        "changes": ({"changed": held.changed // 4}, "tokens more or less"),
        "tokens": ({"tokens": held.tokens + 1}, "number of predictions"),
        "the best": (rows_of(proved, best), "leaves out documents"),
        "an order": (rows_of(proved, np.arange(count)[::-1]), "not in its order"),
        "another text": ({"digests": held.digests + 1}, "another text"),
        "a vocabulary": ({"text": {**held.text, "vocabulary": 9}}, "vocabulary"),
    }
    for name, (changes, said) in lies.items():
        folder = cheat(proved, tmp_path / name, **changes)
        verify.run([str(folder)], 0.0)  # the numbers alone cannot tell
        with pytest.raises(CrossproofError, match=said):
            statistical.recompute(folder, gpt_neo, crosscoder, str(text), 1.0)
    with torch.no_grad():
        crosscoder.b_enc += 0.1
    with pytest.raises(CrossproofError, match="about the dictionary"):
        statistical.recompute(proved, gpt_neo, crosscoder, str(text))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--delta", "1"], "between 0 and 1"),
        (["--delta", "0"], "between 0 and 1"),
        (["--range", "0"], "range is 0"),
        (["--documents", "1"], "2 at least"),
        (["--keep", "2", "2"], "given twice"),
        (["--splice", "blocks.7.mlp.hook_in"], "writes no"),
        (["--keep", "--splice", "none"], "Nothing is to be certified"),
        (["--crosscoder", "mine"], "no crosscoder 'mine'"),
        (["--mlp", "7"], "choose from blocks 0, 1"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    options: list[str], said: str, run: Path, text: Path, tmp_path: Path
) -> None:
    arguments = [str(run), "--kind=statistical", "--out", str(tmp_path / "no"), "--text", str(text)]
    with pytest.raises(CrossproofError, match=said):
        prove.run([*arguments, "--split", "train", "--context", "32", *options], 0.0)
    assert not (tmp_path / "no").exists()


def test_options_of_other_kinds_are_not_passed_over(proved: Path) -> None:
    with pytest.raises(CrossproofError, match="of certificates of networks"):
        verify.run([str(proved), "--arb"], 0.0)
    with pytest.raises(CrossproofError, match="give all of"):
        verify.run([str(proved), "--model", "bundled"], 0.0)


def test_a_dictionary_has_one_hash_wherever_it_is(run: Path) -> None:
    one, two = (crossproof.crosscoder.load_crosscoder(run)[0] for _ in range(2))
    assert dictionary_hash(one) == dictionary_hash(two)
    with torch.no_grad():
        two.W_dec[3, 0, 2] += 1e-6
    assert dictionary_hash(one) != dictionary_hash(two)

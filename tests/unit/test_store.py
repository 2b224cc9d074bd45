from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from dictionaries import mlp_hookpoints, random_batch, random_crosscoder
from rounding import decode_close, encode_close
from safetensors.torch import load_file, save_file

from crossproof.crosscoder import (
    Crosscoder,
    CrosscoderConfig,
    Provenance,
    load_crosscoder,
    save_crosscoder,
)
from crossproof.crosscoder.store import CONFIG, WEIGHTS
from crossproof.errors import CrossproofError

PROVENANCE = Provenance("bundled", "0123456789abcdef", 7, {"steps": 10, "objective": {"l1": 0.5}})
RULES = ("topk", "batch_topk", "relu", "jumprelu")


def make(rule: str = "batch_topk", seed: int = 0) -> Crosscoder:
    crosscoder = random_crosscoder(
        CrosscoderConfig(12, rule, 3), mlp_hookpoints(2), 5, seed, torch.float32
    )
    if rule == "batch_topk":
        crosscoder.sparsity.threshold.fill_(0.6)
    return crosscoder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "crosscoder"
    save_crosscoder(make(), folder, PROVENANCE)
    return folder


@pytest.mark.parametrize("rule", RULES)
def test_a_round_trip_keeps_the_function(tmp_path: Path, rule: str) -> None:
    original, folder = make(rule), tmp_path / "deep" / "crosscoder"
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    save_crosscoder(original, folder, PROVENANCE)
    loaded, provenance = load_crosscoder(folder)
    assert provenance == PROVENANCE
    assert loaded.hookpoints == original.hookpoints
    assert loaded.config == original.config
    assert loaded.scale.tolist() == [1.0] * 3  # folded into the weights
    x = random_batch(original, 30)
    before, after = original.encode(x), loaded.encode(x)
    assert torch.equal(before.dense() != 0, after.dense() != 0)
    torch.testing.assert_close(after.dense(), before.dense(), **encode_close(loaded, x))
    close = decode_close(loaded, after)
    torch.testing.assert_close(loaded.decode(after), original.decode(before), **close)
    torch.testing.assert_close(loaded.decoder_vectors(1), original.decoder_vectors(1))
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, state[name]), name  # saving does not fold the original


def test_the_folder_holds_two_files_and_nothing_else(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == [CONFIG, WEIGHTS]
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    config = json.loads((saved / CONFIG).read_text())
    assert config["schema"] == 1
    assert config["crosscoder"] == {
        "n_latents": 12,
        "sparsity": "batch_topk",
        "k": 3,
        "groups": 1,
    }


def test_saving_again_replaces(saved: Path) -> None:
    save_crosscoder(make(seed=1), saved, PROVENANCE)
    loaded, _ = load_crosscoder(saved)
    assert torch.equal(loaded.b_enc, make(seed=1).b_enc)


def test_other_files_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CrossproofError, match=r"holds other files \(notes.txt\)"):
        save_crosscoder(make(), tmp_path, PROVENANCE)
    with pytest.raises(CrossproofError, match=r"notes.txt is a file"):
        save_crosscoder(make(), tmp_path / "notes.txt", PROVENANCE)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_infinite_threshold_is_kept_as_a_finite_number(tmp_path: Path) -> None:
    crosscoder = make("jumprelu")
    with torch.no_grad():
        crosscoder.sparsity.log_threshold[:3] = torch.inf
        crosscoder.sparsity.log_threshold[3:] = -torch.inf
    save_crosscoder(crosscoder, tmp_path / "c", PROVENANCE)
    loaded, _ = load_crosscoder(tmp_path / "c")
    assert bool(loaded.sparsity.log_threshold.isfinite().all())
    assert loaded.sparsity.threshold.tolist() == [torch.inf] * 3 + [0.0] * 9


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def retensor(folder: Path, **changes: torch.Tensor) -> None:
    save_file(load_file(folder / WEIGHTS) | changes, folder / WEIGHTS)


DAMAGE = {
    "truncated weights": (truncate, "damaged or not a safetensors file"),
    "foreign weights": (
        lambda f: (f / WEIGHTS).write_text("hello, this is no tensor file at all"),
        "damaged or not a safetensors file",
    ),
    "missing weights": (lambda f: (f / WEIGHTS).unlink(), rf"{WEIGHTS} is missing"),
    "missing config": (lambda f: (f / CONFIG).unlink(), rf"{CONFIG} is missing"),
    "broken config": (lambda f: (f / CONFIG).write_text('{"schema": 1,'), "cannot be read"),
    "config in another encoding": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe"), "cannot be"),
    "config of another kind": (lambda f: (f / CONFIG).write_text("[1]"), "JSON object"),
    "wrong schema": (lambda f: change_config(f, schema=99), "has schema 99"),
    "no schema": (lambda f: (f / CONFIG).write_text("{}"), "has schema None"),
    "no hookpoints": (lambda f: change_config(f, hookpoints={}), "not a crossproof crosscoder"),
    "hookpoints of another kind": (lambda f: change_config(f, hookpoints=[]), "not a crossproof"),
    "another width": (lambda f: change_config(f, d_model=6), "do not fit each other"),
    "other options": (lambda f: change_config(f, crosscoder={"width": 3}), "do not fit"),
    "weights without end": (
        lambda f: change_config(f, d_model=10**12),
        r"W_enc has shape \[12, 3, 5\], not \[12, 3, 1000000000000\]",
    ),
    "NaN": (lambda f: retensor(f, b_enc=torch.full((12,), torch.nan)), "b_enc holds NaN"),
    "infinite": (lambda f: retensor(f, b_enc=torch.full((12,), torch.inf)), "b_enc holds infinite"),
    "no scale": (lambda f: retensor(f, scale=torch.zeros(3)), "scale holds a number that is not"),
    "whole numbers": (
        lambda f: retensor(f, b_enc=torch.ones(12, dtype=torch.int64)),
        "numbers of type torch.int64",
    ),
    "words for numbers": (
        lambda f: change_config(f, crosscoder={"n_latents": 12, "sparsity": "topk", "k": "3"}),
        "k is '3', not of type int",
    ),
    "a hookpoint elsewhere": (
        lambda f: change_config(f, hookpoints={"names": ["a"], "blocks": [{"mlp_in": 7}]}),
        r"some at \[7\]",
    ),
    "foreign tensors": (
        lambda f: save_file({"encoder.weight": torch.zeros(3)}, f / WEIGHTS),
        "do not fit each other",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence_that_names_the_place(saved: Path, damage: str) -> None:
    inflict, message = DAMAGE[damage]
    inflict(saved)
    with pytest.raises(CrossproofError, match=message) as caught:
        load_crosscoder(saved)
    assert str(saved) in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match=r"No crosscoder at .*nowhere.*config\.json"):
        load_crosscoder(tmp_path / "nowhere")


def assert_intact(folder: Path) -> None:
    loaded, provenance = load_crosscoder(folder)
    assert torch.equal(loaded.b_enc, make().b_enc)
    assert provenance == PROVENANCE
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CrossproofError, match=r"Cannot write .*choose a writable folder"):
        save_crosscoder(make(), tmp_path / "file" / "crosscoder", PROVENANCE)
    assert (tmp_path / "file").read_text() == "not a folder"


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Files may not grow beyond `limit` bytes: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_contents(saved: Path) -> None:
    with (
        small_files(512),
        pytest.raises(CrossproofError, match=r"Cannot write .*enough free space"),
    ):
        save_crosscoder(make(seed=1), saved, PROVENANCE)
    assert_intact(saved)


@pytest.mark.parametrize("call", [2, 3])
def test_an_interrupted_swap_leaves_the_previous_contents(
    saved: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Renames fail: the first moves the old folder away, the second brings the new one."""
    rename, calls = os.rename, []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == call - 1:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(CrossproofError, match="Input/output error"):
        save_crosscoder(make(seed=1), saved, PROVENANCE)
    assert_intact(saved)

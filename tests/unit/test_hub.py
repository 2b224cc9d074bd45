"""Crosscoders as folders with a model card, on the disk and on the Hub; the network is a stub."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from dictionaries import mlp_hookpoints, random_batch, random_crosscoder
from huggingface_hub.errors import GatedRepoError

from crossproof.commands import prove
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance
from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.errors import CrossproofError

ORIGIN = Provenance(
    "somebody/model", "abc", 3, {"objective": {"interaction": 5.0}, "text": "t.txt"}
)


@pytest.fixture
def crosscoder() -> Crosscoder:
    config = CrosscoderConfig(12, "topk", 3)
    return random_crosscoder(config, mlp_hookpoints(2), 5, dtype=torch.float32)


class StubHub:
    """Keeps uploaded folders below `place`, and refuses what is called `refused`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> Any:
        assert exist_ok
        if name == "refused":
            raise OSError("401 Unauthorized\nlog in")
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        shutil.copytree(folder_path, self.place / repo_id)

    def snapshot_download(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        if name == "me/gated":
            raise GatedRepoError("403", response=SimpleNamespace(headers={}, request=None))
        if not (self.place / name).is_dir():
            raise OSError(f"no {name}")
        return str(self.place / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubHub:
    stub = StubHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub.snapshot_download)
    return stub


def test_what_is_pushed_comes_back_as_the_same_function(
    crosscoder: Crosscoder, hub: StubHub
) -> None:
    crosscoder.push_to_hub("mine", ORIGIN, {"FVU": 0.11})
    again = Crosscoder.from_pretrained("me/mine")
    assert again.provenance == ORIGIN
    x = random_batch(crosscoder, 7)
    torch.testing.assert_close(again(x), crosscoder(x))
    torch.testing.assert_close(again.encode_dense(x), again.encode(x).dense())
    card = (hub.place / "me/mine/README.md").read_text()
    for words in ("base_model: somebody/model", "interaction 5.0", "| FVU | 0.11 |", "t.txt"):
        assert words in card


def test_a_loaded_crosscoder_knows_its_origin(crosscoder: Crosscoder, tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="which model this crosscoder explains"):
        crosscoder.save_pretrained(tmp_path / "a")
    crosscoder.save_pretrained(tmp_path / "a", ORIGIN)
    Crosscoder.from_pretrained(str(tmp_path / "a")).save_pretrained(tmp_path / "b")
    assert Crosscoder.from_pretrained(tmp_path / "b").provenance == ORIGIN


def test_a_run_knows_its_dictionaries_by_every_folder(
    crosscoder: Crosscoder, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    own = run / "penalised" / "crosscoder"
    crosscoder.save_pretrained(own, ORIGIN)
    assert finished_crosscoders(run) == finished_crosscoders(own.parent) == {"penalised": own}
    assert Crosscoder.from_pretrained(own.parent).provenance == ORIGIN
    with pytest.raises(CrossproofError, match=r"is a run of crosscoders.*add --kind statistical"):
        prove.run([str(run), "--out", str(tmp_path / "certificate")], 0.0)


@pytest.mark.usefixtures("hub")
def test_refusals_are_one_sentence(crosscoder: Crosscoder) -> None:
    with pytest.raises(CrossproofError, match=r"did not take 'refused' \(401 Unauthorized\)"):
        crosscoder.push_to_hub("refused", ORIGIN)
    with pytest.raises(CrossproofError, match="'me/none' is neither"):
        Crosscoder.from_pretrained("me/none")
    with pytest.raises(CrossproofError, match="No crosscoder at"):
        Crosscoder.from_pretrained("./none")
    with pytest.raises(CrossproofError, match="There is no folder '~no-such-user/x'"):
        Crosscoder.from_pretrained("~no-such-user/x")
    with pytest.raises(CrossproofError, match="'me/gated' is gated: accept its conditions"):
        Crosscoder.from_pretrained("me/gated")


def test_former_names_work_and_say_the_new_ones(crosscoder: Crosscoder, tmp_path: Path) -> None:
    crosscoder.save_pretrained(tmp_path, ORIGIN)
    with pytest.deprecated_call(match="from_pretrained"):
        again = Crosscoder.load(tmp_path)
    with pytest.deprecated_call(match="decoder_vectors"):
        assert torch.equal(again.atoms(0), again.decoder_vectors(0))
    with pytest.deprecated_call(match="decoder_bias"):
        assert torch.equal(again.bias(1), again.decoder_bias(1))

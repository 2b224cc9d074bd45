"""`crossproof push`, to a Hub on this machine, and back by the repository's id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dictionaries import mlp_hookpoints, random_batch, random_crosscoder
from hub_server import TOKEN, HubServer, serving

from crossproof.activations.corpus import TextSlice
from crossproof.cli import main
from crossproof.commands.push import card_figures
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance
from crossproof.evaluation.results import BlockEstimate, EvaluationResult, RunEvaluation

ORIGIN = Provenance("org/model", "abc", 3, {"objective": {"interaction": 5.0}, "text": "t.txt"})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants

    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as server:
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "ENDPOINT": server.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two crosscoders, one of which was evaluated."""
    for seed, name in enumerate(("unpenalised", "penalised")):
        config = CrosscoderConfig(12, "topk", 3)
        made = random_crosscoder(config, mlp_hookpoints(2), 5, seed, dtype=torch.float32)
        made.save_pretrained(tmp_path / "run" / name / "crosscoder", ORIGIN)
    figures = EvaluationResult(
        sequences=48,
        tokens=1000,
        fvu=0.11,
        l0=3.0,
        intervals={"fvu": (0.1, 0.12)},
        phi={"keep-largest": {"exact_mid": BlockEstimate(0.673, (0.658, 0.686), (0.673,))}},
    )
    text = TextSlice("t.txt", "held_out", 48, 256)
    results = RunEvaluation(model="org/model", evaluated_on=text, runs={"penalised": figures})
    results.save(tmp_path / "run" / "results.json")
    return tmp_path / "run"


def test_what_is_pushed_is_loaded_by_its_id(
    hub: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(run), "me/stories", "--name", "penalised"])
    said = capsys.readouterr().out
    assert f"Crosscoder and card: {hub.address}/me/stories" in said
    assert "Crosscoder.from_pretrained('me/stories')" in said
    again = Crosscoder.from_pretrained("me/stories")
    here = Crosscoder.from_pretrained(run / "penalised" / "crosscoder")
    assert again.provenance == ORIGIN
    x = random_batch(here, 7)
    assert torch.equal(again.encode_dense(x), here.encode_dense(x))
    card = (hub.root / "me/stories/README.md").read_text()
    for words in (
        "base_model: org/model",
        "| Φ keep-largest | 0.673 [0.658, 0.686] |",
        "| FVU | 0.110 [0.100, 0.120] |",
        "48 held_out sequences of 256 tokens, t.txt",
        "interaction 5.0",
        'from_pretrained("me/stories")',
    ):
        assert words in card
    main(["push", str(run / "penalised"), "me/again"])
    assert "| FVU | 0.110 [0.100, 0.120] |" in (hub.root / "me/again/README.md").read_text()
    main(["push", str(run), "me/stories", "--name", "unpenalised", "--model", "other/model"])
    assert capsys.readouterr().out.count("The card has no figures: `crossproof evaluate") == 1
    assert "`other/model`" in (hub.root / "me/stories/README.md").read_text()


@pytest.mark.usefixtures("hub")
def test_refusals_are_one_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"unpenalised, penalised: give one of them by --name"):
        main(["push", str(run), "me/stories"])
    with pytest.raises(SystemExit, match=r"--name. Nearest: penalised.*\[CP-NAME"):
        main(["push", str(run), "me/stories", "--name", "penalized"])
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    with pytest.raises(SystemExit, match=r"did not take 'me/new' .*hf auth login.*\[CP-HUB"):
        main(["push", str(run), "me/new", "--name", "penalised"])


def test_a_run_without_figures_has_none() -> None:
    assert card_figures(None, "penalised") == {}


def test_a_login_is_asked_for_before_anything_is_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for folder in (run / "penalised" / "crosscoder").iterdir():
        folder.unlink()
    (run / "penalised" / "crosscoder" / "crosscoder.safetensors").write_text("never read")
    with pytest.raises(SystemExit, match="Nobody is logged in to the Hub: `hf auth login`"):
        main(["push", str(run), "me/stories", "--name", "penalised"])

"""Crosscoders over two models: whose each latent is, and the whole command line on a pair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_models import D_MODEL, N_BLOCKS, random_tokens, save_model, tuned_gpt_neo

from crossproof.activations import Harvest
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, load_crosscoder
from crossproof.crosscoder.diffing import CLASSES, diffing_figures, relative_norms
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.interactions import input_dictionaries, interaction
from crossproof.lm import Hookpoints, LanguageModel, ModelPair, load_model
from crossproof.training.config import RunConfig
from crossproof.training.objectives import Objective
from crossproof.training.run import start, train_run
from crossproof.training.run_folder import check_model
from crossproof.training.trainer import Optimisation, Trainer

NAMES = ("blocks.0.mlp.hook_in", "blocks.0.hook_resid_mid")
PAIRED = Hookpoints.from_names([p + n for p in ("base/", "diff/") for n in NAMES], 0)


@pytest.fixture(scope="module")
def folders(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    other = save_model(tmp_path_factory.mktemp("diff") / "tuned", tuned_gpt_neo)
    return f"{model_folders['gpt-neo']},{other}"


def random_crosscoder(hookpoints: Hookpoints, n_latents: int = 12) -> Crosscoder:
    crosscoder = Crosscoder(CrosscoderConfig(n_latents, "topk", 3), hookpoints, D_MODEL)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for parameter in crosscoder.parameters():
            parameter.data = torch.randn_like(parameter)
    return crosscoder


def trained(model: LanguageModel, steps: int) -> Crosscoder:
    hookpoints = model.hookpoints()
    harvest = Harvest(model, random_tokens(40, 16), hookpoints, 64, buffer_batches=4)
    crosscoder = Crosscoder(CrosscoderConfig(32, "topk", 4), hookpoints, model.d_model)
    crosscoder.initialise(torch.cat([harvest.batch(i) for i in range(4)]), 0)
    mlps = {
        place: model.mlp(block)
        for block in hookpoints.mlp_blocks
        if (place := hookpoints.blocks[block].mlp_in) is not None
    }
    trainer = Trainer(crosscoder, mlps, Objective(interaction=5.0), Optimisation(), steps)
    for step in range(steps):
        trainer.step(harvest.batch(step))
    return crosscoder.eval()


def test_a_latent_of_one_model_has_relative_norm_zero_or_one() -> None:
    crosscoder = random_crosscoder(PAIRED)
    with torch.no_grad():
        crosscoder.W_dec[0, :2] = 0
        crosscoder.W_dec[1, 2:] = 0
        crosscoder.W_dec[2, 2:] = crosscoder.W_dec[2, :2]
        crosscoder.W_dec[3] = 0
    norms = relative_norms(crosscoder)
    assert norms[0] == 1
    assert norms[1] == 0
    assert norms[2] == pytest.approx(0.5, abs=1e-12)
    assert norms[3].isnan()
    figures = diffing_figures(crosscoder)
    assert sum(figures.counts.values()) == 11
    assert figures.relative_norms[3] is None
    assert figures.counts["base only"] == figures.counts["diff only"] == 1
    json.dumps(asdict(figures), allow_nan=False)


def test_every_hookpoint_counts_alike_whatever_its_scale() -> None:
    crosscoder = random_crosscoder(PAIRED)
    before = relative_norms(crosscoder)
    with torch.no_grad():
        crosscoder.W_dec[:, [0, 2]] *= 100  # one hookpoint, in both models
    assert torch.allclose(relative_norms(crosscoder), before, atol=1e-6)
    with torch.no_grad():
        crosscoder.W_dec[:, 2] *= 100  # in the second model alone
    assert (relative_norms(crosscoder) > before).all()


def test_one_model_has_no_relative_norms() -> None:
    with pytest.raises(CrossproofError, match="reads one model"):
        relative_norms(random_crosscoder(Hookpoints.from_names(NAMES, 1)))
    apart = Hookpoints.from_names(("base/" + NAMES[0], "diff/" + NAMES[1]), 0)
    with pytest.raises(CrossproofError, match="no hookpoint in both"):
        relative_norms(random_crosscoder(apart))


def test_two_identical_models_share_every_latent(gpt_neo: LanguageModel) -> None:
    crosscoder = trained(ModelPair(gpt_neo, gpt_neo), 80)
    norms = relative_norms(crosscoder)
    assert (norms - 0.5).abs().max() < 0.05


def test_interactions_are_those_of_each_models_own_mlps(folders: str) -> None:
    pair = load_model(folders)
    assert isinstance(pair, ModelPair)
    crosscoder = trained(pair, 10)
    views = input_dictionaries(pair, crosscoder)
    assert sorted(views) == list(range(2 * N_BLOCKS))
    tokens = random_tokens(2, 8)
    x = pair.activations(tokens, crosscoder.hookpoints.names).flatten(0, 1)
    latents = crosscoder.encode(x)
    dense = latents.dense()
    for block, view in views.items():
        mlp = pair.models[block // N_BLOCKS].mlp(block % N_BLOCKS)
        place = crosscoder.hookpoints.blocks[block].mlp_in
        assert place is not None
        p = dense[:, :, None] * (crosscoder.decoder_vectors(place) @ mlp.W_in)
        rest = p.abs().sum(1) - p.abs().amax(1)
        expected = (rest * mlp.W_out.norm(dim=1)).sum(1)
        found = interaction(view, latents, view.dominance(latents))
        assert torch.allclose(found, expected, rtol=1e-4)


def test_fidelity_of_a_pair_is_that_of_the_patched_model(gpt_neo: LanguageModel) -> None:
    """Two copies of a model and one latent set for both: each block's Φ occurs twice."""
    single = trained(gpt_neo, 20)
    names = gpt_neo.hookpoints().names
    pair = ModelPair(gpt_neo, gpt_neo)
    joint = Crosscoder(single.config, pair.hookpoints(), D_MODEL)
    with torch.no_grad():
        joint.W_enc[:, : len(names)] = single.W_enc  # the second copy is read by no latent
        joint.W_dec.copy_(single.W_dec.repeat(1, 2, 1))
        joint.b_enc.copy_(single.b_enc)
        joint.b_dec.copy_(single.b_dec.repeat(2, 1))
        joint.scale.copy_(single.scale.repeat(2))
    options = EvaluationOptions(resamples=10)
    texts = random_tokens(4, 12, seed=5)
    one = evaluate(gpt_neo, single.eval(), texts, options).to_json()
    two = evaluate(pair, joint.eval(), texts, options).to_json()
    for scheme, mids in one["phi"].items():
        if scheme == "drop-random":  # its draw depends on the block's number
            continue
        for mid, figure in mids.items():
            expected = figure["by_block"] * 2
            assert two["phi"][scheme][mid]["by_block"] == pytest.approx(expected, abs=2e-3)
    assert two["model_loss"] == pytest.approx(one["model_loss"], rel=1e-6)
    assert two["ce_recovered"] == pytest.approx(one["ce_recovered"], abs=2e-3)
    assert two["kl_recovered"] == pytest.approx(one["kl_recovered"], abs=2e-3)
    assert "diffing" not in one
    assert set(two["diffing"]["counts"]) == set(CLASSES)


def small_config(folders: str, tmp_path: Path) -> RunConfig:
    text = tmp_path / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(f"w{i} w{i * 7 % 60} w3 " * 12 for i in range(1, 60)))
    return RunConfig(
        model=folders,
        text=str(text),
        context=16,
        crosscoder=CrosscoderConfig(16, "topk", 3),
        objective=Objective(keep_largest=100.0),
        steps=6,
        batch_tokens=32,
        buffer_batches=2,
    )


def test_a_run_on_a_pair_records_both_models(folders: str, tmp_path: Path) -> None:
    run = start(small_config(folders, tmp_path), tmp_path / "run")
    train_run(run)
    assert isinstance(run.model, ModelPair)
    hashes = [model.weights_hash for model in run.model.models]
    for name in ("unpenalised", "penalised"):
        _, provenance = load_crosscoder(tmp_path / "run" / name / "crosscoder")
        assert provenance.model == folders
        assert provenance.weights_hash.split(",") == hashes
    check_model(load_model(provenance.model), provenance, tmp_path)
    with pytest.raises(CrossproofError, match="load the model it was trained on"):
        check_model(run.model.models[0], provenance, tmp_path)


@pytest.mark.slow
def test_the_command_line_trains_evaluates_and_measures_a_pair(
    folders: str, tmp_path: Path
) -> None:
    text, run = small_config(folders, tmp_path).text, tmp_path / "run"
    sizes = "--context 16 --n-latents 16 --k 3 --steps 6 --batch-tokens 32 --buffer-batches 2"
    shown = crossproof(
        *("train", "--out", run, "--model", folders, "--text", text, *sizes.split()),
        *("--evaluation-sequences", "3", "--evaluation-skip", "0"),
    )
    assert "Latents, diff only" in shown
    results = json.loads((run / "results.json").read_text())
    assert results["model"] == folders
    for figures in results["runs"].values():
        assert len(figures["diffing"]["relative_norms"]) == 16
    crossproof("evaluate", run, "--context", "16", "--sequences", "2")
    crossproof("measure", run, "--context", "16", "--tokens", "40")


def crossproof(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from crossproof.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

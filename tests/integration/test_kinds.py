"""Every kind of dictionary trains, stops and goes on, is saved, and starts from others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

import crossproof
from crossproof import CrosscoderConfig, Objective, RunConfig
from crossproof.crosscoder import load_crosscoder
from crossproof.crosscoder.layout import describe_kind
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model
from crossproof.training import run as runs
from crossproof.training.checkpoint import Checkpoints
from crossproof.training.config import config_from_dict
from crossproof.training.kinds import plans
from crossproof.training.loop import Training
from crossproof.training.run_folder import RunFolder

IN, OUT, POST = "blocks.*.mlp.hook_in", "blocks.*.hook_mlp_out", "blocks.*.hook_resid_post"
CONFIG = RunConfig(
    crosscoder=CrosscoderConfig(n_latents=48, k=9),
    steps=40,
    batch_tokens=32,
    buffer_batches=4,
    log_every=5,
    evaluation_sequences=4,
)
KINDS: dict[str, dict[str, Any]] = {
    "SAE": {"hookpoints": ("blocks.1.hook_resid_pre",)},
    "transcoder": {"read": ("blocks.0.mlp.hook_in",), "write": ("blocks.0.hook_mlp_out",)},
    "skip transcoder": {
        "read": ("blocks.0.hook_resid_pre",),
        "write": ("blocks.2.hook_resid_post",),
        "skip": True,
    },
    "cross-layer transcoder": {"read": (IN,), "write": (OUT,), "layout": "causal"},
    "weakly causal crosscoder": {"hookpoints": (POST,), "layout": "causal"},
    "crosscoder": {"hookpoints": (POST,)},
}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(0)
    return load_model(tiny_models.llama(3))


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return tiny_models.random_tokens(24, 16)


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind == "cross-layer transcoder" else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_every_kind_learns_what_it_writes(kind: str, model: LanguageModel, tokens: Tensor) -> None:
    config = replace(CONFIG, **KINDS[kind])
    (plan,) = plans(model, config).values()
    if plan.layout is not None:
        assert describe_kind(plan.layout) == kind
    result = crossproof.train(config, model=model, text=tokens)
    (run,) = result.runs.values()
    errors = [line.terms["reconstruction"] for line in run.metrics]
    assert sum(errors[-3:]) < 0.9 * sum(errors[:3])
    crosscoder = result.crosscoder("unpenalised")
    assert crosscoder.written == crosscoder.layout.written
    if kind == "cross-layer transcoder":
        assert [(g.latents, g.reads, g.writes) for g in crosscoder.layout.groups] == [
            (16, (0,), (1, 3, 5)),
            (16, (2,), (3, 5)),
            (16, (4,), (5,)),
        ]
    if kind == "skip transcoder":
        assert crosscoder.W_skip.abs().max() > 0


def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, model: LanguageModel, tokens: Tensor
) -> None:
    whole = replace(
        CONFIG,
        **KINDS["cross-layer transcoder"],
        skip=True,
        steps=6,
        checkpoint_every=2,
        objective=Objective(keep_largest=10.0),
    )
    uninterrupted = Training.build(model, tokens, {"a": whole})
    for _ in uninterrupted.steps():
        pass
    stopped = Training.build(model, tokens, {"a": whole})
    for progress in stopped.steps():
        if progress.step == 4:
            break
    state = stopped.trainers["a"].state()
    resumed = Training.build(model, tokens, {"a": whole})
    resumed.trainers["a"].load_state(state)
    for _ in resumed.steps():
        pass
    ours, theirs = resumed.crosscoders["a"], uninterrupted.crosscoders["a"]
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_a_dictionary_for_every_place_in_one_pass(
    tmp_path: Path, model: LanguageModel, tokens: Tensor
) -> None:
    config = replace(CONFIG, read=(IN,), write=(OUT,), layout="each", skip=True, steps=4)
    config = replace(
        config,
        objective=Objective(keep_largest=10.0),
        optimisation=replace(CONFIG.optimisation, penalty_warmup=0.0),
    )
    result = crossproof.train(config, tmp_path / "run", model=model, text=tokens)
    places = [f"blocks.{i}.hook_mlp_out" for i in range(3)]
    names = [f"{kind}/{place}" for kind in ("unpenalised", "penalised") for place in places]
    assert list(result.runs) == names
    assert RunFolder.open(tmp_path / "run").names == tuple(names)
    assert RunFolder.open(tmp_path / "run" / "penalised").names == tuple(places)
    assert "keep_largest" in result.runs[names[3]].metrics[-1].terms  # read by the MLPs behind it
    assert "keep_largest" not in result.runs[names[5]].metrics[-1].terms  # nothing reads the last
    alone = replace(config, read=("blocks.1.mlp.hook_in",), write=("blocks.1.hook_mlp_out",))
    single = crossproof.train(replace(alone, layout="joint"), model=model, text=tokens)
    torch.testing.assert_close(  # what trains beside it changes nothing
        single.crosscoder("unpenalised").W_dec, result.crosscoder(names[1]).W_dec
    )


def test_dictionaries_of_different_kinds_share_a_pass(model: LanguageModel, tokens: Tensor) -> None:
    configs = {kind: replace(CONFIG, **options, steps=2) for kind, options in KINDS.items()}
    training = Training.build(model, tokens, configs)
    for _ in training.steps():
        pass
    assert list(training.crosscoders) == list(KINDS)


def test_specs_of_different_kinds_train_in_one_run(
    tmp_path: Path, model: LanguageModel, tokens: Tensor
) -> None:
    specs = {
        "sae": {"hookpoints": ["blocks.1.hook_resid_pre"], "n_latents": 24, "k": 3},
        "clt": {"read": [IN], "write": [OUT], "layout": "causal", "skip": True},
    }
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    config = replace(CONFIG, specs=str(tmp_path / "specs.json"), steps=2)
    result = crossproof.train(config, tmp_path / "run", model=model, text=tokens)
    assert list(result.runs) == ["unpenalised/sae", "unpenalised/clt"]
    assert set(RunFolder.open(tmp_path / "run").names) == set(result.runs)
    assert result.crosscoder("unpenalised/sae").n_latents == 24
    assert len(result.crosscoder("unpenalised/clt").layout.skips) == 3
    (tmp_path / "specs.json").unlink()  # the run keeps them
    stored = config_from_dict(json.loads((tmp_path / "run" / "config.json").read_text()))
    assert list(stored.members()) == list(result.runs)


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        ("missing.json", "neither a JSON object nor a file"),
        ("{}", "an object of names"),
        ('{"a/b": {}}', "plain name"),
        ('{"crosscoder": {}}', "cannot be called"),
        ('{"a": {"steps": 3}}', "sets 'steps'; specs set hookpoints"),
        ('{"a": {"k": "four"}}', "does not fit: k is 'four'"),
    ],
)
def test_specs_that_cannot_be_are_refused(specs: str, words: str) -> None:
    with pytest.raises(CrossproofError, match=words):
        replace(CONFIG, specs=specs).members()


@pytest.mark.parametrize("rule", [pytest.param("batch_topk", marks=pytest.mark.slow), "jumprelu"])
def test_a_crosscoder_starts_from_dictionaries_of_single_places(
    rule: str, tmp_path: Path, model: LanguageModel, tokens: Tensor
) -> None:
    config = replace(CONFIG, crosscoder=CrosscoderConfig(8, rule, 2), steps=3)
    singles = replace(config, hookpoints=(POST,), layout="each")
    crossproof.train(singles, tmp_path / "saes", model=model, text=tokens)
    joint = replace(
        config,
        crosscoder=CrosscoderConfig(24, rule, 6),
        hookpoints=(POST,),
        layout="causal",
        start=(str(tmp_path / "saes"),),
    )
    started = Training.build(model, tokens, {"a": joint}).crosscoders["a"]
    x = 2 * torch.randn(9, 3, model.d_model)
    for at, name in enumerate(RunFolder.open(tmp_path / "saes").names):
        sae, _ = load_crosscoder(tmp_path / "saes" / name / "crosscoder")
        assert sae.hookpoints.names == (started.hookpoints.names[at],)
        own = slice(8 * at, 8 * at + 8)
        theirs = sae.encode_training(x[:, [at]]).pre
        ours = started.encode_training(x * started.scale[:, None]).pre[:, own]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(started.decoder_vectors(at)[own], sae.decoder_vectors(0))
        torch.testing.assert_close(started.decoder_bias(at), sae.decoder_bias(0))
        assert not started.decoder_vectors(2)[own].any() or at == 2
        if rule == "jumprelu":
            assert torch.equal(started.sparsity.threshold[own], sae.sparsity.threshold)
    small = replace(joint, crosscoder=CrosscoderConfig(21, rule, 6))
    with pytest.raises(CrossproofError, match="no room for the 8 latents"):
        Training.build(model, tokens, {"a": small})
    with pytest.raises(CrossproofError, match="no dictionary of this run has"):
        Training.build(
            model, tokens, {"a": replace(joint, hookpoints=("blocks.0.hook_resid_post",))}
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"read": (IN,)}, "Nothing is written: give --write"),
        ({"write": (IN,)}, "Nothing is read: give --read"),
        ({"read": (IN,), "write": ("blocks.0.hook_mlp_out",), "layout": "each"},
         "3 are read and 1"),
        ({"read": ("blocks.1.mlp.hook_in",), "write": ("blocks.0.hook_mlp_out",), "layout": "each"},
         r"Nothing is written at or behind blocks\.1\.mlp\.hook_in"),
        ({"read": ("blocks.1.mlp.hook_in",), "write": (OUT,), "layout": "causal"},
         r"blocks\.0\.hook_mlp_out lies before everything"),
        ({"hookpoints": (POST,), "skip": True}, "affine skip"),
        ({"hookpoints": (POST,), "layout": "causal", "crosscoder": CrosscoderConfig(2, "relu")},
         "cannot be divided among 3"),
    ],
)  # fmt: skip
def test_places_that_make_no_dictionary_are_refused(
    options: dict[str, Any], words: str, model: LanguageModel
) -> None:
    with pytest.raises(CrossproofError, match=words):
        plans(model, replace(CONFIG, **options))


def test_resume_knows_the_kind(tmp_path: Path) -> None:
    tiny_models.save_model(tmp_path / "model", tiny_models.llama)
    (tmp_path / "text.txt").write_text(" ".join(f"w{i % 50}" for i in range(900)))
    torch.manual_seed(0)
    source = crossproof.train(
        replace(CONFIG, **KINDS["transcoder"], steps=1, crosscoder=CrosscoderConfig(8, k=2)),
        tmp_path / "source",
        model=str(tmp_path / "model"),
        text=str(tmp_path / "text.txt"),
    )
    assert source.steps == 1
    config = replace(
        CONFIG,
        **KINDS["transcoder"],
        skip=True,
        start=(str(tmp_path / "source"),),
        model=str(tmp_path / "model"),
        text=str(tmp_path / "text.txt"),
        context=16,
        steps=4,
        checkpoint_every=2,
    )
    run = runs.start(config, tmp_path / "run")
    for progress in run.training.steps():
        if progress.step == 2:
            Checkpoints(run.folder, run.training).save()
            break
    shutil.rmtree(tmp_path / "source")  # the checkpoint holds what came of it
    again = runs.resume(tmp_path / "run")
    assert again.config == config
    assert again.training.step == 2
    runs.train_run(again)
    saved, _ = load_crosscoder(tmp_path / "run" / "unpenalised" / "crosscoder")
    assert saved.layout.skips == ((0, 1),)

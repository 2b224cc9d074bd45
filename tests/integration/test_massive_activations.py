"""Attention sinks and other massive activations: what counts, what they may decide, who says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import D_MODEL, END, gpt_neo, random_tokens, save_model
from torch import Tensor

import crossproof
from crossproof import Crosscoder, CrosscoderConfig, EvaluationOptions, Objective, RunConfig
from crossproof.activations import (
    Harvest,
    PositionRule,
    massive_table,
    median_norms,
    survey_norms,
)
from crossproof.clusters.encoded_text import EncodedText
from crossproof.crosscoder import encode_batches
from crossproof.crosscoder.store import save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.pair_sums import tally_interactions
from crossproof.evaluation.results import RunEvaluation
from crossproof.lm import LanguageModel, load_model
from crossproof.report.page import write_report
from crossproof.training import Training

SINK = 7
"""The token whose embedding is planted large; `LARGE` times the others."""
LARGE = 300.0
NAMES = ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_in", "blocks.1.hook_resid_post"]
CONFIG = RunConfig(
    hookpoints=tuple(NAMES),
    crosscoder=CrosscoderConfig(n_latents=48, k=4),
    objective=Objective(),
    steps=6,
    batch_tokens=64,
    buffer_batches=8,
)
QUICK = EvaluationOptions(resamples=20, patch_hookpoints=False, schemes=())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """GPT-Neo with a sink at the first position, whatever its token, and at one token."""
    folder = save_model(tmp_path_factory.mktemp("sinks"), gpt_neo)
    loaded = load_model(str(folder))
    bare = loaded._bare
    with torch.no_grad():
        bare.transformer.wpe.weight[0] *= LARGE
        bare.transformer.wte.weight[SINK] *= LARGE
    return loaded


def text(rows: int = 48) -> Tensor:
    """Rows of 24 tokens; one position in sixty holds the sink, some are special."""
    tokens = random_tokens(rows, 24)
    tokens[tokens == SINK] = SINK + 1
    tokens[::3, 9] = SINK
    tokens[::5, 4] = END
    return tokens


def trained(model: LanguageModel, **options: float) -> Training:
    config = replace(CONFIG, **options)
    training = Training.build(model, text(), {"unpenalised": config})
    for _ in training.steps():
        pass
    return training


def test_the_first_positions_never_count(model: LanguageModel) -> None:
    tokens = text()
    for skip in (1, 3):
        scored = crossproof.scored_positions(tokens, model.special_ids, skip)
        assert not scored[:, :skip].any()
        assert torch.equal(scored[:, skip:], tokens[:, skip:] != END)
    with pytest.raises(CrossproofError, match="skip_first is 0"):
        PositionRule(0)


@pytest.mark.parametrize("options", [{}, {"skip_first": 4}, {"drop_outliers": 10.0}])
def test_training_and_every_measure_count_the_same_positions(
    model: LanguageModel, options: dict[str, float]
) -> None:
    training, tokens = trained(model, **options), text()
    crosscoder = training.crosscoders["unpenalised"]
    (batch,) = encode_batches(model, crosscoder, tokens, len(tokens))
    expected = tokens != END
    expected[:, : int(options.get("skip_first", 1))] = False
    if "drop_outliers" in options:
        expected &= tokens != SINK
    assert torch.equal(batch.scored, expected)

    wanted = int(expected.sum())
    harvest = training.read.batches
    epoch = torch.cat([harvest.batch(step) for step in range(len(harvest))])
    largest = epoch.norm(dim=2).amax(0) / epoch.norm(dim=2).median(0).values
    assert (largest[0] > 10) == ("drop_outliers" not in options)
    gaps = torch.cdist(epoch.flatten(1).double(), batch.x.flatten(1).double())
    assert (gaps.min(1).values < 1e-3 * batch.x.flatten(1).norm(dim=1).median()).all()
    assert len(gaps.argmin(1).unique()) > 0.8 * wanted  # the last batch is dropped

    assert crossproof.evaluate(model, crosscoder, tokens, QUICK).tokens == wanted
    assert torch.equal(EncodedText.read(model, crosscoder, tokens).scored, expected)
    with crossproof.spliced(model, crosscoder) as changed:
        logits = changed.logits(tokens[:1])
    own = model.logits(tokens[:1])
    unscored_start = int(expected[0].nonzero()[0, 0])
    assert torch.equal(logits[0, :unscored_start], own[0, :unscored_start])


def test_pairs_are_counted_where_the_crosscoder_counts(model: LanguageModel) -> None:
    crosscoder = trained(model, drop_outliers=10.0).crosscoders["unpenalised"]
    tokens = text(8)
    expected = (tokens[:, 1:] != END) & (tokens[:, 1:] != SINK)
    assert tally_interactions(model, crosscoder, tokens).interactions.tokens == expected.sum()


def test_the_rule_is_saved_with_the_crosscoder(model: LanguageModel, tmp_path: Path) -> None:
    crosscoder = trained(model, skip_first=2, drop_outliers=10.0).crosscoders["unpenalised"]
    origin = crossproof.Provenance(model.name, model.weights_hash)
    save_crosscoder(crosscoder, tmp_path / "c", origin)
    loaded = Crosscoder.from_pretrained(tmp_path / "c")
    assert loaded.positions == crosscoder.positions
    assert loaded.positions.skip_first == 2
    assert len(loaded.positions.norm_limits) == len(NAMES)
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    del config["positions"]  # as older versions wrote it
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    assert Crosscoder.from_pretrained(tmp_path / "c").positions == PositionRule()


def test_outliers_decide_neither_scale_nor_start(model: LanguageModel) -> None:
    """The same sample with one token in forty made huge: scale, bias and gain hardly move."""
    hookpoints = model.hookpoints(NAMES)
    sample = model.activations(random_tokens(40, 24), NAMES)[:, 1:].flatten(0, 1)
    planted = sample.clone()
    planted[::40] *= 1000
    made = []
    for x in (sample, planted):
        crosscoder = Crosscoder(CrosscoderConfig(48, k=4), hookpoints, D_MODEL)
        crosscoder.initialise(x, seed=0)
        made.append((crosscoder, crosscoder.fit_gain(x)))
    (plain, gain), (robust, other) = made
    torch.testing.assert_close(robust.scale, plain.scale, rtol=0.05, atol=0)
    torch.testing.assert_close(robust.b_dec, plain.b_dec, rtol=0, atol=0.2)
    assert other == pytest.approx(gain, rel=0.5)
    norms = (sample * plain.scale[:, None]).norm(dim=2)
    torch.testing.assert_close(norms.median(0).values, torch.full((3,), D_MODEL**0.5))


def test_the_median_norm_passes_over_silence_and_outliers() -> None:
    norms = torch.tensor([[0.0, 0, 1], [0, 3, 2], [0, 0, 3], [0, 5, 1e9], [0, 4, 1e9]])
    assert median_norms(norms).tolist() == [0, 4, 3]


def test_a_silent_hookpoint_keeps_its_scale(model: LanguageModel) -> None:
    sample = torch.randn(200, 3, D_MODEL)
    sample[:, 1] = 0
    crosscoder = Crosscoder(CrosscoderConfig(16, k=2), model.hookpoints(NAMES), D_MODEL)
    crosscoder.initialise(sample, seed=0)
    crosscoder.fit_gain(sample)
    assert all(tensor.isfinite().all() for tensor in crosscoder.state_dict().values())


def first_error(training: Training) -> float:
    report = next(training.steps()).reports["unpenalised"]
    return float(report.terms["reconstruction"])


def test_the_first_loss_is_that_of_ordinary_tokens(model: LanguageModel) -> None:
    """A scaled token has energy P·D; one in sixty is `LARGE` and only counts if it is let in."""
    energy = len(NAMES) * D_MODEL
    let_in, left_out = (
        first_error(
            Training.build(model, text(), {"unpenalised": replace(CONFIG, drop_outliers=m)})
        )
        for m in (0.0, 10.0)
    )
    assert left_out < 2 * energy
    assert let_in > 10 * energy


def test_massive_activations_are_named(model: LanguageModel) -> None:
    survey = survey_norms(model, text(), NAMES)
    found = {(each.hookpoint, each.token): each for each in survey.massive if each.scored}
    sink = found[NAMES[0], model.tokenizer.decode([SINK])]
    assert sink.position == 9
    assert sink.count == 6  # of 16 rows, every third
    assert sink.ratio > 20
    assert 0.5 < sink.energy < 1
    first = next(each for each in survey.massive if not each.scored)
    assert (first.hookpoint, first.position, first.count) == (NAMES[0], 0, 16)
    shown = massive_table(survey.massive).to_text()
    assert NAMES[0] in shown
    assert "--drop-outliers" in shown
    rule = PositionRule(1, survey.limits(10.0))
    assert not any(each.scored for each in survey_norms(model, text(), NAMES, rule).massive)
    assert survey_norms(model, text()[:, 1:9] * 0 + 5, NAMES[1:2]).massive == ()


def test_fvu_is_reported_with_and_without(model: LanguageModel, tmp_path: Path) -> None:
    crosscoder, tokens = trained(model).crosscoders["unpenalised"], text()
    figures = crossproof.evaluate(model, crosscoder, tokens, QUICK)
    (batch,) = encode_batches(model, crosscoder, tokens, len(tokens))
    x, x_hat = batch.x.double(), crosscoder.decode(batch.latents).detach().double()

    def fvu(rows: Tensor) -> float:
        spread = (x[rows] - x[rows].mean(0)).square().sum((0, 2))
        return float(((x - x_hat)[rows].square().sum((0, 2)) / spread).mean())

    ordinary = batch.token_ids != SINK
    assert figures.fvu == pytest.approx(fvu(ordinary | ~ordinary), rel=1e-6)
    assert figures.fvu_without_outliers == pytest.approx(fvu(ordinary), rel=1e-6)
    assert set(figures.by_hookpoint["fvu_without_outliers"]) == set(NAMES)
    assert "fvu_without_outliers" in figures.intervals
    assert figures.massive
    assert "Massive activations" in repr(figures)
    assert crossproof.EvaluationResult.from_json(figures.to_json()).massive == figures.massive
    page = write_report(tmp_path, RunEvaluation(runs={"crosscoder": figures})).read_text()
    assert "Massive activations" in page
    assert "FVU without outliers" in page

    dropped = trained(model, drop_outliers=10.0).crosscoders["unpenalised"]
    without = crossproof.evaluate(model, dropped, tokens, QUICK)
    assert without.fvu_without_outliers is None
    assert not any(each.scored for each in without.massive)


def test_batches_stay_full_and_can_be_sought(model: LanguageModel) -> None:
    survey = survey_norms(model, text(), NAMES)

    def harvest() -> Harvest:
        rule = PositionRule(1, survey.limits(10.0))
        return Harvest(model, text(), model.hookpoints(NAMES), 64, 4, positions=rule)

    whole = harvest()
    batches = [whole.batch(step) for step in range(8)]
    assert all(batch.shape == (64, len(NAMES), D_MODEL) for batch in batches)
    assert torch.equal(harvest().batch(6), batches[6])


@pytest.mark.parametrize("multiple", [0.5, -3.0, float("nan")])
def test_multiples_that_leave_out_everything_are_refused(
    model: LanguageModel, multiple: float
) -> None:
    with pytest.raises(CrossproofError, match="drop_outliers is"):
        Training.build(model, text(), {"a": replace(CONFIG, drop_outliers=multiple)})


def test_broken_models_are_named(tmp_path: Path) -> None:
    broken = load_model(str(save_model(tmp_path, gpt_neo)))
    broken.mlp(1).b_out[3] = float("nan")
    with pytest.raises(CrossproofError, match=r"blocks\.1\.hook_resid_post.*NaN"):
        survey_norms(broken, text(), NAMES)


def test_one_position_of_nan_is_refused(
    gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: object, tokens: Tensor, __: object, write: object) -> None:
        value = torch.ones(*tokens.shape, 4)
        value[0, 3] = torch.nan
        assert callable(write)
        write(0, value)

    monkeypatch.setattr(LanguageModel, "read", read)
    tokens = torch.ones(2, 5, dtype=torch.int64)
    with pytest.raises(CrossproofError, match="'hook_embed' are NaN or infinite"):
        survey_norms(gpt_neo, tokens, ["hook_embed"])

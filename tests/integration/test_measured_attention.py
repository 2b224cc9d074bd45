"""Attention scores in parts on tiny models, from a text to measure.json and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reports import evaluation
from tiny_models import CONTEXT, D_MODEL, END, random_tokens

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.evaluation import (
    PARTS,
    AttentionScores,
    MeasurementResult,
    RunMeasurement,
    attention_scores,
    attention_views,
    head_example,
    head_sums,
)
from crossproof.evaluation.measurement import InteractionSquare
from crossproof.lm import LanguageModel
from crossproof.lm.hookpoints import Hookpoints
from crossproof.report import write_report
from paper.figures import fig5, fig6, heads

KINDS = ("gpt-neo", "llama")


def dictionary(model: LanguageModel) -> Crosscoder:
    hookpoints = model.hookpoints()
    crosscoder = Crosscoder(CrosscoderConfig(40, "topk", 5), hookpoints, D_MODEL)
    tokens = random_tokens(20, CONTEXT, seed=9)
    crosscoder.initialise(model.activations(tokens, hookpoints.names).flatten(0, 1), seed=0)
    return crosscoder


@pytest.fixture
def model(
    request: pytest.FixtureRequest, language_models: dict[str, LanguageModel]
) -> LanguageModel:
    return language_models[request.param]


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_squares_are_those_of_the_models_scores_about_each_querys_mean(
    model: LanguageModel,
) -> None:
    crosscoder, tokens = dictionary(model), random_tokens(3, 10, seed=4)
    views = attention_views(model, crosscoder)
    sums = head_sums(model, crosscoder, views, tokens)
    for at, (block, view) in enumerate(views.items()):
        x = model.activations(tokens, (f"blocks.{block}.attn.hook_in",))[:, :, 0].double()
        scores = view.attention.scores(x)
        for s in range(3):
            for head in range(view.attention.n_heads):
                total = 0.0
                for q in range(10):
                    seen = [k for k in range(10) if view.attention.mask(torch.arange(10))[q, k]]
                    row = scores[s, head, q, seen]
                    total += float((row - row.mean()).pow(2).sum())
                assert sums["total"][s, at, head] == pytest.approx(total, rel=1e-6)
    if views[0].attention.rotary is None:
        assert sums["query"].max() < 1e-18 * sums["total"].max()  # the same for all keys
    assert set(sums) == {*PARTS, "pairs"}
    assert sums["pairs"].shape == (3, len(views), 1)


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_an_example_shows_the_pair_whose_latents_stand_out(model: LanguageModel) -> None:
    crosscoder, tokens = dictionary(model), random_tokens(1, 10, seed=5)[0]
    tokens[3] = END
    views = attention_views(model, crosscoder)
    example = head_example(model, crosscoder, views, tokens, 1, 0)
    assert example.error < 1e-10
    assert example.key < example.query
    assert 3 not in (example.key, example.query)
    rows = example.parts["query_key"]  # five digits of each
    assert sum(map(sum, example.pairs)) == pytest.approx(rows[example.query][example.key], rel=1e-3)

    def beyond_mean(query: int, key: int) -> float:
        seen = [value for value in rows[query] if value is not None]
        return abs(rows[query][key] - sum(seen) / len(seen))

    best = max(
        beyond_mean(q, k)
        for q in range(10)
        for k in range(1, q)  # the first position never counts
        if rows[q][k] is not None and 3 not in (q, k)
    )
    assert beyond_mean(example.query, example.key) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("model", ["gpt-neo"], indirect=True)
def test_blocks_heads_and_texts_that_are_not_there_are_refused(model: LanguageModel) -> None:
    crosscoder, tokens = dictionary(model), random_tokens(1, 10, seed=5)[0]
    views = attention_views(model, crosscoder)
    with pytest.raises(CrossproofError, match="does not read the attention of block 9"):
        head_example(model, crosscoder, views, tokens, 9, 0)
    with pytest.raises(CrossproofError, match="there is no head 77"):
        head_example(model, crosscoder, views, tokens, 0, 77)
    with pytest.raises(CrossproofError, match="no two ordinary tokens"):
        head_example(model, crosscoder, views, torch.full((4,), END), 0, 0)
    names = ("blocks.0.mlp.hook_in",)
    blind = Crosscoder(CrosscoderConfig(8, "topk", 2), Hookpoints.from_names(names, 2), D_MODEL)
    with pytest.raises(CrossproofError, match=r"decodes no attention's input.*attn.hook_in"):
        attention_views(model, blind)


@pytest.mark.parametrize("model", ["gpt-neo"], indirect=True)
def test_the_page_shows_the_parts_and_the_pairs(model: LanguageModel, tmp_path: Path) -> None:
    crosscoder, tokens = dictionary(model), random_tokens(4, 12, seed=6)
    scores = attention_scores(model, crosscoder, tokens)
    size, example = np.array(scores.rms["total"]), scores.example
    assert example is not None
    assert size[scores.blocks.index(example.block), example.head] == size.max()
    page = write_report(tmp_path, evaluation(), measured=measured(scores)).read_text("utf-8")
    assert "Inside one attention head" in page
    assert f"block {example.block}, head {example.head}" in page
    for title in ("Key latents, to ±", "Query × key latents, to ±", "Latents of query and key"):
        assert page.count(f"<h3>{title}") == 1
    without = measured(AttentionScores(missing="why"))
    page = write_report(tmp_path, evaluation(), measured=without).read_text("utf-8")
    assert "Inside one attention head" not in page


def measured(scores: AttentionScores) -> RunMeasurement:
    """Of the unpenalised crosscoder, without pairs."""
    result = MeasurementResult(
        tokens=48,
        pairs=0,
        blocks=(),
        gated=False,
        seconds={},
        totals={},
        owners={},
        matrix=InteractionSquare(),
        top_pairs=(),
        attention=scores,
    )
    made = RunMeasurement(runs={"unpenalised": result})
    return RunMeasurement.from_json(made.to_json())


def test_words_and_charts_of_figures_5_and_6_come_from_their_numbers() -> None:
    estimate = {"mean": 2.5, "ci": [2.0, 3.0]}
    example = {
        "tokens": ["a", "\n"],
        "parts": {part: [[1.0, None], [2.0, 3.0]] for part in heads.LABELS},
        "query": 1,
        "key": 0,
        "query_latents": [7],
        "key_latents": [3, 900],
        "pairs": [[0.5, -0.25]],
        "error": 3e-14,
    }
    setup = {"model": "m", "n_latents": 9, "k": 2, "steps": 3, "batch_tokens": 8, "seeds": [0]}
    setup |= {"quick": False, "sequences": 4, "context": 16, "skip": 0}
    numbers = {"setup": setup, "block": 1, "head": 2, "tokens": 16, "examples": {"λ = 0": example}}
    sizes = {"sizes": {"λ = 0": dict.fromkeys(PARTS, estimate)}}
    assert "| key latents | 2.50 [2.00, 3.00] |" in fig5.words(numbers | sizes)
    shares = {"shares": {"λ = 0": {str(count): estimate for count in fig6.KEPT}}}
    told = fig6.words(numbers | shares)
    assert "“↵” (position 1) to “a” (position 0)" in told
    assert "| λ = 0 | 2.50 [2.00, 3.00] | 2.50 [2.00, 3.00] | 2.50 [2.00, 3.00] |" in told
    panels = heads.pattern_panels(example)
    assert [panel.title for panel in panels] == list(heads.LABELS.values())
    heat = heads.pair_panel("λ = 0", example).heat
    assert heat is not None
    assert (heat.rows, heat.columns, heat.values) == (["7"], ["3", "900"], [[0.5, -0.25]])

"""The figures hold the numbers and the labels; nobody judges their looks here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.interactions import PairScores, ScoreParts
from crossproof.report.attention_plot import PANELS, pair_figure, pattern_figure

MASK = torch.ones(3, 3).tril().bool()


def parts() -> ScoreParts:
    draw = torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    return ScoreParts(*draw)


def pairs() -> PairScores:
    values = torch.tensor([[[1.0, -2.0, 3.0], [0.5, 0.0, -4.0]]]).double()
    return PairScores(values, torch.tensor([7, 11]), torch.tensor([2, 3, 900]))


def test_panels_sum_to_the_score() -> None:
    scores = parts()
    figure = pattern_figure(scores, MASK, ["a", "b", "a"])
    assert [trace.name for trace in figure.data] == list(PANELS)
    panels = np.stack([np.asarray(trace.z, dtype=float) for trace in figure.data])
    np.testing.assert_allclose(panels[1:].sum(0), panels[0])
    assert (np.isnan(panels) == ~MASK.numpy()).all()
    np.testing.assert_allclose(panels[0][2], scores.total[2].numpy())
    for trace in figure.data:
        assert list(trace.x) == list(trace.y) == ["0 a", "1 b", "2 a"]
        assert trace.coloraxis == "coloraxis"


def test_one_symmetric_scale_spans_all_visible_entries() -> None:
    scores = parts()
    axis = pattern_figure(scores, MASK).layout.coloraxis
    visible = [scores.total, scores.constant, scores.query, scores.key, scores.query_key]
    largest = max(float(part[MASK].abs().max()) for part in (*visible, scores.residual))
    assert (axis.cmin, axis.cmax) == (-largest, largest)
    assert list(pattern_figure(scores, MASK).data[0].x) == ["0", "1", "2"]


def test_queries_start_at_the_top() -> None:
    for figure in (pattern_figure(parts(), MASK), pair_figure(pairs(), 0)):
        assert figure.layout.yaxis.autorange == "reversed"
        assert figure.layout.yaxis.type == figure.layout.xaxis.type == "category"


def test_pairs_are_labelled_by_latent_and_token() -> None:
    figure = pair_figure(pairs(), 0, "once", " upon")
    (trace,) = figure.data
    assert list(trace.y) == ["7", "11"]
    assert list(trace.x) == ["2", "3", "900"]
    assert np.asarray(trace.z).tolist() == pairs().values[0].tolist()
    assert figure.layout.yaxis.title.text == "query latent at “once”"
    assert figure.layout.xaxis.title.text == "key latent at “ upon”"
    assert figure.layout.coloraxis.cmax == 4
    assert pair_figure(pairs(), 0).layout.xaxis.title.text == "key latent"


def test_figures_without_numbers_are_still_figures() -> None:
    none = PairScores(torch.zeros(2, 0, 3), torch.tensor([], dtype=torch.int64), torch.arange(3))
    json.loads(pair_figure(none, 1).to_json())
    zero = ScoreParts(*torch.zeros(7, 3, 3))
    assert pattern_figure(zero, MASK).layout.coloraxis.cmax == 1
    assert json.loads(pattern_figure(zero, ~MASK & MASK).to_json())["data"]


def test_wrong_labels_and_heads_are_named() -> None:
    with pytest.raises(CrossproofError, match="2 token texts for 3 positions"):
        pattern_figure(parts(), MASK, ["a", "b"])
    for head in (-1, 1):
        with pytest.raises(CrossproofError, match=f"heads 0 to 0; there is no head {head}"):
            pair_figure(pairs(), head)

"""Windows, explanations and their scoring: from the right text, checked, and disjoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, D_MODEL, END, random_tokens
from torch import Tensor

from crossproof.clusters.builtin_judges import EmbeddingJudge, LLMJudge, OverlapJudge
from crossproof.clusters.encoded_text import PARTS, EncodedText, deal, marked, plain
from crossproof.clusters.explain import (
    SIDES,
    DataExplainer,
    LatentTexts,
    log_odds,
    sides,
)
from crossproof.clusters.judges import DetectionSheet, Explanation
from crossproof.clusters.result import Confusion, Detection
from crossproof.clusters.task import Trial, detection
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, SparseLatents
from crossproof.errors import CrossproofError
from crossproof.evaluation import Context, top_contexts
from crossproof.lm import LanguageModel

LATENTS = 24


@pytest.fixture(scope="module")
def sequences() -> Tensor:
    tokens = random_tokens(30, 16, seed=5)
    tokens[:, 0] = END
    tokens[::4, 9] = END
    return tokens


@pytest.fixture(scope="module")
def crosscoder(gpt_neo: LanguageModel, sequences: Tensor) -> Crosscoder:
    hookpoints = gpt_neo.hookpoints(["blocks.*.mlp.hook_in"])
    crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", 2), hookpoints, D_MODEL)
    sample = gpt_neo.activations(random_tokens(20, CONTEXT), hookpoints.names).flatten(0, 1)
    crosscoder.initialise(sample.clone(), seed=0)
    return crosscoder


@pytest.fixture(scope="module")
def text(gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor) -> EncodedText:
    return EncodedText.read(gpt_neo, crosscoder, sequences, batch_sequences=7)


def dense(text: EncodedText) -> Tensor:
    """Activations [S, T, H]; 0 where not scored."""
    out = torch.zeros(*text.tokens.shape, text.latents.n_latents)
    out[text.scored] = text.latents.dense()
    return out


def active_tokens(text: EncodedText) -> Tensor:
    """Tokens at which each latent is active."""
    return torch.bincount(text.latents.indices, minlength=text.latents.n_latents)


def test_batches_change_nothing(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor, text: EncodedText
) -> None:
    whole = EncodedText.read(gpt_neo, crosscoder, sequences, batch_sequences=100)
    torch.testing.assert_close(dense(text), dense(whole), rtol=1e-4, atol=1e-5)
    assert torch.equal(text.tokens, sequences)
    assert not text.scored[sequences == END].any()


def test_counts_and_entries_are_those_of_the_dense_code(text: EncodedText) -> None:
    values = dense(text)
    assert torch.equal(text.active_sequences(), (values > 0).any(1).sum(0))
    for latent in range(LATENTS):
        at, values_there = text.activations_of(latent)
        assert torch.equal(values[at[:, 0], at[:, 1], latent], values_there)
        assert len(values_there) == (values[..., latent] > 0).sum()


def test_every_sequence_is_dealt_out_once(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor
) -> None:
    seen: list[tuple[int, int]] = []
    parts = deal(gpt_neo, crosscoder, sequences, lambda done, total: seen.append((done, total)))
    assert tuple(parts) == PARTS
    rows = [tuple(row) for part in parts.values() for row in part.tokens.tolist()]
    assert sorted(rows) == sorted(tuple(row) for row in sequences.tolist())
    assert seen[-1] == (30, 30)
    with pytest.raises(CrossproofError, match="4 sequences cannot be dealt out to 5"):
        deal(gpt_neo, crosscoder, sequences[:4])


def test_the_strongest_windows_are_the_top_contexts(
    gpt_neo: LanguageModel, crosscoder: Crosscoder, sequences: Tensor, text: EncodedText
) -> None:
    windows = replace(text, before=4, after=4)
    expected = top_contexts(gpt_neo, crosscoder, sequences, range(LATENTS), 3, 4, 7)
    for latent, example in enumerate(expected):
        found = windows.strongest(latent, 3)
        assert [c.tokens for c in found] == [c.tokens for c in example.contexts]
        for ours, theirs in zip(found, example.contexts, strict=True):
            assert ours.peak == theirs.peak
            assert ours.activations == pytest.approx(theirs.activations, rel=1e-5)


def test_negatives_are_inactive_at_every_token_of_their_window(
    gpt_neo: LanguageModel, text: EncodedText
) -> None:
    windows, values = replace(text, before=3, after=2), dense(text)
    found = 0
    for latent in range(LATENTS):
        own = torch.nn.functional.pad(values[..., latent], (3, 2))
        quiet = {  # every place that may be drawn, by the dense code, as text
            plain(windows.around(latent, row, column))
            for row, column in text.positions.tolist()[:: 1 if latent < 2 else 400]
            if not (own[row, column : column + 6] > 0).any()
        }
        for context in windows.inactive(latent, 6, seed=1):
            assert set(context.activations) == {0.0}
            assert plain(context) in quiet or latent >= 2
            found += 1
        for context in windows.active(latent, 6, seed=1):
            assert context.activations[context.peak] > 0
    assert found > LATENTS


def test_active_windows_are_not_only_the_strongest(
    gpt_neo: LanguageModel, text: EncodedText
) -> None:
    windows = text
    latent = int(active_tokens(text).argmax())
    first, other = (windows.active(latent, 5, seed) for seed in (0, 1))
    assert first != other
    assert first == windows.active(latent, 5, 0)


def test_marks_stand_around_the_peak() -> None:
    context = Context(("Once", " upon", " a", "\n", " time"), (0.0, 0.0, 2.0, 0.0, 0.0), 2)
    assert marked(context) == "Once upon «a» time"
    assert plain(context) == "Once upon a time"
    assert marked(replace(context, peak=3)) == "Once upon a «↵» time"
    assert marked(replace(context, peak=0)) == "«Once» upon a time"


def test_log_odds_are_those_of_the_formula() -> None:
    counts, corpus = torch.tensor([8.0, 2.0]).double(), torch.tensor([30.0, 170.0]).double()
    found = log_odds(counts, 10.0, corpus, 200.0)
    prior = [50 * 30 / 200 + 1e-6, 50 * 170 / 200 + 1e-6]
    for i in range(2):
        y, a, b = counts[i].item(), prior[i], corpus[i].item()
        odds = np.log((y + a) / (60 - y - a)) - np.log((b + a) / (250 - b - a))
        assert found[i].item() == pytest.approx(odds / np.sqrt(1 / (y + a) + 1 / (b + a)))
    assert found[0] > 0 > found[1]


def made_up(
    rule: dict[int, list[tuple[int, int]]], tokens: Tensor, tokenizer: object
) -> EncodedText:
    """A text in which latents are active at given places."""
    values = torch.zeros(*tokens.shape, 4)
    for latent, places in rule.items():
        for row, column in places:
            values[row, column, latent] = 1.0
    scored = torch.ones_like(tokens, dtype=torch.bool)
    return EncodedText(tokens, scored, SparseLatents.from_dense(values.flatten(0, 1)), tokenizer)


def test_an_explanation_names_the_words_that_distinguish(gpt_neo: LanguageModel) -> None:
    tokens = random_tokens(40, 30, seed=2)
    tokens[tokens == 7] = 8
    tokens[tokens == 9] = 8
    places = [(row, 5 + row % 20) for row in range(40)]
    for row, column in places:
        tokens[row, column], tokens[row, column - 1] = 7, 9
    explainer = DataExplainer(made_up({2: places}, tokens, gpt_neo.tokenizer))
    found = explainer.explain(2)
    assert list(found.on) == ["w7"]
    assert list(found.after) == ["w9"]
    assert found.on["w7"] == 1
    assert found.text.startswith("on “w7”; after “w9”")
    assert found.by == "data"
    assert explainer.explain(0).text == "never active in this text"


def test_a_latent_active_everywhere_has_nothing_that_stands_out(gpt_neo: LanguageModel) -> None:
    tokens = random_tokens(20, 30, seed=2)
    everywhere = [(row, column) for row in range(20) for column in range(30)]
    explainer = DataExplainer(made_up({1: everywhere}, tokens, gpt_neo.tokenizer))
    assert explainer.explain(1).text == "no word stands out"


def test_a_latent_of_first_tokens_has_nothing_before_it(gpt_neo: LanguageModel) -> None:
    tokens = random_tokens(40, 30, seed=2)
    tokens[:, 0] = 7
    explainer = DataExplainer(
        made_up({1: [(row, 0) for row in range(40)]}, tokens, gpt_neo.tokenizer)
    )
    assert explainer.explain(1).text == "on “w7”"


def test_counts_are_weighted_by_activation(gpt_neo: LanguageModel) -> None:
    tokens = random_tokens(40, 30, seed=2)
    values = torch.zeros(40, 30, 4)
    tokens[:, 3], tokens[:, 9] = 7, 11
    values[:, 3, 0], values[:, 9, 0] = 6.0, 4.0
    code = SparseLatents.from_dense(values.flatten(0, 1))
    every = torch.ones_like(tokens, dtype=torch.bool)
    text = EncodedText(tokens, every, code, gpt_neo.tokenizer)
    shares = DataExplainer(text).explain(0).on
    assert shares["w7"] == pytest.approx(0.6)
    assert shares["w11"] == pytest.approx(0.4)


@pytest.fixture(scope="module")
def texts(gpt_neo: LanguageModel, crosscoder: Crosscoder) -> LatentTexts:
    sequences = random_tokens(60, 16, seed=8)
    return LatentTexts(deal(gpt_neo, crosscoder, sequences), contexts=3)


def test_explainer_judge_and_scorer_share_no_sequence(texts: LatentTexts) -> None:
    seen = {part: {tuple(r) for r in v.tokens.tolist()} for part, v in texts.parts.items()}
    assert sum(map(len, seen.values())) == len(set().union(*seen.values()))
    busiest = active_tokens(texts.parts["score"]).argsort(descending=True)[:6].tolist()
    for latent in busiest:
        places = {
            "explain": texts.prompt("shown", latent).user,
            "judge": "\n".join(texts.item("contexts", "shown", latent)),
            "other side": "\n".join(texts.item("contexts", "options", latent)),
            "score": "\n".join(sheet(texts, latent).windows),
        }
        of = {"explain": "explain shown", "judge": "judge shown"}
        of |= {"other side": "judge options", "score": "score"}
        for purpose, text in places.items():
            lines = text.replace("«", "").replace("»", "").splitlines()
            lines = [line.removeprefix("- ") for line in lines]
            whole = [" ".join("?" if i == 63 else f"w{i}" for i in r) for r in seen[of[purpose]]]
            assert lines
            assert all(any(line in row for row in whole) for line in lines)


def sheet(texts: LatentTexts, latent: int) -> DetectionSheet:
    return texts.sheet(latent, count=4, seed=0)


def test_sides_have_their_own_explanations_and_contexts(texts: LatentTexts) -> None:
    latent = int(active_tokens(texts.parts["score"]).argmax())
    for material in ("explanations", "contexts"):
        shown, options = (texts.item(material, side, latent) for side in SIDES)
        assert shown == texts.item(material, "shown", latent)
        assert material == "explanations" or shown != options


def test_questions_stand_for_their_trials() -> None:
    trial = Trial(0, 3, (1, 2), (0, 3, 4, 5, 6), 0)
    latents = [10, 11, 12, 13, 14, 15, 16]
    texts = LatentTexts({})
    for side, latent in sides([trial], latents):
        texts._explained[side, latent] = Explanation(f"{side} {latent}", "somebody")
    (found,) = texts.questions([trial], latents, "explanations")
    assert found.shown == (("shown 11",), ("shown 12",))
    assert found.options == tuple((f"options {h}",) for h in (10, 13, 14, 15, 16))
    assert sides([trial], latents)[:3] == [("shown", 11), ("shown", 12), ("options", 10)]


def test_a_sheet_has_shuffled_pieces_and_says_which_are_active(texts: LatentTexts) -> None:
    latent = int(active_tokens(texts.parts["score"]).argmax())
    found = sheet(texts, latent)
    positive = {plain(c) for c in texts.parts["score"].active(latent, 4, 0)}
    truth = [text in positive for text in found.windows]
    assert list(found.active) == truth
    assert 0 < sum(truth) <= 4
    assert sheet(texts, latent) == found


def made_sheet(text: str, windows: list[str], active: list[bool], **more: object) -> DetectionSheet:
    explanation = Explanation(text, **({"by": "somebody"} | more))
    return DetectionSheet(explanation, tuple(windows), tuple(active), (("aa b", "a"), ("c", "cc")))


def test_the_overlap_scorer_looks_for_the_words_in_question() -> None:
    clues = {"by": "data", "on": {"dog": 1.0}, "after": {"the": 1.0}}
    sheets = [
        made_sheet("on “dog”; after “the”", ["The cat", "a Dog!"], [False, True], **clues),
        made_sheet("names of dogs", ["of it", "dogs run"], [False, True]),
    ]
    assert OverlapJudge().decide(sheets) == [[False, True], [False, True]]


def test_the_embedding_scorer_learns_its_threshold_elsewhere() -> None:
    def embed(texts: list[str]) -> np.ndarray:
        rows = np.array([[t.count(letter) for letter in "abc"] for t in texts], dtype=float)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    found = made_sheet("a", ["a", "c", "aab", "cc"], [True, False, True, False])
    assert EmbeddingJudge(embed).decide([found]) == [[True, False, True, False]]
    without = replace(found, calibration=((), ("c",)))
    assert EmbeddingJudge(embed).decide([without]) == [None]


def test_detection_counts_the_confusion_matrix() -> None:
    sheets = [made_sheet("x", list("abcd"), [True, True, False, False])] * 3
    decisions = [[True, False, True, False], [True, True, False, False], None]
    found = detection(sheets, decisions)
    assert found.confusion == Confusion(tp=3, fn=1, fp=1, tn=3)
    assert found.sensitivity.mean == pytest.approx(0.75)
    assert found.specificity.mean == pytest.approx(0.75)
    assert found.balanced.mean == pytest.approx(0.75)
    assert (found.latents, found.unanswered) == (2, 1)
    assert detection(sheets[:1], [None]) == Detection(0, 1)


def test_without_inactive_pieces_there_is_no_specificity() -> None:
    always = detection([made_sheet("x", ["a", "b"], [True, True])], [[True, False]])
    assert (always.sensitivity.mean, always.specificity, always.balanced) == (0.5, None, None)
    never = detection([made_sheet("x", ["a"], [False])], [[False]])
    assert (never.sensitivity, never.specificity.mean, never.balanced) == (None, 1, None)


def test_sensitivity_and_specificity_are_not_exchanged() -> None:
    found = detection([made_sheet("x", list("abc"), [True, False, False])], [[True, True, True]])
    assert found.sensitivity.mean == 1
    assert found.specificity.mean == 0


def test_the_language_model_scorer_asks_a_sheet_at_a_time(tmp_path, monkeypatch) -> None:
    pytest.importorskip("openai")
    from llm_stub import Reply, stub

    from crossproof.clusters.llm import LLM, Endpoint

    def script(_number: int, body: dict) -> Reply:
        pieces = body["messages"][1]["content"].split("\n\n", 1)[1].splitlines()
        return Reply("Answer: " + ", ".join("1" if "dog" in piece else "0" for piece in pieces))

    sheets = [
        made_sheet("dogs", ["a dog", "cat", "dog"], [True, False, True]),
        made_sheet("dogs", ["cat", "dog"], [False, True]),
    ]
    with stub(script) as server:
        llm = LLM(Endpoint("stub", server.url), tmp_path)
        decided = LLMJudge(llm).decide(sheets)
        assert len(server.requests) == 2
    assert decided == [[True, False, True], [False, True]]

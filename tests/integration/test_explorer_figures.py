"""The figures of the explorer's pages are those of `measure`, `evaluate` and `top_contexts`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from explorers import LATENTS, NAMES, OPTIONS, SEQUENCES, build_run, save_run, text_of
from safetensors.torch import save_file
from tiny_models import CONTEXT, END

from crossproof.crosscoder import load_crosscoder
from crossproof.crosscoder.encode import encode_batches
from crossproof.errors import CrossproofError
from crossproof.evaluation import (
    EvaluationOptions,
    MeasurementResult,
    MeasureOptions,
    measure,
    top_contexts,
)
from crossproof.evaluation.contexts import token_strings
from crossproof.evaluation.pair_sums import tally_interactions
from crossproof.evaluation.run_figures import evaluate_run
from crossproof.explorer import builder, pair_tally
from crossproof.explorer.building import build_store
from crossproof.explorer.format import BUILDING, PAIRS
from crossproof.explorer.store import RowsQuestion, Store
from crossproof.explorer.strings import TokenStrings
from crossproof.interactions.matrix import Form, Interactions
from crossproof.interactions.measuring import token_pairs
from crossproof.interactions.views import mlp_views, read_by
from crossproof.lm import LanguageModel
from crossproof.training.config import RECIPES

pytest.importorskip("duckdb")

SECOND = 1
"""The dictionary that is looked at."""
SUMS = 1e-9
"""Relative: float64 sums in another order."""


class Measured:
    """What the library's own functions say of the second dictionary."""

    def __init__(self, model: LanguageModel, folder: Path) -> None:
        self.model, self.text = model, text_of(folder)
        self.store = Store(folder)
        self.crosscoder = load_crosscoder(folder / NAMES[SECOND] / "crosscoder")[0]
        self.sequences = self.text.read(model)
        size = OPTIONS.batch_sequences
        self.result: MeasurementResult = measure(
            model, self.crosscoder, self.sequences, MeasureOptions(attention=False)
        )
        tally = tally_interactions(model, self.crosscoder, self.sequences, size)
        self.sums: Interactions = tally.interactions


@pytest.fixture(scope="module", params=["gpt-neo", pytest.param("llama", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def measured(
    kind: str,
    language_models: dict[str, LanguageModel],
    explored: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Measured:
    if kind == "gpt-neo":
        return Measured(language_models[kind], explored)
    folder = tmp_path_factory.mktemp("explorer") / "run"
    build_run(language_models[kind], folder)
    return Measured(language_models[kind], folder)


def test_totals_are_those_of_measure(measured: Measured) -> None:
    facts = measured.store.dictionaries[SECOND]
    assert facts.tokens == measured.result.tokens
    expected = {name: total.mean for name, total in measured.result.totals.items()}
    assert facts.totals == pytest.approx(expected, rel=SUMS)


def test_pairs_are_those_of_measure(measured: Measured) -> None:
    for pair in measured.result.top_pairs:
        h, k = pair.latents
        page = measured.store.page(SECOND, "pair", h * LATENTS + k)
        assert page["coactive"] == pair.coactive
        assert page["active"] == list(pair.active)
        assert page["per_token"] == pytest.approx(pair.per_token, rel=SUMS)
        assert page["per_coactive"] == pytest.approx(pair.per_coactive_token, rel=SUMS)
        assert page["by_block"] == pytest.approx(pair.by_block, rel=SUMS)
        assert page["second_difference"] == pytest.approx(pair.second_difference, rel=SUMS)
        ours = [(tuple(each["tokens"]), each["peak"]) for each in page["contexts"]]
        assert ours == [(each.tokens, each.peak) for each in pair.contexts]
        for context, theirs in zip(page["contexts"], pair.contexts, strict=True):
            # four digits are kept of what is only drawn
            assert context["values"][0] == pytest.approx(theirs.activations, rel=1e-3)


def test_every_pair_is_in_the_table(measured: Measured) -> None:
    sums = measured.sums
    asked = RowsQuestion(rows=500)
    answer = measured.store.rows(SECOND, PAIRS, asked)
    assert answer["total"] == len(sums.pairs)
    rows = [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]
    whole = {tuple(pair): row for row, pair in enumerate(sums.pairs.tolist())}
    second = sums.forms[1]
    for row in rows:
        at = whole[row["h"], row["k"]]
        assert row["coactive"] == int(sums.coactive[at])
        for column, form in (("i", "I"), ("second", second), ("q", "Q")):
            expected = float(sums.pair_sums(form, normalise="coactive")[at])
            assert row[column] == pytest.approx(expected, rel=SUMS)
    assert [row["per_token"] for row in rows] == sorted(
        (r["per_token"] for r in rows), reverse=True
    )


def test_what_is_kept_of_too_many_pairs_is_exact(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LIMIT": 300, "LIMIT_A_LATENT": 0, "PARTNERS": 3, "AT_ONCE": 500}.items():
        monkeypatch.setattr(pair_tally, name, value)
    views = mlp_views(measured.model, measured.crosscoder)
    tally = pair_tally.PairTally.empty(LATENTS, len(views))
    for batch in encode_batches(measured.model, measured.crosscoder, measured.sequences, 2):
        tally.add(token_pairs(batch.latents, read_by(views, batch)))
    tally.settle()
    assert not tally.complete
    sums = measured.sums
    h, k = sums.pairs.T.numpy()
    at = np.searchsorted(h * LATENTS + k, tally.key)
    assert 0 < len(tally.key) < len(h)
    np.testing.assert_array_equal(tally.coactive, sums.coactive.numpy()[at])
    forms: list[tuple[tuple[int, ...], Form]] = [((0, 1), "I"), ((4,), "Q")]
    for columns, form in forms:
        expected = sums.pair_sums(form, normalise="sum").numpy()[at]
        np.testing.assert_allclose(tally.form(columns), expected, rtol=SUMS)


def test_pairs_are_measured_at_a_part_of_a_long_text(measured: Measured, tmp_path: Path) -> None:
    """Every other batch, of two."""
    half = replace(OPTIONS, batch_sequences=4, pair_tokens=measured.sequences.numel() // 2)
    given = measured.model, "name", measured.crosscoder, measured.sequences, half, tmp_path
    made = builder.Builder(*given, lambda *_: None)
    tally = made._text_pass(mlp_views(measured.model, measured.crosscoder))
    chosen = torch.cat([measured.sequences[at : at + 4] for at in range(0, SEQUENCES, 8)])
    sums = tally_interactions(measured.model, measured.crosscoder, chosen, 4).interactions
    assert tally.measured == sums.tokens
    assert tally.tokens == measured.result.tokens
    np.testing.assert_array_equal(tally.active, measured.sums.active)
    np.testing.assert_array_equal(tally.active_measured, sums.active)
    np.testing.assert_array_equal(tally.pairs.key, sums.pairs @ torch.tensor([LATENTS, 1]))
    np.testing.assert_array_equal(tally.pairs.coactive, sums.coactive)


def test_latents_are_those_of_the_library(
    measured: Measured, kind: str, language_models: dict[str, LanguageModel]
) -> None:
    sums, model = measured.sums, language_models[kind]
    both = sums.matrix("I", normalise="mean", symmetric=True).sum(1)
    examples = top_contexts(
        model, measured.crosscoder, measured.sequences, range(LATENTS), 12,
        batch_sequences=OPTIONS.batch_sequences,
    )  # fmt: skip
    crosscoder = measured.crosscoder
    scaled = [crosscoder.decoder_vectors(at) * crosscoder.scale[at] for at in crosscoder.written]
    unit = torch.nn.functional.normalize(torch.cat(scaled, 1).detach().double())
    cosines = (unit @ unit.T).fill_diagonal_(-2).topk(10, 1).values.tolist()
    for example in examples:
        page = measured.store.page(SECOND, "latent", example.latent)
        nearest = [cosine for _, cosine in page["nearest"]]
        assert nearest == pytest.approx(cosines[example.latent], abs=1e-3)
        assert page["active"] == int(sums.active[example.latent])
        assert page["frequency"] == pytest.approx(example.frequency)
        assert page["mean"] == pytest.approx(example.mean_activation, rel=1e-6)
        assert page["interaction"] == pytest.approx(float(both[example.latent]), rel=SUMS)
        assert sum(count for _, count in page["histogram"]) == page["active"]
        owned = sums.owned[:, example.latent] / sums.owned.sum(1)
        assert list(page["owned"].values()) == pytest.approx(owned.tolist())
        tops = [each for each in page["contexts"] if each["group"] == "top"]
        assert [tuple(c["tokens"]) for c in tops] == [c.tokens for c in example.contexts]
        for ours, theirs in zip(tops, example.contexts, strict=True):
            assert ours["values"][0] == pytest.approx(theirs.activations, rel=1e-3)
        decoder = measured.crosscoder.decoder_vectors(0)[example.latent]
        norm = float(decoder.detach().norm() * measured.crosscoder.scale[0])
        assert page["norms"][0] == pytest.approx(norm, rel=1e-3)


def test_contributions_add_up_to_the_neurons_input(measured: Measured) -> None:
    facts = measured.store.dictionaries[SECOND]
    for number in range(0, sum(facts.neurons.values()), 7):
        page = measured.store.page(SECOND, "neuron", number)
        for example in page["examples"]:
            sums = [sum(path) for path in example["contributions"]]
            parts = zip(example["baseline"], sums, example["more"], strict=True)
            assert [sum(part) for part in parts] == pytest.approx(example["input"], abs=1e-9)


def test_where_pairs_meet_the_corners_give_the_difference(measured: Measured) -> None:
    pair = measured.result.top_pairs[0].latents
    page = measured.store.page(SECOND, "pair", pair[0] * LATENTS + pair[1])
    for context in page["contexts"]:
        assert context["neurons"]
        for neuron in context["neurons"]:
            none, one, other, both = neuron["values"]
            assert neuron["difference"] == pytest.approx(both - one - other + none, abs=1e-12)


def test_strings_are_those_of_contexts(gpt_neo: LanguageModel) -> None:
    ids = torch.randint(0, 60, (12, 9), generator=torch.Generator().manual_seed(0)).tolist()
    strings = TokenStrings(gpt_neo.tokenizer)
    assert [strings(row) for row in ids] == [token_strings(gpt_neo.tokenizer, row) for row in ids]


KILLED = """
import os, signal, sys
from pathlib import Path
from explorers import NAMES, OPTIONS, text_of
from crossproof.explorer import builder, pair_tally
from crossproof.explorer.building import build_store
from crossproof.lm import load_model

def stop(doing, done, total):
    if doing == f"{NAMES[1]}: text" and done >= 32:
        os.kill(os.getpid(), signal.SIGKILL)

builder.PAUSE = 0.0
run = Path(sys.argv[2])
build_store(load_model(sys.argv[1]), run, text_of(run), OPTIONS, stop)
"""


@pytest.mark.slow  # a process of its own
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_was_killed_goes_on_to_the_same_bytes(
    model_folders: dict[str, Path], gpt_neo: LanguageModel, explored: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    text = save_run(gpt_neo, run)
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, sys.path)])
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(model_folders["gpt-neo"]), str(run)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (run / BUILDING / "1" / builder.STATE).exists()
    read: list[tuple[str, int]] = []
    build_store(gpt_neo, run, text, OPTIONS, lambda doing, done, _: read.append((doing, done)))
    assert [done for doing, done in read if doing == f"{NAMES[1]}: text"] == [32, SEQUENCES]
    assert not any(doing.startswith(NAMES[0]) for doing, _ in read)
    assert Store(run).manifest.files == Store(explored).manifest.files  # sizes and checksums


@pytest.mark.slow  # evaluates, and builds a store
def test_figures_of_the_run_are_those_of_evaluate(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    run = tmp_path / "run"
    text = save_run(gpt_neo, run)
    evaluated = evaluate_run(gpt_neo, run, RECIPES["demo"], text, EvaluationOptions())
    evaluated.save(run / "results.json")
    build_store(gpt_neo, run, text, OPTIONS)
    for facts in Store(run).dictionaries:
        figures = evaluated.runs[facts.name]
        whole = figures.fidelity("none", figures.whole_mid)
        expected = {
            "Φ keep-largest": figures.fidelity("keep-largest"),
            "Φ all latents": whole,
            "FVU": figures.figure("fvu"),
            "L0": figures.figure("l0"),
        }
        given = {name: [e.value, *e.ends] for name, e in expected.items() if e is not None}
        assert "FVU" in given
        assert facts.figures == given


def test_no_tokens_is_a_sentence(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    text = save_run(gpt_neo, tmp_path / "run")
    save_file({"held_out": torch.full((3, CONTEXT), END)}, Path(text.text))
    with pytest.raises(CrossproofError, match="no tokens"):
        build_store(gpt_neo, tmp_path / "run", text, OPTIONS)

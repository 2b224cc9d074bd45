"""`crossproof cluster` as a function: every crosscoder of a run clustered, explained, judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from crossproof.activations import read_sequences
from crossproof.clusters.describe import describe
from crossproof.clusters.explain import Explanation
from crossproof.clusters.judges import (
    Embed,
    EmbeddingJudge,
    Item,
    Judge,
    LLMJudge,
    OverlapJudge,
    embedder,
)
from crossproof.clusters.judging import Found, find, judged
from crossproof.clusters.llm import LLM, Cache, Endpoint
from crossproof.clusters.partition import Algorithm
from crossproof.clusters.prompts import Prompt, detect_prompt, judge_prompt
from crossproof.clusters.scoring import (
    EmbeddingScorer,
    LLMScorer,
    OverlapScorer,
    Scorer,
    Sheet,
    detection,
    sheet_of,
)
from crossproof.clusters.similarities import NEED_DIFFERENCES, available, known
from crossproof.clusters.subject import (
    Choice,
    Subject,
    Text,
    judged_sequences,
    load_measurement,
    measured_corpus,
    prepare,
)
from crossproof.clusters.texts import Material, Side, Texts, needed, questions
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.measure_run import measurable, named_crosscoders
from crossproof.files import write_json
from crossproof.lm.model import LanguageModel

SCHEMA = 1
JudgeName = Literal["embedding", "overlap", "llm"]
ExplainerName = Literal["data", "llm"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is clustered, how, and who judges."""

    similarity: str = "I-normalised"
    algorithm: Algorithm = "affinity"
    clusters: int = 0
    against: tuple[str, ...] = ("coactivation-normalised", "phi", "decoder-cosine")
    judge: JudgeName = "embedding"
    explainer: ExplainerName = "data"
    material: Material = "explanations"
    seeds: int = 3
    seed: int = 0
    per_cluster: int = 4
    """Questions about a cluster, at most."""
    contexts: int = 5
    """Contexts of a latent, for explainers and judges."""
    windows: int = 10
    """Active, and as many inactive, pieces of text that an explanation is scored on."""
    scored: int = 50
    """Latents whose explanations are scored, at most."""
    choice: Choice = field(default_factory=Choice)
    text: Text = field(default_factory=Text)
    embedding_model: str = ""
    resamples: int = 1000


@dataclass(frozen=True, eq=False)
class Helpers:
    """What settings ask for and takes packages or a network: made once, before any work."""

    embed: Embed | None
    llm: LLM | None

    @classmethod
    def build(cls, settings: Settings, endpoint: Endpoint, cache: Path) -> Helpers:
        """Raises CrossproofError if a package or the model's name is missing."""
        embed = embedder(settings.embedding_model) if settings.judge == "embedding" else None
        asked = "llm" in (settings.judge, settings.explainer)
        return cls(embed, LLM(endpoint, Cache(cache)) if asked else None)


@dataclass(eq=False)
class Work:
    """One crosscoder's clusters before anybody has judged them."""

    subject: Subject
    texts: Texts
    found: list[Found]
    scored: list[int] = field(default_factory=list)


def cluster_run(
    model: LanguageModel,
    folder: Path,
    settings: Settings = Settings(),
    endpoint: Endpoint = Endpoint(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
    announce: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Clusters every crosscoder of `folder`; writes and returns clusters/clusters.json.

    `announce` is told what a language model will be asked, before it is asked. Raises
    CrossproofError for an unknown similarity, a run that was not measured, too few latents,
    missing packages and endpoints that fail.
    """
    names = list(dict.fromkeys((settings.similarity, *settings.against)))
    check_names(names)
    if settings.seeds < 1:
        raise CrossproofError(f"--seeds is {settings.seeds}: give at least 1.")
    output = folder / "clusters"
    helpers = Helpers.build(settings, endpoint, output / "answers")
    corpus = measured_corpus(folder, model)
    tell = progress or (lambda _doing, _done, _total: None)
    works = [
        _find(model, folder, name, crosscoder, names, corpus, settings, helpers, tell)
        for name, crosscoder in measurable(named_crosscoders(model, [folder])).items()
    ]
    if helpers.llm is not None:
        for line in costs(works, settings, helpers.llm):
            announce(line)
    content = {
        "schema": SCHEMA,
        "model": model.name,
        "model_hash": model.weights_hash,
        "settings": asdict(settings),
        "llm": {"model": endpoint.model, "address": endpoint.address} if helpers.llm else None,
        "measured_on": corpus,
        "runs": {w.subject.name: _results(w, settings, helpers, tell) for w in works},
        "spent": helpers.llm.spent if helpers.llm else None,
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "clusters.json", content)
    return content


def check_names(names: list[str]) -> None:
    """Raises CrossproofError, with the nearest names, for one that is no similarity."""
    for name in names:
        known(name)


def _find(
    model: LanguageModel,
    folder: Path,
    name: str,
    crosscoder: Crosscoder,
    names: list[str],
    corpus: dict[str, Any],
    settings: Settings,
    helpers: Helpers,
    tell: Progress,
) -> Work:
    interactions = load_measurement(folder, name)
    measured = read_sequences(corpus["text"], model, int(corpus["context"]), corpus["split"])
    subject = prepare(
        model,
        name,
        crosscoder,
        interactions,
        measured[: int(corpus["sequences"])],
        judged_sequences(model, corpus, settings.text),
        settings.choice,
        differences=any(n in NEED_DIFFERENCES for n in names),
        tell=lambda doing, done, total: tell(f"{name}: {doing}", done, total),
    )
    usable = [n for n in names if known(n)[0] in available(interactions.gated)]
    if settings.similarity not in usable:
        kind = "gated" if interactions.gated else "plain"
        raise CrossproofError(
            f"The similarity {settings.similarity} is not defined for {kind} MLPs: choose from "
            f"{', '.join(available(interactions.gated))}."
        )
    writer = helpers.llm if settings.explainer == "llm" else None
    texts = Texts(subject.readings, model.tokenizer, settings.contexts, writer)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    found = []
    for done, wanted in enumerate(usable, 1):
        found.append(
            find(
                subject,
                wanted,
                settings.algorithm,
                settings.clusters,
                seeds,
                settings.per_cluster,
            )
        )
        tell(f"{name}: clustering", done, len(usable))
    return Work(subject, texts, found, subject.spread(settings.scored))


def _results(work: Work, settings: Settings, helpers: Helpers, tell: Progress) -> dict[str, Any]:
    subject, texts = work.subject, work.texts
    name = subject.name
    texts.explain(_wanted(work, settings), lambda d, t: tell(f"{name}: explaining", d, t))
    judges = _judges(settings, helpers, lambda d, t: tell(f"{name}: judging", d, t))
    accuracies = {}
    for done, judge in enumerate(judges, 1):
        accuracies[judge.name] = judged(
            work.found, subject, texts, settings.material, judge, settings.resamples
        )
        if judge.name != "llm":
            tell(f"{name}: judging, {judge.name}", done, done)
    sheets = [_sheet(work, texts.explanation("shown", h), settings) for h in work.scored]
    scorers = _scorers(settings, helpers, lambda d, t: tell(f"{name}: scoring", d, t))
    main = work.found[0].partitions[0]
    return {
        "latents": subject.latents.tolist(),
        "similarities": {f.similarity: f.summary() for f in work.found},
        "accuracy": accuracies,
        "detection": {
            s.name: detection(sheets, s.decide(sheets), settings.resamples) for s in scorers
        },
        **describe(subject, main, texts),
    }


def _wanted(work: Work, settings: Settings) -> list[tuple[Side, int]]:
    """The explanations that judging and scoring need."""
    wanted: list[tuple[Side, int]] = [("shown", latent) for latent in work.scored]
    if settings.material == "explanations":
        trials = [trial for found in work.found for trial in found.every]
        wanted += needed(trials, work.subject.latents.tolist())
    return wanted


def _judges(settings: Settings, helpers: Helpers, progress: Any) -> list[Judge]:
    judges: list[Judge] = [OverlapJudge()]
    if settings.judge == "embedding" and helpers.embed is not None:
        judges.append(EmbeddingJudge(helpers.embed))
    if settings.judge == "llm" and helpers.llm is not None:
        judges.append(LLMJudge(helpers.llm, progress))
    return judges


def _scorers(settings: Settings, helpers: Helpers, progress: Any) -> list[Scorer]:
    scorers: list[Scorer] = [OverlapScorer()]
    if settings.judge == "embedding" and helpers.embed is not None:
        scorers.append(EmbeddingScorer(helpers.embed))
    if settings.judge == "llm" and helpers.llm is not None:
        scorers.append(LLMScorer(helpers.llm, progress))
    return scorers


def _sheet(work: Work, explanation: Explanation, settings: Settings) -> Sheet:
    score, own = work.texts.windows("score"), work.texts.windows("explain shown")
    return sheet_of(explanation, score, own, settings.windows, settings.seed)


def costs(works: list[Work], settings: Settings, llm: LLM) -> list[str]:
    """What the language model will be asked, in lines; explanations still to be written are taken
    to be as long as those from counts."""
    explain: list[Prompt] = []
    judge: list[Prompt] = []
    score: list[Prompt] = []
    for work in works:
        texts, latents = work.texts, work.subject.latents.tolist()
        trials = [trial for found in work.found for trial in found.every]
        if settings.explainer == "llm":
            wanted = _wanted(work, settings)
            explain += [texts.prompt(side, h) for side, h in dict.fromkeys(wanted)]
        if settings.judge == "llm":
            stand_in = Texts(texts.readings, texts.tokenizer, texts.contexts)

            def item(side: Side, latent: int, texts: Texts = stand_in) -> Item:
                return texts.item(settings.material, side, latent)

            put = questions(trials, latents, item)
            judge += [judge_prompt(q.shown, q.options) for q in put]
            sheets = [_sheet(work, stand_in.explanation("shown", h), settings) for h in work.scored]
            score += [detect_prompt(s.explanation.text, s.windows) for s in sheets]
    parts = {"Explaining": explain, "Judging": judge, "Scoring": score}
    lines = [f"{name}: {llm.cost(prompts)}" for name, prompts in parts.items() if prompts]
    return [*lines, f"Together: {llm.cost([*explain, *judge, *score])}"]

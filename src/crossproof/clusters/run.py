"""`crossproof.cluster`: latents clustered by how they interact, explained, and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crossproof.clusters.builtin_judges import LLMJudge, OverlapJudge
from crossproof.clusters.clustering import Clustering, accuracies, ask, cluster_latents
from crossproof.clusters.description import describe, interaction_square
from crossproof.clusters.explain import LatentTexts, Side, sides
from crossproof.clusters.judges import (
    DetectingJudge,
    Judge,
    JudgeOptions,
    PreparingJudge,
    make_judge,
)
from crossproof.clusters.llm import LLM
from crossproof.clusters.measured_run import (
    MeasuredCrosscoder,
    measured_corpus,
    measured_crosscoders,
)
from crossproof.clusters.preparing import PreparedCrosscoder, Tell, prepare
from crossproof.clusters.prompts import LLMPrompt, detect_prompt
from crossproof.clusters.result import ClusteredRun, ClusterResult
from crossproof.clusters.settings import (
    NEED_DIFFERENCES,
    ClusterSettings,
    available,
    check_settings,
    known,
)
from crossproof.clusters.task import detection
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel


@dataclass(frozen=True, eq=False)
class _Clustered:
    """One crosscoder's clusters before anybody has judged them."""

    prepared: PreparedCrosscoder
    clusterings: list[Clustering]
    settings: ClusterSettings

    @property
    def scored(self) -> list[int]:
        """Latents whose explanations are scored."""
        return self.prepared.spread(self.settings.scored)

    @property
    def explained(self) -> list[tuple[Side, int]]:
        """The explanations that judging and scoring need."""
        wanted: list[tuple[Side, int]] = [("shown", latent) for latent in self.scored]
        if self.settings.material == "explanations":
            trials = [trial for c in self.clusterings for trial in c.every_trial]
            wanted += sides(trials, self.prepared.latents.tolist())
        return list(dict.fromkeys(wanted))


def cluster(
    model: LanguageModel,
    source: Path | str | MeasuredCrosscoder,
    settings: ClusterSettings = ClusterSettings(),  # noqa: B008  (frozen)
    options: JudgeOptions | None = None,
    judge: Judge | None = None,
    progress: Tell | None = None,
    announce: Callable[[str], None] = print,
) -> ClusterResult:
    """Clusters latents by `settings.similarity` and by those it is compared with.

    `source` is a run folder that `crossproof measure` has measured, whose clusters/clusters.json is
    written, or a crosscoder in memory with its interactions. `judge` is asked beside word overlap;
    by default it is made from `settings.judge` and `options`. `announce` is told what a language
    model will be asked, before it is asked.

    Raises CrossproofError for an unknown similarity or judge, a run that was not measured, too few
    latents, missing packages and endpoints that fail.
    """
    check_settings(settings)
    folder = None if isinstance(source, MeasuredCrosscoder) else Path(source)
    if options is None:
        kept = None if folder is None else folder / "clusters" / "answers"
        options = JudgeOptions(settings.embedding_model, answers=kept)
    judges = _judges(settings, options, judge)
    settings = replace(settings, judge=judges[-1].name)
    writer = options.llm if settings.explainer == "llm" else None
    llm = options.llm if writer or any(isinstance(j, LLMJudge) for j in judges) else None
    tell = progress or (lambda _doing, _done, _total: None)
    if isinstance(source, MeasuredCrosscoder):
        corpus, inputs = {}, iter([("crosscoder", source)])
    else:
        corpus = measured_corpus(Path(source), model)
        inputs = measured_crosscoders(model, Path(source), corpus, settings.text)
    works = [_cluster(model, name, each, settings, writer, tell) for name, each in inputs]
    if llm is not None:
        for line in costs(works, judges, llm):
            announce(line)
    result = ClusterResult(
        model.name,
        model.weights_hash,
        settings,
        {"model": llm.endpoint.model, "address": llm.endpoint.address} if llm else None,
        corpus,
        {work.prepared.name: _judged(work, judges, llm, tell) for work in works},
        llm.spent if llm else None,
    )
    if folder is not None:
        result.save(folder / "clusters" / "clusters.json")
    return result


def costs(works: Sequence[_Clustered], judges: Sequence[Judge], llm: LLM) -> list[str]:
    """What the language model will be asked, in lines; explanations still to be written are taken
    to be as long as those from counts."""
    explain: list[LLMPrompt] = []
    judging: list[LLMPrompt] = []
    score: list[LLMPrompt] = []
    for work in works:
        texts, settings = work.prepared.texts, work.settings
        if texts.llm is not None:
            explain += [texts.prompt(side, latent) for side, latent in work.explained]
        for judge in judges:
            if isinstance(judge, LLMJudge):
                stand_in = LatentTexts(texts.parts, texts.contexts)
                trials = [trial for c in work.clusterings for trial in c.every_trial]
                latents = work.prepared.latents.tolist()
                judging += judge.prompts(stand_in.questions(trials, latents, settings.material))
                sheets = [stand_in.sheet(h, settings.windows, settings.seed) for h in work.scored]
                score += [detect_prompt(s.explanation.text, s.windows) for s in sheets]
    parts = {"Explaining": explain, "Judging": judging, "Scoring": score}
    lines = [f"{name}: {llm.cost(prompts)}" for name, prompts in parts.items() if prompts]
    return [*lines, f"Together: {llm.cost([*explain, *judging, *score])}"]


def _judges(settings: ClusterSettings, options: JudgeOptions, judge: Judge | None) -> list[Judge]:
    """Word overlap, and the judge that was asked for; each ready to work."""
    asked = judge or make_judge(settings.judge, options)
    judges = [OverlapJudge(), *([] if asked.name == OverlapJudge().name else [asked])]
    for each in judges:
        if isinstance(each, PreparingJudge):
            each.prepare()
    return judges


def _cluster(
    model: LanguageModel,
    name: str,
    source: MeasuredCrosscoder,
    settings: ClusterSettings,
    writer: LLM | None,
    tell: Tell,
) -> _Clustered:
    gated = source.interactions.gated
    names = [n for n in settings.similarities if known(n)[0] in available(gated)]
    if settings.similarity not in names:
        raise CrossproofError(
            f"The similarity {settings.similarity} is not defined for "
            f"{'gated' if gated else 'plain'} MLPs: choose from {', '.join(available(gated))}."
        )
    prepared = prepare(
        model,
        name,
        source,
        settings.choice,
        differences=any(n in NEED_DIFFERENCES for n in settings.similarities),
        tell=lambda doing, done, total: tell(f"{name}: {doing}", done, total),
    )
    texts = replace(prepared.texts, contexts=settings.contexts, llm=writer)
    prepared = replace(prepared, texts=texts)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    clusterings = []
    how = settings.algorithm, settings.clusters, seeds, settings.per_cluster
    for done, similarity in enumerate(names, 1):
        clusterings.append(cluster_latents(prepared, similarity, *how))
        tell(f"{name}: clustering", done, len(names))
    return _Clustered(prepared, clusterings, settings)


def _judged(work: _Clustered, judges: Sequence[Judge], llm: LLM | None, tell: Tell) -> ClusteredRun:
    prepared, settings = work.prepared, work.settings
    name, texts = prepared.name, prepared.texts
    if llm is not None:
        llm.progress = lambda doing, done, total: tell(f"{name}: {doing}", done, total)
    texts.explain(work.explained, lambda d, t: tell(f"{name}: explaining", d, t))
    accuracy = {}
    for done, judge in enumerate(judges, 1):
        answers = ask(work.clusterings, prepared, settings.material, judge)
        accuracy[judge.name] = accuracies(answers, settings.resamples)
        tell(f"{name}: judging, {judge.name}", done, done)
    sheets = [texts.sheet(latent, settings.windows, settings.seed) for latent in work.scored]
    clusters = describe(prepared, work.clusterings[0].partitions[0])
    return ClusteredRun(
        tuple(prepared.latents.tolist()),
        {clustering.similarity: clustering.summary() for clustering in work.clusterings},
        accuracy,
        {
            judge.name: detection(sheets, judge.decide(sheets), settings.resamples)
            for judge in judges
            if isinstance(judge, DetectingJudge)
        },
        clusters,
        interaction_square(prepared, clusters),
    )

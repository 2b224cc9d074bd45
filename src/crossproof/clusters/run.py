"""`crossproof.cluster`: latents clustered by how they interact, explained, and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
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
from crossproof.clusters.preparing import (
    MeasuredCrosscoder,
    NothingToClusterError,
    PreparedCrosscoder,
    Tell,
    measured_corpus,
    measured_crosscoders,
    prepare,
)
from crossproof.clusters.prompts import LLMPrompt, detect_prompt
from crossproof.clusters.result import ClusteredRun, ClusterResult
from crossproof.clusters.settings import (
    NEED_DIFFERENCES,
    ClusterSettings,
    available,
    check_settings,
    known,
)
from crossproof.clusters.task import Trial, detection
from crossproof.errors import CrossproofError
from crossproof.evaluation.slices import SLICES, forget
from crossproof.interactions.views import described
from crossproof.lm.model import LanguageModel
from crossproof.training import distributed


@dataclass(frozen=True, eq=False)
class _Clustered:
    """One crosscoder's clusters before anybody has judged them."""

    prepared: PreparedCrosscoder
    settings: ClusterSettings
    clusterings: list[Clustering]
    undefined: dict[str, str]
    """Why similarities to compare with make no clusters."""

    @cached_property
    def scored(self) -> list[int]:
        """Latents whose explanations are scored."""
        return self.prepared.spread(self.settings.scored)

    @cached_property
    def trials(self) -> list[Trial]:
        """Of all similarities, controls and seeds."""
        return [trial for clustering in self.clusterings for trial in clustering.every_trial]

    @cached_property
    def explained(self) -> list[tuple[Side, int]]:
        """The explanations that judging and scoring need."""
        wanted: list[tuple[Side, int]] = [("shown", latent) for latent in self.scored]
        if self.settings.material == "explanations":
            wanted += sides(self.trials, self.prepared.latents.tolist())
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

    Crosscoders of a run with nothing to cluster are passed over, and the result says why. Of
    torchrun's processes on a run folder all read texts, slice by slice; the first does the rest,
    writes and returns it, the others a result without runs. Raises CrossproofError if none is
    left, for an unknown similarity or judge, a run that was not measured, missing packages and
    endpoints that fail.
    """
    check_settings(settings)
    folder = None if isinstance(source, MeasuredCrosscoder) else Path(source)
    if folder is not None and distributed.rank() > 0:
        return _helped(model, folder, settings)
    if options is None:
        kept = None if folder is None else folder / "clusters" / "answers"
        options = JudgeOptions(settings.embedding_model, answers=kept)
    judges = _judges(settings, options, judge)
    settings = replace(settings, judge=judges[-1].name)
    writer = options.llm if settings.explainer == "llm" else None
    llm = options.llm if writer or any(isinstance(j, LLMJudge) for j in judges) else None
    tell = progress or (lambda _doing, _done, _total: None)
    if isinstance(source, MeasuredCrosscoder):
        corpus, inputs = None, iter([("crosscoder", source)])
    else:
        corpus = measured_corpus(Path(source), model)
        inputs = measured_crosscoders(model, Path(source), corpus, settings.text)
    works, skipped = _works(model, inputs, settings, writer, tell, folder)
    for line in costs(works, judges, llm) if llm is not None else []:
        announce(line)
    result = ClusterResult(
        model=model.name,
        model_hash=model.weights_hash,
        settings=settings,
        llm={"model": llm.endpoint.model, "address": llm.endpoint.address} if llm else None,
        measured_on=corpus,
        runs={work.prepared.name: _judged(work, judges, llm, tell) for work in works},
        spent=llm.spent if llm else None,
        skipped=skipped,
    )
    if folder is not None:
        result.save(folder / "clusters" / "clusters.json")
        forget(_slices(folder))
    return result


def _works(
    model: LanguageModel,
    inputs: Iterable[tuple[str, MeasuredCrosscoder]],
    settings: ClusterSettings,
    writer: LLM | None,
    tell: Tell,
    folder: Path | None,
) -> tuple[list[_Clustered], dict[str, str]]:
    """What is clustered of each crosscoder, and why nothing of others."""
    works: list[_Clustered] = []
    skipped: dict[str, str] = {}
    for name, each in inputs:
        try:
            prepared = _prepared(model, name, each, settings, tell, folder)
            works.append(_cluster(prepared, settings, writer, tell))
        except NothingToClusterError as error:
            skipped[name] = str(error)
    if not works:
        raise CrossproofError(" ".join(f"{name}: {reason}" for name, reason in skipped.items()))
    return works, skipped


def _helped(model: LanguageModel, folder: Path, settings: ClusterSettings) -> ClusterResult:
    """What processes do that are not the first: they read slices of its texts."""
    corpus = measured_corpus(folder, model)
    for name, each in measured_crosscoders(model, folder, corpus, settings.text):
        with suppress(NothingToClusterError):
            _prepared(model, name, each, settings, lambda _doing, _done, _total: None, folder)
    forget(_slices(folder))
    return ClusterResult(model.name, model.weights_hash, settings, None, corpus, {}, None)


def _slices(folder: Path) -> Path:
    return folder / "clusters" / SLICES


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
        for judge in (each for each in judges if isinstance(each, LLMJudge)):
            stand_in = LatentTexts(texts.parts, texts.contexts)
            latents = work.prepared.latents.tolist()
            judging += judge.prompts(stand_in.questions(work.trials, latents, settings.material))
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


def _prepared(
    model: LanguageModel,
    name: str,
    source: MeasuredCrosscoder,
    settings: ClusterSettings,
    tell: Tell,
    folder: Path | None,
) -> PreparedCrosscoder:
    gated = source.interactions.gated
    names, defined = _defined(gated, settings), available(gated)
    if settings.similarity not in names:
        raise CrossproofError(
            f"The similarity {settings.similarity} is not defined for {_kind(gated)} MLPs: choose "
            f"from {', '.join(defined)}."
        )
    return prepare(
        model,
        name,
        source,
        settings.choice,
        differences=any(each in NEED_DIFFERENCES for each in names),
        tell=lambda doing, done, total: tell(f"{name}: {doing}", done, total),
        slices=folder and _slices(folder) / name.replace("/", "-"),
    )


def _defined(gated: bool, settings: ClusterSettings) -> list[str]:
    """The similarities asked for that such MLPs have."""
    return [each for each in settings.similarities if known(each)[0] in available(gated)]


def _kind(gated: bool) -> str:
    return "gated" if gated else "plain"


def _cluster(
    prepared: PreparedCrosscoder, settings: ClusterSettings, writer: LLM | None, tell: Tell
) -> _Clustered:
    gated, name = prepared.evidence.interactions.gated, prepared.name
    names = _defined(gated, settings)
    texts = replace(prepared.texts, contexts=settings.contexts, llm=writer)
    prepared = replace(prepared, texts=texts)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    how = settings.algorithm, settings.clusters, seeds, settings.per_cluster
    clusterings: list[Clustering] = []
    lacking = (each for each in settings.similarities if each not in names)
    undefined = {each: f"{_kind(gated)} MLPs have none" for each in lacking}
    for done, similarity in enumerate(names, 1):
        try:
            clusterings.append(cluster_latents(prepared, similarity, *how))
        except NothingToClusterError as error:
            if similarity == settings.similarity:
                raise
            undefined[similarity] = str(error)
        tell(f"{name}: clustering", done, len(names))
    return _Clustered(prepared, settings, clusterings, undefined)


def _judged(work: _Clustered, judges: Sequence[Judge], llm: LLM | None, tell: Tell) -> ClusteredRun:
    prepared, settings = work.prepared, work.settings
    name, texts = prepared.name, prepared.texts
    if llm is not None:
        llm.progress = lambda doing, done, total: tell(f"{name}: {doing}", done, total)
    texts.explain(work.explained, lambda d, t: tell(f"{name}: explaining", d, t))
    accuracy = {}
    for judge in judges:
        tell(f"{name}: judging, {judge.name}", 0, 1)
        answers = ask(work.clusterings, prepared, settings.material, judge)
        accuracy[judge.name] = accuracies(answers, settings.resamples)
        tell(f"{name}: judging, {judge.name}", 1, 1)
    sheets = []
    for done, latent in enumerate(work.scored, 1):
        sheets.append(texts.sheet(latent, settings.windows, settings.seed))
        tell(f"{name}: scoring explanations", done, len(work.scored))
    tell(f"{name}: describing clusters", 0, 1)
    clusters = describe(prepared, work.clusterings[0].partitions[0])
    matrix = interaction_square(prepared, clusters)
    tell(f"{name}: describing clusters", 1, 1)
    return ClusteredRun(
        latents=tuple(prepared.latents.tolist()),
        similarities={each.similarity: each.summary() for each in work.clusterings},
        accuracy=accuracy,
        detection={
            judge.name: detection(sheets, judge.decide(sheets), settings.resamples)
            for judge in judges
            if isinstance(judge, DetectingJudge)
        },
        clusters=clusters,
        matrix=matrix,
        left_out=prepared.left_out,
        undefined=work.undefined,
        views={str(b): described(v, prepared.crosscoder) for b, v in prepared.views.items()},
    )

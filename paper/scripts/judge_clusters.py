"""Do clusters by interaction mean something? Every similarity, and every control, judged alike.

    python -m paper.scripts.judge_clusters runs/demo --out paper/data/clusters.json

For each crosscoder of a measured run (`crossproof measure`): clusters by every similarity, judged
in the odd-one-in task by the offline embedding model and by word overlap, on explanations and on
contexts, next to random clusters of the same sizes with and without matched frequencies. Half of
the latents, judged on validation text, choose an interaction and a baseline; the other half,
judged on the measured split's other sequences, is what is reported. Writes a JSON file, and the
tables in Markdown beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from crossproof.activations import Split
from crossproof.clusters import (
    NEED_DIFFERENCES,
    Algorithm,
    EmbeddingJudge,
    JudgedText,
    LatentChoice,
    Material,
    MeasuredCrosscoder,
    OverlapJudge,
    SentenceEmbedder,
    available,
    deal,
    judged_sequences,
    load_measurement,
    measured_corpus,
    prepare,
)
from crossproof.crosscoder import Crosscoder
from crossproof.files import write_text
from crossproof.lm import LanguageModel, load_model
from crossproof.training import RunFolder
from paper.clusters.comparison import ComparisonPlan, HalvedSubject, compare, study
from paper.clusters.comparison_words import tables
from paper.clusters.examples import examples


@dataclass(frozen=True)
class ClusterJudging:
    """What is judged."""

    run: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("paper/data/clusters.json")
    algorithm: Algorithm = "affinity"
    similarities: tuple[str, ...] = ()
    """All of them, and I-normalised of every block alone, if none is named."""
    seeds: int = 3
    questions: int = 4
    """About each cluster, at most."""
    tokens: int = 75_000
    """Of either text, to explain and judge on."""
    choice_split: Split = "validation"
    materials: tuple[Material, ...] = ("explanations", "contexts")
    crosscoders: tuple[str, ...] = ()
    """Names of the run's crosscoders; all of them, if none is named."""
    stability: bool = True
    """Also measure both halves of the text again, for the adjusted Rand index."""
    differences: bool = True
    """Also second differences, which are slow."""
    threads: int = 1


def main(arguments: ClusterJudging) -> None:
    """Clusters, judges, writes the JSON file and the tables."""
    torch.set_num_threads(arguments.threads)
    run = RunFolder.open(arguments.run)
    model = load_model(run.provenance().model)
    judges = (OverlapJudge(), EmbeddingJudge(SentenceEmbedder()))
    content: dict[str, Any] = {
        "schema": 2,
        "model": model.name,
        "model_hash": model.weights_hash,
        "measured_on": asdict(measured_corpus(arguments.run, model)),
        "settings": {k: str(v) for k, v in asdict(arguments).items()},
        "runs": {},
    }
    for name, crosscoder in run.crosscoders(model).items():
        if arguments.crosscoders and name not in arguments.crosscoders:
            continue
        halves = _study(model, name, crosscoder, arguments)
        names = _names(arguments, halves)
        plan = ComparisonPlan(
            names,
            judges,
            arguments.algorithm,
            arguments.materials,
            seeds=range(arguments.seeds),
            per_cluster=arguments.questions,
        )
        found = compare([halves], plan, lambda line: print(line, flush=True))
        best = found["chosen"]["interaction"]
        content["runs"][name] = found | {"examples": examples(halves.report, best)}
    write_text(arguments.out, json.dumps(content) + "\n")  # megabytes with indentation
    page = "\n\n".join(
        f"**{name}**\n\n{tables(figures)}" for name, figures in content["runs"].items()
    )
    write_text(arguments.out.with_suffix(".md"), page + "\n")
    print(page)


def _names(arguments: ClusterJudging, halves: HalvedSubject) -> list[str]:
    found = halves.report.evidence.interactions
    every = [*available(found.gated), *(f"I-normalised@{block}" for block in found.blocks)]
    names = list(arguments.similarities) or every
    return [n for n in names if arguments.differences or n not in NEED_DIFFERENCES]


def _study(
    model: LanguageModel, name: str, crosscoder: Crosscoder, arguments: ClusterJudging
) -> HalvedSubject:
    corpus = measured_corpus(arguments.run, model)
    text = JudgedText(split=arguments.choice_split, tokens=arguments.tokens)
    subject = prepare(
        model,
        name,
        MeasuredCrosscoder(
            crosscoder,
            load_measurement(arguments.run, name),
            corpus.read(model),
            judged_sequences(model, corpus, JudgedText(tokens=arguments.tokens)),
        ),
        LatentChoice(latents=crosscoder.n_latents),
        differences=arguments.differences,
        stability=arguments.stability,
        tell=lambda doing, done, total: print(f"{name}: {doing} {done}/{total}", flush=True),
    )
    chosen_on = deal(model, crosscoder, judged_sequences(model, corpus, text))
    return study(subject, chosen_on)


if __name__ == "__main__":
    main(tyro.cli(ClusterJudging))

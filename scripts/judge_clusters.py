"""Do clusters by interaction mean something? Every similarity, and every control, judged alike.

    python scripts/judge_clusters.py runs/demo --out docs/data/clusters.json

For each crosscoder of a measured run (`crossproof measure`): clusters by every similarity, judged
in the odd-one-in task by the offline embedding model and by word overlap, on explanations and on
contexts, next to random clusters of the same sizes with and without matched frequencies. Writes a
JSON file, and the table in Markdown beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from crossproof.activations import read_sequences
from crossproof.clusters.accuracy import SIZES
from crossproof.clusters.judges import EmbeddingJudge, Judge, OverlapJudge, embedder
from crossproof.clusters.judging import CONTROLS, Found, find, judged
from crossproof.clusters.partition import Algorithm
from crossproof.clusters.similarities import NEED_DIFFERENCES, available
from crossproof.clusters.subject import (
    Choice,
    Subject,
    Text,
    judged_sequences,
    load_measurement,
    measured_corpus,
    prepare,
)
from crossproof.clusters.texts import Material, Texts
from crossproof.crosscoder import Crosscoder
from crossproof.lm import LanguageModel, load_model
from crossproof.measurement.run import named_crosscoders
from crossproof.results import run_crosscoders

MATERIALS: tuple[Material, Material] = ("explanations", "contexts")


@dataclass(frozen=True)
class Arguments:
    """What is judged."""

    run: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("docs/data/clusters.json")
    algorithms: tuple[Algorithm, ...] = ("affinity", "agglomerative")
    similarities: tuple[str, ...] = ()
    """All of them, if none is named."""
    seeds: int = 3
    questions: int = 4
    """About each cluster, at most."""
    latents: int = 512
    tokens: int = 100_000
    """To explain and judge on."""
    differences: bool = True
    """Also second differences, which take most of the time."""
    threads: int = 1


def main(arguments: Arguments) -> None:
    """Clusters, judges, writes the JSON file and the table."""
    torch.set_num_threads(arguments.threads)
    model = load_model(next(iter(run_crosscoders(arguments.run).values()))[1].model)
    judges: list[Judge] = [OverlapJudge(), EmbeddingJudge(embedder())]
    content: dict[str, Any] = {
        "schema": 1,
        "model": model.name,
        "model_hash": model.weights_hash,
        "measured_on": measured_corpus(arguments.run, model),
        "settings": {k: str(v) for k, v in asdict(arguments).items()},
        "runs": {},
    }
    for name, crosscoder in named_crosscoders(model, [arguments.run]).items():
        subject = _subject(model, name, crosscoder, arguments)
        texts = Texts(subject.readings, model.tokenizer)
        content["runs"][name] = {"latents": len(subject.latents)} | {
            algorithm: _judged(subject, texts, judges, algorithm, arguments)
            for algorithm in arguments.algorithms
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    page = "\n".join(table(content))
    arguments.out.with_suffix(".md").write_text(page + "\n")
    print(page)


def _subject(
    model: LanguageModel, name: str, crosscoder: Crosscoder, arguments: Arguments
) -> Subject:
    corpus = measured_corpus(arguments.run, model)
    measured = read_sequences(corpus["text"], model, int(corpus["context"]), corpus["split"])
    return prepare(
        model,
        name,
        crosscoder,
        load_measurement(arguments.run, name),
        measured[: int(corpus["sequences"])],
        judged_sequences(model, corpus, Text(tokens=arguments.tokens)),
        Choice(latents=arguments.latents),
        differences=any(n in NEED_DIFFERENCES for n in _names(arguments, gated=False)),
        tell=lambda doing, done, total: print(f"{name}: {doing} {done}/{total}", flush=True),
    )


def _names(arguments: Arguments, gated: bool) -> list[str]:
    names = arguments.similarities or available(gated)
    return [n for n in names if arguments.differences or n not in NEED_DIFFERENCES]


def _judged(
    subject: Subject,
    texts: Texts,
    judges: list[Judge],
    algorithm: Algorithm,
    arguments: Arguments,
) -> dict[str, Any]:
    gated = subject.evidence.interactions.gated
    seeds = range(arguments.seeds)
    found: list[Found] = []
    for name in _names(arguments, gated):
        found.append(find(subject, name, algorithm, 0, seeds, arguments.questions))
        print(f"{subject.name}: {algorithm}, {name}: {found[-1].summary()}", flush=True)
    return {
        "similarities": {f.similarity: f.summary() for f in found},
        "accuracy": {
            material: {j.name: judged(found, subject, texts, material, j) for j in judges}
            for material in MATERIALS
        },
    }


def table(content: dict[str, Any]) -> list[str]:
    """The accuracies as Markdown: one table a crosscoder, algorithm and material."""
    lines = []
    for name, figures in content["runs"].items():
        for algorithm in (key for key in figures if key != "latents"):
            for material, by_judge in figures[algorithm]["accuracy"].items():
                lines += [f"**{name}**, {algorithm}, judged by {material} (chance 0.20)", ""]
                lines += [*_rows(by_judge, figures[algorithm]["similarities"]), ""]
                lines += [*_sizes(by_judge["embedding"]), ""]
    return lines


def _rows(by_judge: dict[str, Any], summaries: dict[str, Any]) -> list[str]:
    heads = ["similarity", "clusters", "largest", "halves", "embedding", "word overlap"]
    heads += ["random (embedding)", "matched (embedding)"]
    rows = [" | ".join(heads), "|".join(["---"] * len(heads))]
    for similarity, by_control in by_judge["embedding"].items():
        summary = summaries[similarity]
        halves = summary["agreement_halves"]
        cells = [
            similarity,
            f"{sum(summary['clusters']) / len(summary['clusters']):.0f}",
            f"{sum(summary['largest']) / len(summary['largest']):.0f}",
            "–" if halves is None else f"{halves:.2f}",
            _figure(by_control[CONTROLS[0]]),
            _figure(by_judge["overlap"][similarity][CONTROLS[0]]),
            *(_figure(by_control[control]) for control in CONTROLS[1:]),
        ]
        rows.append(" | ".join(cells))
    return [f"| {row} |" for row in rows]


def _sizes(by_similarity: dict[str, Any]) -> list[str]:
    """Accuracy against cluster size, the embedding judge's."""
    names = [name for _, _, name in SIZES]
    rows = [
        " | ".join(["similarity, by cluster size", *names]),
        "|".join(["---"] * (1 + len(SIZES))),
    ]
    for similarity, by_control in by_similarity.items():
        found = {row["sizes"]: row for row in by_control[CONTROLS[0]]["by_size"]}
        cells = [_figure(found[name]) if name in found else "–" for name in names]
        rows.append(" | ".join([similarity, *cells]))
    return [f"| {row} |" for row in rows]


def _figure(entry: dict[str, Any]) -> str:
    if entry["mean"] is None:
        return "–"
    if entry["ci"] is None:
        return f"{entry['mean']:.2f}"
    low, high = entry["ci"]
    return f"{entry['mean']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main(tyro.cli(Arguments))

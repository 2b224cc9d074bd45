"""`crossproof cluster`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.clusters.judges import JUDGES, JudgeOptions, make_judge
from crossproof.clusters.llm import Endpoint
from crossproof.clusters.settings import ClusterSettings, check_measured, check_settings
from crossproof.commands.models import ModelOptions
from crossproof.commands.parsing import parse

JUDGE_HELP = (
    f"One of: {', '.join(JUDGES)}. embedding works offline (extra `embedding`), overlap (of "
    f"words) is the floor, llm asks an endpoint; other packages may bring more."
)


@dataclass(frozen=True)
class Cluster(ClusterSettings):
    """Group a dictionary's latents by how they interact; explain and judge the groups.

    Needs the sums of `crossproof measure`. A judge is asked which of five latents belongs to a
    group; the same is asked about other similarities and about random groups (chance: 0.20):

      crossproof cluster runs/demo
      crossproof cluster runs/demo --similarity Q-normalised --algorithm spectral
      crossproof cluster runs/demo --judge llm --explainer llm --llm-model NAME --llm-url URL
    """

    run: Annotated[Path, tyro.conf.Positional] = tyro.MISSING
    """A folder written by `crossproof train` and measured by `crossproof measure`."""
    judge: Annotated[str, tyro.conf.arg(help=JUDGE_HELP, metavar="NAME")] = "embedding"
    language_model: ModelOptions = field(default_factory=ModelOptions)
    llm: Endpoint = field(default_factory=Endpoint)
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Clusters, prints tables, writes clusters/clusters.json and renews the run's report."""
    options: Cluster = parse(Cluster, "cluster", arguments)
    settings = ClusterSettings(
        **{f.name: getattr(options, f.name) for f in fields(ClusterSettings)}
    )
    check_settings(settings)
    check_measured(options.run)
    answers = options.run / "clusters" / "answers"
    judging = JudgeOptions(settings.embedding_model, options.llm, answers)
    judge = make_judge(settings.judge, judging)
    _ = settings.explainer == "llm" and judging.llm  # raises if its name or package is missing
    # Imported late: what is missing is said before PyTorch is loaded.
    from crossproof.clusters.run import cluster
    from crossproof.report import refresh_reports
    from crossproof.report.terminal import console, evaluation_display
    from crossproof.training.machine import keep_freed_memory, thread_setting

    thread_setting(options.threads)
    keep_freed_memory()
    model, _ = options.language_model.load(options.run)
    with evaluation_display("", "done") as progress:
        result = cluster(model, options.run, settings, judging, judge, progress, console.print)
    for table in result.tables():
        console.print(table.to_rich())
    print(f"Clusters: {options.run / 'clusters' / 'clusters.json'}")
    for page in refresh_reports(options.run):
        print(f"Report: {page}")
